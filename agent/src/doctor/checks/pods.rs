//! Checks of pods' CPUs: exclusive CPUs, and the NUMA nodes on which they are.

use std::collections::BTreeSet;

use serde_json::Value;

use super::kubernetes::{CPU_STATE, cpu_manager};
use crate::attribution::pods::QosClass;
use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    kubelet::yaml,
};
use crate::host::topology::{CpuList, MAX_CPU, Topology};

/// Returns the NUMA nodes of some CPUs.
pub fn nodes_of(topology: &Topology, cpus: &CpuList) -> BTreeSet<u32> {
    cpus.iter()
        .filter_map(|cpu| topology.node_of(cpu))
        .collect()
}

/// Reads the exclusive CPUs by container: UID of the pod, name of the container, CPUs.
fn exclusive(node: &Node) -> Result<Vec<(String, String, CpuList)>, Unmade> {
    let state = yaml(&node.root, CPU_STATE)?;
    let mut found = Vec::new();
    let pods = state["entries"].as_object().into_iter().flatten();
    for (pod, containers) in pods {
        for (container, cpus) in containers.as_object().into_iter().flatten() {
            let text = cpus.as_str().unwrap_or_default();
            let cpus = CpuList::parse(text, MAX_CPU).map_err(|error| {
                let because = format!("the CPUs of {pod}/{container} are no list: {error}");
                node.root.reject(CPU_STATE, &because)
            })?;
            found.push((pod.clone(), container.clone(), cpus));
        }
    }
    Ok(found)
}

pub static PODS_SPAN_NODES: Check = Check {
    name: "pods-span-nodes",
    group: Group::Kubernetes,
    summary: "Pods whose CPUs span nodes although they would fit in one",
    severities: &[Severity::Warning],
    reads: "`/var/lib/kubelet/cpu_manager_state`, `node*/cpulist`",
    run: pods_span_nodes,
};

fn pods_span_nodes(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let topology = node.several_nodes()?;
    node.kubelet()?;
    if !node.root.exists(CPU_STATE) {
        return Err(Unmade::not_here(
            "the kubelet has given nobody exclusive CPUs (no cpu_manager_state)",
        ));
    }
    let largest = topology
        .nodes()
        .iter()
        .map(|numa| numa.cpus.len())
        .max()
        .unwrap_or(0);
    let spanning = exclusive(node)?.into_iter().filter_map(|(pod, container, cpus)| {
        let nodes = nodes_of(topology, &cpus);
        if nodes.len() < 2 || cpus.len() > largest {
            return None;
        }
        let ids: Vec<String> = nodes.iter().map(u32::to_string).collect();
        Some(
            Finding::warning(format!("The {} CPUs of a container are on nodes {}", cpus.len(), ids.join(" and ")))
                .value(format!("pod {pod}, container {container}: CPUs {cpus}"))
                .read(CPU_STATE)
                .why(format!("{}, a node has up to {largest} CPUs, so they would fit in one. As they are, part of its threads are remote to its memory for as long as it lives.", node.here()))
                .mend(MendKind::Kubelet, "topologyManagerPolicy: single-numa-node")
                .mend(MendKind::Advice, "then delete the pod, so that it is placed anew"),
        )
    });
    Ok(spanning.collect())
}

pub static GUARANTEED_SHARED: Check = Check {
    name: "guaranteed-shared",
    group: Group::Kubernetes,
    summary: "Guaranteed pods without exclusive CPUs, where others have them",
    severities: &[Severity::Info],
    reads: "`/var/lib/kubelet/cpu_manager_state`, pods' cgroups and quotas",
    run: guaranteed_shared,
};

fn guaranteed_shared(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    if cpu_manager(kubelet).value != "static" {
        return Err(Unmade::not_here(
            "the CPU manager gives nobody exclusive CPUs",
        ));
    }
    let groups = node.groups()?;
    let state = if node.root.exists(CPU_STATE) {
        yaml(&node.root, CPU_STATE)?
    } else {
        Value::Null
    };
    let guaranteed = groups.all.iter().filter(|group| {
        let pod = group.pod.as_ref();
        pod.is_some_and(|pod| pod.qos == Some(QosClass::Guaranteed) && pod.container_id.is_none())
    });
    let mut found = Vec::new();
    for group in guaranteed {
        let Some(pod) = &group.pod else { continue };
        if state["entries"].get(pod.uid.as_str()).is_some() {
            continue;
        }
        let Some(quota) = groups.quota(&node.root, &group.path) else {
            continue;
        };
        let file = groups.quota_file(&group.path).unwrap_or_default();
        found.push(
            Finding::info(format!("A Guaranteed pod of {:.3} CPUs shares them with others", quota.cpus()))
                .value(format!("pod {}", pod.uid))
                .read(CPU_STATE)
                .read(file)
                .why(format!("{}, only containers that ask for whole CPUs get exclusive ones, and only those that came after the policy was set: this pod is throttled by its quota and waits behind its neighbours like any other.", node.here()))
                .mend(MendKind::Pod, "resources.requests.cpu equal to resources.limits.cpu and a whole number, in the container that matters")
                .mend(MendKind::Advice, "if it is whole already, delete the pod so that it is placed anew"),
        );
    }
    Ok(found)
}
