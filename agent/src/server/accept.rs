//! Content negotiation: the exposition format that a scraper asks for.

use crate::exposition::Format;

/// Chooses the format by the `Accept` header. A client that asks for neither gets the text, which every scraper reads.
#[must_use]
pub fn negotiate(accept: &str) -> Format {
    let mut open_metrics = 0;
    let mut text = 0;
    for range in accept.split(',') {
        let mut parameters = range.split(';').map(str::trim);
        let media_type = parameters.next().unwrap_or_default();
        let mut quality = 1000;
        let mut version = None;
        for parameter in parameters {
            match parameter
                .split_once('=')
                .map(|(name, value)| (name.trim(), value.trim()))
            {
                Some((name, value)) if name.eq_ignore_ascii_case("q") => {
                    quality = thousandths(value);
                }
                Some((name, value)) if name.eq_ignore_ascii_case("version") => {
                    version = Some(value.trim_matches('"'));
                }
                // `charset`, `escaping`: names here need no escaping, and all text is UTF-8.
                _ => {}
            }
        }
        let best = if media_type.eq_ignore_ascii_case("application/openmetrics-text") {
            // Scrapers that know only 0.0.1 get the text, which all of them accept as well.
            matches!(version, None | Some("1.0.0")).then_some(&mut open_metrics)
        } else if media_type.eq_ignore_ascii_case("text/plain") {
            matches!(version, None | Some("0.0.4")).then_some(&mut text)
        } else {
            // `*/*` and the like match both formats, so they decide nothing.
            None
        };
        if let Some(best) = best {
            *best = quality.max(*best);
        }
    }
    if open_metrics > 0 && open_metrics >= text {
        Format::OpenMetrics
    } else {
        Format::Text
    }
}

/// Converts a q-value to thousandths; an invalid one counts as 0.
fn thousandths(value: &str) -> u16 {
    value
        .parse::<f32>()
        .ok()
        .filter(|q| (0.0..=1.0).contains(q))
        .map_or(0, |q| {
            // The filter keeps it between 0 and 1000.
            #[allow(clippy::cast_sign_loss)]
            let thousandths = (q * 1000.0) as u16;
            thousandths
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_what_they_prefer() {
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
            ("text/plain", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                Format::OpenMetrics,
            ),
            (
                "Application/OpenMetrics-Text;Version=\"1.0.0\";Q=1",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            (
                "application/openmetrics-text;version=1.0.0;q=0",
                Format::Text,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0.2,text/plain;version=0.0.4;q=0.3",
                Format::Text,
            ),
            ("application/openmetrics-text;q=high", Format::Text),
            (";;,,=;q", Format::Text),
            // The headers of Prometheus 2.26, 2.45 and 3.5.
            (
                "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::Text,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0.75,application/openmetrics-text;version=0.0.1;q=0.5,\
                 text/plain;version=0.0.4;q=0.4,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(negotiate(accept), expected, "{accept}");
        }
    }
}
