//! Records the ledgers' totals into the history, once a second.

use std::{collections::HashSet, time::Instant};

use super::{Agent, Instance};
use crate::{
    attribution::owners::OwnerIndex,
    ledger::{
        Ledger,
        history::{Quantity, Subject},
    },
};

/// Mapping of the words in probes' rows to the quantities of the history.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    quantities: Vec<Quantity>,
    /// Index of the probe, word in its rows, index of the quantity.
    words: Vec<(usize, usize, usize)>,
}

impl Recorder {
    pub(super) fn new(instances: &[Instance]) -> Self {
        let mut recorder = Self::default();
        for (probe, instance) in instances.iter().enumerate() {
            let running = instance.running.as_ref();
            for (quantity, word) in running.map_or_else(Vec::new, |r| r.collector.recorded()) {
                let place = recorder.place(quantity);
                recorder.words.push((probe, word, place));
            }
        }
        recorder
    }

    /// Returns whether a quantity is counted on this host.
    pub(super) fn has(&self, quantity: Quantity) -> bool {
        self.quantities.contains(&quantity)
    }

    fn place(&mut self, quantity: Quantity) -> usize {
        let known = self.quantities.iter().position(|each| *each == quantity);
        known.unwrap_or_else(|| {
            self.quantities.push(quantity);
            self.quantities.len() - 1
        })
    }

    /// Computes an owner's totals, in the order of the quantities.
    fn totals(&self, instances: &[Instance], owner: OwnerIndex, totals: &mut Vec<u64>) {
        totals.clear();
        totals.resize(self.quantities.len(), 0);
        let row = |probe: usize| instances[probe].ledger.as_ref()?.row(owner);
        let rows: Vec<_> = (0..instances.len()).map(row).collect();
        for (probe, word, place) in &self.words {
            if let Some(row) = rows[*probe] {
                totals[*place] += row[*word];
            }
        }
    }
}

impl Agent {
    /// Records the last full second, if it is not recorded yet. Returns true when this has read all probes.
    pub(super) fn record(&mut self, now: Instant) -> bool {
        let Some(second) = self.history.as_ref().and_then(|history| history.due(now)) else {
            return false;
        };
        self.read();
        let of_host: Vec<_> = self
            .running()
            .flat_map(|(_, running)| running.collector.recorded_of_host())
            .chain([(Quantity::Agent, cpu_time())])
            .collect();
        let Some(history) = &mut self.history else {
            return true;
        };
        history.begin_second(second);
        history.record(Subject::Host, None, of_host.into_iter());
        let ledgers = self.instances.iter().filter_map(|i| i.ledger.as_ref());
        let owners: HashSet<_> = ledgers.flat_map(Ledger::owners).collect();
        let mut totals = Vec::new();
        for owner in owners {
            self.recorder.totals(&self.instances, owner, &mut totals);
            let quantities = self.recorder.quantities.iter().copied();
            history.record(
                Subject::Owner(owner),
                self.owners.labels(owner),
                quantities.zip(totals.iter().copied()),
            );
        }
        true
    }

    /// Adds an owner's totals to another's in the history. The owner's past record stays.
    pub(super) fn fold_history(&mut self, from: OwnerIndex, into: OwnerIndex) {
        if let Some(history) = &mut self.history {
            history.fold(from, into);
        }
    }
}

/// Returns the CPU time of this process, in nanoseconds.
pub(super) fn cpu_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
