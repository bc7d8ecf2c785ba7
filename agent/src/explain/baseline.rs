//! What is usual for a container, and what is enough to matter.

/// From what part of the time on CPUs and lost on a cause matters, and from what part of the window's length.
const PART: f64 = 0.02;
const LEAST: f64 = 0.005;
/// The same of an estimate, which is less certain.
const ESTIMATED_PART: f64 = 0.05;
const ESTIMATED_LEAST: f64 = 0.02;
/// How many times as much as usual is unusual.
const TIMES: f64 = 1.5;

/// How much a cause has to take for somebody to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    measured: f64,
    estimated: f64,
}

impl Floor {
    /// For a window of so many seconds, in which the container ran or wanted to run for so many.
    pub(super) fn new(window: f64, wanted: f64) -> Self {
        Self {
            measured: (PART * wanted).max(LEAST * window),
            estimated: (ESTIMATED_PART * wanted).max(ESTIMATED_LEAST * window),
        }
    }

    /// Whether a cause takes more than usual, and enough to matter. With no baseline, being enough will do.
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

/// The middle of some values, between the two in the middle if there are two; none of none.
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
        // An estimate has to be more than twice as much.
        assert!(!floor.unusual(4.9, None, true));
        assert!(floor.unusual(5.0, None, true));
        // A container that hardly runs is judged by the window.
        assert!(!Floor::new(60.0, 0.1).unusual(0.09, None, false));
    }
}
