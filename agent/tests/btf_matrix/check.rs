//! Checks of a kernel from its type information: the agent's layout, hooks and arguments on it.

use std::{fs, path::Path};

use stallscope::{
    host::{
        btf::{Argument, Btf},
        cgroup::{Controller, Hierarchy},
        topology::Topology,
    },
    probe::{Alternative, Attach, Hook, Kernel, Probe},
    probes::PROBES,
};
use stallscope_ebpf::{Host, Layout};

use crate::{
    arguments::taken,
    kernels::{Expected, SPOTS},
};

/// A host for kernels that do not run: one cgroup, and NUMA nodes to tell apart.
pub struct Machine {
    hierarchy: Hierarchy,
    topology: Topology,
    _folder: tempfile::TempDir,
}

impl Machine {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        let mount = folder.path().join("cgroup").display().to_string();
        put(
            "proc/self/mountinfo",
            &format!("30 23 0:28 / {mount} rw - cgroup2 cgroup2 rw\n"),
        );
        put(
            "proc/cgroups",
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\n",
        );
        put("cgroup/cgroup.procs", "");
        put("cgroup/cgroup.controllers", "cpu memory pids\n");
        put("cgroup/cgroup.subtree_control", "cpu memory pids\n");
        Self {
            hierarchy: Hierarchy::discover(&folder.path().join("proc"), None)
                .expect("a hierarchy of cgroups"),
            topology: Topology::read(Path::new("/sys")).expect("this host's CPUs"),
            _folder: folder,
        }
    }

    /// Returns the kernel with this type information on this machine, with NUMA balancing on.
    pub fn kernel(&self, btf: Btf) -> Kernel {
        let host = Host {
            cpus: 1,
            nodes: 2,
            ..Host::default()
        };
        let layout = btf.layout(Controller::Cpu);
        let hierarchy = self.hierarchy.clone();
        let mut kernel = Kernel::new(btf, layout, host, hierarchy, &self.topology, Vec::new())
            .expect("type information that aya can read");
        kernel.numa_balancing = Ok(());
        kernel
    }
}

/// Lists all differences of a kernel from its expectations.
pub fn faults(expected: &Expected, kernel: &Kernel) -> Vec<String> {
    let mut faults = absent_fields(expected, &kernel.layout);
    faults.extend(wrong_offsets(expected, &kernel.layout));
    let shift = kernel.btf.page_node_shift();
    if shift != Some(expected.page_node_shift) {
        faults.push(format!("a page's node is found by a shift of {shift:?}"));
    }
    for probe in PROBES {
        faults.extend(probe.refusal(kernel));
        for hook in probe.hooks {
            faults.extend(wrong_hook(expected, kernel, probe, hook));
            for alternative in hook.alternatives {
                faults.extend(wrong_arguments(kernel, probe, alternative));
            }
        }
    }
    faults
}

fn absent_fields(expected: &Expected, layout: &Layout) -> Vec<String> {
    let fault = |field: &str, structure: &str, path: &str| {
        let stated = expected.absent.iter().find(|(absent, _)| *absent == field);
        match (layout.get(field), stated) {
            (None, None) => Some(format!("{field}: it has no {structure}.{path}")),
            (Some(at), Some((_, why))) => {
                Some(format!("{field}: it is there, at {at}, though {why}"))
            }
            _ => None,
        }
    };
    Layout::FIELDS
        .iter()
        .filter_map(|(field, structure, path)| fault(field, structure, path))
        .collect()
}

fn wrong_offsets(expected: &Expected, layout: &Layout) -> Vec<String> {
    let pairs = SPOTS.iter().zip(expected.offsets);
    pairs
        .filter(|(field, offset)| layout.get(field) != *offset)
        .map(|(field, offset)| format!("{field} is at {:?}, not at {offset:?}", layout.get(field)))
        .collect()
}

/// Returns a fault when the first alternative that this kernel takes differs from the expected one.
fn wrong_hook(expected: &Expected, kernel: &Kernel, probe: &Probe, hook: &Hook) -> Option<String> {
    let works = |alternative: &&Alternative| {
        alternative.refusal(kernel).is_none()
            && alternative.programs.iter().all(|attach| match attach {
                Attach::Fentry(..) | Attach::Fexit(..) if !expected.trampolines => false,
                Attach::File(_) => true,
                _ => passed(&kernel.btf, *attach).is_some(),
            })
    };
    let programs: Vec<&str> = hook
        .alternatives
        .iter()
        .find(works)
        .map(|alternative| alternative.programs)
        .unwrap_or_default()
        .iter()
        .map(|attach| attach.program().unwrap_or(attach.symbol()))
        .collect();
    let should = programs_of(expected, probe.name, hook.name);
    (programs != should).then(|| {
        format!(
            "{}, {}: {programs:?} would attach, not {should:?}",
            probe.name, hook.name
        )
    })
}

fn programs_of(expected: &Expected, probe: &str, hook: &str) -> Vec<String> {
    let programs = &expected.programs;
    let reclaim = |kind: &str| {
        ["end", "begin"].map(|side| format!("{kind}_{side}{}", programs.reclaim_suffix))
    };
    match (probe, hook) {
        ("cpu_wait", "switches") => vec!["sched_switch".into()],
        ("cpu_wait" | "task_migrations", _) => vec!["sched_migrate_task".into()],
        ("cpu_throttling", "totals") => vec!["cpu.stat".into()],
        ("cpu_throttling", _) => programs.throttles.iter().map(|&p| p.into()).collect(),
        ("page_faults", "first touch") => vec![programs.first_touch.into()],
        ("page_faults", "file mapping") => vec![programs.file_mapping.into()],
        ("page_faults", _) => vec![programs.hinting.into()],
        ("reclaim", "direct reclaim") => reclaim("mm_vmscan_direct_reclaim").into(),
        ("reclaim", "memory cgroup reclaim") => reclaim("mm_vmscan_memcg_reclaim").into(),
        ("reclaim", _) => reclaim("mm_compaction").into(),
        _ => vec![format!("what is not stated for {probe}, {hook}")],
    }
}

/// Returns the arguments that the kernel passes to a program's hook; none if it has no such hook.
///
/// On arm64 5.10 static functions are in no type information. Absence would prove nothing there, but every function
/// that is hooked on that kernel is global, and found.
fn passed(btf: &Btf, attach: Attach) -> Option<Vec<Argument>> {
    match attach {
        Attach::TpBtf(_, tracepoint) => btf.tracepoint(tracepoint),
        Attach::Fentry(_, function)
        | Attach::Fexit(_, function)
        | Attach::Kprobe(_, function)
        | Attach::Kretprobe(_, function) => btf.function(function),
        Attach::File(_) => None,
    }
}

/// Lists the arguments that this kernel passes differently from what programs take, where their hook exists and the
/// programs are for this kernel.
fn wrong_arguments(kernel: &Kernel, probe: &Probe, alternative: &Alternative) -> Vec<String> {
    let mut faults = Vec::new();
    if alternative.refusal(kernel).is_some() {
        return faults;
    }
    for attach in alternative.programs {
        let (Some(program), Some(passed)) = (attach.program(), passed(&kernel.btf, *attach)) else {
            continue;
        };
        for (place, taken) in taken(probe.name, program) {
            let argument = passed.get(*place);
            if !argument.is_some_and(|argument| taken.is(argument)) {
                faults.push(format!(
                    "{attach}: {program} takes argument {place} for {taken:?}, but it is {argument:?}"
                ));
            }
        }
    }
    faults
}
