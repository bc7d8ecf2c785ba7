//! A histogram of lengths as it is exported, and the check that its parts agree.

use std::{fmt::Display, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{Report, Scrape};

/// Bound of the last bucket, which has none.
const UNBOUNDED: u64 = u64::MAX;

/// The buckets, number and sum of one owner's lengths.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lengths {
    /// Upper bounds in nanoseconds, each with the number of lengths up to it.
    buckets: Vec<(u64, u64)>,
    /// The series `_count`.
    pub count: u64,
    /// The series `_sum`, in nanoseconds.
    pub sum: u64,
}

impl Lengths {
    /// The histogram `family` of the owner with these labels; `None` if it is not exported.
    ///
    /// # Errors
    /// When a part of it is missing or no number.
    pub fn of(scrape: &Scrape, family: &str, labels: &[String]) -> Result<Option<Self>> {
        let Some(count) = scrape.exact(&format!("{family}_count"), labels)? else {
            return Ok(None);
        };
        let sum = scrape.exact(&format!("{family}_sum"), labels)?;
        let name = format!("{family}_bucket");
        let buckets = scrape.series(&name, labels).map(|(series, value)| {
            let value = value.parse().ok();
            Some((bound(series)?, value?))
        });
        let buckets: Option<Vec<_>> = buckets.collect();
        Ok(Some(Self {
            buckets: buckets.with_context(|| format!("a bucket of {family} is no number"))?,
            count,
            sum: sum.with_context(|| format!("{family} has no sum"))?,
        }))
    }

    /// Growth since `before`, which is `None` if the histogram was not exported then.
    ///
    /// # Errors
    /// When a counter fell.
    pub fn since(&self, before: Option<&Self>) -> Result<Self> {
        let Some(before) = before else {
            return Ok(self.clone());
        };
        let same = self.buckets.len() == before.buckets.len();
        ensure!(same, "a histogram has other buckets than before");
        let grown = |now: u64, then: u64| now.checked_sub(then).context("a counter fell");
        let buckets = self.buckets.iter().zip(&before.buckets);
        let buckets: Result<_> = buckets
            .map(|(now, then)| Ok((now.0, grown(now.1, then.1)?)))
            .collect();
        Ok(Self {
            buckets: buckets?,
            count: grown(self.count, before.count)?,
            sum: grown(self.sum, before.sum)?,
        })
    }

    /// Judges whether the parts agree: the buckets add up to the number, and bound the sum.
    pub fn judge(&self, report: &mut Report, what: impl Display) {
        let (mut least, mut most) = (0_u64, 0_u64);
        let (mut lower, mut below) = (0, 0);
        for &(upper, count) in &self.buckets {
            let Some(here) = count.checked_sub(below) else {
                report.check(&what, "cumulative buckets", format!("{count}"), false);
                return;
            };
            least += here * lower;
            most = most.saturating_add(here.saturating_mul(upper));
            lower = upper;
            below = count;
        }
        report.check(
            format!("{what}: the last bucket"),
            format!("+Inf: {}", self.count),
            format!("{below}"),
            lower == UNBOUNDED && below == self.count,
        );
        report.between(
            format!("{what}: the sum in ns, by the buckets"),
            least,
            most,
            self.sum,
        );
    }
}

/// The bound of a bucket's series, in nanoseconds.
fn bound(series: &str) -> Option<u64> {
    let (_, rest) = series.split_once("le=\"")?;
    let (bound, _) = rest.split_once('"')?;
    if bound == "+Inf" {
        return Some(UNBOUNDED);
    }
    let bound = Duration::try_from_secs_f64(bound.parse().ok()?).ok()?;
    u64::try_from(bound.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::Lengths;
    use crate::{Report, Scrape, report::Verdict};

    fn read(buckets: [u64; 3], count: u64, sum: &str) -> Lengths {
        let [one, two, all] = buckets;
        let text = format!(
            "x_seconds_bucket{{le=\"1e-03\"}} {one}\nx_seconds_bucket{{le=\"0.004\"}} {two}\n\
             x_seconds_bucket{{le=\"+Inf\"}} {all}\nx_seconds_count{{}} {count}\nx_seconds_sum{{}} {sum}\n"
        );
        let lengths = Lengths::of(&Scrape(text), "x_seconds", &[]).unwrap();
        lengths.unwrap()
    }

    fn verdict(lengths: &Lengths) -> Verdict {
        let mut report = Report::default();
        lengths.judge(&mut report, "x");
        report.verdict()
    }

    #[test]
    fn a_sum_that_does_not_fit_the_buckets_is_found() {
        assert_eq!(verdict(&read([1, 3, 3], 3, "0.005")), Verdict::Passed);
        assert_eq!(verdict(&read([1, 3, 3], 3, "0.0095")), Verdict::Failed);
        assert_eq!(verdict(&read([1, 3, 3], 3, "0.0019")), Verdict::Failed);
        assert_eq!(verdict(&read([1, 3, 4], 4, "99")), Verdict::Passed);
        assert_eq!(verdict(&read([1, 3, 3], 4, "0.005")), Verdict::Failed);
        assert_eq!(verdict(&read([3, 1, 3], 3, "0.005")), Verdict::Failed);
    }

    #[test]
    fn growth_is_since_the_other_and_never_negative() {
        let (then, now) = (read([1, 1, 1], 1, "0.001"), read([1, 3, 3], 3, "0.005"));
        let grown = now.since(Some(&then)).unwrap();
        assert_eq!(grown, read([0, 2, 2], 2, "0.004"));
        assert!(then.since(Some(&now)).is_err());
        assert_eq!(now.since(None).unwrap(), now);
    }
}
