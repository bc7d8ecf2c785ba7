//! Checks of the kernel and of the features that the agent's measurements need.

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    kernel::Version,
    root::Kind,
};
use crate::text::shell_command::ShellCommand;

const RELEASE: &str = "/proc/sys/kernel/osrelease";

pub static KERNEL_VERSION: Check = Check {
    name: "kernel-version",
    group: Group::Kernel,
    summary: "A kernel older than 5.10",
    severities: &[Severity::Problem],
    reads: "`/proc/sys/kernel/osrelease`",
    run: kernel_version,
};

fn kernel_version(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let version = node.version()?;
    if version >= Version(5, 10) {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::problem(format!("Linux {version} is too old for the probes"))
            .value(node.release.clone().unwrap_or_default())
            .read(RELEASE)
            .why("Probes need typed tracepoints and maps that can be read without system calls, which 5.10 has; memory of cgroup v2, and NUMA balancing, are also far worse before.")
            .mend(MendKind::Advice, "boot a kernel from 5.10 on; on arm64 from 6.4 on, which attaches probes at a fraction of the cost"),
    ])
}

pub static BTF: Check = Check {
    name: "btf",
    group: Group::Kernel,
    summary: "A kernel that does not describe its types",
    severities: &[Severity::Problem],
    reads: "`/sys/kernel/btf/vmlinux`",
    run: btf,
};

fn btf(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/sys/kernel/btf/vmlinux";
    if node.root.exists(path) {
        return Ok(Vec::new());
    }
    node.root.names("/sys/kernel")?;
    Ok(vec![
        Finding::problem("The kernel does not describe its types (BTF)")
            .value("there is no such file")
            .read(path)
            .why(format!("{}, no probe can be loaded, nor any other BPF program that is built once for all kernels.", node.here()))
            .mend(MendKind::Advice, "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as those of distributions are"),
    ])
}

/// Checks a build option without which something does not work.
fn option(
    node: &Node,
    name: &str,
    severity: Severity,
    title: &str,
    why: &str,
) -> Result<Vec<Finding>, Unmade> {
    match node.options.has(name) {
        Some(true) => Ok(Vec::new()),
        Some(false) => Ok(vec![
            Finding::of(severity, title)
                .value(format!("CONFIG_{name} is not set"))
                .read(&node.options.read)
                .why(format!("{}, {why}", node.here()))
                .mend(
                    MendKind::Advice,
                    format!("boot a kernel with CONFIG_{name}=y"),
                ),
        ]),
        None => Err(Unmade::unknown(format!(
            "how the kernel was built is kept nowhere: /boot/config-{0}, /lib/modules/{0}/config or /proc/config.gz was expected",
            node.release.as_deref().unwrap_or("RELEASE")
        ))),
    }
}

pub static BPF_SYSCALL: Check = Check {
    name: "bpf-syscall",
    group: Group::Kernel,
    summary: "A kernel without BPF",
    severities: &[Severity::Problem],
    reads: "the kernel's options, `/proc/sys/kernel/unprivileged_bpf_disabled`",
    run: bpf_syscall,
};

fn bpf_syscall(node: &Node) -> Result<Vec<Finding>, Unmade> {
    // The setting exists only if the kernel has the system call.
    if node
        .root
        .exists("/proc/sys/kernel/unprivileged_bpf_disabled")
    {
        return Ok(Vec::new());
    }
    option(
        node,
        "BPF_SYSCALL",
        Severity::Problem,
        "The kernel has no BPF",
        "no program can be loaded: nothing that this agent measures, and no eBPF data path of a network plugin.",
    )
}

pub static BPF_JIT: Check = Check {
    name: "bpf-jit",
    group: Group::Kernel,
    summary: "BPF programs that are interpreted instead of compiled",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "`/proc/sys/net/core/bpf_jit_enable`, the kernel's options",
    run: bpf_jit,
};

fn bpf_jit(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/sys/net/core/bpf_jit_enable";
    if !node.root.exists(path) {
        return option(
            node,
            "BPF_JIT",
            Severity::Problem,
            "BPF programs are interpreted",
            "each program takes several times as long, at every context switch and every packet.",
        );
    }
    let (severity, title, why) = match node.root.number::<u64>(path)? {
        0 => (
            Severity::Problem,
            "BPF programs are interpreted",
            "each program takes several times as long, at every context switch and every packet",
        ),
        2 => (
            Severity::Warning,
            "The compiler of BPF programs is in debug mode",
            "every program that is loaded is written to the kernel's log, with addresses that help an attacker",
        ),
        _ => return Ok(Vec::new()),
    };
    Ok(vec![
        Finding::of(severity, title)
            .value(node.root.text(path)?)
            .read(path)
            .why(format!("{}, {why}.", node.here()))
            .sysctl("net.core.bpf_jit_enable", 1),
    ])
}

