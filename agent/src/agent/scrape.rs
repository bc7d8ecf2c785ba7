//! Scrapes: all counts since the start, in no more series than the budget allows.

use std::{cmp::Reverse, collections::HashSet, time::Instant};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};

use super::{Agent, Instance};
use crate::{
    attribution::owners::{OwnerIndex, Owners},
    exposition::{Encoder, Format},
    host::{cgroup, deadline::at},
    probe::collector::OwnerRows,
};

/// Maximum number of times a scrape is written because it has too many series. Each time the agent folds about as many
/// owners as there are excess series for, so that one repetition is usually enough.
const ATTEMPTS: usize = 8;

impl Agent {
    /// Makes one scrape.
    ///
    /// # Errors
    /// When the cgroup file system cannot be read.
    pub fn collect(&mut self, format: Format) -> anyhow::Result<Bytes> {
        at(|| "following cgroups");
        self.follow(Instant::now())
            .context("cannot follow cgroups")?;
        self.read();
        let mut attempt = 1;
        loop {
            at(|| "writing a scrape");
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let (mut buffer, series) = self.encode(format, buffer);
            let excess = series.saturating_sub(self.config.series);
            if excess > 0 && attempt < ATTEMPTS && self.fold(excess, series) {
                self.buffer = buffer;
                attempt += 1;
                continue;
            }
            let text = buffer.split().freeze();
            self.buffer = buffer;
            return Ok(text);
        }
    }

    /// Writes all families. Returns the text and the number of series.
    fn encode(&self, format: Format, buffer: BytesMut) -> (BytesMut, usize) {
        let mut out = Encoder::new(format, buffer);
        for instance in &self.instances {
            let (Some(running), Some(ledger)) = (&instance.running, &instance.ledger) else {
                continue;
            };
            let mut indexes: Vec<_> = ledger.owners().collect();
            indexes.sort_unstable();
            let rows = indexes
                .into_iter()
                .filter_map(|index| {
                    let row = ledger.row(index)?;
                    // A cgroup without any count has no series.
                    (row.iter().any(|word| *word != 0)).then_some(())?;
                    Some((self.owners.labels(index)?, row))
                })
                .collect();
            let labels = &|id| self.owners.labels_of(id);
            running
                .collector
                .encode(&OwnerRows { rows, labels }, &mut out);
        }
        out.registry(&self.registry);
        self.encode_own(&mut out);
        let series = out.series();
        (out.finish(), series)
    }

    /// Updates the owners with the cgroups that came and went. Returns true when some went.
    pub(super) fn follow(&mut self, now: Instant) -> Result<bool, cgroup::Error> {
        let instances = &self.instances;
        let gone = self.owners.poll(now, &|owner| activity(instances, owner))?;
        for (owner, into) in self.owners.evicted() {
            self.fold_totals(owner, into);
        }
        Ok(gone)
    }

    /// Folds about as many owners into (other) as have `excess` of all `series`: the lowest ranks first, and within a
    /// rank those with the least recent activity. Returns false when no owner is left to fold.
    fn fold(&mut self, excess: usize, series: usize) -> bool {
        let single = self.owners.single();
        let mut owners: Vec<_> = single
            .map(|(owner, rank)| (Reverse(rank), activity(&self.instances, owner), owner))
            .collect();
        // Among equals the newest are folded first.
        owners.sort_unstable_by_key(|(rank, activity, owner)| (*rank, *activity, Reverse(*owner)));
        let share = (owners.len() * excess).div_ceil(series.max(1));
        let folded: HashSet<_> = owners
            .iter()
            .take(share)
            .map(|(.., owner)| *owner)
            .collect();
        tracing::info!(
            series,
            budget = self.config.series,
            owners = folded.len(),
            "too many series: those that did the least are summed as (other); raise --max-series or choose fewer --labels"
        );
        self.owners.fold(&folded);
        for owner in &folded {
            self.fold_totals(*owner, Owners::OTHER);
        }
        !folded.is_empty()
    }

    /// Adds an owner's totals to another's, because the owner has ended or lost its series.
    fn fold_totals(&mut self, from: OwnerIndex, into: OwnerIndex) {
        self.fold_history(from, into);
        for ledger in self.instances.iter_mut().filter_map(|i| i.ledger.as_mut()) {
            ledger.fold(from, into);
        }
    }
}

/// Returns an owner's recent activity.
fn activity(instances: &[Instance], owner: OwnerIndex) -> u64 {
    let ledgers = instances.iter().filter_map(|i| i.ledger.as_ref());
    ledgers.fold(0, |sum, ledger| sum.saturating_add(ledger.recent(owner)))
}
