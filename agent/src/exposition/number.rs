//! Formatting of numbers, exact where the value was an integer.

use std::io::Write as _;

use bytes::BufMut;

use crate::exposition::metric::Value;

/// Decimal exponents that Go's `%g`, and so OpenMetrics, writes in fixed form; all others are in scientific form.
const FIXED_EXPONENTS: std::ops::Range<i32> = -4..6;

/// Appends a sample's value.
pub(super) fn put_value(out: &mut impl BufMut, value: Value) {
    match value {
        Value::Count(count) => put_integer(out, count),
        Value::Nanoseconds(nanoseconds) => put_seconds(out, nanoseconds),
        Value::Float(float) => put_float(out, float),
    }
}

/// Appends an integer.
pub(super) fn put_integer(out: &mut impl BufMut, integer: u64) {
    out.put_slice(itoa::Buffer::new().format(integer).as_bytes());
}

/// Appends nanoseconds as seconds, without trailing zeros.
pub(super) fn put_seconds(out: &mut impl BufMut, nanoseconds: u64) {
    put_integer(out, nanoseconds / 1_000_000_000);
    let mut rest = nanoseconds % 1_000_000_000;
    if rest == 0 {
        return;
    }
    let mut text = *b".000000000";
    for digit in text[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.put_slice(without_zeros(&text));
}

/// Appends a float: an integer without a point, another value in the fewest digits that parse to the same float.
pub(super) fn put_float(out: &mut impl BufMut, float: f64) {
    // Beyond 2^53 the digits of an integer would claim more precision than the float has.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if float.fract() == 0.0 && (-EXACT..=EXACT).contains(&float) {
        out.put_slice(itoa::Buffer::new().format(float as i64).as_bytes());
    } else {
        put_shortest(out, float);
    }
}

/// Appends a bucket's bound in the canonical form of OpenMetrics.
///
/// Both formats get the same text: a scraper that is offered another format must find the same series.
pub(super) fn put_bound(out: &mut impl BufMut, bound: f64) {
    if put_shortest(out, bound) {
        out.put_slice(b".0");
    }
}

/// Appends a bucket's bound, given in nanoseconds, as seconds in the canonical form of OpenMetrics.
pub(super) fn put_bound_seconds(out: &mut impl BufMut, nanoseconds: u64) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(nanoseconds).as_bytes();
    // The decimal exponent of the first digit: the last digit counts nanoseconds.
    let exponent = nanoseconds
        .checked_ilog10()
        .map_or(0, |exponent| exponent.cast_signed() - 9);
    if put_decimal(out, digits, exponent) {
        out.put_slice(b".0");
    }
}

/// Appends a float in its shortest form. Returns whether the text looks like an integer.
fn put_shortest(out: &mut impl BufMut, float: f64) -> bool {
    if !float.is_finite() {
        out.put_slice(match (float.is_nan(), float > 0.0) {
            (true, _) => b"NaN".as_slice(),
            (_, true) => b"+Inf",
            (_, false) => b"-Inf",
        });
        return false;
    }
    // Rust's scientific form has the shortest digits; the rest of the work is to lay them out as Go does.
    let mut text = [0; 32];
    let mut unused = text.as_mut_slice();
    // The longest float fits: 17 digits, point, signs and exponent.
    let _ = write!(unused, "{float:e}");
    let unused = unused.len();
    let text = &text[..text.len() - unused];
    let (mantissa, exponent) = match text.iter().position(|byte| *byte == b'e') {
        Some(at) => (
            &text[..at],
            std::str::from_utf8(&text[at + 1..])
                .ok()
                .and_then(|e| e.parse().ok())
                .unwrap_or(0),
        ),
        None => (text, 0),
    };
    let mut digits = [0; 32];
    let mut count = 0;
    for byte in mantissa.iter().filter(|byte| byte.is_ascii_digit()) {
        digits[count] = *byte;
        count += 1;
    }
    if mantissa.first() == Some(&b'-') {
        out.put_u8(b'-');
    }
    put_decimal(out, &digits[..count], exponent)
}

