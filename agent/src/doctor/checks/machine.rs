//! Checks of CPUs, pages, and the CPU time that a hypervisor leaves.

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    facts::THP,
};
use crate::text::shell_command::ShellCommand;

pub static CPU_MODEL: Check = Check {
    name: "cpu-model",
    group: Group::Machine,
    summary: "The CPU's model is not known, so that nothing can be said of its traps",
    severities: &[Severity::Info],
    reads: "`cpu*/regs/identification/midr_el1`, `/proc/cpuinfo`",
    run: cpu_model,
};

fn cpu_model(node: &Node) -> Result<Vec<Finding>, Unmade> {
    if node.models.is_empty() {
        return Err(Unmade::unknown(
            "neither midr_el1 nor /proc/cpuinfo names a CPU",
        ));
    }
    let unknown = node
        .models
        .iter()
        .filter(|(model, _)| model.model.is_empty());
    let found = unknown.map(|(model, cpus)| {
        Finding::info(format!("The model of {} CPUs is not in the tables", cpus.len()))
            .value(&model.id)
            .read(&model.read)
            .why("Findings that depend on the CPU's core cannot name its traps; everything else is audited as usual.")
            .mend(MendKind::Advice, "look the part number up in the vendor's manual, and report it so that it gets a name")
    });
    Ok(found.collect())
}

pub static CPU_MIXED: Check = Check {
    name: "cpu-mixed",
    group: Group::Machine,
    summary: "CPUs of different models in one machine",
    severities: &[Severity::Warning],
    reads: "`cpu*/regs/identification/midr_el1`, `/proc/cpuinfo`",
    run: cpu_mixed,
};

fn cpu_mixed(node: &Node) -> Result<Vec<Finding>, Unmade> {
    if node.models.is_empty() {
        return Err(Unmade::unknown("no CPU's model is known"));
    }
    if node.models.len() < 2 {
        return Ok(Vec::new());
    }
    let models = node.models.iter().map(|(model, cpus)| {
        let name = if model.model.is_empty() {
            model.id.clone()
        } else {
            model.name()
        };
        format!("{} of {name}", cpus.len())
    });
    let slow: Vec<String> = node.models[0].1.iter().map(u32::to_string).collect();
    Ok(vec![
        Finding::warning("The CPUs are of different models")
            .value(models.collect::<Vec<_>>().join(", "))
            .read(&node.models[0].0.read)
            .why(format!(
                "{}, a thread's speed depends on where it was put: latencies have one mode a model, and a CPU quota buys different amounts of work.",
                node.here()
            ))
            .mend(
                MendKind::Kubelet,
                format!("cpuManagerPolicy: static, with reservedSystemCPUs: \"{}\" (the CPUs of one model) for the system", slow.join(",")),
            ),
    ])
}

pub static SMT_SIBLINGS: Check = Check {
    name: "smt-siblings",
    group: Group::Machine,
    summary: "Exclusive CPUs that share a core with somebody else's",
    severities: &[Severity::Warning],
    reads: "`cpu/smt/active`, the kubelet's `cpuManagerPolicyOptions`",
    run: smt_siblings,
};

fn smt_siblings(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let topology = node.topology()?;
    match topology.smt_active() {
        None => {
            return Err(Unmade::unknown(
                "this kernel does not say whether SMT is active",
            ));
        }
        Some(false) => return Ok(Vec::new()),
        Some(true) => {}
    }
    let kubelet = node.kubelet()?;
    let policy = kubelet.setting("cpu-manager-policy", "cpuManagerPolicy", "none");
    let whole_cores = match kubelet.flag("cpu-manager-policy-options") {
        Some(options) => options.contains("full-pcpus-only=true"),
        None => kubelet
            .value("cpuManagerPolicyOptions")
            .and_then(|options| options.get("full-pcpus-only"))
            .is_some_and(|value| value == "true" || value == true),
    };
    if policy.value != "static" || whole_cores {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("Exclusive CPUs may share a core with another pod")
            .value("SMT is active, full-pcpus-only is not set")
            .read("/sys/devices/system/cpu/smt/active")
            .read(policy.read)
            .why(format!(
                "{}, two SMT siblings share one core's execution units and caches: a pod with an odd number of exclusive CPUs gets half a core, and whoever has the other half slows it down by a third or more.",
                node.here()
            ))
            .mend(MendKind::Kubelet, "cpuManagerPolicyOptions: {full-pcpus-only: \"true\"}"),
    ])
}

pub static CPUS_OFFLINE: Check = Check {
    name: "cpus-offline",
    group: Group::Machine,
    summary: "CPUs that are there and switched off",
    severities: &[Severity::Warning],
    reads: "`cpu/present`, `cpu/online`, `cpu/smt/control`",
    run: cpus_offline,
};

