//! Expositions: golden scrapes, round trips, and the parsers of Prometheus itself where they are installed.

// Clippy counts only the test functions themselves as tests, not the code they share.
#![allow(clippy::unwrap_used)]

#[path = "exposition/definitions.rs"]
mod definitions;
#[path = "exposition/parser.rs"]
mod parser;
#[path = "exposition/parsers_of_others.rs"]
mod parsers_of_others;
#[path = "exposition/round_trip.rs"]
mod round_trip;

use std::fmt::Write as _;
use std::path::Path;

use bytes::BytesMut;
use parser::parse;
use stallscope::exposition::metric::{Kind, Metric, Scope, Value};
use stallscope::exposition::{Encoder, Format, OwnerLabels, opts, reference};

const FORMATS: [Format; 2] = [Format::Text, Format::OpenMetrics];

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    scope: Scope,
) -> Metric {
    Metric {
        name,
        kind,
        help: "Says \"what\" it is.",
        labels,
        scope,
        source: "`cpu.stat`",
    }
}

static STALL: Metric = metric(
    "stallscope_stall_seconds_total",
    Kind::Counter,
    &["cause"],
    Scope::Owner,
);
static THREADS: Metric = metric("stallscope_threads", Kind::Gauge, &[], Scope::Owner);
static WAIT: Metric = metric(
    "stallscope_wait_seconds",
    Kind::Histogram,
    &["node"],
    Scope::Owner,
);
static SCAN: Metric = metric("stallscope_scan_seconds", Kind::Histogram, &[], Scope::Host);
static HOST: Metric = metric(
    "stallscope_host_info",
    Kind::Info,
    &["kernel", "arch"],
    Scope::Host,
);
static FREE: Metric = metric("stallscope_free_bytes", Kind::Gauge, &[], Scope::Host);
static SILENT: Metric = metric("stallscope_silent_total", Kind::Counter, &[], Scope::Host);
static SWITCHES: Metric = metric("stallscope_switches_total", Kind::Counter, &[], Scope::Host);
static REQUESTS: Metric = metric(
    "stallscope_requests_total",
    Kind::Counter,
    &["code"],
    Scope::Host,
);
static COLLECT: Metric = metric(
    "stallscope_collect_duration_seconds",
    Kind::Histogram,
    &[],
    Scope::Host,
);

const ALL: [&Metric; 10] = [
    &STALL, &THREADS, &WAIT, &SCAN, &HOST, &FREE, &SILENT, &SWITCHES, &REQUESTS, &COLLECT,
];

/// Encodes a scrape with every kind, scope and awkward value.
fn scrape(format: Format) -> String {
    let cart = OwnerLabels::new(
        "shop",
        "cart-0",
        "server",
        "/kubepods.slice/kubepods-pod1.slice/cri-1.scope",
    );
    let unit = OwnerLabels::new("", "", "", "/system.slice/a\"quoted\" \\x2d\nname.service");
    let registry = prometheus::Registry::new();
    let requests = prometheus::IntCounterVec::new(opts(&REQUESTS), REQUESTS.labels).unwrap();
    requests.with_label_values(&["200"]).inc_by(3);
    let collect = prometheus::HistogramOpts::from(opts(&COLLECT))
        .buckets(vec![0.000_01, 0.001, 0.1, 1.0, 10.0]);
    let collect = prometheus::Histogram::with_opts(collect).unwrap();
    collect.observe(0.0025);
    collect.observe(20.0);
    registry.register(Box::new(requests)).unwrap();
    registry.register(Box::new(collect)).unwrap();

    let mut encoder = Encoder::new(format, BytesMut::new());
    let mut stall = encoder.family(&STALL);
    for (owner, nanoseconds) in [(&cart, 1_500_000_001), (&unit, 0)] {
        stall.sample(Some(owner), &["throttled"], Value::Nanoseconds(nanoseconds));
        stall.sample(Some(owner), &["unattributed"], Value::Nanoseconds(u64::MAX));
    }
    encoder
        .family(&THREADS)
        .sample(Some(&cart), &[], Value::Count(64));
    let bounds = [1_000, 1_000_000, 1_000_000_000, 10_000_000_000];
    encoder.family(&WAIT).histogram(
        Some(&cart),
        &["0"],
        &bounds,
        &[1, 0, 2, 0, 3],
        45_250_000_000,
    );
    encoder
        .family(&SCAN)
        .histogram(None, &[], &bounds[1..3], &[0, 0, 0], 0);
    encoder
        .family(&HOST)
        .sample(None, &["6.18", "x86_64"], Value::Count(1));
    encoder.family(&FREE).sample(None, &[], Value::Float(0.1));
    encoder
        .family(&SWITCHES)
        .sample(None, &[], Value::Count(u64::MAX));
    let _ = encoder.family(&SILENT);
    encoder.registry(&registry);
    let series = encoder.series();
    let text = String::from_utf8(encoder.finish().to_vec()).unwrap();
    assert_eq!(
        series,
        text.lines().filter(|line| !line.starts_with('#')).count()
    );
    text
}

