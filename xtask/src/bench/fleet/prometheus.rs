//! A Prometheus server with its own port and folder.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::super::agent::{free_address, request, sum};
use super::super::interrupt;
use super::super::process::Process;
use super::{Addresses, SCRAPE_SECONDS};

/// A running Prometheus. Dropping it ends the process.
pub struct Prometheus {
    pub process: Process,
    address: SocketAddr,
}

/// Prometheus's own metrics, as text.
pub struct OwnMetrics(String);

impl OwnMetrics {
    /// Returns the sum of all samples of a family.
    pub fn sum(&self, family: &str) -> f64 {
        sum(&self.0, family)
    }
}

/// Answer to a query, with its cost.
pub struct Answer {
    pub result: Vec<Value>,
    /// Samples that the query read, each counted as often as it was read.
    pub samples: f64,
    pub seconds: f64,
}

impl Prometheus {
    /// Starts Prometheus on these targets with these rules, with its data in `folder`.
    pub fn start(
        program: &Path,
        folder: &Path,
        rules: &Path,
        addresses: &Addresses,
    ) -> Result<Self> {
        let file = folder.join("prometheus.yml");
        // JSON is valid YAML.
        fs::write(&file, configuration(rules, addresses).to_string())
            .with_context(|| format!("could not write {}", file.display()))?;
        let address = free_address()?;
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(["--web.enable-admin-api", "--log.level=error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = Process::start(&mut command)?;
        Ok(Self { process, address })
    }

    /// Waits until Prometheus has scraped every agent.
    pub fn wait_until_all_are_up(&mut self, agents: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(180);
        let up = r#"sum(up{job="stallscope"})"#;
        loop {
            self.process.check("Prometheus")?;
            let count = self.value(up).unwrap_or_default();
            if (count - agents as f64).abs() < 0.5 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("after 180 s only {count} of {agents} agents were scraped");
            }
            interrupt::sleep(Duration::from_secs(1))?;
        }
    }

    pub fn own_metrics(&self) -> Result<OwnMetrics> {
        request(self.address, "GET", "/metrics").map(OwnMetrics)
    }

    /// Returns the one value that a query gives now.
    pub fn value(&self, query: &str) -> Result<f64> {
        let answer = self.query(&format!("query?query={}", escaped(query)))?;
        let value = answer
            .result
            .first()
            .and_then(|sample| sample["value"][1].as_str());
        let value = value.with_context(|| format!("nothing for {query}"))?;
        value
            .parse()
            .with_context(|| format!("{value} for {query}"))
    }

    /// Runs a query over the last `time`, with a value each `step`.
    pub fn range(&self, query: &str, time: Duration, step: Duration) -> Result<Answer> {
        let end = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .context("the clock is before 1970")?;
        let path = format!(
            "query_range?query={}&start={}&end={}&step={}",
            escaped(query),
            end.saturating_sub(time).as_secs(),
            end.as_secs(),
            step.as_secs()
        );
        self.query(&path)
    }

    fn query(&self, path: &str) -> Result<Answer> {
        let path = format!("/api/v1/{path}&stats=all");
        let answer: Value = serde_json::from_str(&request(self.address, "GET", &path)?)
            .context("Prometheus' answer is no JSON")?;
        let (data, number) = (&answer["data"], |value: &Value| {
            value.as_f64().unwrap_or_default()
        });
        Ok(Answer {
            result: data["result"].as_array().cloned().unwrap_or_default(),
            samples: number(&data["stats"]["samples"]["totalQueryableSamples"]),
            seconds: number(&data["stats"]["timings"]["evalTotalTime"]),
        })
    }

    /// Returns the time that each group of rules took last, in seconds.
    pub fn rule_groups(&self) -> Result<Vec<(String, f64)>> {
        let text = request(self.address, "GET", "/api/v1/rules")?;
        let answer: Value = serde_json::from_str(&text)?;
        let groups = answer["data"]["groups"].as_array().cloned();
        let groups = groups.unwrap_or_default().into_iter().map(|group| {
            let mut rules = group["rules"].as_array().into_iter().flatten();
            if let Some(rule) = rules.find(|rule| rule["health"] != "ok") {
                bail!("the rule {} fails: {}", rule["name"], rule["lastError"]);
            }
            let name = group["name"].as_str().unwrap_or_default();
            let name = name.trim_start_matches("stallscope-").replace('-', "_");
            Ok((name, group["evaluationTime"].as_f64().unwrap_or(f64::NAN)))
        });
        groups.collect()
    }

    /// Writes all data as blocks and returns their folder below `snapshots`.
    pub fn snapshot(&self) -> Result<String> {
        let text = request(self.address, "POST", "/api/v1/admin/tsdb/snapshot")?;
        let answer: Value = serde_json::from_str(&text)?;
        let name = answer["data"]["name"].as_str();
        name.map(str::to_owned)
            .with_context(|| format!("no snapshot was made: {text}"))
    }
}

fn configuration(rules: &Path, addresses: &Addresses) -> Value {
    let agents = addresses.agents.iter().enumerate();
    let agents: Vec<Value> = agents
        .map(|(number, address)| {
            json!({
                "targets": [address.to_string()],
                "labels": {"node": format!("worker-{number:05}.example.internal")},
            })
        })
        .collect();
    json!({
        "global": {
            "scrape_interval": format!("{SCRAPE_SECONDS}s"),
            "evaluation_interval": "30s",
            "external_labels": {"cluster": "bench"},
        },
        "rule_files": [rules],
        "scrape_configs": [
            {"job_name": "stallscope", "honor_labels": true, "static_configs": agents},
            {"job_name": "pod-owners", "honor_labels": true, "static_configs": [
                {"targets": [addresses.pod_owners.to_string()]}
            ]},
        ],
    })
}

/// Escapes text for the query part of a URL.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_means_something_in_a_url_is_escaped() {
        assert_eq!(escaped("up{a=\"b\"} + 1"), "up%7Ba%3D%22b%22%7D%20%2B%201");
    }
}
