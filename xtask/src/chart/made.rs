//! Renderings of single values: defaults that depend on other values, and parts that a typing error in a template would
//! leave out.

use anyhow::{Result, bail};
use serde_json::Value;

use super::engine::{Case, Engine};
use crate::steps::Outcome;

const POLICY: &str = "NetworkPolicy";
const QUOTA: &str = "ResourceQuota";
const SET: &str = "DaemonSet";

const PEER: &str = "/spec/ingress/0/from/0";
const MOUNT: &str = "/spec/template/spec/containers/0/volumeMounts/0";

/// Cases: the values, a kind of object, a JSON pointer into it, and the JSON expected there. Empty JSON means that the
/// part must be absent; an empty pointer means the whole object.
const MADE: [(&str, &str, &str, &str); 37] = [
    // No value names a client, so there is no policy: it would shut everyone out.
    ("", POLICY, "", ""),
    (
        "podMonitor: {enabled: true}",
        POLICY,
        "/spec/ingress/0/from/0/podSelector/matchExpressions/0",
        r#"{"key": "app.kubernetes.io/name", "operator": "In",
            "values": ["prometheus", "prometheus-agent", "vmagent", "alloy"]}"#,
    ),
    (
        "podMonitor: {enabled: true}",
        POLICY,
        "/spec/ingress/0/from/0/namespaceSelector",
        "{}",
    ),
    (
        "podMonitor: {enabled: true}",
        POLICY,
        "/spec/ingress/0/ports",
        r#"[{"port": "metrics", "protocol": "TCP"}]"#,
    ),
    (
        "podMonitor: {enabled: true}",
        POLICY,
        "/spec/policyTypes",
        r#"["Ingress", "Egress"]"#,
    ),
    ("podMonitor: {enabled: true}", POLICY, "/spec/egress", "[]"),
    (
        "serviceMonitor: {enabled: true}",
        POLICY,
        "/spec/ingress/0/from/1",
        "",
    ),
    // Network policies do not apply to the host's network.
    (
        "{podMonitor: {enabled: true}, hostNetwork: true}",
        POLICY,
        "",
        "",
    ),
    (
        "{podMonitor: {enabled: true}, networkPolicy: {enabled: false}}",
        POLICY,
        "",
        "",
    ),
    (
        "networkPolicy: {scraper: {namespaces: [monitoring, o11y]}}",
        POLICY,
        "/spec/ingress/0/from/0/namespaceSelector/matchExpressions/0",
        r#"{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["monitoring", "o11y"]}"#,
    ),
    (
        "networkPolicy: {scraper: {namespaces: [monitoring], names: []}}",
        POLICY,
        "/spec/ingress/0/from/0/podSelector",
        "",
    ),
    (
        "networkPolicy: {ingressFrom: [{ipBlock: {cidr: 10.0.0.0/8}}]}",
        POLICY,
        PEER,
        r#"{"ipBlock": {"cidr": "10.0.0.0/8"}}"#,
    ),
    (
        "networkPolicy: {enabled: true}",
        POLICY,
        "/spec/ingress/0/from/0/namespaceSelector",
        "{}",
    ),
    // The API server may listen on any port, and no value names it.
    (
        "{podSource: api, podMonitor: {enabled: true}}",
        POLICY,
        "/spec/policyTypes",
        r#"["Ingress"]"#,
    ),
    (
        "{podSource: api, podMonitor: {enabled: true}}",
        POLICY,
        "/spec/egress",
        "",
    ),
    (
        "{podSource: api, networkPolicy: {enabled: true}}",
        POLICY,
        "/spec/egress/0/ports/1/port",
        "6443",
    ),
    (
        "",
        SET,
        "/spec/template/spec/priorityClassName",
        r#""system-node-critical""#,
    ),
    (
        "",
        QUOTA,
        "/spec",
        r#"{"hard": {"pods": "100000"}, "scopeSelector": {"matchExpressions":
            [{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]}}"#,
    ),
    (
        "priorityClassName: ''",
        SET,
        "/spec/template/spec/priorityClassName",
        "",
    ),
    ("priorityClassName: ''", QUOTA, "", ""),
    ("priorityClassName: monitoring", QUOTA, "", ""),
    ("priorityQuota: 0", QUOTA, "", ""),
    (
        "",
        SET,
        MOUNT,
        r#"{"name": "cgroup", "mountPath": "/host/sys/fs/cgroup", "readOnly": true,
            "recursiveReadOnly": "IfPossible"}"#,
    ),
    (
        "kubeVersionOverride: 1.31.0",
        SET,
        "/spec/template/spec/containers/0/volumeMounts/0/recursiveReadOnly",
        r#""IfPossible""#,
    ),
    (
        "kubeVersionOverride: v1.30.9-eks-1",
        SET,
        "/spec/template/spec/containers/0/volumeMounts/0/recursiveReadOnly",
        "",
    ),
    (
        "recursiveReadOnly: ''",
        SET,
        "/spec/template/spec/containers/0/volumeMounts/0/recursiveReadOnly",
        "",
    ),
    // Each cgroup v1 controller is its own mount: such a mount has nothing below it.
    (
        "{hostPaths: {cgroup: ['/sys/fs/cgroup/cpu,cpuacct', /sys/fs/cgroup/memory]}, recursiveReadOnly: ''}",
        SET,
        MOUNT,
        r#"{"name": "cgroup-cpu-cpuacct", "mountPath": "/host/sys/fs/cgroup/cpu,cpuacct", "readOnly": true}"#,
    ),
    (
        "{hostPaths: {cgroup: ['/sys/fs/cgroup/cpu,cpuacct', /sys/fs/cgroup/memory]}, podSource: none}",
        SET,
        "/spec/template/spec/volumes",
        r#"[{"name": "cgroup-cpu-cpuacct", "hostPath": {"path": "/sys/fs/cgroup/cpu,cpuacct", "type": "Directory"}},
            {"name": "cgroup-memory", "hostPath": {"path": "/sys/fs/cgroup/memory", "type": "Directory"}}]"#,
    ),
    (
        "{hostPaths: {cgroup: /sys/fs/cgroup/cpu}, recursiveReadOnly: ''}",
        SET,
        MOUNT,
        r#"{"name": "cgroup-cpu", "mountPath": "/host/sys/fs/cgroup/cpu", "readOnly": true}"#,
    ),
    (
        "hostPaths: {cgroup: [/sys/fs/cgroup/cpu]}",
        SET,
        "/spec/template/spec/containers/0/args/2",
        r#""--cgroup-root=/host/sys/fs/cgroup""#,
    ),
    (
        "allowedHosts: ['*.example.com']",
        SET,
        "/spec/template/spec/containers/0/args/2",
        r#""--allowed-host=*.example.com""#,
    ),
    (
        "kubeletCgroupRoots: [/kubelet]",
        SET,
        "/spec/template/spec/containers/0/args/5",
        r#""--kubelet-cgroup-root=/kubelet""#,
    ),
    (
        "nestedPods: true",
        SET,
        "/spec/template/spec/containers/0/args/5",
        r#""--nested-pods""#,
    ),
    // Kubernetes allows `recursiveReadOnly` only without mount propagation.
    (
        "doctorRoot: true",
        SET,
        MOUNT,
        r#"{"name": "root", "mountPath": "/host", "mountPropagation": "HostToContainer", "readOnly": true}"#,
    ),
    (
        "{doctorRoot: true, doctorRootPropagation: None}",
        SET,
        MOUNT,
        r#"{"name": "root", "mountPath": "/host", "mountPropagation": "None", "readOnly": true,
            "recursiveReadOnly": "IfPossible"}"#,
    ),
    (
        "podMonitor: {enabled: true}",
        "PodMonitor",
        "/spec/podMetricsEndpoints/0/relabelings/2",
        r#"{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"}"#,
    ),
    (
        "serviceMonitor: {enabled: true}",
        "ServiceMonitor",
        "/spec/endpoints/0/relabelings/2",
        r#"{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"}"#,
    ),
];

