//! Alerts: each says what it means, links to a page, has a test and uses existing series.

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

/// Returns the alerts on time that workloads lose, which are those that read the recording rules.
fn of_workloads() -> Vec<Alert> {
    let found: Vec<Alert> = alerts()
        .into_iter()
        .filter(|alert| alert.text.contains(":stallscope_"))
        .collect();
    assert!(found.len() >= 8, "{} alerts on workloads", found.len());
    found
}

#[test]
fn the_alerts_ask_for_what_is_recorded() {
    let rules = read("dashboards/rules.yaml");
    for Alert { name, text } in of_workloads() {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        for word in words.filter(|word| word.contains(":stallscope_")) {
            let record = format!("- record: {word}\n");
            assert!(rules.contains(&record), "{name}: {word} is not recorded");
        }
    }
}

/// Returns the conditions of an alert's expression, which must all hold.
fn conditions(text: &str) -> Vec<&str> {
    let expr = text.split("for: ").next().unwrap_or_default();
    expr.split(" and\n").collect()
}

#[test]
fn no_alert_on_a_share_is_without_a_floor() {
    for Alert { name, text } in of_workloads() {
        let conditions = conditions(&text);
        for part in &conditions {
            assert!(part.contains(" > "), "{name}: no bound in {part}");
        }
        let has_floor = conditions
            .iter()
            .any(|part| !part.contains(" / ") && !part.contains(":ratio_"));
        assert!(has_floor, "{name} has a share and no floor");
    }
}

#[test]
fn hosts_without_trouble_are_seen_to_be_quiet() {
    let tests = read("dashboards/tests/quiet-hosts.yaml");
    assert!(!tests.contains("exp_alerts:"));
    let hosts: Vec<&str> = tests.split("  - name: ").skip(1).collect();
    assert!(hosts.iter().any(|host| host.starts_with("an idle host")));
    assert!(hosts.iter().any(|host| host.starts_with("a busy host")));
    for Alert { name, .. } in of_workloads() {
        for host in &hosts {
            let asked = host.contains(&format!("alertname: {name}\n"));
            assert!(asked, "{name} on {}", host.lines().next().unwrap_or(host));
        }
    }
}

#[test]
fn pages_about_workloads_confirm_with_the_agent_and_the_dashboards() {
    let dashboards = read("docs/dashboards.md");
    for Alert { name, .. } in of_workloads() {
        let page = read(&format!("docs/runbooks/{name}.md"));
        for named in ["stallscope top", "The dashboard *"] {
            assert!(page.contains(named), "{name}: {named}");
        }
        let explained = page.contains("stallscope explain --pod NS/POD --at TIME --window 60s");
        assert!(explained, "{name}: no explanation is asked for");
        let (_, remedies) = page.split_once("## What to do\n").expect("remedies");
        assert!(remedies.len() > 300, "{name}: {remedies}");
        assert!(
            dashboards.contains(&format!("[{name}](runbooks/{name}.md)")),
            "{name}"
        );
    }
}
