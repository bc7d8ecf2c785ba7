//! Causes of the CPU: quotas, neighbours, the container's own threads, and CPUs that sleep.

use super::{Case, Evidence, Remedy};
use crate::{
    doctor::groups::save_up,
    explain::{Other, text},
    ledger::history::Quantity,
    text::shell_command::ShellCommand,
};

pub(super) fn no_evidence(_: &Case) -> Vec<Evidence> {
    Vec::new()
}

pub(super) fn no_remedy(_: &Case) -> Vec<Remedy> {
    Vec::new()
}

fn threads(case: &Case) -> Option<Evidence> {
    let threads = case.facts.threads?;
    let text = match threads {
        1 => "one thread now".to_owned(),
        threads => format!("{threads} threads now"),
    };
    Some(Evidence::number("threads", threads as f64, "threads", text))
}

fn used(case: &Case) -> Evidence {
    let cpus = case.cpu_seconds() / case.window_seconds().max(1.0);
    Evidence::number(
        "cpus_used",
        cpus,
        "CPUs",
        format!("used {} on average", text::cpus(cpus)),
    )
}

pub(super) fn throttled_evidence(case: &Case) -> Vec<Evidence> {
    let (all, throttled) = (
        case.of(Quantity::Periods),
        case.of(Quantity::ThrottledPeriods),
    );
    let mut evidence = Vec::new();
    if all > 0.0 {
        evidence.push(Evidence::number(
            "throttled_periods",
            throttled,
            "periods",
            format!("the quota ran out in {throttled} of {all} periods (cpu.stat)"),
        ));
    }
    for quota in case.facts.quotas.iter().take(3) {
        let cpus = quota.cpus();
        evidence.push(Evidence::number(
            "cpu_limit",
            cpus,
            "CPUs",
            format!("limited to {} now ({})", text::cpus(cpus), quota.file),
        ));
    }
    evidence.push(used(case));
    evidence.extend(threads(case));
    evidence
}

pub(super) fn throttled_remedy(case: &Case) -> Vec<Remedy> {
    let mut remedies = Vec::new();
    let limit: Option<f64> = case.facts.quotas.first().map(crate::explain::Limit::cpus);
    if let Some(limit) = limit {
        remedies.extend(case.raise_cpu_limit(larger(case, limit)));
        if let Some(threads) = case.facts.threads
            && threads as f64 > limit.ceil() + 1.0
        {
            remedies.push(Remedy::advice(format!(
                "Run fewer threads at a time: {threads} threads can use up a quota of {} in a fraction of each period (GOMAXPROCS, -XX:ActiveProcessorCount, sizes of thread pools)",
                text::cpus(limit)
            )));
        }
    }
    if let Some(command) = save_up(&case.facts.limits) {
        let until = if case.pod.is_some() {
            ", until it starts anew"
        } else {
            ""
        };
        remedies.push(Remedy::run(
            format!("Let it save up what it does not use for short bursts{until}"),
            command,
        ));
    }
    remedies
}

/// Returns a limit that would have covered the time used and the time lost to throttling, rounded
/// up to half a CPU. It is at least 1.5 times the current limit, but more than the host's CPUs only
/// if the current limit already is.
fn larger(case: &Case, limit: f64) -> f64 {
    let throttled = case.of(Quantity::wait(stallscope_ebpf::Cause::Throttled));
    let wanted = (case.cpu_seconds() + throttled) / case.window_seconds().max(1.0);
    let wanted = wanted
        .max(limit * 1.5)
        .min(case.node.cpus.max(1) as f64)
        .max(limit);
    (wanted * 2.0).ceil() / 2.0
}

pub(super) fn own_evidence(case: &Case) -> Vec<Evidence> {
    let mut evidence = vec![used(case)];
    evidence.extend(threads(case));
    let cpus = case.facts.cpu_count.unwrap_or(case.node.cpus);
    let text = match &case.facts.cpus {
        Some(list) => format!("may use {} ({list})", text::cpus(cpus as f64)),
        None => format!("may use all of {}", text::cpus(cpus as f64)),
    };
    evidence.push(Evidence::number("cpus_allowed", cpus as f64, "CPUs", text));
    evidence
}

