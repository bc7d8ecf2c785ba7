//! Checks of the permissions of unprivileged users and of BPF programs.

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    root::Kind,
};

pub static LOCKDOWN: Check = Check {
    name: "lockdown",
    group: Group::Kernel,
    summary: "A lockdown that forbids programs to read kernel memory",
    severities: &[Severity::Problem],
    reads: "`/sys/kernel/security/lockdown`",
    run: lockdown,
};

fn lockdown(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/sys/kernel/security/lockdown";
    let state = match node.root.choice(path) {
        Err(unread) if unread.kind == Kind::Absent => {
            return Err(Unmade::not_here(
                "this kernel has no lockdown, or securityfs is not mounted",
            ));
        }
        state => state?,
    };
    if state != "confidentiality" {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::problem("Lockdown forbids BPF programs to read kernel memory")
            .value(&state)
            .read(path)
            .why(format!("{}, the verifier refuses every program that reads the kernel's structures: no probe can be loaded, however privileged the agent is.", node.here()))
            .mend(MendKind::Boot, "lockdown=integrity")
    ])
}

pub static PERF_EVENT_PARANOID: Check = Check {
    name: "perf-event-paranoid",
    group: Group::Kernel,
    summary: "Any user may watch the whole machine by perf events",
    severities: &[Severity::Warning],
    reads: "`/proc/sys/kernel/perf_event_paranoid`",
    run: perf_event_paranoid,
};

fn perf_event_paranoid(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/sys/kernel/perf_event_paranoid";
    let value: i64 = node.root.number(path)?;
    if value > 0 {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("Unprivileged users may watch all CPUs by perf events")
            .value(value)
            .read(path)
            .why(format!("{}, a process in any container without a seccomp profile can count and sample what others do, and slow them down by it. The agent needs no such permission: it has CAP_PERFMON.", node.here()))
            .sysctl("kernel.perf_event_paranoid", 2),
    ])
}

pub static UNPRIVILEGED_BPF: Check = Check {
    name: "unprivileged-bpf",
    group: Group::Kernel,
    summary: "Any user may load BPF programs",
    severities: &[Severity::Warning],
    reads: "`/proc/sys/kernel/unprivileged_bpf_disabled`",
    run: unprivileged_bpf,
};

fn unprivileged_bpf(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/sys/kernel/unprivileged_bpf_disabled";
    if node.root.number::<u64>(path)? != 0 {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("Unprivileged users may load BPF programs")
            .value(0)
            .read(path)
            .why(format!("{}, programs of strangers run in the kernel: side channels (Spectre) and flaws of the verifier are theirs to use. The kernel's own default since 5.16 is 2.", node.here()))
            .sysctl("kernel.unprivileged_bpf_disabled", 2),
    ])
}