pub static CGROUP_BPF: Check = Check {
    name: "cgroup-bpf",
    group: Group::Kernel,
    summary: "A kernel that cannot attach programs to cgroups",
    severities: &[Severity::Problem],
    reads: "the kernel's options, else its type information on the running host",
    run: cgroup_bpf,
};

fn cgroup_bpf(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let title = "The kernel cannot attach BPF programs to cgroups";
    let why = "eBPF data paths (Cilium, Calico) start and silently do not enforce what they attach there, such as load balancing at the socket; systemd's IPAddressDeny= and the device rules of cgroup v2 do nothing.";
    match node.live.cgroup_bpf.filter(|_| !node.options.known()) {
        Some(true) => Ok(Vec::new()),
        Some(false) => Ok(vec![
            Finding::problem(title)
                .value("its types have no function __cgroup_bpf_run_filter_skb")
                .read(crate::host::btf::KERNEL_BTF)
                .why(format!("{}, {why}", node.here()))
                .mend(MendKind::Advice, "boot a kernel with CONFIG_CGROUP_BPF=y"),
        ]),
        None => option(node, "CGROUP_BPF", Severity::Problem, title, why),
    }
}

pub static KPROBES: Check = Check {
    name: "kprobes",
    group: Group::Kernel,
    summary: "A kernel without kprobes, or with kprobes switched off",
    severities: &[Severity::Warning],
    reads: "`/sys/bus/event_source/devices/kprobe`, `/sys/kernel/debug/kprobes/enabled`, the kernel's options",
    run: kprobes,
};

fn kprobes(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let switch = "/sys/kernel/debug/kprobes/enabled";
    if node.root.exists("/sys/kernel/debug/kprobes")
        && node.root.number::<u64>(switch).is_ok_and(|on| on == 0)
    {
        return Ok(vec![
            Finding::warning("Kprobes are switched off")
                .value(0)
                .read(switch)
                .why(format!("{}, single throttles and page faults are measured by kprobes where no trampoline attaches: they are not measured, and nobody says so.", node.here()))
                .command(ShellCommand::write(1, switch)),
        ]);
    }
    // Kprobes are not needed if trampolines work, which do the same at a lower cost.
    let spared = node
        .live
        .trampolines
        .as_ref()
        .is_some_and(|tried| tried.work);
    if spared || node.root.exists("/sys/bus/event_source/devices/kprobe") {
        return Ok(Vec::new());
    }
    option(
        node,
        "KPROBES",
        Severity::Warning,
        "The kernel has no kprobes",
        "what no tracepoint shows (single throttles, page faults by node) can only be measured where trampolines attach.",
    )
}

pub static BPF_TRAMPOLINES: Check = Check {
    name: "bpf-trampolines",
    group: Group::Kernel,
    summary: "Programs cannot be attached to functions directly (found out by trying)",
    severities: &[Severity::Warning, Severity::Info],
    reads: "an attempt on the running host, `/proc/sys/kernel/osrelease`",
    run: trampolines,
};

fn trampolines(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let version = node.version()?;
    let too_old = node.is_arm() && version < Version(6, 4);
    let Some(tried) = &node.live.trampolines else {
        return Err(Unmade::unknown(
            "it is found out by trying, which needs the running host and root, or an agent that runs here",
        ));
    };
    if tried.work {
        return Ok(Vec::new());
    }
    let severity = if too_old {
        Severity::Info
    } else {
        Severity::Warning
    };
    Ok(vec![
        Finding::of(severity, "Programs do not attach to functions directly")
            .value(&tried.detail)
            .read("an attempt to attach")
            .read(RELEASE)
            .why(format!("{}, {} Kprobes do the same at several times the cost of an event.", node.here(),
                if too_old { "trampolines for arm64 come with 6.4 only: programs load and then do not attach." }
                else { "trampolines should work; the kernel was built without CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, or something else holds ftrace." }))
            .mend(MendKind::Advice, "boot a kernel from 6.4 on with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y; until then the agent uses kprobes by itself"),
    ])
}

pub static PSI: Check = Check {
    name: "psi",
    group: Group::Kernel,
    summary: "No pressure stall information",
    severities: &[Severity::Info],
    reads: "`/proc/pressure/cpu`, the kernel's options",
    run: psi,
};

fn psi(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/pressure/cpu";
    let state = match node.root.text(path) {
        Ok(_) => return Ok(Vec::new()),
        Err(unread) if unread.kind == Kind::Absent => "there is no such file",
        Err(unread) if unread.kind == Kind::Unsupported => "switched off",
        Err(unread) => return Err(unread.into()),
    };
    node.root.names("/proc")?;
    let finding = Finding::info("The kernel does not tell pressure (PSI)")
        .value(state)
        .read(path)
        .why(format!("{}, neither systemd-oomd nor the kubelet's pressure metrics work, and no second source confirms what this agent finds.", node.here()));
    Ok(vec![if node.options.has("PSI") == Some(false) {
        finding.mend(MendKind::Advice, "boot a kernel with CONFIG_PSI=y")
    } else {
        finding.mend(MendKind::Boot, "psi=1")
    }])
}

