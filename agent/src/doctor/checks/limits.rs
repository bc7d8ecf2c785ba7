//! Checks of CPU limits that do not reach the kernel.

use serde_json::{Value, json};

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    groups::{Limit, Quota},
};

pub static CPU_LIMITS_OFF: Check = Check {
    name: "cpu-limits-off",
    group: Group::Cgroups,
    summary: "A kubelet that enforces no CPU limit",
    severities: &[Severity::Warning],
    reads: "the kubelet's `cpuCFSQuota`",
    run: cpu_limits_off,
};

fn cpu_limits_off(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let setting = node
        .kubelet()?
        .setting("cpu-cfs-quota", "cpuCFSQuota", "true");
    if setting.value != "false" {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("The kubelet enforces no CPU limit")
            .value(&setting.value)
            .read(&setting.read)
            .why(format!("{}, a pod with a limit of 4 CPUs takes every CPU that is idle: nothing is throttled, but neighbours wait behind it, and latencies measured here hold on no other node.", node.here()))
            .mend(MendKind::Kubelet, "cpuCFSQuota: true")
            .mend(MendKind::Advice, "if limits are unwanted on purpose, leave them out of the pods, so that what is written is what holds"),
    ])
}

/// Directories in which runtimes keep the requested configuration of each container, and the path of its file in the
/// container's folder.
const BUNDLES: [(&str, &str); 4] = [
    (
        "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
        "config.json",
    ),
    (
        "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io",
        "config.json",
    ),
    (
        "/run/containers/storage/overlay-containers",
        "userdata/config.json",
    ),
    (
        "/var/lib/containers/storage/overlay-containers",
        "userdata/config.json",
    ),
];

pub static LIMIT_WITHOUT_QUOTA: Check = Check {
    name: "limit-without-quota",
    group: Group::Cgroups,
    summary: "Containers with a CPU limit whose cgroup has no quota",
    severities: &[Severity::Problem],
    reads: "the runtime's `config.json` of each container, `cpu.max` or `cpu.cfs_quota_us`",
    run: limit_without_quota,
};

/// Quota that a runtime was asked to set.
struct Asked {
    id: String,
    file: String,
    quota: Quota,
}

fn limit_without_quota(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let groups = node.groups()?;
    let asked = asked(node)?;
    let mut found = Vec::new();
    for asked in asked {
        let of_it = |pod: &crate::attribution::pods::PodIdentity| {
            pod.container_id.as_deref() == Some(&asked.id)
        };
        let group = groups
            .all
            .iter()
            .find(|group| group.pod.as_ref().is_some_and(of_it));
        let Some((group, file)) =
            group.and_then(|group| Some((group, groups.quota_file(&group.path)?)))
        else {
            continue;
        };
        let is = node.root.text(&file)?;
        if groups.quota(&node.root, &group.path).is_some() {
            continue;
        }
        let Quota { quota, period } = asked.quota;
        let limit = Limit {
            file: file.clone(),
            burst_file: None,
            quota_us: quota,
            period_us: period,
        };
        found.push(
            Finding::problem(format!("A limit of {:.3} CPUs does not reach the kernel", asked.quota.cpus()))
                .value(format!("asked for: {quota} of {period} us, set: {is}"))
                .read(&asked.file)
                .read(&file)
                .why(format!("{}, container {} takes as many CPUs as it can get: its neighbours wait behind it, and its own numbers hold on no other node. Something undid the quota: a systemd reload beside the cgroupfs driver, or a change by hand.", node.here(), &asked.id[..12.min(asked.id.len())]))
                .command(limit.set(groups.unified(), limit.cpus()))
                .mend(MendKind::Advice, "then look at cgroup-driver and cgroup-trees, or it comes back"),
        );
    }
    Ok(found)
}

fn asked(node: &Node) -> Result<Vec<Asked>, Unmade> {
    let mut asked = Vec::new();
    let mut bundles = false;
    for (folder, name) in BUNDLES
        .into_iter()
        .filter(|(folder, _)| node.root.exists(folder))
    {
        let ids = node.root.folders(folder)?;
        bundles = true;
        for id in ids {
            let file = format!("{folder}/{id}/{name}");
            let Ok(text) = node.root.text(&file) else {
                continue;
            };
            let config: Value = match serde_json::from_str(&text) {
                Ok(config) => config,
                Err(error) => {
                    node.root.reject(&file, &format!("it is not JSON: {error}"));
                    continue;
                }
            };
            let cpu = &config["linux"]["resources"]["cpu"];
            // This file also holds the container's environment, which must not be part of a report.
            let kept = json!({"linux": {"resources": {"cpu": cpu}}});
            node.root.keep_only(&file, &kept.to_string());
            let positive = |key: &str| cpu[key].as_u64().filter(|value| *value > 0);
            if let Some(quota) = positive("quota") {
                let period = positive("period").unwrap_or(100_000);
                asked.push(Asked {
                    id,
                    file,
                    quota: Quota { quota, period },
                });
            }
        }
    }
    if !bundles {
        return Err(Unmade::unknown(
            "no runtime's bundles are in sight, which say what limits were asked for (/run/containerd, /run/containers; root may read them)",
        ));
    }
    Ok(asked)
}
