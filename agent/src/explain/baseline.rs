//! Baseline of a container, and the thresholds from which a cause is unusual.

/// Threshold of a measured cause: the larger of a share of the time on CPUs and lost, and a share of the window's
/// length.
const PART: f64 = 0.02;
const LEAST: f64 = 0.005;
/// Thresholds of an estimate, which is less certain.
const ESTIMATED_PART: f64 = 0.05;
const ESTIMATED_LEAST: f64 = 0.02;
/// Factor over the baseline from which a cause is unusual.
const TIMES: f64 = 1.5;

/// Minimum excess over the baseline, in seconds, before a cause is reported as unusual.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    measured: f64,
    estimated: f64,
}

impl Floor {
    /// Computes the thresholds for a window of `window` seconds, in which the container ran or lost `wanted` seconds.
    pub(super) fn new(window: f64, wanted: f64) -> Self {
        Self {
            measured: (PART * wanted).max(LEAST * window),
            estimated: (ESTIMATED_PART * wanted).max(ESTIMATED_LEAST * window),
        }
    }

    /// Returns whether a cause exceeds its baseline by enough to matter. Without a baseline, the threshold alone
    /// decides.
    pub(super) fn unusual(self, seconds: f64, baseline: Option<f64>, estimate: bool) -> bool {
        let floor = if estimate {
            self.estimated
        } else {
            self.measured
        };
        let usual = baseline.unwrap_or(0.0);
        seconds - usual >= floor && seconds >= TIMES * usual
    }
}

/// Returns the median of some values; none if there are none.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], upper)
    } else {
        upper
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_not_moved_by_one_bad_window() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0]), Some(5.0));
        assert_eq!(median(vec![0.1, 50.0, 0.2]), Some(0.2));
    }

    #[test]
    fn little_is_never_unusual_and_the_usual_is_not_either() {
        let floor = Floor::new(60.0, 100.0);
        assert!(!floor.unusual(1.9, None, false));
        assert!(floor.unusual(2.0, None, false));
        assert!(floor.unusual(2.1, Some(0.1), false));
        assert!(!floor.unusual(30.0, Some(29.0), false));
        assert!(!floor.unusual(30.0, Some(21.0), false), "1.4 times as much");
        assert!(floor.unusual(32.0, Some(21.0), false));
        // The threshold of an estimate is more than twice as high.
        assert!(!floor.unusual(4.9, None, true));
        assert!(floor.unusual(5.0, None, true));
        // For a container that hardly runs, the window's length sets the threshold.
        assert!(!Floor::new(60.0, 0.1).unusual(0.09, None, false));
    }
}