pub static SCHED_INFO: Check = Check {
    name: "sched-info",
    group: Group::Kernel,
    summary: "A kernel that does not count how long tasks wait for a CPU",
    severities: &[Severity::Problem],
    reads: "`/proc/self/schedstat`",
    run: sched_info,
};

fn sched_info(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/self/schedstat";
    if node.root.exists(path) {
        return Ok(Vec::new());
    }
    node.root.names("/proc/self")?;
    Ok(vec![
        Finding::problem("The kernel does not count waits for a CPU")
            .value("there is no such file")
            .read(path)
            .why(format!("{}, run_delay is what waits are held against: without it the split by cause cannot be made.", node.here()))
            .mend(MendKind::Advice, "boot a kernel with CONFIG_SCHED_INFO=y (CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT select it)"),
    ])
}

pub static SCHEDSTATS: Check = Check {
    name: "schedstats",
    group: Group::Kernel,
    summary: "Scheduler statistics are on, at a cost",
    severities: &[Severity::Info],
    reads: "`/proc/sys/kernel/sched_schedstats`",
    run: schedstats,
};

fn schedstats(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let path = "/proc/sys/kernel/sched_schedstats";
    if !node.root.exists(path) {
        return Err(Unmade::not_here(
            "this kernel has no switch for scheduler statistics",
        ));
    }
    if node.root.number::<u64>(path)? == 0 {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::info("The scheduler keeps statistics that nothing here reads")
            .value(1)
            .read(path)
            .why(format!("{}, every wakeup and every switch does extra work; this agent needs none of it (run_delay is counted without).", node.here()))
            .sysctl("kernel.sched_schedstats", 0),
    ])
}

pub static PREEMPTION: Check = Check {
    name: "preemption",
    group: Group::Kernel,
    summary: "A kernel that preempts itself fully, or is made for real time",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`/sys/kernel/debug/sched/preempt`, `/sys/kernel/realtime`, `/proc/version`",
    run: preempts,
};

/// Returns the kernel's preemption model, and the file that states it.
pub fn preemption(node: &Node) -> Result<(String, &'static str), Unmade> {
    let realtime = "/sys/kernel/realtime";
    if node.root.exists(realtime) && node.root.number::<u64>(realtime).is_ok_and(|on| on == 1) {
        return Ok(("realtime".to_owned(), realtime));
    }
    let switch = "/sys/kernel/debug/sched/preempt";
    if let Ok(text) = node.root.text(switch)
        && let Some((_, rest)) = text.split_once('(')
        && let Some((model, _)) = rest.split_once(')')
    {
        return Ok((model.to_owned(), switch));
    }
    let version = node.root.text("/proc/version")?;
    let words: Vec<&str> = version.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    let model = if has("PREEMPT_RT") {
        "realtime"
    } else if has("PREEMPT_DYNAMIC") {
        return dynamic(node);
    } else if has("PREEMPT") {
        "full"
    } else {
        "none or voluntary"
    };
    Ok((model.to_owned(), "/proc/version"))
}

/// Returns the preemption model that the command line chose at boot.
fn dynamic(node: &Node) -> Result<(String, &'static str), Unmade> {
    let command_line = node.root.text("/proc/cmdline")?;
    let mut words = command_line.split_whitespace();
    let chosen = words.find_map(|word| word.strip_prefix("preempt="));
    chosen
        .map(|model| (model.to_owned(), "/proc/cmdline"))
        .ok_or_else(|| {
            Unmade::unknown(
                "the model is chosen at the boot, and only debugfs, as root, says which it is",
            )
        })
}

fn preempts(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let (model, read) = preemption(node)?;
    let (severity, title, why) = match model.as_str() {
        "realtime" => (
            Severity::Warning,
            "The kernel is made for real time",
            "locks that spin elsewhere put tasks to sleep: more switches, more migrations, less throughput",
        ),
        "full" => (
            Severity::Info,
            "The kernel preempts itself everywhere",
            "a task can lose its CPU in the middle of a system call, even while it holds what others wait for; servers usually run with voluntary or lazy preemption",
        ),
        _ => return Ok(Vec::new()),
    };
    let finding = Finding::of(severity, title)
        .value(&model)
        .read(read)
        .why(format!("{}, {why}.", node.here()));
    Ok(vec![if severity == Severity::Warning {
        finding.mend(MendKind::Advice, "boot the distribution's ordinary kernel, unless something here has real-time deadlines")
    } else {
        finding.mend(MendKind::Boot, "preempt=voluntary (or lazy, from 6.13 on)")
    }])
}
