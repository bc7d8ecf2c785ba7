//! Hashes of [`Lengths`], in which the programs count rare events.

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData},
};
use stallscope_ebpf::{Lengths, WAIT_BUCKETS};

/// Words of a row that [`LengthsMap`] values go into: buckets, then the sum in nanoseconds.
pub const WIDTH: usize = WAIT_BUCKETS + 1;

/// One hash. Reading it takes two system calls an entry, which is why only rare events live in one.
pub struct LengthsMap<K> {
    map: HashMap<MapData, K, Lengths>,
}

impl<K: Pod> LengthsMap<K> {
    /// Takes a second descriptor of the hash named `name`; the first stays with the other maps, whose
    /// memory the overhead counts.
    ///
    /// # Errors
    /// When there is no such hash, or no descriptor can be had.
    pub fn open(ebpf: &Ebpf, name: &str) -> anyhow::Result<Self> {
        let Some(Map::HashMap(data)) = ebpf.map(name) else {
            anyhow::bail!("the object has no hash `{name}`");
        };
        let fd = data.fd().as_fd().try_clone_to_owned();
        let data = fd
            .map_err(anyhow::Error::from)
            .and_then(|fd| Ok(MapData::from_fd(fd)?))
            .with_context(|| format!("cannot open the map `{name}`"))?;
        let map = HashMap::try_from(Map::HashMap(data))
            .with_context(|| format!("agent and object do not agree on the map `{name}`"))?;
        Ok(Self { map })
    }

    /// Counts by key. An entry added meanwhile may be missing until the next reading.
    pub fn iter(&self) -> impl Iterator<Item = (K, Lengths)> {
        self.map.iter().filter_map(|entry| {
            entry
                .inspect_err(|error| tracing::warn!(%error, "cannot read a hash"))
                .ok()
        })
    }

    /// Drops an entry, and returns what it held.
    pub fn remove(&mut self, key: &K) -> Option<Lengths> {
        let last = self.map.get(key, 0).ok()?;
        self.map.remove(key).ok()?;
        Some(last)
    }
}

/// Adds `lengths` to the [`WIDTH`] words at the start of `row`.
pub fn add(row: &mut [u64], lengths: &Lengths) {
    let words = lengths.counts.iter().chain([&lengths.sum_ns]);
    for (sum, part) in row.iter_mut().zip(words) {
        *sum += part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_the_buckets_and_then_the_sum() {
        let mut lengths = Lengths {
            sum_ns: 700,
            ..Lengths::default()
        };
        lengths.counts[WAIT_BUCKETS - 1] = 3;
        let mut row = [1; WIDTH + 1];
        add(&mut row, &lengths);
        assert_eq!(row[..2], [1, 1]);
        assert_eq!(row[WAIT_BUCKETS - 1..], [4, 701, 1]);
    }
}
