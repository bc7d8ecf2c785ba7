//! Checks of the system's limits, interrupts and clock.

use std::collections::BTreeMap;

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    kernel::Version,
};
use crate::host::topology::Topology;
use crate::text::shell_command::ShellCommand;

pub static SOMAXCONN: Check = Check {
    name: "somaxconn",
    group: Group::System,
    summary: "Short queues of connections that wait to be accepted",
    severities: &[Severity::Warning],
    reads: "`/proc/sys/net/core/somaxconn`",
    run: somaxconn,
};

fn somaxconn(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/sys/net/core/somaxconn";
    let value: u64 = node.root.number(path)?;
    // The kernel's default since 5.4.
    let default = 4096;
    let old = node.version.is_some_and(|version| version < Version(5, 4));
    if value >= default || (old && value >= 128) {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("A burst of new connections is dropped")
            .value(value)
            .read(path)
            .why(format!("{}, a server that is not on a CPU for a moment (a throttle, a wait) finds at most {value} connections in its queue: the clients of the others wait a second for their second attempt. The kernel's default is {default}; containers have a setting of their own.", node.here()))
            .sysctl("net.core.somaxconn", default),
    ])
}

pub static FILE_LIMITS: Check = Check {
    name: "file-limits",
    group: Group::System,
    summary: "Open files near the limit, or limits below what runtimes ask for",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "`/proc/sys/fs/{file-nr,file-max,nr_open}`, `/proc/sys/fs/inotify/max_user_instances`",
    run: file_limits,
};

fn file_limits(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let mut found = Vec::new();
    let path = "/proc/sys/fs/file-nr";
    let text = node.root.text(path)?;
    let numbers: Vec<u64> = text
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    let [open, _, most] = numbers[..] else {
        return Err(node.root.reject(path, "three numbers were expected").into());
    };
    if open as f64 > most as f64 * 0.8 {
        found.push(
            Finding::problem("Nearly as many files are open as may be")
                .value(format!("{open} of {most}"))
                .read(path)
                .why(format!(
                    "{}, at the limit every open, accept and socket of every process fails.",
                    node.here()
                ))
                .sysctl("fs.file-max", most.saturating_mul(4)),
        );
    }
    let path = "/proc/sys/fs/nr_open";
    let value: u64 = node.root.number(path)?;
    if value < 1_048_576 {
        found.push(
            Finding::warning("A process may open fewer files than runtimes ask for")
                .value(value)
                .read(path)
                .why(format!("{}, container runtimes and databases ask for 1048576 at their start and fail, or go on with far fewer.", node.here()))
                .sysctl("fs.nr_open", 1_048_576),
        );
    }
    let path = "/proc/sys/fs/inotify/max_user_instances";
    if node.is_kubernetes() && node.root.exists(path) {
        let value: u64 = node.root.number(path)?;
        if value < 512 {
            found.push(
                Finding::warning("Few programs may watch files, on a Kubernetes node")
                    .value(value)
                    .read(path)
                    .why(format!("{}, the kubelet, the runtime and all pods of root share {value} instances of inotify: what comes last fails with \"too many open files\" (kubectl logs -f, pods that watch their configuration).", node.here()))
                    .sysctl("fs.inotify.max_user_instances", 8192),
            );
        }
    }
    Ok(found)
}

pub static IRQ_AFFINITY: Check = Check {
    name: "irq-affinity",
    group: Group::System,
    summary: "Interrupts of devices that are all handled on one CPU or on one node",
    severities: &[Severity::Warning],
    reads: "`/proc/interrupts`, `/sys/class/net/*/device/numa_node`",
    run: irq_affinity,
};

/// Reads the number of device interrupts by CPU since boot.
fn interrupts(node: &Node) -> Result<BTreeMap<u32, u64>, Unmade> {
    let path = "/proc/interrupts";
    let text = node.root.large_text(path)?;
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let cpus: Vec<u32> = header
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("CPU")?.parse().ok())
        .collect();
    if cpus.is_empty() {
        return Err(node.root.reject(path, "its first line names no CPU").into());
    }
    let mut by_cpu: BTreeMap<u32, u64> = cpus.iter().map(|cpu| (*cpu, 0)).collect();
    for line in lines {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        // Numbered lines are those of devices, but Arm also numbers timers, which each CPU has for
        // itself.
        let timer = rest.contains("timer") || rest.contains("arch_sys") || rest.contains("pmu");
        if name.trim().parse::<u32>().is_err() || timer {
            continue;
        }
        for (cpu, word) in cpus.iter().zip(rest.split_whitespace()) {
            if let Ok(count) = word.parse::<u64>() {
                let sum = by_cpu.entry(*cpu).or_default();
                *sum = sum.saturating_add(count);
            }
        }
    }
    Ok(by_cpu)
}

