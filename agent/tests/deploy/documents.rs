//! Consistency of pages and manifests with each other and with the program.

use super::{files, promtool, read};

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the blocks of a page in that language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    page.split(&format!("```{language}\n"))
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .collect()
}

#[test]
fn the_expressions_of_the_page_are_those_that_are_tested() {
    let page = read("docs/kubernetes.md");
    let tests = read("dashboards/tests/joins.yaml");
    let tested: Vec<String> = tests
        .split("- expr: |\n")
        .skip(1)
        .filter_map(|rest| rest.split("eval_time:").next())
        .map(words)
        .collect();
    let shown: Vec<String> = blocks(&page, "promql").into_iter().map(words).collect();
    assert!(!shown.is_empty());
    assert_eq!(shown, tested);
}

#[test]
fn prometheus_takes_the_configuration_of_the_page() {
    let page = read("docs/kubernetes.md");
    let configuration = blocks(&page, "yaml")
        .into_iter()
        .find(|block| block.starts_with("scrape_configs:"))
        .expect("the page shows how to scrape");
    // Debian's promtool is built without Kubernetes service discovery.
    let discovery =
        "kubernetes_sd_configs:\n      - role: pod\n        namespaces: {names: [stallscope]}\n";
    assert!(configuration.contains(discovery), "{configuration}");
    let configuration =
        configuration.replace(discovery, "static_configs: [{targets: [agent:9750]}]\n");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("prometheus.yaml");
    std::fs::write(&file, configuration).expect("it is written");
    if let Some(text) = promtool(&["check", "config", file.to_str().expect("a name in UTF-8")]) {
        assert!(text.contains("is valid prometheus config file"), "{text}");
    }
}

#[test]
fn the_manifests_use_options_that_exist() {
    let reference = read("docs/cli.md");
    let run = reference
        .split("## `stallscope run`")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .expect("the page says what `run` takes");
    for variant in ["files", "api"] {
        let manifest = read(&format!("deploy/kubernetes/{variant}/daemonset.yaml"));
        let options: Vec<&str> = manifest
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- --"))
            .filter_map(|option| option.split('=').next())
            .collect();
        assert!(options.len() > 3, "{variant}: {options:?}");
        for option in options {
            let known = run.lines().any(|line| {
                line.trim_start()
                    .strip_prefix("--")
                    .and_then(|line| line.split([' ', '=']).next())
                    == Some(option)
            });
            assert!(
                known,
                "{variant}: --{option} is no option of `stallscope run`"
            );
        }
    }
}

#[test]
fn every_value_of_the_chart_is_in_its_page() {
    let values = read("deploy/helm/stallscope/values.yaml");
    let page = read("deploy/helm/stallscope/README.md");
    let keys: Vec<&str> = values
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()))
        .filter_map(|line| line.split(':').next())
        .collect();
    assert!(keys.len() > 30);
    for key in keys {
        let named = [format!("`{key}`"), format!("`{key}.")];
        assert!(
            named.iter().any(|name| page.contains(name)),
            "{key} is not explained"
        );
    }
}

#[test]
fn links_of_the_pages_lead_somewhere() {
    let mut pages = files("docs/runbooks", "md");
    pages.push(super::root().join("docs/kubernetes.md"));
    pages.push(super::root().join("deploy/helm/stallscope/README.md"));
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("the page is there");
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = page.parent().expect("a folder").join(target);
            assert!(path.exists(), "{}: {target}", page.display());
        }
    }
}
