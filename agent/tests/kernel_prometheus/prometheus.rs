//! A Prometheus server for the test, and its answers.

use std::{
    fs,
    io::ErrorKind,
    process::Command,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    asked::rule_files,
    serving::{
        Program,
        http::{self, encoded, free_address},
    },
};

/// A scrape target, with the labels that its series get unless they have their own.
pub struct Target {
    pub job: &'static str,
    pub address: String,
    pub labels: Value,
}

/// A running server with the rules of `dashboards/`.
pub struct Prometheus {
    address: String,
    program: Program,
    _folder: TempDir,
}

/// One series of an answer.
pub struct Series {
    /// Labels, without the name.
    pub labels: Vec<(String, String)>,
    /// Values over time; one for an instant query.
    pub values: Vec<f64>,
}

impl Series {
    /// Returns whether there is a value that a panel can draw.
    pub fn has_value(&self) -> bool {
        self.values.iter().any(|value| value.is_finite())
    }

    /// Returns the value of a label. Prometheus treats an empty one as missing.
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Time of a query, in seconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub enum When {
    At(u64),
    Over { from: u64, to: u64, step: u64 },
}

/// Returns the seconds since the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is later than 1970").as_secs()
}

impl Prometheus {
    /// Starts a server that scrapes these targets each second; none where Prometheus is not installed.
    pub fn start(targets: &[Target]) -> Option<Self> {
        // JSON is valid YAML.
        Self::with(&configuration(targets).to_string())
    }

    /// Starts a server with this configuration; none where Prometheus is not installed.
    pub fn with(configuration: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("prometheus.yaml");
        fs::write(&file, configuration).expect("a configuration");
        let address = free_address();
        let mut command = Command::new("prometheus");
        command
            .arg("--config.file")
            .arg(&file)
            .arg("--storage.tsdb.path")
            .arg(folder.path().join("data"))
            .args(["--web.listen-address", &address, "--log.level", "warn"])
            .current_dir(folder.path());
        let program = match Program::start(&mut command) {
            Ok(program) => program,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => panic!("prometheus cannot be started: {error}"),
        };
        http::wait(&address, "/-/ready", || program.said());
        Some(Self {
            address,
            program,
            _folder: folder,
        })
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let (_, body) = http::get(&self.address, path)
            .unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.program.said()));
        let answer: Value =
            serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        match answer["warnings"].as_array() {
            Some(warnings) if !warnings.is_empty() => Err(format!("warned: {warnings:?}")),
            _ => Ok(answer["data"].clone()),
        }
    }

    /// Returns the result of an expression, without series that have no number.
    ///
    /// # Errors
    /// Prometheus' error for an expression that it refuses.
    pub fn query(&self, expr: &str, when: When) -> Result<Vec<Series>, String> {
        let expr = encoded(expr);
        let data = match when {
            When::At(at) => self.ask(&format!("/api/v1/query?query={expr}&time={at}")),
            When::Over { from, to, step } => self.ask(&format!(
                "/api/v1/query_range?query={expr}&start={from}&end={to}&step={step}"
            )),
        }?;
        let result = match &data["resultType"] {
            kind if kind == "scalar" => vec![series(&json!({"value": data["result"]}))],
            _ => list(&data["result"]).iter().map(series).collect(),
        };
        Ok(result.into_iter().filter(Series::has_value).collect())
    }

    /// Returns the values of a label among the series that a selector matches.
    ///
    /// # Errors
    /// As for [`Self::query`].
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>, String> {
        let path = format!("/api/v1/label/{label}/values?match[]={}", encoded(selector));
        let data = self.ask(&path)?;
        let values = list(&data).iter().filter_map(Value::as_str);
        Ok(values.map(str::to_owned).collect())
    }

    /// Returns the alerts of that name, as the API gives them.
    pub fn alerts(&self, name: &str) -> Vec<Value> {
        let data = self.ask("/api/v1/alerts").expect("it has alerts");
        let alerts = list(&data["alerts"]).iter();
        alerts
            .filter(|alert| alert["labels"]["alertname"] == name)
            .cloned()
            .collect()
    }

    /// Returns whether Prometheus has scraped that address, and scrapes no other of the job.
    pub fn scrapes_only(&self, address: &str) -> bool {
        let data = self.ask("/api/v1/targets").expect("it has targets");
        let [target] = list(&data["activeTargets"]) else {
            return false;
        };
        target["health"] == "up" && target["scrapeUrl"] == format!("http://{address}/metrics")
    }

    /// Returns all loaded rules, as the API gives them.
    pub fn rules(&self) -> Vec<Value> {
        let data = self.ask("/api/v1/rules").expect("it has rules");
        let groups = list(&data["groups"]).iter();
        groups
            .flat_map(|group| list(&group["rules"]).to_vec())
            .collect()
    }

    /// Waits until an expression has a result.
    pub fn wait(&self, what: &str, expr: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self
            .query(expr, When::At(now()))
            .is_ok_and(|found| found.is_empty())
        {
            assert!(
                Instant::now() < deadline,
                "not within 60 s: {what} ({expr})"
            );
            sleep(Duration::from_millis(500));
        }
    }
}

fn list(json: &Value) -> &[Value] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn series(json: &Value) -> Series {
    let labels = json["metric"].as_object().into_iter().flatten();
    let labels = labels.filter(|(name, _)| *name != "__name__");
    let labels =
        labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let one = json.get("value").map(std::slice::from_ref);
    let points = one.unwrap_or_else(|| list(&json["values"]));
    let values = points
        .iter()
        .filter_map(|point| point[1].as_str()?.parse().ok());
    Series {
        labels: labels.collect(),
        values: values.collect(),
    }
}

/// Returns the configuration of docs/kubernetes.md, with all rules.
fn configuration(targets: &[Target]) -> Value {
    let jobs = targets.iter().map(|target| target.job);
    let jobs: std::collections::BTreeSet<&str> = jobs.collect();
    let scrapes = jobs.iter().map(|job| {
        let of_job = targets.iter().filter(|target| target.job == *job);
        let configs = of_job.map(|t| json!({"targets": [t.address], "labels": t.labels}));
        json!({
            "job_name": job,
            "honor_labels": true,
            "static_configs": configs.collect::<Vec<_>>(),
        })
    });
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": rule_files(),
        "scrape_configs": scrapes.collect::<Vec<_>>(),
    })
}
