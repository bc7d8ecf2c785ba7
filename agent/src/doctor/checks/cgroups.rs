//! Checks of control groups: version, controllers, and cgroup driver.

use crate::attribution::pods::PodTrees;
use crate::attribution::{OwnerKind, attribute};
use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    groups::Groups,
};
use crate::host::cgroup::{CgroupPath, Mode};
use crate::text::shell_command::ShellCommand;

/// Returns the trees in which the kubelet has pods: `/kubepods.slice`, `/kubepods`, or the same below `--cgroup-root`.
pub fn pod_trees(groups: &Groups) -> Vec<String> {
    let is_tree = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        // A cluster inside a container has a tree of its own.
        let inside = path.matches("kubepods").count() > 1;
        (name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice"))
            && !inside
    };
    let paths = groups.all.iter().map(|group| group.path.as_str());
    paths.filter(is_tree).map(str::to_owned).collect()
}

pub static CGROUP_MODE: Check = Check {
    name: "cgroup-mode",
    group: Group::Cgroups,
    summary: "Control groups of version 1, or of both versions",
    severities: &[Severity::Warning, Severity::Info],
    reads: "`/sys/fs/cgroup`",
    run: cgroup_mode,
};

fn cgroup_mode(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let groups = node.groups()?;
    let title = match groups.mode {
        Mode::V2 => return Ok(Vec::new()),
        Mode::V1 => "Control groups are of version 1",
        Mode::Hybrid => "Control groups are of both versions, the controllers of version 1",
    };
    let severity = if node.is_kubernetes() {
        Severity::Warning
    } else {
        Severity::Info
    };
    Ok(vec![
        Finding::of(severity, title)
            .value(groups.mode.name())
            .read("/sys/fs/cgroup")
            .why(format!("{}, page cache that a container writes is not throttled with it, memory and CPU are limited in unrelated trees, no pressure is told by container, and quotas have no burst before Linux 5.14. The kubelet only maintains its support for version 1.", node.here()))
            .mend(MendKind::Boot, "systemd.unified_cgroup_hierarchy=1"),
    ])
}

pub static CGROUP_CONTROLLERS: Check = Check {
    name: "cgroup-controllers",
    group: Group::Cgroups,
    summary: "Controllers that are not enabled where pods or containers live",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "`cgroup.controllers`, `cgroup.subtree_control`",
    run: cgroup_controllers,
};

fn cgroup_controllers(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let groups = node.groups()?;
    let mut found = Vec::new();
    let trees = pod_trees(groups);
    for tree in &trees {
        for (controller, severity) in [
            ("cpu", Severity::Problem),
            ("memory", Severity::Problem),
            ("pids", Severity::Warning),
            ("cpuset", Severity::Warning),
        ] {
            if let Some(missing) = missing(node, groups, tree, controller)? {
                found.push(without(node, severity, tree, controller, &missing));
            }
        }
    }
    // Containers of Docker and Podman live beside the services, where systemd enables few controllers by default.
    let containers = groups.all.iter().filter(|group| {
        group.pod.is_none()
            && matches!(
                attribute(
                    &CgroupPath::new(group.path.as_bytes()),
                    usize::MAX,
                    &PodTrees::Found
                )
                .kind,
                OwnerKind::Container { .. }
            )
    });
    let mut parents: Vec<&str> = containers
        .filter_map(|group| Some(group.path.rsplit_once('/')?.0))
        .collect();
    parents.dedup();
    for parent in parents
        .into_iter()
        .filter(|parent| !parent.is_empty())
        .take(16)
    {
        for controller in ["cpu", "memory"] {
            if let Some(missing) = missing(node, groups, parent, controller)? {
                found.push(without(
                    node,
                    Severity::Warning,
                    parent,
                    controller,
                    &missing,
                ));
            }
        }
    }
    if trees.is_empty() && found.is_empty() && !groups.has("cpu") {
        return Err(Unmade::unknown(
            "the cpu controller is mounted nowhere below /sys/fs/cgroup",
        ));
    }
    Ok(found)
}

/// Returns the file that does not list a controller, if that controller is missing for a tree.
fn missing(
    node: &Node,
    groups: &Groups,
    tree: &str,
    controller: &str,
) -> Result<Option<String>, Unmade> {
    if !groups.unified() {
        return Ok((!groups.has(controller)).then(|| "/sys/fs/cgroup".to_owned()));
    }
    let Some(file) = groups.file("cpu", tree, "cgroup.subtree_control") else {
        return Ok(None);
    };
    // An empty tree has no controller enabled yet.
    let used = groups
        .all
        .iter()
        .any(|group| group.path.starts_with(&format!("{tree}/")));
    let enabled = node.root.text_or_empty(&file)?;
    let has = enabled.split_whitespace().any(|word| word == controller);
    Ok((used && !has).then_some(file))
}