fn cpus_offline(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let offline = &node.topology()?.cpus().offline;
    let control = "/sys/devices/system/cpu/smt/control";
    let smt_off = node.root.exists(control)
        && node
            .root
            .text(control)
            .is_ok_and(|text| matches!(text.as_str(), "off" | "forceoff"));
    if offline.is_empty() || smt_off {
        return Ok(Vec::new());
    }
    let Some(first) = offline.first() else {
        return Ok(Vec::new());
    };
    Ok(vec![
        Finding::warning(format!("{} CPUs are offline", offline.len()))
            .value(offline)
            .read("/sys/devices/system/cpu/present")
            .read("/sys/devices/system/cpu/online")
            .why(format!(
                "{}, a CPU that is present runs nothing: capacity is lost, and the kubelet refuses to start where its state names such a CPU.",
                node.here()
            ))
            .command(if offline.len() == 1 {
                ShellCommand::write(1, &format!("/sys/devices/system/cpu/cpu{first}/online"))
            } else {
                ShellCommand::each(
                    "cpu",
                    offline.iter().map(|cpu| cpu.to_string()),
                    r#"echo 1 > "/sys/devices/system/cpu/cpu$cpu/online""#,
                )
            }),
    ])
}

pub static PAGE_SIZE: Check = Check {
    name: "page-size",
    group: Group::Machine,
    summary: "Pages larger than 4 KiB, with huge pages that grow along",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`/proc/self/smaps`, `transparent_hugepage/hpage_pmd_size`",
    run: page_size,
};

fn page_size(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let bytes = node.page_bytes.ok_or_else(|| {
        Unmade::unknown("neither smaps nor hpage_pmd_size says how large a page is")
    })?;
    if bytes <= 4096 {
        return Ok(Vec::new());
    }
    let huge = (bytes * (bytes / 8)) >> 20;
    let always = node
        .root
        .choice(&format!("{THP}/enabled"))
        .is_ok_and(|choice| choice == "always");
    let severity = if always {
        Severity::Warning
    } else {
        Severity::Info
    };
    let mut finding = Finding::of(
        severity,
        format!("Pages have {} KiB, transparent huge pages {huge} MiB", bytes / 1024),
    )
    .value(format!("{bytes} bytes"))
    .read("/proc/self/smaps")
    .why(format!(
        "{}, each file's last page, each stack and each small mapping takes up to {} KiB; a huge page takes {huge} MiB, which one write can claim. Allocators built for 4 KiB pages (jemalloc without --with-lg-page={}) abort or waste memory.",
        node.here(),
        bytes / 1024,
        bytes.trailing_zeros()
    ));
    if always {
        finding = finding.sysfs(&format!("{THP}/enabled"), "madvise");
    }
    Ok(vec![finding.mend(
        MendKind::Advice,
        "check memory limits of pods that came from nodes with pages of 4 KiB, and how their allocator was built; or boot the distribution's kernel with pages of 4 KiB",
    )])
}

pub static STEAL_TIME: Check = Check {
    name: "steal-time",
    group: Group::Machine,
    summary: "The hypervisor runs somebody else on this machine's CPUs",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "`/proc/stat`",
    run: steal_time,
};

fn steal_time(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/stat";
    let text = node.root.large_text(path)?;
    let numbers: Option<Vec<u64>> = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .map(|rest| {
            rest.split_ascii_whitespace()
                .map_while(|n| n.parse().ok())
                .collect()
        });
    let Some(numbers) = numbers.filter(|numbers| numbers.len() >= 8) else {
        return Err(node
            .root
            .reject(path, "its first line has no eight numbers after `cpu`")
            .into());
    };
    // User time already includes guest time.
    let total: f64 = numbers[..8].iter().map(|n| *n as f64).sum();
    let share = numbers[7] as f64 / total.max(1.0);
    if share < 0.05 {
        return Ok(Vec::new());
    }
    let severity = if share < 0.2 {
        Severity::Warning
    } else {
        Severity::Problem
    };
    let by = node.hypervisor.as_deref().unwrap_or("the hypervisor");
    Ok(vec![
        Finding::of(severity, "CPU time is stolen by the hypervisor")
            .value(format!("{:.1} % of all time since the boot", share * 100.0))
            .read(path)
            .why(format!(
                "{}, {by} had other work for the CPUs that this machine believed to have: threads stand still without waiting for anything, which no setting in here changes.",
                node.here()
            ))
            .mend(MendKind::Advice, "move to an instance with CPUs of its own (not burstable, not overcommitted), or ask whoever runs the hypervisor"),
    ])
}
