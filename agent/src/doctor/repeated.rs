//! The audit of a running agent: made now and then by a thread of its own, so that no scrape waits for it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context as _;

use super::{Live, METRICS, Node, Root, audit, samples};
use crate::{
    agent::trim_heap,
    exposition::Encoder,
    metric::{Metric, Value},
};

type Samples = Vec<(&'static Metric, Vec<String>, Value)>;

/// What the last audit found; nothing before the first.
#[derive(Debug, Default)]
pub struct Repeated(Arc<Mutex<Samples>>);

impl Repeated {
    /// Audits the node below `root` now and every so often from now on.
    ///
    /// # Errors
    /// When that is no directory.
    pub fn start(&self, root: PathBuf, every: Duration, live: Live) -> anyhow::Result<()> {
        Root::open(&root).with_context(|| {
            format!(
                "cannot list {}: expected the host's root directory after --doctor-root",
                root.display()
            )
        })?;
        let kept = Arc::clone(&self.0);
        let work = move || {
            loop {
                keep(&kept, &root, &live);
                thread::sleep(every);
            }
        };
        thread::Builder::new()
            .name("doctor".to_owned())
            .spawn(work)
            .context("cannot start the thread of the audit")?;
        Ok(())
    }

    /// Writes the families that have samples.
    pub fn encode(&self, out: &mut Encoder) {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for metric in METRICS {
            let of_it = samples.iter().filter(|(m, ..)| std::ptr::eq(*m, *metric));
            let mut of_it = of_it.peekable();
            if of_it.peek().is_none() {
                continue;
            }
            let mut family = out.family(metric);
            for (_, labels, value) in of_it {
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                family.sample(None, &labels, *value);
            }
        }
    }
}

fn keep(kept: &Mutex<Samples>, root: &Path, live: &Live) {
    let root = match Root::open(root) {
        Ok(root) => root,
        Err(error) => {
            tracing::warn!(%error, root = %root.display(), "cannot audit the node");
            return;
        }
    };
    let found = report(root, live);
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = found;
    // What was read is many times what is kept.
    trim_heap();
}

fn report(root: Root, live: &Live) -> Samples {
    let report = audit(&Node::read(root, live.clone()));
    tracing::info!(
        verdict = report.verdict,
        findings = report.findings.len(),
        "audited the node; stallscope doctor says more"
    );
    samples(&report)
}
