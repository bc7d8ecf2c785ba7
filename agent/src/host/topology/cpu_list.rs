//! The kernel's list format, such as `0-3,8`: CPUs in `cpu/online` and `shared_cpu_list`, nodes in `node/online`.

use std::fmt;

use serde::{Serialize, Serializer};

/// Set of CPU (or node) ids, stored as the ranges that the kernel prints (Documentation/admin-guide/cputopology.rst).
///
/// It stores ranges rather than ids, so that a line of a few bytes cannot make it allocate much memory.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CpuList(Vec<Range>);

// First and last id, both in the set. Ranges are sorted, and neither overlap nor touch.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Range {
    first: u32,
    last: u32,
}

/// Reason for which a text is not a list of ids.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ListError {
    /// A part is neither a number nor a range.
    #[error("`{0}` is neither an id nor a range")]
    Number(String),
    /// A range ends before it starts.
    #[error("`{0}` runs backwards")]
    Backwards(String),
    /// An id is above the highest that can exist.
    #[error("`{0}` goes above {1}")]
    TooHigh(String, u32),
}

impl CpuList {
    /// Parses a list. An empty text is the empty set: a memory-only node has an empty `cpulist`.
    ///
    /// # Errors
    /// When a part is not a decimal id or a range of them, or an id is above `max`.
    pub fn parse(text: &str, max: u32) -> Result<Self, ListError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Some(first), Some(last)) = (digits(first), digits(last)) else {
                return Err(ListError::Number(excerpt(part)));
            };
            if first > last {
                return Err(ListError::Backwards(excerpt(part)));
            }
            if last > u64::from(max) {
                return Err(ListError::TooHigh(excerpt(part), max));
            }
            ranges.push(Range {
                first: first as u32,
                last: last as u32,
            });
        }
        Ok(Self::from_ranges(ranges))
    }

    fn from_ranges(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Returns the ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|range| range.first..=range.last)
    }

    /// Returns whether an id is in the set.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        let after = self.0.partition_point(|range| range.first <= id);
        after > 0 && self.0[after - 1].last >= id
    }

    /// Returns the number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0
            .iter()
            .map(|range| (range.last - range.first) as usize + 1)
            .sum()
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the lowest id.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().map(|range| range.first)
    }

    /// Returns the highest id.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        self.0.last().map(|range| range.last)
    }

    /// Returns the ids that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.iter().filter(|id| !other.contains(*id)).collect()
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        Self::from_ranges(
            ids.into_iter()
                .map(|id| Range {
                    first: id,
                    last: id,
                })
                .collect(),
        )
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Range { first, last }) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for CpuList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// Parses digits alone, since `str::parse` would accept a plus sign. A number too large for `u64` saturates, and so is
// above every possible id.
fn digits(text: &str) -> Option<u64> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Returns the start of a text, so that an error message stays readable whatever a file holds.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        let list = CpuList::parse("0-3,8,10-11\n", 8191).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(
            (list.len(), list.first(), list.last()),
            (7, Some(0), Some(11))
        );
        assert!(list.contains(3) && !list.contains(4) && list.contains(11) && !list.contains(12));
        assert!(CpuList::parse("\n", 8191).unwrap().is_empty());
        assert_eq!(CpuList::parse("8191", 8191).unwrap().last(), Some(8191));
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        let refusal = |text| CpuList::parse(text, 8191).unwrap_err().to_string();
        assert_eq!(refusal("0-3,x"), "`x` is neither an id nor a range");
        assert_eq!(refusal("-1"), "`-1` is neither an id nor a range");
        assert_eq!(refusal("0,,1"), "`` is neither an id nor a range");
        assert_eq!(refusal("+1"), "`+1` is neither an id nor a range");
        assert_eq!(
            refusal("0-31:2/4"),
            "`0-31:2/4` is neither an id nor a range"
        );
        assert_eq!(refusal("5-3"), "`5-3` runs backwards");
        assert_eq!(refusal("0-99999999"), "`0-99999999` goes above 8191");
        assert_eq!(
            refusal("99999999999999999999999"),
            "`99999999999999999999999` goes above 8191"
        );
    }

    proptest! {
        #[test]
        fn any_set_survives_the_round_trip(ids in prop::collection::btree_set(0_u32..=8191, 0..200)) {
            let list: CpuList = ids.iter().copied().collect();
            let again = CpuList::parse(&list.to_string(), 8191).unwrap();
            prop_assert_eq!(&again, &list);
            prop_assert_eq!(again.len(), ids.len());
            prop_assert_eq!(again.iter().collect::<BTreeSet<_>>(), ids);
        }

        #[test]
        fn any_order_and_overlap_is_one_set(ranges in prop::collection::vec((0_u32..4000, 0_u32..90), 1..30)) {
            let text = ranges.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect::<Vec<_>>();
            let ids: BTreeSet<u32> = ranges.iter().flat_map(|(first, more)| *first..=first + more).collect();
            let list = CpuList::parse(&text.join(","), 8191).unwrap();
            prop_assert_eq!(&list, &ids.iter().copied().collect::<CpuList>());
            for id in 0..4200 {
                prop_assert_eq!(list.contains(id), ids.contains(&id));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = CpuList::parse(&text, 8191);
        }

        #[test]
        fn no_list_like_text_makes_it_panic_or_grow(text in "[-0-9,: \n]{0,60}") {
            if let Ok(list) = CpuList::parse(&text, 8191) {
                prop_assert!(list.len() <= 8192);
            }
        }
    }
}