/// Appends `d.ddd * 10^exponent`. Returns whether the text looks like an integer.
fn put_decimal(out: &mut impl BufMut, digits: &[u8], exponent: i32) -> bool {
    let digits = without_zeros(digits);
    if !FIXED_EXPONENTS.contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        out.put_slice(first);
        if !rest.is_empty() {
            out.put_u8(b'.');
            out.put_slice(rest);
        }
        out.put_slice(if exponent < 0 { b"e-" } else { b"e+" });
        // Go writes at least two digits.
        if exponent.abs() < 10 {
            out.put_u8(b'0');
        }
        put_integer(out, exponent.unsigned_abs().into());
        return false;
    }
    let Ok(exponent) = usize::try_from(exponent) else {
        out.put_slice(&b"0.0000"[..=exponent.unsigned_abs() as usize]);
        out.put_slice(digits);
        return false;
    };
    let whole = digits.len().min(exponent + 1);
    out.put_slice(&digits[..whole]);
    out.put_bytes(b'0', exponent + 1 - whole);
    if whole < digits.len() {
        out.put_u8(b'.');
        out.put_slice(&digits[whole..]);
        return false;
    }
    true
}

/// Cuts trailing zeros off, but leaves one digit.
fn without_zeros(digits: &[u8]) -> &[u8] {
    let last = digits.iter().rposition(|digit| *digit != b'0').unwrap_or(0);
    &digits[..=last]
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn text(put: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn seconds_are_exact() {
        for (nanoseconds, expected) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_000_000_000, "1"),
            (1_500_000_000, "1.5"),
            (12_000_000_340, "12.00000034"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(text(|out| put_seconds(out, nanoseconds)), expected);
        }
    }

    /// The examples in OpenMetrics 1.0.0, "Canonical Numbers".
    #[test]
    fn bounds_are_canonical() {
        for (nanoseconds, expected) in [
            (0, "0.0"),
            (1, "1e-09"),
            (1_000, "1e-06"),
            (10_000, "1e-05"),
            (100_000, "0.0001"),
            (1_000_000, "0.001"),
            (2_000_000, "0.002"),
            (100_000_000, "0.1"),
            (1_000_000_000, "1.0"),
            (2_500_000_000, "2.5"),
            (10_000_000_000, "10.0"),
            (100_000_000_000_000, "100000.0"),
            (1_000_000_000_000_000, "1e+06"),
            (10_000_000_000_000_000_000, "1e+10"),
            (4_096, "4.096e-06"),
            (131_072, "0.000131072"),
            (1_073_741_824, "1.073741824"),
            (1_234_567_000_000_000, "1.234567e+06"),
        ] {
            assert_eq!(text(|out| put_bound_seconds(out, nanoseconds)), expected);
            assert_eq!(
                text(|out| put_bound(out, nanoseconds as f64 / 1e9)),
                expected
            );
        }
        assert_eq!(text(|out| put_bound(out, f64::INFINITY)), "+Inf");
    }

    #[test]
    fn floats_are_short() {
        for (float, expected) in [
            (0.0, "0"),
            (-1.0, "-1"),
            (0.1, "0.1"),
            (-0.25, "-0.25"),
            (12_345_678.0, "12345678"),
            (1e300, "1e+300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(text(|out| put_float(out, float)), expected);
        }
    }

    proptest! {
        #[test]
        fn seconds_give_the_nanoseconds_back(nanoseconds: u64) {
            let text = text(|out| put_seconds(out, nanoseconds));
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let fraction: u64 = format!("{fraction:0<9}").parse().unwrap();
            prop_assert_eq!(whole.parse::<u64>().unwrap() * 1_000_000_000 + fraction, nanoseconds);
        }

        #[test]
        fn floats_give_themselves_back(float: f64) {
            for text in [text(|out| put_float(out, float)), text(|out| put_bound(out, float))] {
                prop_assert_eq!(text.parse::<f64>().unwrap().partial_cmp(&float), Some(Ordering::Equal));
            }
        }

        #[test]
        fn bounds_give_themselves_back(nanoseconds in 0..1_u64 << 53) {
            let text = text(|out| put_bound_seconds(out, nanoseconds));
            let seconds = nanoseconds as f64 / 1e9;
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), seconds.to_bits());
            prop_assert!(text.contains(['.', 'e']));
        }
    }
}
