//! Robust estimates, which a few disturbed windows do not spoil, with their standard errors.

/// A value with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// Returns the median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, middle) if n % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Returns the mean of the middle three fifths.
pub fn trimmed_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let cut = sorted.len() / 5;
    mean(&sorted[cut..sorted.len() - cut])
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the median, with an error from the median absolute deviation, which outliers do not move either.
pub fn median_of(values: &[f64]) -> Estimate {
    // Factors for a normal distribution: from the median absolute deviation to the standard deviation, and from the
    // mean's error to the median's, sqrt(pi / 2).
    const TO_DEVIATION: f64 = 1.4826;
    const TO_MEDIAN: f64 = 1.2533;
    let value = median(values);
    let distances: Vec<f64> = values.iter().map(|v| (v - value).abs()).collect();
    Estimate {
        value,
        error: median(&distances) * TO_DEVIATION * TO_MEDIAN / (values.len() as f64).sqrt(),
    }
}

/// Returns the mean with its standard error.
pub fn mean_of(values: &[f64]) -> Estimate {
    let n = values.len() as f64;
    let value = mean(values);
    let squares: f64 = values.iter().map(|v| (v - value).powi(2)).sum();
    Estimate {
        value,
        error: (squares / (n - 1.0) / n).sqrt(),
    }
}

/// Applies a statistic to independent samples, with its jackknife error: each sample is left out in turn.
pub fn jackknife<T: Clone>(samples: &[T], statistic: impl Fn(&[T]) -> f64) -> Estimate {
    let n = samples.len();
    let without: Vec<f64> = (0..n)
        .map(|left_out| {
            let mut rest = samples.to_vec();
            rest.swap_remove(left_out);
            statistic(&rest)
        })
        .collect();
    let centre = mean(&without);
    let squares: f64 = without.iter().map(|v| (v - centre).powi(2)).sum();
    Estimate {
        value: statistic(samples),
        error: (squares * (n as f64 - 1.0) / n as f64).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_do_not_move_the_middle() {
        assert!((median(&[1.0, 9.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[1.0, 9.0, 2.0, 4.0]) - 3.0).abs() < 1e-9);
        let values = [1.0, 2.0, 3.0, 2.0, 1000.0];
        assert!((trimmed_mean(&values) - 7.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn one_outlier_does_not_make_a_median_uncertain() {
        let estimate = median_of(&[10.0, 11.0, 9.0, 10.0, 11.0, 500.0]);
        assert!((estimate.value - 10.5).abs() < 1e-9);
        assert!(estimate.error < 1.0);
    }

    #[test]
    fn the_jackknife_of_a_mean_is_its_standard_error() {
        let values = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0];
        let direct = mean_of(&values);
        let jackknifed = jackknife(&values, mean);
        assert!((direct.value - jackknifed.value).abs() < 1e-9);
        assert!((direct.error - jackknifed.error).abs() < 1e-9);
    }
}
