//! Options on the names and labels of pods.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::{
    owners::LabelSet,
    pods::names::{Chosen, Source},
};

/// Where pods' names come from, and which labels are made of them.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub(super) struct NameArgs {
    /// Where the names of pods and containers come from
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = PodSource::Auto)]
    pod_source: PodSource,
    /// Directory with the kubelet's `pods` and `containers`, for the source files
    #[arg(long, value_name = "DIR", default_value = "/var/log")]
    kubelet_logs: PathBuf,
    /// Labels of each container's series, with commas between: namespace, pod, container, cgroup, uid, `qos_class`, and
    /// with the source api workload, `workload_type`, label:KEY (a label of the pod); series that have all labels in
    /// common are summed
    #[arg(long, value_name = "LIST", default_value_t = LabelSet::default())]
    pub(super) labels: LabelSet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PodSource {
    /// files where the kubelet's directories are readable, else none
    Auto,
    /// The kubelet's log directories: names in file names and links, no log is opened
    Files,
    /// Nowhere: pods are known by their cgroup
    None,
}

impl NameArgs {
    /// The source that was asked for, or the best there is.
    #[allow(clippy::unnecessary_wraps)]
    pub(super) fn choose(&self) -> anyhow::Result<Chosen> {
        let asked = || "asked for".to_owned();
        let (source, reason) = match self.pod_source {
            PodSource::Auto => (Source::None, String::new()),
            PodSource::Files => (Source::Files(self.kubelet_logs.clone()), asked()),
            PodSource::None => (Source::None, asked()),
        };
        Ok(Chosen { source, reason })
    }
}
