//! The same client against a real API server, with a service account that may list and watch pods and nothing else.
//!
//! Runs where `STALLSCOPE_KUBECONFIG` names the kubeconfig of an administrator of a test cluster (see
//! `docs/pod-names/api.md`). Makes a namespace, service accounts, a cluster role and pods on a node that does not
//! exist.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stallscope::attribution::pods::api::Config;

use super::heard::{Heard, config};

pub const VARIABLE: &str = "STALLSCOPE_KUBECONFIG";
const HASH: &str = "9b3d5c0f9f7a4f0a8f1a5f6c7d8e9f00";

/// A namespace of a cluster with everything for one test, under a unique name.
pub struct Cluster {
    pub admin: Client,
    kubeconfig: Kubeconfig,
    pub name: String,
    directory: tempfile::TempDir,
}

impl Cluster {
    pub async fn find() -> Option<Self> {
        let Some(path) = std::env::var_os(VARIABLE) else {
            eprintln!("not run: {VARIABLE} names no kubeconfig");
            return None;
        };
        let kubeconfig = Kubeconfig::read_from(Path::new(&path)).unwrap();
        let options = KubeConfigOptions::default();
        let settings = kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &options)
            .await
            .unwrap();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let cluster = Self {
            admin: Client::try_from(settings).unwrap(),
            kubeconfig,
            name: format!("stallscope-test-{}", since.as_nanos()),
            directory: tempfile::tempdir().unwrap(),
        };
        let named = json!({"metadata": {"name": cluster.name}});
        create::<Namespace>(&Api::all(cluster.admin.clone()), named.clone()).await;
        create::<ServiceAccount>(&cluster.here(), named).await;
        Some(cluster)
    }

    pub fn here<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.admin.clone(), &self.name)
    }

    pub fn node(&self) -> String {
        format!("node-{}", self.name)
    }

    /// Lets the service account list and watch pods.
    pub async fn grant(&self) {
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]);
        create::<ClusterRole>(
            &Api::all(self.admin.clone()),
            json!({"metadata": {"name": self.name}, "rules": rules}),
        )
        .await;
        let binding = json!({
            "metadata": {"name": self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": self.name},
            "subjects": [{"kind": "ServiceAccount", "name": self.name, "namespace": self.name}],
        });
        create::<ClusterRoleBinding>(&Api::all(self.admin.clone()), binding).await;
    }

    /// Writes a kubeconfig with the service account's token instead of the administrator's.
    async fn account(&self) -> PathBuf {
        let request = TokenRequest {
            spec: TokenRequestSpec::default(),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = self.here();
        let made = accounts
            .create_token_request(&self.name, &PostParams::default(), &request)
            .await;
        let token = made.unwrap().status.unwrap().token;
        self.write_token(&token);

        let mut config = serde_json::to_value(&self.kubeconfig).unwrap();
        let user = config["contexts"][0]["context"]["user"].clone();
        config["users"] =
            json!([{"name": user, "user": {"tokenFile": self.directory.path().join("token")}}]);
        let file = self.directory.path().join("kubeconfig");
        // JSON is valid YAML.
        std::fs::write(&file, config.to_string()).unwrap();
        file
    }

    fn write_token(&self, token: &str) {
        std::fs::write(self.directory.path().join("token"), token).unwrap();
    }

    pub async fn watch(&self) -> Heard {
        Heard::start(Config {
            node: self.node(),
            address: None,
            kubeconfig: Some(self.account().await),
            ..config("")
        })
    }

    /// Makes a pod on the node, which no kubelet starts.
    pub async fn pod(&self, name: &str, metadata: Value) -> Pod {
        let mut pod = json!({
            "metadata": metadata,
            "spec": {
                "nodeName": self.node(), "automountServiceAccountToken": false, "serviceAccountName": self.name,
                "containers": [{"name": "server", "image": "none"}],
                "initContainers": [{"name": "init", "image": "none"}],
            },
        });
        pod["metadata"]["name"] = json!(name);
        create(&self.here::<Pod>(), pod).await
    }

    /// Patches the status that a kubelet would report once the containers run.
    async fn start(&self, name: &str, number: u32) {
        let status = |name: &str, number: u32| {
            json!({
                "name": name, "containerID": format!("containerd://{number:064x}"), "image": "none", "imageID": "",
                "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            })
        };
        let patch = json!({"status": {
            "phase": "Running", "containerStatuses": [status("server", number)],
            "initContainerStatuses": [status("init", number + 1)],
        }});
        let pods: Api<Pod> = self.here();
        pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .unwrap();
    }

    async fn delete(&self, name: &str) {
        let now = DeleteParams::default().grace_period(0);
        self.here::<Pod>().delete(name, &now).await.unwrap();
    }

    pub async fn clean(self) {
        let now = DeleteParams::default().grace_period(0);
        let none = ListParams::default();
        self.here::<Pod>()
            .delete_collection(&now, &none)
            .await
            .unwrap();
        _ = Api::<ClusterRoleBinding>::all(self.admin.clone())
            .delete(&self.name, &now)
            .await;
        _ = Api::<ClusterRole>::all(self.admin.clone())
            .delete(&self.name, &now)
            .await;
        _ = Api::<Namespace>::all(self.admin)
            .delete(&self.name, &now)
            .await;
    }
}

pub async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

#[tokio::test]
async fn a_real_servers_pods_are_named_as_they_come_and_go() {
    let Some(cluster) = Cluster::find().await else {
        return;
    };
    cluster.grant().await;
    let made = cluster
        .pod("cart-0", json!({"labels": {"app": "cart"}}))
        .await;
    let mirror = json!({
        "kubernetes.io/config.hash": HASH, "kubernetes.io/config.mirror": HASH, "kubernetes.io/config.source": "file",
    });
    let name = |pod: &str| format!("{}/{pod}", cluster.name);

    let mut heard = cluster.watch().await;
    heard.until(&format!("all {}", name("cart-0"))).await;
    heard.until("up").await;
    assert_eq!(Some(heard.pods[0].0.to_string()), made.metadata.uid);
    assert_eq!(heard.pods[0].1.labels["app"], "cart");

    cluster.start("cart-0", 16).await;
    heard
        .until(&format!("put {} server init", name("cart-0")))
        .await;
    assert_eq!(
        heard.pods.last().unwrap().1.containers[0].0,
        format!("{:064x}", 16)
    );

    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": "3", "controller": true,
    }]);
    cluster
        .pod(
            "web-5d4f-x",
            json!({"labels": {"pod-template-hash": "5d4f"}, "ownerReferences": owner}),
        )
        .await;
    heard.until(&format!("put {}", name("web-5d4f-x"))).await;
    let workload = heard.pods.last().unwrap().1.workload.clone().unwrap();
    assert_eq!(
        (workload.kind.as_str(), workload.name.as_str()),
        ("Deployment", "web")
    );

    cluster
        .pod("static-0", json!({"annotations": mirror}))
        .await;
    heard.until(&format!("put {}", name("static-0"))).await;
    assert_eq!(heard.pods.last().unwrap().0.as_str(), HASH);

    cluster.delete("cart-0").await;
    heard.until(&format!("ended {}", name("cart-0"))).await;
    assert!(heard.texts.is_empty(), "{:?}", heard.texts);

    // A source that starts now finds the others in a list. It continues watches of a second without a new list.
    let mut short = config("");
    short.timing.watch = std::time::Duration::from_secs(1);
    let mut again = Heard::start(Config {
        node: cluster.node(),
        address: None,
        kubeconfig: Some(cluster.account().await),
        ..short
    });
    again
        .until(&format!("all {} {}", name("static-0"), name("web-5d4f-x")))
        .await;
    cluster.start("web-5d4f-x", 32).await;
    again
        .until(&format!("put {} server init", name("web-5d4f-x")))
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    cluster.delete("static-0").await;
    again.until(&format!("ended {}", name("static-0"))).await;
    assert!(again.texts.is_empty(), "{:?}", again.texts);
    cluster.clean().await;
}

#[tokio::test]
async fn a_real_server_says_what_is_not_allowed() {
    let Some(cluster) = Cluster::find().await else {
        return;
    };
    let mut heard = cluster.watch().await;
    heard.until("down forbidden").await;
    assert!(
        heard.text().contains("pods is forbidden"),
        "{}",
        heard.text()
    );
    cluster.grant().await;
    heard.until("all").await;
    heard.until("up").await;
    cluster.clean().await;
}

#[tokio::test]
async fn a_real_server_refuses_a_token_and_takes_the_next() {
    let Some(cluster) = Cluster::find().await else {
        return;
    };
    cluster.grant().await;
    let file = cluster.account().await;
    let token = std::fs::read_to_string(cluster.directory.path().join("token")).unwrap();
    cluster.write_token("none.of.yours");
    let mut heard = Heard::start(Config {
        node: cluster.node(),
        address: None,
        kubeconfig: Some(file),
        ..config("")
    });
    heard.until("down unauthorized").await;
    cluster.write_token(&token);
    heard.until("all").await;
    cluster.clean().await;
}
