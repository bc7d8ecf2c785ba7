//! Doubts: entries of a source that make no sense. Each kind is reported when there are more of it than before, not at
//! each reading.

use std::collections::BTreeMap;

use super::feed::{Closed, Feed};

/// Doubts of one reading, and the number of each kind reported at earlier ones.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    noted: BTreeMap<&'static str, Noted>,
    said: BTreeMap<&'static str, usize>,
}

#[derive(Debug)]
struct Noted {
    count: usize,
    first: String,
}

impl Doubts {
    /// Returns an empty set for the next reading, with the numbers reported before.
    pub(super) fn next(&self) -> Self {
        Self {
            noted: BTreeMap::new(),
            said: self.said.clone(),
        }
    }

    /// Notes one doubt. `text` is called only for the first of its kind.
    pub(super) fn note(&mut self, reason: &'static str, text: impl FnOnce() -> String) {
        let noted = self.noted.entry(reason).or_insert_with(|| Noted {
            count: 0,
            first: text(),
        });
        noted.count += 1;
    }

    /// Reports the kinds of which there are more than before.
    pub(super) fn say(&mut self, feed: &Feed) -> Result<(), Closed> {
        let before = std::mem::take(&mut self.said);
        for (reason, Noted { count, first }) in std::mem::take(&mut self.noted) {
            if count > before.get(reason).copied().unwrap_or(0) {
                let more = if count > 1 {
                    format!(" ({} more like it)", count - 1)
                } else {
                    String::new()
                };
                feed.doubt(reason, format!("{first}{more}"))?;
            }
            self.said.insert(reason, count);
        }
        Ok(())
    }
}
