//! Counts that grow at random, as those of real tasks do: most owners do little, a few do much.

use stallscope::exposition::metric::Metric;

/// `SplitMix64` generator with the same numbers in each run (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number from 0 to below 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a whole number from 0 to below `count`.
    pub fn below(&mut self, count: u64) -> u64 {
        self.next() % count.max(1)
    }

    /// Returns a whole number that is `mean` on average.
    fn count(&mut self, mean: f64) -> u64 {
        // Never negative, and far below the limits of 64 bits.
        #[expect(clippy::cast_sign_loss, reason = "see above")]
        let whole = (mean * 2.0 * self.share() + self.share()) as u64;
        whole
    }
}

/// Returns the CPUs' worth of time that an owner takes: a thousandth of one for most, more than one for a few.
pub fn activity(random: &mut Random) -> f64 {
    0.0005 * 4000_f64.powf(random.share().powi(3))
}

/// Returns the growth per second of a family's value, in nanoseconds or events, for an owner that takes one CPU.
pub fn rate(metric: &Metric, values: &[String]) -> f64 {
    let value = values.first().map(String::as_str).unwrap_or_default();
    match (metric.name, value) {
        (_, "own") => 2e8,
        (_, "neighbour") => 4e8,
        (_, "host") => 5e7,
        (_, "unattributed") => 1e5,
        (_, "idle") => 1e6,
        // The daemons work on few nodes only, and most owners have no quota.
        (_, "kswapd" | "kcompactd" | "khugepaged" | "compaction" | "direct_reclaim") => 0.0,
        (_, "kernel" | "throttled") => 1e7,
        ("stallscope_cpu_seconds_total", node) => {
            1e9 / node.parse::<f64>().map_or(1.0, |n| n + 1.5)
        }
        (name, _) if name.contains("_seconds") => 1e7,
        (name, _) if name.contains("_periods") => 10.0,
        (_, "remote") => 20.0,
        _ => 200.0,
    }
}

/// One series (a value) or one histogram (counts by bucket, then the sum).
#[derive(Clone, Debug)]
pub struct Cell {
    /// Index into the family's combinations of label values.
    pub set: usize,
    /// Growth per second.
    pub rate: f64,
    pub words: Box<[u64]>,
}

impl Cell {
    pub fn grow(&mut self, seconds: f64, random: &mut Random) {
        let grown = self.rate * seconds;
        if grown <= 0.0 {
            return;
        }
        let Some((sum, buckets)) = self.words.split_last_mut() else {
            return;
        };
        *sum += random.count(grown);
        // Waits are short: each bucket's bound is four times that of the one before, and its count 0.35 times as large.
        let mut events = grown / 2e5;
        for bucket in buckets {
            *bucket += random.count(events);
            events *= 0.35;
        }
    }
}