/// Returns the NUMA nodes of the network cards.
fn devices(node: &Node) -> Vec<i64> {
    let folder = "/sys/class/net";
    let names = if node.root.exists(folder) {
        node.root.names(folder)
    } else {
        return Vec::new();
    };
    let mut nodes: Vec<i64> = names
        .unwrap_or_default()
        .iter()
        .map(|name| format!("{folder}/{name}/device/numa_node"))
        .filter(|path| node.root.exists(path))
        .filter_map(|path| node.root.number(&path).ok())
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

fn irq_affinity(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let topology = node.topology()?;
    let online = topology.cpus().online.len();
    let by_cpu = interrupts(node)?;
    let total = by_cpu
        .values()
        .fold(0_u64, |sum, count| sum.saturating_add(*count));
    // A machine with few interrupts so far, or few CPUs to choose from, has nothing to spread.
    if online < 8 || total < 100_000 {
        return Err(Unmade::not_here(
            "there are fewer than 8 CPUs, or fewer than 100,000 interrupts yet",
        ));
    }
    let Some((busiest, most)) = by_cpu.iter().max_by_key(|(_, count)| **count) else {
        return Ok(Vec::new());
    };
    let finding = |title: String, value: String, why: &str| {
        Finding::warning(title)
            .value(value)
            .read("/proc/interrupts")
            .why(format!("{}, {why}", node.here()))
            .command(ShellCommand::new("systemctl").args(["restart", "irqbalance"]))
            .mend(MendKind::Advice, "or spread the queues of each device over the CPUs of its own node: /proc/irq/N/smp_affinity_list (network cards' drivers come with a script, set_irq_affinity)")
    };
    let share = |count: u64| count as f64 / total as f64;
    if share(*most) > 0.9 {
        let value = format!("{:.0} % of {total} on CPU {busiest}", share(*most) * 100.0);
        let why = "that CPU's threads are interrupted all the time, and it is the limit of all devices together.";
        return Ok(vec![finding(
            format!("CPU {busiest} handles nearly all interrupts"),
            value,
            why,
        )]);
    }
    Ok(by_node(node, topology, &by_cpu, total)
        .into_iter()
        .map(|(id, count)| {
            let value = format!("{:.0} % of {total} on node {id}", share(count) * 100.0);
            let why = "data that a device delivers is in that node's caches and memory: threads on other nodes fetch it from there, and its own CPUs do everybody's network and disk work.";
            finding(format!("Node {id} handles nearly all interrupts"), value, why)
        })
        .collect())
}

/// Returns the node that gets nearly all interrupts, unless all devices are on it anyway.
fn by_node(
    node: &Node,
    topology: &Topology,
    by_cpu: &BTreeMap<u32, u64>,
    total: u64,
) -> Option<(u32, u64)> {
    let with_cpus = topology.nodes().iter().filter(|numa| !numa.cpus.is_empty());
    if with_cpus.count() < 2 {
        return None;
    }
    let mut nodes: BTreeMap<u32, u64> = BTreeMap::new();
    for (cpu, count) in by_cpu {
        if let Some(id) = topology.node_of(*cpu) {
            let sum = nodes.entry(id).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
    let (id, count) = nodes.into_iter().max_by_key(|(_, count)| *count)?;
    let at_home = devices(node) == [i64::from(id)];
    (count as f64 > total as f64 * 0.95 && !at_home).then_some((id, count))
}

/// File that names the clock in use.
pub const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

pub static CLOCK_SOURCE: Check = Check {
    name: "clocksource",
    group: Group::System,
    summary: "A clock that is read through a device or the hypervisor",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "`clocksource0/{current_clocksource,available_clocksource}`",
    run: clock_source,
};

fn clock_source(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let clock = node.root.text(CLOCKSOURCE)?;
    let severity = match clock.as_str() {
        "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit" => Severity::Problem,
        // Programs cannot read this clock without a system call.
        "xen" => Severity::Warning,
        _ => return Ok(Vec::new()),
    };
    let available = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    let others = node.root.text(available).unwrap_or_default();
    let finding = Finding::of(severity, format!("The clock source is {clock}"))
        .value(format!("{clock} of {others}"))
        .read(CLOCKSOURCE)
        .read(available)
        .why(format!("{}, each reading of the time is a system call, and with this clock a slow one (up to microseconds): databases and tracing read it millions of times a second.", node.here()));
    let better = [
        "tsc",
        "arch_sys_counter",
        "kvm-clock",
        "hyperv_clocksource_tsc_page",
    ];
    let better = better
        .iter()
        .find(|name| others.split_whitespace().any(|word| word == **name));
    Ok(vec![match better {
        Some(better) => finding.command(ShellCommand::write(better, CLOCKSOURCE)).mend(
            MendKind::Boot,
            format!("clocksource={better}"),
        ),
        None => finding.mend(
            MendKind::Advice,
            "the kernel found the CPU's own counter unstable (dmesg | grep -i tsc): update firmware or hypervisor; tsc=reliable only where it is known to be",
        ),
    }])
}