fn without(node: &Node, severity: Severity, tree: &str, controller: &str, file: &str) -> Finding {
    let effect = match controller {
        "cpu" => "CPU requests and limits below it do nothing",
        "memory" => "memory limits below it do nothing, and memory is not counted by container",
        "pids" => "a fork bomb in one container ends the whole node",
        _ => "exclusive CPUs cannot be given, and CPUs and memory cannot be kept on one node",
    };
    let finding = Finding::of(
        severity,
        format!("The {controller} controller is not enabled below {tree}"),
    )
    .value(format!("{controller} is missing"))
    .read(file)
    .why(format!("{}, {effect}.", node.here()));
    if file.ends_with("cgroup.subtree_control") {
        // Each level can enable only the controllers that its parent has.
        let mut levels = vec![String::new()];
        for name in tree.split('/').filter(|name| !name.is_empty()) {
            levels.push(format!(
                "{}/{name}",
                levels.last().cloned().unwrap_or_default()
            ));
        }
        let enable = levels.iter().map(|path| {
            let file = format!("/sys/fs/cgroup{path}/cgroup.subtree_control");
            ShellCommand::write(format!("+{controller}"), &file)
        });
        let finding = match enable.reduce(|first, next| first.and(&next)) {
            Some(command) => finding.command(command),
            None => finding,
        };
        finding
            .mend(MendKind::Advice, "where a systemd unit owns it: Delegate=yes in the unit, so that systemd does not take it away again")
    } else {
        finding.mend(MendKind::Boot, format!("remove cgroup_disable={controller}; or cgroup_enable={controller} where the distribution leaves it off"))
    }
}

/// Returns whether the tree's name is that of a systemd slice.
fn is_slice(tree: &str) -> bool {
    tree.strip_suffix(".slice").is_some()
}

pub static CGROUP_TREES: Check = Check {
    name: "cgroup-trees",
    group: Group::Cgroups,
    summary: "Pods in trees of both cgroup drivers",
    severities: &[Severity::Problem],
    reads: "`/sys/fs/cgroup/**/kubepods*`",
    run: cgroup_trees,
};

fn cgroup_trees(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let groups = node.groups()?;
    let trees = pod_trees(groups);
    if trees.is_empty() {
        return Err(Unmade::not_here("there is no tree of pods"));
    }
    let systemd: Vec<&String> = trees.iter().filter(|tree| is_slice(tree)).collect();
    let plain: Vec<&String> = trees.iter().filter(|tree| !is_slice(tree)).collect();
    let (Some(systemd), Some(plain)) = (systemd.first(), plain.first()) else {
        return Ok(Vec::new());
    };
    let below = |tree: &str| {
        groups
            .all
            .iter()
            .filter(|group| group.path.starts_with(&format!("{tree}/")))
            .count()
    };
    Ok(vec![
        Finding::problem("Trees of both cgroup drivers are there: systemd's and cgroupfs's")
            .value(format!("{systemd} ({} cgroups), {plain} ({} cgroups)", below(systemd), below(plain)))
            .read(format!("/sys/fs/cgroup{systemd}"))
            .read(format!("/sys/fs/cgroup{plain}"))
            .why(format!("{}, the driver was changed under running pods, or kubelet and runtime disagree: each tree has the node's whole share of CPU and memory, so the node is promised twice, and old pods are in limits that nobody adjusts.", node.here()))
            .mend(MendKind::Advice, "kubectl drain the node, make the drivers agree (see cgroup-driver), and reboot it: a restart of the kubelet moves no pod"),
    ])
}

pub static CGROUP_DRIVER: Check = Check {
    name: "cgroup-driver",
    group: Group::Cgroups,
    summary: "Kubelet, container runtime and init system do not agree on who makes cgroups",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "the kubelet's `cgroupDriver`, containerd's `SystemdCgroup`, CRI-O's `cgroup_manager`, `/proc/1/comm`",
    run: cgroup_driver,
};

