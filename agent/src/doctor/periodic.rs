//! Periodic audit of a running agent, made by a thread of its own so that no scrape waits for it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{Live, METRICS, Node, Root, audit, samples};
use crate::{
    exposition::{
        Encoder,
        metric::{Metric, Value},
    },
    host::{
        deadline::{Reads, Seconds},
        heap::trim_heap,
    },
};

/// Time that a file of the node may take to answer before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time that the agent's start waits for the directory to open.
const START: Duration = Duration::from_secs(3);

type Samples = Vec<(&'static Metric, Vec<String>, Value)>;

/// Samples of the last audit; empty before the first.
#[derive(Debug, Default)]
pub struct Repeated(Arc<Mutex<Samples>>);

impl Repeated {
    /// Starts to audit the node below `root` at once and then at the interval `every`. A file that does not answer
    /// blocks the next audit, and the samples of the last one stay.
    ///
    /// # Errors
    /// When `root` is not a directory that can be listed.
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
            if !is_open {
                return;
            }
            loop {
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
    // The files read are many times larger than the samples kept.
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
