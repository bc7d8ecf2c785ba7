//! The agent's exposition, read without rounding.

use anyhow::{Context as _, Result};

/// One scrape in the text format.
#[derive(Clone, Debug)]
pub struct Scrape(pub String);

impl Scrape {
    /// The series of `family` that carry all of `labels` (such as `cause="own"`), with their values.
    pub fn series<'a>(
        &'a self,
        family: &'a str,
        labels: &'a [String],
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(family)?;
            let whole = rest.is_empty() || rest.starts_with('{');
            (whole && labels.iter().all(|label| rest.contains(label.as_str())))
                .then_some((series, value))
        })
    }

    /// The sum of those series, in nanoseconds for families of seconds, else as the counts they are;
    /// 0 if there are none.
    ///
    /// # Errors
    /// When a value is not a number in that form.
    pub fn sum(&self, family: &str, labels: &[String]) -> Result<u64> {
        Ok(self.exact(family, labels)?.unwrap_or(0))
    }

    /// As [`Scrape::sum`], but `None` if there is no such series.
    ///
    /// # Errors
    /// When a value is not a number in that form.
    pub fn exact(&self, family: &str, labels: &[String]) -> Result<Option<u64>> {
        let counts = ["_count", "_bucket"];
        let seconds =
            family.contains("_seconds") && !counts.iter().any(|end| family.ends_with(end));
        let mut sum = None;
        for (series, value) in self.series(family, labels) {
            let number = if seconds {
                nanos(value)
            } else {
                value.parse().ok()
            };
            let number = number.with_context(|| format!("bad value in `{series} {value}`"))?;
            sum = Some(sum.unwrap_or(0) + number);
        }
        Ok(sum)
    }

    /// Growth of the sum of those series since another scrape.
    ///
    /// # Errors
    /// When it fell, or a value is not a number in that form.
    pub fn grown(&self, since: &Self, family: &str, labels: &[String]) -> Result<u64> {
        let (then, now) = (since.sum(family, labels)?, self.sum(family, labels)?);
        now.checked_sub(then)
            .with_context(|| format!("{family} with {labels:?} fell from {then} to {now}"))
    }
}

/// Converts seconds such as `1.5` to nanoseconds.
fn nanos(value: &str) -> Option<u64> {
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let part = format!("{part:0<9}");
    let whole: u64 = whole.parse().ok()?;
    (part.len() == 9)
        .then(|| Some(whole * 1_000_000_000 + part.parse::<u64>().ok()?))
        .flatten()
}

/// Formats a label: `name="value"`.
#[must_use]
pub fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::{Scrape, label};

    #[test]
    fn sums_are_exact_and_absent_is_not_zero() {
        let text = "# HELP x\nx_seconds_total{a=\"1\",b=\"2\"} 1.000000001\nx_seconds_total{a=\"1\",b=\"3\"} 2\nx_seconds_totals 9\nx_seconds_count{a=\"1\"} 7\n";
        let scrape = Scrape(text.to_owned());
        let one = [label("a", "1")];
        assert_eq!(
            scrape.exact("x_seconds_total", &one).unwrap(),
            Some(3_000_000_001)
        );
        assert_eq!(scrape.exact("x_seconds_count", &one).unwrap(), Some(7));
        assert_eq!(
            scrape.exact("x_seconds_total", &[label("a", "4")]).unwrap(),
            None
        );
        let bad = Scrape("x_seconds_total 1e-9\n".to_owned());
        assert!(bad.exact("x_seconds_total", &[]).is_err());
    }
}
