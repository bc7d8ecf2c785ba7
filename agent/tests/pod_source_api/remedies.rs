//! Commands that `explain` prints for pods, run by kubectl against the same real API server.

use std::process::Command;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::Api;
use serde_json::{Value, json};
use stallscope::attribution::pods::Workload;
use stallscope::explain::{Case, Facts, Limit, Maker, PodFacts, Remedy};
use stallscope::ledger::history::Quantity;
use stallscope_ebpf::Cause;

use super::real::{Cluster, VARIABLE, create};

/// Returns the remedies for a throttled container of a pod, with a limit of one CPU.
fn advised(pod: PodFacts) -> Vec<Remedy> {
    let limit = Limit {
        file: "/sys/fs/cgroup/kubepods/a/cpu.max".to_owned(),
        burst_file: None,
        quota_us: 100_000,
        period_us: 100_000,
    };
    let throttled = Quantity::wait(Cause::Throttled);
    let case = Case {
        end: 60.0,
        recorded_seconds: 60.0,
        window: [
            (Quantity::Cpu(Some(0)), 60_000_000),
            (throttled, 90_000_000),
        ]
        .into(),
        facts: Facts {
            quotas: vec![limit.clone()],
            limits: vec![limit],
            ..Facts::default()
        },
        node: stallscope::explain::NodeFacts {
            cpus: 8,
            ..Default::default()
        },
        pod: Some(pod),
        ..Case::default()
    };
    case.explain().causes.remove(0).remedy
}

/// Runs the command of a remedy as printed. Returns its output.
fn run(remedy: &Remedy) -> String {
    let command = remedy.command.as_ref().expect("a command");
    let output = Command::new("sh")
        .args(["-c", command.as_str()])
        .env("KUBECONFIG", std::env::var_os(VARIABLE).expect("it is set"))
        .output()
        .expect("sh runs");
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command}: {}",
        said(&output.stderr)
    );
    said(&output.stdout)
}

/// Returns the CPU limits of the containers.
fn limits(spec: &PodSpec) -> Vec<(&str, Option<&str>)> {
    let limit = |container: &'_ k8s_openapi::api::core::v1::Container| {
        let limits = container.resources.as_ref()?.limits.clone()?;
        limits.get("cpu").map(|amount| amount.0.clone())
    };
    spec.containers
        .iter()
        .map(|container| {
            let limit = limit(container).map(|limit| &*limit.leak());
            (container.name.as_str(), limit)
        })
        .collect()
}

fn template(cluster: &Cluster) -> Value {
    let container = |name: &str| json!({"name": name, "image": "none", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}});
    json!({
        "metadata": {"labels": {"app": "cart"}},
        "spec": {
            "serviceAccountName": cluster.name, "automountServiceAccountToken": false,
            "containers": [container("proxy"), container("server")],
        },
    })
}

fn facts(cluster: &Cluster, maker: Maker) -> PodFacts {
    PodFacts {
        namespace: cluster.name.clone(),
        name: "bare-0".to_owned(),
        pods: 1,
        containers: vec!["server".to_owned()],
        maker,
        ..PodFacts::default()
    }
}

#[tokio::test]
async fn a_real_server_takes_the_commands_and_nothing_else_is_changed() {
    if Command::new("kubectl")
        .arg("version")
        .arg("--client")
        .output()
        .is_err()
    {
        eprintln!("not run: there is no kubectl");
        return;
    }
    let Some(cluster) = Cluster::find().await else {
        return;
    };
    let object = |spec: Value| {
        let mut object = json!({
            "metadata": {"name": "cart"},
            "spec": {"selector": {"matchLabels": {"app": "cart"}}, "template": template(&cluster)},
        });
        for (name, value) in spec.as_object().into_iter().flatten() {
            object["spec"][name] = value.clone();
        }
        object
    };
    create::<Deployment>(&cluster.here(), object(json!({"replicas": 1}))).await;
    create::<StatefulSet>(&cluster.here(), object(json!({"serviceName": "cart"}))).await;
    create::<DaemonSet>(&cluster.here(), object(json!({}))).await;
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        let name = "cart".to_owned();
        let kind = kind.to_owned();
        run(&advised(facts(&cluster, Maker::Workload(Workload { kind, name })))[0]);
    }
    let expected = [("proxy", Some("1")), ("server", Some("2500m"))];
    let deployment = cluster.here::<Deployment>().get("cart").await.unwrap();
    let set = cluster.here::<StatefulSet>().get("cart").await.unwrap();
    let daemons = cluster.here::<DaemonSet>().get("cart").await.unwrap();
    for spec in [
        deployment.spec.unwrap().template.spec.unwrap(),
        set.spec.unwrap().template.spec.unwrap(),
        daemons.spec.unwrap().template.spec.unwrap(),
    ] {
        assert_eq!(limits(&spec), expected);
    }

    let mut bare = template(&cluster);
    bare["metadata"]["name"] = json!("bare-0");
    bare["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart-5d4f", "uid": "3", "controller": true},
    ]);
    let made = create::<Pod>(&cluster.here(), bare).await;
    let unknown = advised(facts(&cluster, Maker::Unknown));
    assert_eq!(run(&unknown[0]), "ReplicaSet/cart-5d4f\n");
    // The source of names reads it in the same way.
    let policy = made.spec.unwrap().containers.remove(0).resize_policy;
    let resizable = policy.is_some();
    let remedies = advised(PodFacts {
        resizable: Some(resizable),
        ..facts(&cluster, Maker::Nobody)
    });
    let resize = remedies
        .iter()
        .find(|remedy| remedy.text.starts_with("Or at once"));
    assert_eq!(resize.is_some(), resizable);
    let pods: Api<Pod> = cluster.here();
    let now = || async { pods.get("bare-0").await.unwrap().spec.unwrap() };
    if let Some(resize) = resize {
        run(resize);
        assert_eq!(limits(&now().await), expected);
    } else {
        eprintln!("not run: this server resizes no pods");
        assert_eq!(
            limits(&now().await),
            [("proxy", Some("1")), ("server", Some("1"))]
        );
    }
    cluster.clean().await;
}