fn cgroup_driver(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    let driver = kubelet.setting("cgroup-driver", "cgroupDriver", "cgroupfs");
    let mut found = Vec::new();
    if let Some(runtime) = &node.runtime
        && runtime.driver.value != driver.value
    {
        let mend = match (runtime.name, driver.value.as_str()) {
            ("containerd", "systemd") => {
                "in containerd's configuration, for the runtime in use: options.SystemdCgroup = true; then restart containerd and the kubelet, with the node drained"
            }
            (_, "systemd") => {
                "in /etc/crio/crio.conf: cgroup_manager = \"systemd\" and conmon_cgroup = \"pod\"; then restart CRI-O and the kubelet, with the node drained"
            }
            _ => "drain the node first: pods keep the cgroups they have",
        };
        found.push(
            Finding::problem(format!("The kubelet's cgroup driver is {}, {}'s is {}", driver.value, runtime.name, runtime.driver.value))
                .value(format!("{} and {}", driver.value, runtime.driver.value))
                .read(&driver.read)
                .read(&runtime.driver.read)
                .why(format!("{}, pods' cgroups and their containers' are in different trees: limits of pods do not hold for their containers, and systemd undoes what it did not make. (A kubelet from 1.34 on asks the runtime and may have overruled its own setting.)", node.here()))
                .mend(MendKind::Kubelet, format!("cgroupDriver: {}", if driver.value == "systemd" { "systemd (and change the runtime)" } else { "systemd" }))
                .mend(MendKind::Advice, mend),
        );
    }
    let init = node.root.text("/proc/1/comm").unwrap_or_default();
    if init == "systemd" && driver.value == "cgroupfs" && found.is_empty() {
        found.push(
            Finding::warning("systemd runs this node, and the kubelet makes cgroups beside it")
                .value(&driver.value)
                .read(&driver.read)
                .read("/proc/1/comm")
                .why(format!("{}, two managers write to one tree: on a reload systemd may take controllers and limits away from pods, and under load both give the whole machine away.", node.here()))
                .mend(MendKind::Kubelet, "cgroupDriver: systemd")
                .mend(MendKind::Advice, "the runtime has to follow (containerd: SystemdCgroup = true), with the node drained"),
        );
    }
    Ok(found)
}

pub static KUBELET_CGROUPS: Check = Check {
    name: "kubelet-cgroups",
    group: Group::Cgroups,
    summary: "Cgroups that the kubelet is told of and that are not there",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "the kubelet's `--cgroup-root`, `--runtime-cgroups`, `--kubelet-cgroups`, `--system-cgroups`, `--kube-reserved-cgroup`",
    run: kubelet_cgroups,
};

fn kubelet_cgroups(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    let groups = node.groups()?;
    let driver = kubelet
        .setting("cgroup-driver", "cgroupDriver", "cgroupfs")
        .value;
    let mut found = Vec::new();
    for (flag, key, severity, effect) in [
        (
            "cgroup-root",
            "cgroupRoot",
            Severity::Problem,
            "pods are made elsewhere than meant, or the kubelet does not start",
        ),
        (
            "runtime-cgroups",
            "runtimeCgroups",
            Severity::Warning,
            "the runtime's own CPU time and memory are counted for nobody",
        ),
        (
            "kubelet-cgroups",
            "kubeletCgroups",
            Severity::Warning,
            "the kubelet's own CPU time and memory are counted for nobody",
        ),
        (
            "system-cgroups",
            "systemCgroups",
            Severity::Warning,
            "system processes are moved to a cgroup that nobody looks at",
        ),
        (
            "kube-reserved-cgroup",
            "kubeReservedCgroup",
            Severity::Problem,
            "the kubelet does not start where it is to enforce the reservation",
        ),
        (
            "system-reserved-cgroup",
            "systemReservedCgroup",
            Severity::Problem,
            "the kubelet does not start where it is to enforce the reservation",
        ),
    ] {
        let setting = kubelet.setting(flag, key, "");
        let path = setting.value.trim_end_matches('/');
        if path.is_empty() || exists(groups, path, &driver) {
            continue;
        }
        found.push(
            Finding::of(
                severity,
                format!("There is no cgroup {path}, which the kubelet has as --{flag}"),
            )
            .value(&setting.value)
            .read(&setting.read)
            .read(groups.file("cpu", path, "").unwrap_or_default())
            .why(format!("{}, {effect}.", node.here()))
            .mend(
                MendKind::Kubelet,
                format!(
                    "{key}: the cgroup that is there (systemd-cgls shows them), or leave it out"
                ),
            ),
        );
    }
    Ok(found)
}

/// Returns whether a cgroup of that name exists, in the naming of either driver.
fn exists(groups: &Groups, path: &str, driver: &str) -> bool {
    let path = format!("/{}", path.trim_start_matches('/'));
    let slice = format!("{path}.slice");
    groups.all.iter().any(|group| {
        group.path == path
            || (driver == "systemd" && (group.path == slice || group.path.ends_with(&slice)))
    })
}