pub(super) fn own_remedy(case: &Case) -> Vec<Remedy> {
    let cpus = case.facts.cpu_count.unwrap_or(case.node.cpus);
    let mut remedies = vec![Remedy::advice(format!(
        "Run no more busy threads than it has CPUs, {cpus} here: sizes of thread pools, GOMAXPROCS, -XX:ActiveProcessorCount"
    ))];
    if cpus < case.node.cpus {
        remedies.push(Remedy::advice(format!(
            "Or allow it more of the host's {} CPUs: its cpuset, or the CPU request of a pod with exclusive CPUs",
            case.node.cpus
        )));
    }
    remedies
}

/// Returns the users of CPUs that belong to the host, or those that do not, largest first.
fn others(case: &Case, of_host: bool) -> impl Iterator<Item = &Other> {
    let others = case.others.iter();
    others.filter(move |other| other.of_host == of_host)
}

fn others_evidence(case: &Case, of_host: bool) -> Vec<Evidence> {
    let seconds = case.window_seconds().max(1.0);
    let used = others(case, of_host).take(3).map(|other| {
        let cpus = text::cpus(other.cpu_seconds / seconds);
        let text = format!("{} used {cpus} in this window", other.name);
        Evidence::number("other_cpu_seconds", other.cpu_seconds, "seconds", text)
    });
    let mut evidence: Vec<_> = used.collect();
    if !evidence.is_empty() {
        evidence.push(Evidence::text(
            "other_by_use",
            "what kind of thing held the CPUs is measured; which of them it was is told by their CPU time",
        ));
    }
    evidence
}

pub(super) fn neighbour_evidence(case: &Case) -> Vec<Evidence> {
    others_evidence(case, false)
}

pub(super) fn host_evidence(case: &Case) -> Vec<Evidence> {
    others_evidence(case, true)
}

pub(super) fn neighbour_remedy(case: &Case) -> Vec<Remedy> {
    let mut remedies = case.raise_cpu_share();
    if let Some(other) = others(case, false).next() {
        remedies.push(Remedy::advice(format!(
            "Limit {}, or move it to another node",
            other.name
        )));
    }
    remedies.push(Remedy::advice(
        "Give it CPUs of its own: on Kubernetes the kubelet's --cpu-manager-policy=static and whole CPUs with requests equal to limits, elsewhere a cpuset",
    ));
    remedies
}

pub(super) fn host_remedy(case: &Case) -> Vec<Remedy> {
    let mut remedies = case.raise_cpu_share();
    remedies.push(Remedy::run(
        "See which service it is",
        ShellCommand::new("systemd-cgtop").args(["--iterations=2", "--order=cpu"]),
    ));
    remedies.push(Remedy::advice(
        "Keep CPUs for the host's services: the kubelet's --reserved-cpus, or CPUAffinity= in system.conf",
    ));
    remedies
}

pub(super) fn kernel_remedy(_: &Case) -> Vec<Remedy> {
    vec![Remedy::run(
        "See which kernel threads run: ksoftirqd speaks for the network or interrupts on one CPU, kworker for drivers and writeback",
        ShellCommand::new("ps")
            .args(["-L", "--ppid", "2", "-o", "psr,pcpu,comm", "--sort=-pcpu"])
            .pipe(&ShellCommand::new("head").arg("-15")),
    )]
}

pub(super) fn idle_remedy(_: &Case) -> Vec<Remedy> {
    vec![Remedy::run(
        "Keep CPUs from deep sleep and low clock rates; in a virtual machine, that is the host's to do",
        ShellCommand::fixed(
            "cpupower idle-set --disable-by-latency 20; cpupower frequency-set --governor performance",
        ),
    )]
}
