//! One node, whose pods come and go. The agent's own encoder writes its scrapes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use stallscope::{
    agent::OwnerFamily,
    attribution::owners::GRACE,
    exposition::{
        Encoder, Format,
        metric::{Kind, Value},
    },
};
use stallscope_ebpf::WAIT_BOUNDS_NS;

use crate::{
    growth::Random,
    host,
    pod::{Names, Owner, outside},
};

/// Settings that all nodes share.
pub struct Shape {
    pub pods: usize,
    pub containers: usize,
    pub services: usize,
    pub cpus: u32,
    pub numa_nodes: u16,
    pub pod_life: Duration,
    pub labels: Vec<String>,
    pub families: Vec<OwnerFamily>,
}

/// A node with its pods, services and their counts.
pub struct Node {
    shape: Arc<Shape>,
    random: Random,
    pods: Vec<Pod>,
    services: Vec<Owner>,
    grown: Instant,
    buffer: BytesMut,
}

struct Pod {
    names: Names,
    owners: Vec<Owner>,
    ended: Option<Instant>,
}

impl Node {
    pub fn new(number: u64, shape: Arc<Shape>) -> Self {
        let mut random = Random::new(number + 1);
        let others = ["(removed)".to_owned()].into_iter();
        let services = (0..shape.services)
            .map(|service| format!("/system.slice/service-{service:02}.service"))
            .chain(others)
            .map(|cgroup| {
                let labels = outside(&shape.labels, &cgroup);
                Owner::new(labels, &shape.families, &mut random)
            });
        let mut services: Vec<_> = services.collect();
        // Services are one owner unless a label tells them apart.
        services.sort_by(|a, b| a.labels.cmp(&b.labels));
        services.dedup_by(|a, b| a.labels == b.labels);
        let mut node = Self {
            shape,
            random,
            pods: Vec::new(),
            services,
            grown: Instant::now(),
            buffer: BytesMut::new(),
        };
        node.fill();
        node
    }

    /// Starts as many pods as are missing.
    fn fill(&mut self) {
        let live = self.live_pods().count();
        for _ in live..self.shape.pods {
            let names = Names::new(&mut self.random);
            let containers = (0..self.shape.containers).map(|n| format!("container-{n}"));
            // The empty name is the owner of what runs in the pod outside its containers.
            let containers = containers.chain([String::new()]);
            let owners = containers.map(|container| {
                let labels = names.labels(&self.shape.labels, &container);
                Owner::new(labels, &self.shape.families, &mut self.random)
            });
            let mut owners: Vec<Owner> = owners.collect();
            owners.dedup_by(|a, b| a.labels == b.labels);
            self.pods.push(Pod {
                names,
                owners,
                ended: None,
            });
        }
    }

    /// Returns the names of the pods that run.
    pub fn live_pods(&self) -> impl Iterator<Item = &Names> {
        let live = self.pods.iter().filter(|pod| pod.ended.is_none());
        live.map(|pod| &pod.names)
    }

    fn pass(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.grown).as_secs_f64();
        self.grown = now;
        let end = seconds / self.shape.pod_life.as_secs_f64();
        for pod in self.pods.iter_mut().filter(|pod| pod.ended.is_none()) {
            for owner in &mut pod.owners {
                owner.grow(seconds, &mut self.random);
            }
            if self.random.share() < end {
                pod.ended = Some(now);
            }
        }
        for service in &mut self.services {
            service.grow(seconds, &mut self.random);
        }
        self.pods.retain(|pod| {
            pod.ended
                .is_none_or(|ended| now.saturating_duration_since(ended) < GRACE)
        });
        self.fill();
    }

    /// Advances the counts to the present and encodes a scrape.
    pub fn collect(&mut self, format: Format, registry: &prometheus::Registry) -> Bytes {
        self.pass(Instant::now());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut out = Encoder::new(format, buffer);
        let owners = self.owners();
        for (number, family) in self.shape.families.iter().enumerate() {
            encode(family, number, &owners, &mut out);
        }
        host::encode(self.shape.numa_nodes, self.shape.cpus, &mut out);
        out.registry(registry);
        let mut buffer = out.finish();
        let text = buffer.split().freeze();
        self.buffer = buffer;
        text
    }

    /// Returns all owners. Owners with equal labels count as one.
    fn owners(&self) -> Vec<&Owner> {
        let pods = self.pods.iter().flat_map(|pod| &pod.owners);
        let mut owners: Vec<_> = self.services.iter().chain(pods).collect();
        owners.sort_by(|a, b| a.labels.cmp(&b.labels));
        owners.dedup_by(|a, b| a.labels == b.labels);
        owners
    }
}

fn encode(family: &OwnerFamily, number: usize, owners: &[&Owner], out: &mut Encoder) {
    let metric = family.metric;
    let nanoseconds = metric.name.contains("_seconds");
    let mut written = out.family(metric);
    for owner in owners {
        let labels = Some(&owner.labels);
        for cell in owner.cells.get(number).into_iter().flatten() {
            let values: Vec<&str> = family
                .values
                .get(cell.set)
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            let Some((sum, buckets)) = cell.words.split_last() else {
                continue;
            };
            match metric.kind {
                Kind::Histogram => {
                    written.histogram(labels, &values, &WAIT_BOUNDS_NS, buckets, *sum);
                }
                Kind::Gauge => written.sample(labels, &values, Value::Float(owner.limit)),
                _ if nanoseconds => written.sample(labels, &values, Value::Nanoseconds(*sum)),
                _ => written.sample(labels, &values, Value::Count(*sum)),
            }
        }
    }
}