/// Checks every case.
pub fn check(engine: &Engine) -> Result<Outcome> {
    let cases = MADE.map(|(values, ..)| Case::new(values, "stallscope"));
    let answers = engine.ask(&[], &cases)?;
    let mut wrong = Vec::new();
    for ((values, kind, place, wanted), answer) in MADE.into_iter().zip(answers) {
        if let Some(complaint) = answer.complaints().first() {
            wrong.push(format!("`{values}`: {complaint}"));
            continue;
        }
        let found = answer.objects.iter().find(|object| object["kind"] == kind);
        let found = found.and_then(|object| object.pointer(place));
        if !is(found, wanted)? {
            let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
            wrong.push(format!(
                "`{values}`: {kind}{place} should be {wanted}, and is {found}"
            ));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(Outcome::Passed(format!("{} as they should be", MADE.len())))
}

/// Returns whether a part of an object is this JSON, or is absent if the JSON is empty.
fn is(found: Option<&Value>, wanted: &str) -> Result<bool> {
    if wanted.is_empty() {
        return Ok(found.is_none());
    }
    let wanted: Value = serde_json::from_str(wanted)?;
    Ok(found == Some(&wanted))
}

#[cfg(test)]
mod tests {
    use super::{MADE, is};
    use serde_json::json;

    #[test]
    fn what_is_wanted_is_json_or_nothing() {
        for (values, _, place, wanted) in MADE {
            assert!(is(None, wanted).is_ok(), "{values}: {wanted}");
            assert!(place.is_empty() || place.starts_with('/'), "{place}");
        }
        let one = json!({"a": 1});
        assert!(is(Some(&one), r#"{"a": 1}"#).unwrap() && is(None, "").unwrap());
        assert!(!is(Some(&one), "").unwrap() && !is(None, "1").unwrap());
        assert!(!is(Some(&one), r#"{"a": 2}"#).unwrap());
    }
}
