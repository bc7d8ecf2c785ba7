//! Options on the names and labels of pods.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use crate::{
    attribution::{
        owners::LabelSet,
        pods::{
            PodTrees, TreeRoot, api, cri, files,
            names::{Chosen, Source},
        },
    },
    host::{capabilities, deadline},
};

/// Options of the names of pods, and of the labels made of them.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(super) struct NameArgs {
    /// Where the names of pods and containers come from
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = PodSource::Auto)]
    pod_source: PodSource,
    /// Directory with the kubelet's `pods` and `containers`, for the source files
    #[arg(long, value_name = "DIR", default_value = "/var/log")]
    kubelet_logs: PathBuf,
    /// Name of this node in the API, for the source api
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Address of the API server, for the source api: by default the kubeconfig's, or that of the cluster this runs in
    #[arg(long, value_name = "URL")]
    kube_api: Option<String>,
    /// Kubeconfig file whose current context is used, for the source api, instead of the service account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Socket of the container runtime, for the source cri: by default the first there is of containerd's, k3s', CRI-O's
    /// and cri-dockerd's
    #[arg(long, value_name = "PATH")]
    cri_socket: Option<PathBuf>,
    /// Labels of each container's series, with commas between: namespace, pod, container, cgroup, uid, `qos_class`, and
    /// with the source api workload, `workload_type`, label:KEY (a label of the pod); series that have all labels in
    /// common are summed
    #[arg(long, value_name = "LIST", default_value_t = LabelSet::default())]
    pub(super) labels: LabelSet,
    /// Cgroup that the kubelet has its `kubepods` in, as a path from the mount of the hierarchy on, such as /kubelet: for a
    /// cgroupRoot that is not found by itself; may be repeated. Nothing else is taken for a pod then, and whatever is
    /// named so in there is
    #[arg(long, value_name = "CGROUP", conflicts_with = "nested_pods")]
    kubelet_cgroup_root: Vec<TreeRoot>,
    /// Take pods of a cluster in a container (kind, k3d) for pods instead of parts of the container; whoever is root in a
    /// container can then invent some
    #[arg(long)]
    nested_pods: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum PodSource {
    /// files where the kubelet's directories are readable, else none
    Auto,
    /// The kubelet's log directories: names in file names and links, no log is opened
    Files,
    /// The Kubernetes API, for workloads and labels of pods: takes the verbs list and watch on pods
    Api,
    /// The container runtime's socket, which gives root's powers to whoever has it
    Cri,
    /// Nowhere: pods are known by their cgroup
    None,
}

/// Timeout of a file when the agent starts.
const PATIENCE: Duration = Duration::from_secs(5);

impl NameArgs {
    /// Returns the cgroup trees in which the agent takes cgroups for pods.
    pub(super) fn trees(&self) -> PodTrees {
        match self.kubelet_cgroup_root.as_slice() {
            _ if self.nested_pods => PodTrees::Nested,
            [] => PodTrees::Found,
            roots => PodTrees::Given(roots.to_vec()),
        }
    }

    /// Returns the requested source, or the best one available. `sealed` is true for an agent that drops its
    /// capabilities.
    pub(super) fn choose(&self, sealed: bool) -> anyhow::Result<Chosen> {
        let of_the_api = self.labels.of_the_api();
        ensure!(
            of_the_api.is_empty() || self.pod_source == PodSource::Api,
            "--labels {}: only the API knows; add --pod-source api, or leave them out",
            of_the_api.join(",")
        );
        let asked = |source| Chosen {
            source,
            reason: "asked for".to_owned(),
        };
        Ok(match self.pod_source {
            PodSource::Auto => self.best(sealed),
            PodSource::Files => asked(Source::Files(self.kubelet_logs.clone())),
            PodSource::Api => asked(Source::Api(self.api()?)),
            PodSource::Cri => asked(Source::Cri(self.socket()?)),
            PodSource::None => asked(Source::None),
        })
    }

    fn best(&self, sealed: bool) -> Chosen {
        let files = |reason| Chosen {
            source: Source::Files(self.kubelet_logs.clone()),
            reason,
        };
        let (logs, shown) = (self.kubelet_logs.clone(), self.kubelet_logs.display());
        let look = move || {
            // Without capabilities, as the source will read. Also, the thread may still run when the agent drops its
            // own.
            if sealed {
                let _ = capabilities::drop_all(|| Ok(()));
            }
            files::readable(&logs)
        };
        match deadline::once(shown.to_string(), PATIENCE, look) {
            Ok(Ok(())) => files(format!("{shown} is readable")),
            Ok(Err(reason)) => Chosen {
                source: Source::None,
                reason,
            },
            Err(late) => files(format!("{late}: there may be names once it does")),
        }
    }

    fn api(&self) -> anyhow::Result<api::Config> {
        let node = self.node_name.as_deref().context(
            "--pod-source api needs --node-name: the name of this node as `kubectl get nodes` shows it; in a pod, from the downward API's spec.nodeName",
        )?;
        Ok(api::Config {
            address: self.kube_api.clone(),
            kubeconfig: self.kubeconfig.clone(),
            labels: self.labels.pod_labels(),
            ..api::Config::in_cluster(node)
        })
    }

    fn socket(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.cri_socket {
            return Ok(socket.clone());
        }
        let found = deadline::once("/run".to_owned(), PATIENCE, cri::default_socket)?;
        found.context(
            "--pod-source cri: none of the container runtimes' usual sockets is here; give its path with --cri-socket",
        )
    }
}
