//! Many nodes' agents in one process, to measure the Prometheus that scrapes them.
//!
//! Names, labels, escaping, formats and the HTTP server are the agent's own. Only the counts are made up. Each node has
//! its own port. The process prints one line of JSON to standard output when all of them listen.

mod growth;
mod host;
mod node;
mod pod;

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use clap::Parser;
use serde_json::json;
use stallscope::{
    agent::owner_families,
    exposition::{
        Encoder, Format,
        metric::{Kind, Metric, Scope, Value},
    },
    server::{self, Config, Handlers},
};
use tokio::net::TcpListener;

use node::Node;

/// Serve what the agents of so many nodes would.
#[derive(Parser, Debug)]
#[command(
    name = "fleet",
    after_help = "Examples:
  cargo run --release --example fleet -- --agents 200 --pods 30
  cargo run --release --example fleet -- --agents 10 --pods 110 --numa-nodes 4 --labels namespace,workload"
)]
struct Args {
    /// Nodes
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    agents: u32,
    /// Pods on each
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pods: u32,
    /// Containers in each pod
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    containers: u32,
    /// NUMA nodes of each node
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    numa_nodes: u16,
    /// CPUs of each node
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cpus: u32,
    /// Services and other cgroups outside of pods on each node
    #[arg(long, default_value_t = 20)]
    services: u32,
    /// Mean life of a pod in seconds; its series stay for five minutes more
    #[arg(long, default_value_t = 7200, value_parser = clap::value_parser!(u32).range(1..))]
    pod_life: u32,
    /// Labels of owners: some of namespace, pod, container, cgroup, workload, `workload_type`
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "namespace,pod,container,cgroup"
    )]
    labels: Vec<String>,
}

/// Series as the rules of the Kubernetes mixin record it, so that queries can join pods with their workloads.
static POD_OWNER: Metric = Metric {
    name: "namespace_workload_pod:kube_pod_owner:relabel",
    kind: Kind::Gauge,
    help: "The workload of a pod.",
    labels: &["namespace", "workload", "workload_type", "pod"],
    scope: Scope::Host,
    source: "made up",
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    for label in &args.labels {
        anyhow::ensure!(
            pod::LABELS.contains(&label.as_str()),
            "unknown label `{label}`: expected some of {}, with commas between",
            pod::LABELS.join(", ")
        );
    }
    let shape = Arc::new(node::Shape {
        pods: args.pods as usize,
        containers: args.containers as usize,
        services: args.services as usize,
        cpus: args.cpus,
        numa_nodes: args.numa_nodes,
        pod_life: Duration::from_secs(args.pod_life.into()),
        labels: args.labels,
        families: owner_families(args.numa_nodes),
    });
    let nodes: Vec<_> = (0..args.agents)
        .map(|number| Arc::new(Mutex::new(Node::new(u64::from(number), Arc::clone(&shape)))))
        .collect();
    let mut agents = Vec::new();
    for node in &nodes {
        let registry = prometheus::Registry::new();
        let (node, its_registry) = (Arc::clone(node), registry.clone());
        let collect = move |format| Ok(lock(&node).collect(format, &its_registry));
        agents.push(listen(collect, registry).await?);
    }
    let owners = listen(
        move |format| Ok(pod_owners(&nodes, format)),
        prometheus::Registry::new(),
    )
    .await?;
    println!("{}", json!({"agents": agents, "pod_owners": owners}));
    // The servers run until somebody ends the process.
    std::future::pending().await
}

/// Serves scrapes on a free port and returns the address.
async fn listen(
    collect: impl Fn(Format) -> anyhow::Result<Bytes> + Send + Sync + 'static,
    registry: prometheus::Registry,
) -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("no free port")?;
    let address = listener.local_addr()?.to_string();
    let handlers = Handlers {
        collect: Arc::new(collect),
        health: Arc::new(|| Ok(())),
        ready: Arc::new(|| Ok(())),
        status: Arc::new(|| json!({})),
        topology: json!({}),
        answers: server::Answers::default(),
    };
    tokio::spawn(async move {
        let config = Config::default();
        let forever = std::future::pending();
        if let Err(error) = server::serve(config, listener, handlers, &registry, forever).await {
            eprintln!("error: {error:#}");
        }
    });
    Ok(address)
}

fn pod_owners(nodes: &[Arc<Mutex<Node>>], format: Format) -> Bytes {
    let mut out = Encoder::new(format, BytesMut::new());
    let mut family = out.family(&POD_OWNER);
    for node in nodes {
        for names in lock(node).live_pods() {
            let pod::Names {
                namespace,
                workload,
                pod,
                ..
            } = names;
            let labels = [namespace.as_str(), workload, "deployment", pod];
            family.sample(None, &labels, Value::Count(1));
        }
    }
    out.finish().freeze()
}

fn lock(node: &Mutex<Node>) -> std::sync::MutexGuard<'_, Node> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}
