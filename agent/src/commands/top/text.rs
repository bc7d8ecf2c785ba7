//! Formatting of names and numbers for a terminal.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

pub(super) use crate::text::printable::line as safe;

/// Cuts a text to at most `width` cells, in the middle: both ends of a name carry more information.
pub(super) fn clip(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let Some(left) = width.checked_sub(1) else {
        return String::new();
    };
    let head = fitting(text.chars(), left.div_ceil(2));
    let tail = fitting(text.chars().rev(), left / 2);
    let tail: String = tail.chars().rev().collect();
    format!("{head}…{tail}")
}

fn fitting(chars: impl Iterator<Item = char>, width: usize) -> String {
    let mut left = width;
    chars
        .map_while(|c| {
            left = left.checked_sub(c.width().unwrap_or(0))?;
            Some(c)
        })
        .collect()
}

/// Formats a number with at most three significant digits.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// Formats seconds with their unit: milliseconds below one second.
pub(super) fn seconds(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value < 0.9995 {
        format!("{:.0}ms", (value * 1000.0).max(1.0))
    } else {
        format!("{}s", short(value))
    }
}

/// Formats a count in at most five characters, if it is below 10^12.
pub(super) fn count(value: u64) -> String {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match units.into_iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) if value >= 10_000 => {
            format!("{}{name}", short(value as f64 / unit as f64))
        }
        _ => value.to_string(),
    }
}

/// Formats a share from 0 to 1 in percent.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let decimals = usize::from(percent > 0.0 && percent < 9.95);
    format!("{percent:.decimals$}%")
}

/// Formats a CPU quota, in CPUs.
pub(super) fn cpus(value: f64) -> String {
    let text = short(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Formats a size in binary units.
pub(super) fn bytes(size: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| size >> shift > 0) {
        Some((shift, name)) => format!("{} {name}", short(size as f64 / (1_u64 << shift) as f64)),
        None => format!("{size} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_both_ends_and_their_width() {
        assert_eq!(clip("shop/cart-0 server", 18), "shop/cart-0 server");
        assert_eq!(clip("shop/cart-0 server", 9), "shop…rver");
        assert_eq!(clip("漢字漢字漢字", 8), "漢字…字");
        assert_eq!(clip("abc", 1), "…");
        assert_eq!(clip("abc", 0), "");
        for width in 0..20 {
            assert!(clip("漢a字b漢c字d漢e字", width).width() <= width);
        }
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.0001, 0.0431, 0.9996, 9.99, 41.234, 99.96, 123_456.7];
        assert_eq!(
            all.map(seconds),
            [
                "0", "1ms", "43ms", "1.00s", "9.99s", "41.2s", "100s", "123457s"
            ]
        );
        let all = [0, 999, 9_999, 10_000, 999_940, 1_250_000, 7_000_000_000];
        assert_eq!(
            all.map(count),
            ["0", "999", "9999", "10.0k", "1000k", "1.25M", "7.00G"]
        );
        assert_eq!(
            [0.0, 0.002, 0.0999, 1.0].map(percent),
            ["0%", "0.2%", "10%", "100%"]
        );
        assert_eq!([4.0, 0.4, 120.0].map(cpus), ["4", "0.4", "120"]);
        assert_eq!(
            [5, 4096, 3 << 29].map(bytes),
            ["5 B", "4.00 KiB", "1.50 GiB"]
        );
    }

    #[test]
    fn no_number_is_too_strange() {
        for value in [f64::NAN, f64::INFINITY, -1.0, f64::MAX, f64::MIN_POSITIVE] {
            let _ = (seconds(value), percent(value), cpus(value));
        }
        let _ = (count(u64::MAX), bytes(u64::MAX));
    }
}
