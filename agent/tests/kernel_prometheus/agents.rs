//! Agents as processes: one measures this host, the others audit the files of other nodes.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{fixture, serving::Serving};

/// A node from the audit's tests, and the changes on it.
pub struct Audited {
    like: &'static str,
    changes: &'static str,
}

/// Two nodes that differ in every fact.
pub const AUDITED: [Audited; 2] = [
    Audited {
        like: "epyc",
        changes: "\
/sys/class/dmi/id/sys_vendor = Amazon EC2
/etc/crio/crio.conf.d/10-crio.conf = [crio.runtime]\\ncgroup_manager = \"systemd\"
",
    },
    Audited {
        like: "kunpeng",
        changes: "\
/sys/class/dmi/id/sys_vendor = QEMU
/sys/devices/system/cpu/cpu{0-127}/cpufreq/scaling_governor = performance
/sys/kernel/debug/sched/preempt = none voluntary (full)
/sys/kernel/security/lockdown = none [integrity] confidentiality
/sys/kernel/mm/transparent_hugepage/enabled = [always] madvise never
/sys/kernel/mm/transparent_hugepage/defrag = [always] defer defer+madvise madvise never
/proc/sys/kernel/numa_balancing = 0
/proc/sys/vm/zone_reclaim_mode = 1
/proc/sys/vm/swappiness = 10
/proc/sys/vm/watermark_scale_factor = 100
/proc/2217/comm = kubelet
/proc/2217/cmdline = /usr/bin/kubelet\\0--config=/var/lib/kubelet/config.yaml\\0
/run/containerd/containerd.sock = x
/etc/containerd/config.toml = version = 2
== /var/lib/kubelet/config.yaml
kind: KubeletConfiguration
cgroupDriver: cgroupfs
memoryManagerPolicy: Static
reservedSystemCPUs: \"0-1\"
==
",
    },
];

/// Hooks that fire often. The others only count migrations.
const BUSY_HOOKS: [&str; 6] = [
    "tp_btf/sched_switch",
    "tp_btf/mm_page_alloc",
    "fentry",
    "fexit",
    "kprobe",
    "kretprobe",
];

/// An agent that is ready.
pub struct Agent {
    pub address: String,
    // The process ends before its files go.
    _serving: Serving,
    _files: Option<TempDir>,
}

impl Agent {
    fn start(files: Option<TempDir>, arguments: &[&Path]) -> Self {
        let mut all = ["--doctor", "10s", "--pod-source", "files"]
            .map(Path::new)
            .to_vec();
        let pods = format!("--kubelet-cgroup-root={}", super::node::root());
        all.push(pods.as_ref());
        all.extend(arguments);
        let serving = Serving::start(all);
        Self {
            address: serving.address.clone(),
            _serving: serving,
            _files: files,
        }
    }

    /// Starts an agent that measures this host, with names from a kubelet's directories.
    pub fn measuring(logs: &Path) -> Self {
        Self::start(None, &["--kubelet-logs".as_ref(), logs])
    }

    /// Starts an agent that audits the files of another node, attaches no frequent hook, knows no pod by name and has
    /// hardly any series.
    pub fn auditing(node: &Audited) -> Self {
        let files = fixture::node(node.like);
        fixture::change(files.path(), node.changes);
        let root: PathBuf = files.path().to_owned();
        let nowhere = root.join("nowhere");
        let mut arguments: Vec<&Path> = vec!["--doctor-root".as_ref(), &root];
        arguments.extend(["--kubelet-logs".as_ref(), nowhere.as_path()]);
        arguments.extend(["--max-owners", "2", "--max-series", "10"].map(Path::new));
        for hook in BUSY_HOOKS {
            arguments.extend(["--disable-hook", hook].map(Path::new));
        }
        Self::start(Some(files), &arguments)
    }
}
