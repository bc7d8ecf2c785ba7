//! Checks of the CPUs' frequency settings.

use std::collections::BTreeMap;

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, Severity, Unmade},
};
use crate::host::topology::CpuList;
use crate::text::shell_command::ShellCommand;

const CPUS: &str = "/sys/devices/system/cpu";

/// Returns the file of a CPU's governor.
pub fn governor_file(cpu: u32) -> String {
    file(cpu, "scaling_governor")
}

fn file(cpu: u32, name: &str) -> String {
    format!("{CPUS}/cpu{cpu}/cpufreq/{name}")
}

/// Returns the online CPUs whose frequency this kernel sets.
fn scaled(node: &Node) -> Result<Vec<u32>, Unmade> {
    let online = &node.topology()?.cpus().online;
    let scaled: Vec<u32> = online
        .iter()
        .filter(|cpu| node.root.exists(&governor_file(*cpu)))
        .collect();
    if scaled.is_empty() {
        return Err(Unmade::not_here(
            "this kernel does not set the CPUs' frequency (no cpufreq): firmware or a hypervisor does",
        ));
    }
    Ok(scaled)
}

pub static CPU_GOVERNOR: Check = Check {
    name: "cpu-governor",
    group: Group::Machine,
    summary: "A governor that keeps CPUs slow, or lets them speed up late",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`cpu*/cpufreq/{scaling_governor,scaling_driver}`",
    run: cpu_governor,
};

fn cpu_governor(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let mut by_governor: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for cpu in scaled(node)? {
        let governor = node.root.text(&governor_file(cpu))?;
        // These drivers let the hardware choose the frequency, so their `powersave` is not the
        // lowest one.
        let driver = node
            .root
            .text(&file(cpu, "scaling_driver"))
            .unwrap_or_default();
        let by_hardware = matches!(driver.as_str(), "intel_pstate" | "amd-pstate-epp");
        if governor != "powersave" || !by_hardware {
            by_governor.entry(governor).or_default().push(cpu);
        }
    }
    let found = by_governor.into_iter().filter_map(|(governor, cpus)| {
        let (severity, title, why) = match governor.as_str() {
            "powersave" | "userspace" => (
                Severity::Warning,
                "CPUs are kept at a low frequency",
                "every thread is slower than it could be, all the time",
            ),
            "ondemand" | "conservative" => (
                Severity::Info,
                "CPUs speed up only after they were busy for a while",
                "a request that comes after a pause is served at a low frequency: short work has the worst latency when there is little of it",
            ),
            _ => return None,
        };
        let list: CpuList = cpus.iter().copied().collect();
        Some(
            Finding::of(severity, title)
                .value(format!("{governor} on CPUs {list}"))
                .read(governor_file(cpus[0]))
                .why(format!("{}, {why}.", node.here()))
                .command(ShellCommand::fixed(
                    "for file in /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; do echo performance > $file; done",
                )),
        )
    });
    Ok(found.collect())
}

pub static CPU_FREQUENCY_LIMIT: Check = Check {
    name: "cpu-frequency-limit",
    group: Group::Machine,
    summary: "CPUs that may not run as fast as they can",
    severities: &[Severity::Warning],
    reads: "`cpu*/cpufreq/{scaling_max_freq,cpuinfo_max_freq}`",
    run: frequency_limit,
};

fn frequency_limit(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let mut limited = Vec::new();
    let mut value = String::new();
    for cpu in scaled(node)? {
        let limit: u64 = node.root.number(&file(cpu, "scaling_max_freq"))?;
        let most: u64 = node.root.number(&file(cpu, "cpuinfo_max_freq"))?;
        // Frequency tables round by a step or so.
        if limit < most / 100 * 95 {
            value = format!("{} MHz of {} MHz", limit / 1000, most / 1000);
            limited.push(cpu);
        }
    }
    let Some(&first) = limited.first() else {
        return Ok(Vec::new());
    };
    let list: CpuList = limited.iter().copied().collect();
    Ok(vec![
        Finding::warning(format!("{} CPUs are limited in frequency", limited.len()))
            .value(format!("{value} on CPUs {list}"))
            .read(file(first, "scaling_max_freq"))
            .read(file(first, "cpuinfo_max_freq"))
            .why(format!(
                "{}, all work takes longer by as much, and a thread that moves between limited and other CPUs has two speeds.",
                node.here()
            ))
            .command(ShellCommand::fixed(
                "for cpu in /sys/devices/system/cpu/cpu*/cpufreq; do cat $cpu/cpuinfo_max_freq > $cpu/scaling_max_freq; done",
            )),
    ])
}
