//! The audit of a running agent: made now and then by a thread of its own, so that no scrape waits for it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{Live, METRICS, Node, Root, audit, samples};
use crate::{
    agent::trim_heap,
    deadline::{Reads, Seconds},
    exposition::Encoder,
    metric::{Metric, Value},
};

/// How long a file of the node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the start of the agent waits to learn that there is no such directory.
const START: Duration = Duration::from_secs(3);

type Samples = Vec<(&'static Metric, Vec<String>, Value)>;

/// What the last audit found; nothing before the first.
#[derive(Debug, Default)]
pub struct Repeated(Arc<Mutex<Samples>>);

impl Repeated {
    /// Audits the node below `root` now and every so often from now on. A file that does not answer keeps the next audit
    /// from being made, and what the last one found stays.
    ///
    /// # Errors
    /// When that is no directory.
    pub fn start(
        &self,
        root: PathBuf,
        every: Duration,
        live: Live,
        reads: &Reads,
    ) -> anyhow::Result<()> {
        let watched = reads.watch("audit", PATIENCE);
        let kept = Arc::clone(&self.0);
        let (tell, opened) = sync_channel(1);
        let first = root.display().to_string();
        let dir = first.clone();
        let work = move || {
            let opened = watched.work(first.clone(), || Root::open(&root).map(drop));
            let is_open = matches!(opened, Some(Ok(())));
            let _ = tell.send(opened);
            while is_open {
                if watched
                    .work(first.clone(), || keep(&kept, &root, &live))
                    .is_none()
                {
                    tracing::error!(
                        root = first,
                        "the audit failed unexpectedly; what the last one found is kept"
                    );
                }
                thread::sleep(every);
            }
        };
        thread::Builder::new()
            .name("doctor".to_owned())
            .spawn(work)
            .context("cannot start the thread of the audit")?;
        match opened.recv_timeout(START) {
            Ok(Some(opened)) => opened.with_context(|| {
                format!("cannot list {dir}: expected the host's root directory after --doctor-root")
            }),
            Ok(None) => bail!("cannot list {dir}: see the log"),
            Err(_) => {
                tracing::warn!(
                    "{dir} has not answered for {}: the node is audited once it does",
                    Seconds(START)
                );
                Ok(())
            }
        }
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
