//! Alerts: each says what it means, leads to a page, is tested and asks for what exists.

use super::{assert_metrics_exist, files, metrics, read};

struct Alert {
    name: String,
    text: String,
}

fn alerts() -> Vec<Alert> {
    let text = read("dashboards/alerts.yaml");
    let alerts: Vec<Alert> = text
        .split("- alert: ")
        .skip(1)
        .map(|text| Alert {
            name: text.lines().next().unwrap_or_default().to_owned(),
            text: text.to_owned(),
        })
        .collect();
    assert!(!alerts.is_empty());
    alerts
}

#[test]
fn every_alert_waits_and_says_what_it_means() {
    for Alert { name, text } in alerts() {
        for part in ["expr: ", "for: ", "summary: ", "description: "] {
            assert_eq!(
                text.matches(&format!(" {part}")).count(),
                1,
                "{name}: {part}"
            );
        }
        let severities = ["info", "warning", "critical"];
        let severe = severities
            .iter()
            .filter(|severity| text.contains(&format!("severity: {severity}\n")))
            .count();
        assert_eq!(severe, 1, "{name}: severity is one of {severities:?}");
    }
}

#[test]
fn every_alert_leads_to_a_page_and_every_page_is_an_alerts() {
    let mut pages: Vec<String> = Vec::new();
    for Alert { name, text } in alerts() {
        let page = format!("docs/runbooks/{name}.md");
        assert!(text.contains(&format!("runbook_url: {page}\n")), "{name}");
        let page = read(&page);
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        for heading in ["## What it means", "## How to confirm", "## What to do"] {
            assert!(
                page.contains(&format!("\n{heading}\n")),
                "{name}: {heading}"
            );
        }
        assert!(page.contains("```console\n"), "{name}: no commands");
        pages.push(format!("{name}.md"));
    }
    pages.sort();
    let kept: Vec<String> = files("docs/runbooks", "md")
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    assert_eq!(kept, pages);
}

#[test]
fn every_alert_is_seen_to_fire_and_not_to_fire() {
    let tests: String = files("dashboards/tests", "yaml")
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("it is there"))
        .collect();
    for Alert { name, .. } in alerts() {
        let seen: Vec<bool> = tests
            .split(&format!("alertname: {name}\n"))
            .skip(1)
            .map(|after| after.trim_start().starts_with("exp_alerts:"))
            .collect();
        assert!(seen.contains(&true), "{name} is not seen to fire");
        assert!(seen.contains(&false), "{name} is not seen to wait");
    }
}

#[test]
fn the_alerts_ask_for_metrics_that_exist() {
    assert_metrics_exist(&metrics(&read("dashboards/alerts.yaml")));
}
