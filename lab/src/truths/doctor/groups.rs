//! Cgroups set up wrong: quotas for many threads, CPUs and memory on different nodes, limits that were lost.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::found_and_mended;
use crate::{Group, Report, Task, World};

const PERIOD: u64 = 100_000;
/// Names of a pod, and of a container below it, for the audit.
const POD: &str = "pod5d4c1c0e-7a2e-4a0f-b1f1-2222222222aa";
const CONTAINER: &str = "abababababababababababababababababababababababababababababababab";
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/// Shows each of them, and returns their number.
pub(super) fn run(world: &World, report: &mut Report) -> Result<u64> {
    threads(world, report, "threads-over-quota", PERIOD, 23)?;
    threads(world, report, "quota-below-one", PERIOD / 5, 11)?;
    lost_limit(world, report)?;
    Ok(3 + u64::from(apart(world, report)?))
}

/// Has many threads use up a quota.
fn threads(
    world: &World,
    report: &mut Report,
    check: &str,
    quota: u64,
    tasks: usize,
) -> Result<()> {
    let group = Group::new(check)?;
    let _tasks: Vec<Task> = group.spin(tasks)?;
    found_and_mended(world, report, check, &group.label, || {
        group.limit_cpu(quota, PERIOD)?;
        sleep(Duration::from_secs(2));
        Ok(())
    })
}

/// Makes a container whose runtime was asked for a quota that its cgroup does not have.
fn lost_limit(world: &World, report: &mut Report) -> Result<()> {
    let node = Group::new("limit")?;
    node.delegate("+cpu")?;
    let tree = node.child("kubepods")?;
    tree.delegate("+cpu")?;
    let pod = tree.child(POD)?;
    pod.delegate("+cpu")?;
    let container = pod.child(CONTAINER)?;
    container.limit_cpu(4 * PERIOD, PERIOD)?;
    let bundle = Path::new(BUNDLES).join(CONTAINER);
    let config = r#"{"linux":{"resources":{"cpu":{"quota":400000,"period":100000}}}}"#;
    fs::create_dir_all(&bundle)
        .and_then(|()| fs::write(bundle.join("config.json"), config))
        .with_context(|| format!("cannot write {}", bundle.display()))?;
    let shown = found_and_mended(world, report, "limit-without-quota", CONTAINER, || {
        container.unlimit_cpu()
    });
    fs::remove_dir_all("/run/containerd").context("cannot remove a bundle")?;
    // The innermost cgroup goes first.
    drop(container);
    drop(pod);
    drop(tree);
    shown
}

/// Gives a cgroup the CPUs of one node and the memory of another. False where cgroups cannot have that.
fn apart(world: &World, report: &mut Report) -> Result<bool> {
    let group = Group::new("apart")?;
    let (Some(first), Some(last)) = (world.nodes.first(), world.nodes.last()) else {
        return Ok(false);
    };
    let root = group.dir.parent().context("a cgroup has no parent")?;
    let control = root.join("cgroup.subtree_control");
    let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if first.id == last.id || !offered.split_whitespace().any(|word| word == "cpuset") {
        report.leave_out("cpu-memory-apart: cgroups cannot be kept on nodes here");
        return Ok(false);
    }
    let enable = |word: &str| {
        fs::write(&control, word)
            .with_context(|| format!("cannot write {word} to {}", control.display()))
    };
    enable("+cpuset")?;
    let cpus: Vec<String> = last.cpus.iter().map(ToString::to_string).collect();
    let shown = group.write("cpuset.cpus", &cpus.join(",")).and_then(|()| {
        group.write("cpuset.mems", &last.id.to_string())?;
        found_and_mended(world, report, "cpu-memory-apart", &group.label, || {
            group.write("cpuset.mems", &first.id.to_string())
        })
    });
    drop(group);
    enable("-cpuset")?;
    shown.map(|()| true)
}
