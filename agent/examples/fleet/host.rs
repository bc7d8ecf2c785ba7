//! Families that a node has once, with about as many series as on a real node.

use std::time::{SystemTime, UNIX_EPOCH};

use stallscope::{
    agent,
    exposition::{
        Encoder,
        metric::{Kind, Metric, Scope, Value},
    },
    host::topology,
    probe::overhead,
    probes::PROBES,
};

/// Numbers of programs, maps, hooks and reasons of all probes together, as `stallscope status` and a scrape show them.
const PROGRAMS: u32 = 20;
const MAPS: u32 = 25;
const HOOKS: u32 = 12;
const REASONS: u32 = 10;

/// Writes every family.
pub fn encode(numa_nodes: u16, cpus: u32, out: &mut Encoder) {
    let probes = PROBES.iter().flat_map(|probe| probe.metrics);
    let all = probes
        .chain(&agent::METRICS)
        .chain(&overhead::METRICS)
        .chain(topology::METRICS)
        .filter(|metric| metric.scope == Scope::Host);
    // The values are counters, which only need to grow: the clock is enough.
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis() as u64);
    for metric in all {
        let sets = sets(metric, u32::from(numa_nodes), cpus);
        let mut family = out.family(metric);
        for set in 0..sets {
            let number = set.to_string();
            let values = vec![number.as_str(); metric.labels.len()];
            let value = match metric.kind {
                Kind::Counter => now / u64::from(set + 1),
                Kind::Gauge | Kind::Info | Kind::Histogram => 1,
            };
            family.sample(None, &values, Value::Count(value));
        }
    }
}

/// Returns the number of series of a family. The values of its labels make no difference to the Prometheus that stores
/// them.
fn sets(metric: &Metric, numa_nodes: u32, cpus: u32) -> u32 {
    match metric.labels {
        ["daemon", "node"] => 2 * numa_nodes + 1,
        ["cpu", ..] => cpus,
        ["from", "to"] => numa_nodes * numa_nodes,
        ["node"] => numa_nodes,
        ["level", ..] => 5,
        ["probe", "state", ..] => PROBES.len() as u32,
        ["probe", "hook", ..] => HOOKS,
        ["probe", "reason"] => REASONS,
        ["probe", "program"] => PROGRAMS,
        ["probe", "map"] => MAPS,
        ["state"] => 3,
        _ => 1,
    }
}
