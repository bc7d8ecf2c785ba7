//! Round trips: the parser reads back everything that the encoder writes.

use bytes::BytesMut;
use proptest::prelude::*;
use stallscope::exposition::metric::Value;
use stallscope::exposition::{Encoder, OwnerLabels};

use super::parser::parse;
use super::{FORMATS, STALL, WAIT};

proptest! {
    #[test]
    fn label_values_round_trip(
        owner: [String; 4],
        causes in proptest::collection::btree_set(any::<String>(), 1..8),
        nanoseconds: u64,
    ) {
        let causes: Vec<_> = causes.iter().map(String::as_str).collect();
        round_trip(&owner.each_ref().map(String::as_str), &causes, nanoseconds);
    }

    #[test]
    fn awkward_label_values_round_trip(owner: [String; 4], cause in r#"[\\"\n,={} n]{0,255}"#) {
        round_trip(&owner.each_ref().map(String::as_str), &[&cause], 1);
        round_trip(&[&cause; 4], &[&cause], 1);
    }

    #[test]
    fn histograms_add_up(
        counts in proptest::collection::vec(0_u64..1 << 40, 1..30),
        sum: u64,
        node: String,
    ) {
        add_up(&counts, sum, &node);
    }
}

fn round_trip(owner: &[&str; 4], causes: &[&str], nanoseconds: u64) {
    let labels = OwnerLabels::new(owner[0], owner[1], owner[2], owner[3]);
    for format in FORMATS {
        let mut encoder = Encoder::new(format, BytesMut::new());
        let mut family = encoder.family(&STALL);
        for cause in causes {
            family.sample(Some(&labels), &[cause], Value::Nanoseconds(nanoseconds));
        }
        let text = String::from_utf8(encoder.finish().to_vec()).unwrap();
        let families = parse(&text, format).unwrap();
        assert_eq!(families[0].samples.len(), causes.len());
        for (sample, cause) in families[0].samples.iter().zip(causes) {
            let names = OwnerLabels::NAMES.into_iter().chain(["cause"]);
            let expected: Vec<_> = names
                .zip(owner.iter().chain([cause]))
                .map(|(n, v)| (n.to_owned(), (*v).to_owned()))
                .collect();
            assert_eq!(sample.labels, expected);
        }
    }
}

#[test]
fn names_of_255_bytes_fit() {
    let name = "\\\"\n\u{1f980}".repeat(255 / 7);
    round_trip(
        &[
            &name,
            &"a".repeat(255),
            &"\\".repeat(255),
            &"\n".repeat(255),
        ],
        &[&"\"".repeat(255)],
        1,
    );
}

fn add_up(counts: &[u64], sum: u64, node: &str) {
    let bounds: Vec<u64> = (1..counts.len()).map(|power| 1_000 << power).collect();
    let seconds: Vec<f64> = bounds.iter().map(|bound| *bound as f64 / 1e9).collect();
    let owner = OwnerLabels::new("", "", "", "/");
    for format in FORMATS {
        let mut encoder = Encoder::new(format, BytesMut::new());
        encoder
            .family(&WAIT)
            .histogram(Some(&owner), &[node], &bounds, counts, sum);
        assert_eq!(encoder.series(), counts.len() + 2);
        let text = String::from_utf8(encoder.finish().to_vec()).unwrap();
        let families = parse(&text, format).unwrap();
        let samples = &families[0].samples;
        let mut total = 0;
        for (at, count) in counts.iter().enumerate() {
            total += count;
            let sample = &samples[at];
            assert_eq!(sample.value.parse::<u64>().unwrap(), total);
            assert_eq!(sample.label("node"), Some(node));
            let le: f64 = sample.label("le").unwrap().parse().unwrap();
            assert_eq!(
                le.to_bits(),
                seconds.get(at).unwrap_or(&f64::INFINITY).to_bits()
            );
        }
        let exact = format!("{}.{:09}", sum / 1_000_000_000, sum % 1_000_000_000);
        assert_eq!(
            samples[counts.len()].number().to_bits(),
            exact.parse::<f64>().unwrap().to_bits()
        );
        assert_eq!(
            samples[counts.len() + 1].value.parse::<u64>().unwrap(),
            total
        );
    }
}