/// Compares with a golden file. `UPDATE_GOLDEN=1` accepts the current output.
fn compare_with_golden(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/exposition")
        .join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == actual,
        "{} differs; this was written:\n{actual}",
        path.display()
    );
}

#[test]
fn text_is_golden() {
    compare_with_golden("golden.txt", &scrape(Format::Text));
}

#[test]
fn openmetrics_is_golden() {
    compare_with_golden("golden.openmetrics", &scrape(Format::OpenMetrics));
}

#[test]
fn reference_is_golden() {
    compare_with_golden("golden-reference.md", &reference(&ALL));
}

#[test]
fn both_formats_say_the_same() {
    let [text, open] = FORMATS.map(|format| parse(&scrape(format), format).unwrap());
    let series = |families: &[parser::Family]| -> Vec<_> {
        families
            .iter()
            .flat_map(|f| &f.samples)
            .map(|s| (s.name.clone(), s.labels.clone(), s.value.clone()))
            .collect()
    };
    assert_eq!(series(&text), series(&open));
    assert!(
        text.iter()
            .chain(&open)
            .all(|family| family.help == "Says \"what\" it is.")
    );
    let unit = |name: &str| {
        open.iter()
            .find(|family| family.name == name)
            .unwrap()
            .unit
            .as_deref()
    };
    assert_eq!(unit("stallscope_stall_seconds"), Some("seconds"));
    assert_eq!(unit("stallscope_free_bytes"), Some("bytes"));
    assert_eq!(unit("stallscope_threads"), None);
}

#[test]
fn a_family_without_samples_leaves_no_trace() {
    for format in FORMATS {
        assert!(!scrape(format).contains("silent"));
        let mut encoder = Encoder::new(format, BytesMut::new());
        let _ = encoder.family(&SILENT);
        let expected: &[u8] = if format == Format::Text {
            b""
        } else {
            b"# EOF\n"
        };
        assert_eq!(encoder.finish(), expected);
    }
}

#[test]
fn the_scrape_is_appended_to_the_buffer() {
    let mut encoder = Encoder::new(Format::Text, BytesMut::from("before\n".as_bytes()));
    encoder.family(&SWITCHES).sample(None, &[], Value::Count(1));
    assert!(encoder.finish().starts_with(b"before\n# HELP"));
}

/// A family that is opened twice panics in a debug build. A release build drops its samples.
#[test]
fn a_family_is_opened_once() {
    static CLASHING: Metric = metric("stallscope_switches", Kind::Gauge, &[], Scope::Host);
    for again in [&SWITCHES, &CLASHING] {
        let text = std::panic::catch_unwind(|| {
            let mut encoder = Encoder::new(Format::Text, BytesMut::new());
            encoder.family(&SWITCHES).sample(None, &[], Value::Count(1));
            encoder.family(again).sample(None, &[], Value::Count(2));
            encoder.finish()
        });
        if cfg!(debug_assertions) {
            assert!(text.is_err(), "opening {} again is noticed", again.name);
        } else {
            let text = String::from_utf8(text.unwrap().to_vec()).unwrap();
            assert_eq!(parse(&text, Format::Text).unwrap().len(), 1);
        }
    }
}

#[test]
fn duplicate_series_are_found_by_the_parser() {
    let mut encoder = Encoder::new(Format::Text, BytesMut::new());
    let mut family = encoder.family(&SWITCHES);
    family.sample(None, &[], Value::Count(1));
    family.sample(None, &[], Value::Count(2));
    let text = String::from_utf8(encoder.finish().to_vec()).unwrap();
    assert!(parse(&text, Format::Text).unwrap_err().contains("twice"));
}

/// `cargo test --release --test exposition -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn forty_thousand_lines() {
    const CAUSES: [&str; 8] = [
        "throttled",
        "own",
        "neighbour",
        "kswapd",
        "kcompactd",
        "khugepaged",
        "idle",
        "unattributed",
    ];
    let owners: Vec<_> = (0..5_000)
        .map(|n| {
            let mut cgroup =
                String::from("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod");
            let _ = write!(cgroup, "{n:032x}.slice/cri-containerd-{n:064x}.scope");
            OwnerLabels::new(
                "production",
                &format!("checkout-7d9c5b8f6d-{n:05}"),
                "server",
                &cgroup,
            )
        })
        .collect();
    for format in FORMATS {
        let mut buffer = BytesMut::new();
        let mut times = Vec::new();
        let mut size = 0;
        for _ in 0..50 {
            let start = std::time::Instant::now();
            let mut encoder = Encoder::new(format, buffer);
            let mut family = encoder.family(&STALL);
            for (n, owner) in owners.iter().enumerate() {
                for cause in CAUSES {
                    family.sample(
                        Some(owner),
                        &[cause],
                        Value::Nanoseconds(n as u64 * 1_234_567_891),
                    );
                }
            }
            assert_eq!(encoder.series(), 40_000);
            buffer = encoder.finish();
            times.push(start.elapsed());
            size = buffer.len();
            buffer.clear();
        }
        let first = times[0];
        times.sort();
        println!(
            "{format:?}: {size} bytes, first {first:?}, best {:?}, median {:?}",
            times[0], times[25]
        );
    }
}
