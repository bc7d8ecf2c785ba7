//! Invariants of the chart's objects for all values: the privileges of the agent.

use serde_json::Value;

/// Capabilities that values can add. No other is allowed.
const CAPABILITIES: [&str; 4] = ["BPF", "PERFMON", "SYS_RESOURCE", "SYS_ADMIN"];

/// Returns the invariants that these objects break.
pub fn of(objects: &[Value]) -> Vec<String> {
    let Some(set) = kind(objects, "DaemonSet").next() else {
        return vec!["there is no DaemonSet".to_owned()];
    };
    let pod = &set["spec"]["template"]["spec"];
    let api = argument(pod, "--pod-source=") == Some("api");
    let mut untrue = Vec::new();
    let mut hold = |truth: bool, what: &str| {
        if !truth {
            untrue.push(what.to_owned());
        }
    };
    hold(pod["hostPID"] == false, "hostPID is not false");
    hold(
        pod["automountServiceAccountToken"] == api,
        "a token is mounted without podSource api, or not with it",
    );
    hold(
        selects(
            &set["spec"]["selector"]["matchLabels"],
            &set["spec"]["template"]["metadata"]["labels"],
        ),
        "the selector does not select the pods",
    );
    hold(
        unprivileged(pod),
        "the container is privileged, or has more capabilities than it may",
    );
    hold(
        mounts_read_only(pod),
        "a folder of the node is mounted writable, or is no volume",
    );
    hold(
        root_only_for_the_audit(pod),
        "the node's root is mounted without --doctor-root, or not with it",
    );
    hold(
        one_role(objects, api),
        "the ClusterRole is not exactly list and watch of pods, and with podSource api only",
    );
    for service in kind(objects, "Service") {
        let labels = &set["spec"]["template"]["metadata"]["labels"];
        hold(
            selects(&service["spec"]["selector"], labels),
            "the service does not select the pods",
        );
    }
    for monitor in kind(objects, "PodMonitor").chain(kind(objects, "ServiceMonitor")) {
        hold(
            honours_labels(monitor),
            "a monitor would overwrite the labels namespace, pod and container",
        );
    }
    untrue
}

fn kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn argument<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    list(&pod["containers"][0]["args"])
        .iter()
        .find_map(|argument| argument.as_str()?.strip_prefix(name))
}

fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
    })
}

fn unprivileged(pod: &Value) -> bool {
    let context = &pod["containers"][0]["securityContext"];
    let capabilities = &context["capabilities"];
    let added = list(&capabilities["add"]);
    context["privileged"] == false
        && context["allowPrivilegeEscalation"] == false
        && context["readOnlyRootFilesystem"] == true
        && capabilities["drop"] == serde_json::json!(["ALL"])
        && CAPABILITIES[..2]
            .iter()
            .all(|needed| added.iter().any(|a| a == needed))
        && added
            .iter()
            .all(|added| CAPABILITIES.iter().any(|may| added == may))
}

/// Returns whether every `hostPath` volume is mounted, and only read-only.
fn mounts_read_only(pod: &Value) -> bool {
    let mounts = list(&pod["containers"][0]["volumeMounts"]);
    let nodes: Vec<&Value> = list(&pod["volumes"])
        .iter()
        .filter(|volume| volume.get("hostPath").is_some())
        .collect();
    !nodes.is_empty()
        && nodes.iter().all(|volume| {
            let mut mounted = mounts
                .iter()
                .filter(|m| m["name"] == volume["name"])
                .peekable();
            mounted.peek().is_some() && mounted.all(|mount| mount["readOnly"] == true)
        })
}

/// Returns whether the node's root directory is mounted exactly where the audit reads it, and only for the audit.
fn root_only_for_the_audit(pod: &Value) -> bool {
    let mut roots = list(&pod["volumes"])
        .iter()
        .filter(|volume| volume["hostPath"]["path"] == "/");
    let mounts = list(&pod["containers"][0]["volumeMounts"]);
    match (roots.next(), argument(pod, "--doctor-root=")) {
        (None, None) => true,
        (Some(root), Some(path)) => mounts
            .iter()
            .any(|mount| mount["name"] == root["name"] && mount["mountPath"] == path),
        _ => false,
    }
}

fn one_role(objects: &[Value], api: bool) -> bool {
    let rules: Vec<&Value> = kind(objects, "ClusterRole")
        .map(|role| &role["rules"])
        .collect();
    let wanted = serde_json::json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    ]);
    let bound = kind(objects, "ClusterRoleBinding").count();
    if api {
        rules == [&wanted] && bound == 1
    } else {
        rules.is_empty() && bound == 0
    }
}

fn honours_labels(monitor: &Value) -> bool {
    let spec = &monitor["spec"];
    let endpoints = list(&spec["podMetricsEndpoints"])
        .iter()
        .chain(list(&spec["endpoints"]));
    let mut honours = endpoints
        .map(|endpoint| endpoint["honorLabels"] == true)
        .peekable();
    honours.peek().is_some() && honours.all(|honours| honours)
}

#[cfg(test)]
mod tests {
    use super::of;
    use serde_json::{Value, json};

    fn objects() -> Vec<Value> {
        vec![json!({"kind": "DaemonSet", "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b", "c": "d"}}, "spec": {
                "hostPID": false, "automountServiceAccountToken": false,
                "containers": [{
                    "args": ["run", "--pod-source=files"],
                    "securityContext": {"privileged": false, "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"], "add": ["BPF", "PERFMON"]}},
                    "volumeMounts": [{"name": "v", "readOnly": true}]}],
                "volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}}})]
    }

    #[test]
    fn every_truth_can_be_broken() {
        assert_eq!(of(&objects()), Vec::<String>::new());
        let pod = "/0/spec/template/spec";
        let breaks = [
            ("/hostPID", json!(true)),
            ("/automountServiceAccountToken", json!(true)),
            ("/containers/0/args/1", json!("--pod-source=api")),
            ("/containers/0/securityContext/privileged", json!(true)),
            (
                "/containers/0/securityContext/readOnlyRootFilesystem",
                json!(false),
            ),
            (
                "/containers/0/securityContext/capabilities/add",
                json!(["BPF"]),
            ),
            (
                "/containers/0/securityContext/capabilities/add/1",
                json!("NET_ADMIN"),
            ),
            ("/containers/0/volumeMounts/0/readOnly", json!(false)),
            ("/containers/0/volumeMounts/0/name", json!("w")),
            ("/volumes/0/hostPath/path", json!("/")),
            ("/containers/0/args/1", json!("--doctor-root=/host")),
        ];
        for (path, value) in breaks {
            let mut all = Value::Array(objects());
            *all.pointer_mut(&format!("{pod}{path}")).unwrap() = value;
            assert!(
                !of(all.as_array().unwrap()).is_empty(),
                "{path} may be anything"
            );
        }
        let mut all = objects();
        all[0]["spec"]["selector"]["matchLabels"]["a"] = json!("z");
        assert!(!of(&all).is_empty());
        let mut all = objects();
        all.push(json!({"kind": "PodMonitor", "spec": {"podMetricsEndpoints": [{}]}}));
        assert!(!of(&all).is_empty());
        let mut all = objects();
        all.push(json!({"kind": "ClusterRole", "rules": []}));
        assert!(!of(&all).is_empty());
        assert_eq!(of(&[]), ["there is no DaemonSet"]);
    }
}
