//! Prometheus' own parsers on a scrape, where they are installed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use stallscope::exposition::Format;

use super::parser::parse;
use super::{FORMATS, scrape};

/// Pipes `input` into a command; `None` if it is not installed.
fn pipe(command: &mut Command, input: &str) -> Option<(bool, String)> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // A child that fails at once closes its end. Its exit code gives the reason.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    Some((output.status.success(), text))
}

#[test]
fn promtool_accepts_the_text() {
    match pipe(
        Command::new("promtool").args(["check", "metrics"]),
        &scrape(Format::Text),
    ) {
        Some((success, text)) => assert!(success, "{text}"),
        None => {
            eprintln!("skipped: promtool is not installed (Debian: apt-get install prometheus)");
        }
    }
}

#[test]
fn prometheus_client_reads_the_same() {
    let script = |format| {
        let module = if format == Format::Text {
            "parser"
        } else {
            "openmetrics.parser"
        };
        format!(
            "import sys\n\
             try:\n from prometheus_client.{module} import text_string_to_metric_families as parse\n\
             except ImportError: sys.exit(77)\n\
             text = open(0, newline='').read()\n\
             for family in parse(text):\n for s in family.samples: print(repr((s.name, sorted(s.labels.items()))), s.value)\n"
        )
    };
    let mut outputs = Vec::new();
    for format in FORMATS {
        match pipe(
            Command::new("python3").args(["-c", &script(format)]),
            &scrape(format),
        ) {
            Some((true, text)) => outputs.push(text),
            Some((false, text)) if text.is_empty() => {
                return eprintln!(
                    "skipped: prometheus_client is not installed (pip install prometheus_client)"
                );
            }
            Some((false, text)) => panic!("{format:?}: {text}"),
            None => return eprintln!("skipped: python3 is not installed"),
        }
    }
    let families = parse(&scrape(Format::Text), Format::Text).unwrap();
    let series: usize = families.iter().map(|family| family.samples.len()).sum();
    assert_eq!(outputs[0].lines().count(), series);
    assert_eq!(outputs[0], outputs[1], "both formats give the same series");
}
