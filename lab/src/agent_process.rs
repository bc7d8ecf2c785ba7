//! The agent, as a process of its own that is asked over HTTP, so that the lab judges what it
//! serves.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{Scrape, task};

/// Longest time that attaching may take: the verifier is slow in an emulated machine.
const START: Duration = Duration::from_secs(300);
/// Maximum time for which the agent may refuse a scrape because it is late.
const LATE: Duration = Duration::from_secs(120);

/// A running agent, ended when dropped.
#[derive(Debug)]
pub struct Served {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Served {
    /// Starts `agent run --listen ADDR:PORT` and waits until it measures; it logs to `log`.
    ///
    /// # Errors
    /// With the end of its log, when it does not come to measure.
    pub fn start(agent: &Path, listen: &str, log: &Path, options: &[&str]) -> Result<Self> {
        let port = listen.rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.with_context(|| format!("{listen} should be ADDR:PORT"))?;
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(agent)
            .args(["run", "--listen", listen])
            .args(options)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", agent.display()))?;
        let mut served = Self {
            child,
            port,
            log: log.to_owned(),
        };
        served.wait_ready()?;
        Ok(served)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the agent")? {
                bail!("the agent ended ({status}):\n{}", self.log_end());
            }
            if self.get("/readyz").is_ok() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the agent is not ready after {} s:\n{}",
                START.as_secs(),
                self.log_end()
            );
            sleep(Duration::from_millis(200));
        }
    }

    /// Address at which it answers.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One scrape in which every cgroup that exists now has its name.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn scrape(&self) -> Result<Scrape> {
        // The agent names a cgroup newer than its last look at the second one.
        self.metrics()?;
        self.metrics()?;
        Ok(Scrape(self.metrics()?))
    }

    /// State of each probe.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.get("/api/v1/status")?).context("the status is no JSON")
    }

    fn get(&self, path: &str) -> Result<String> {
        let (status, body) = self.ask(path)?;
        ensure!(status == "200", "{path} answered {status}: {body}");
        Ok(body)
    }

    /// Scrapes the metrics, again while the agent refuses because it is late: an emulated machine is slow.
    fn metrics(&self) -> Result<String> {
        let deadline = Instant::now() + LATE;
        loop {
            let (status, body) = self.ask("/metrics")?;
            if status == "200" {
                return Ok(body);
            }
            ensure!(
                status == "503" && Instant::now() < deadline,
                "/metrics answered {status}: {body}"
            );
            println!("    asked again: {}", body.trim());
            sleep(Duration::from_millis(500));
        }
    }

    /// Sends a GET request and returns the status and the body of the response.
    fn ask(&self, path: &str) -> Result<(String, String)> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port);
        let timeout = Duration::from_secs(60);
        let mut stream = TcpStream::connect_timeout(&address.into(), timeout)
            .context("the agent does not answer")?;
        stream.set_read_timeout(Some(timeout))?;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        Ok((status.to_owned(), body.to_owned()))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            task::signal(pid, libc::SIGTERM);
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // An error means that it has just ended.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            sleep(Duration::from_millis(50));
        }
    }
}
