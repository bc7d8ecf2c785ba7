//! A running agent, with what it answers and the resources it takes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::interrupt;
use super::process::Process;

/// An agent on a free port. Dropping it ends the process.
pub struct Agent {
    process: Process,
    address: SocketAddr,
}

impl Agent {
    /// Starts an agent and waits until it measures.
    pub fn start(program: &Path) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(program);
        command
            .args(["run", "--listen", &address.to_string()])
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = Process::start(&mut command)?;
        let mut agent = Self { process, address };
        let deadline = Instant::now() + Duration::from_secs(30);
        while agent.get("/readyz").is_err() {
            agent.process.check("the agent")?;
            if Instant::now() > deadline {
                bail!("the agent is not ready after 30 s");
            }
            interrupt::sleep(Duration::from_millis(50))?;
        }
        Ok(agent)
    }

    /// Returns the body of the answer to a GET request.
    pub fn get(&self, path: &str) -> Result<String> {
        request(self.address, "GET", path)
    }

    /// Returns the CPU time of all its threads so far, in nanoseconds.
    pub fn cpu_ns(&self) -> Result<u64> {
        self.process.cpu_ns()
    }

    /// Measures its CPU time per second over `time`, in nanoseconds.
    pub fn idle_ns_per_second(&self, time: Duration) -> Result<f64> {
        let (start, before) = (Instant::now(), self.cpu_ns()?);
        interrupt::sleep(time)?;
        let cpu = self.cpu_ns()? - before;
        Ok(cpu as f64 / start.elapsed().as_secs_f64())
    }

    /// Returns its resident memory in bytes: see [`Process::resident`].
    pub fn resident(&self) -> Result<(u64, u64)> {
        self.process.resident()
    }
}

/// Returns a free loopback address.
pub fn free_address() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("no free port")
}

/// Sends a request without a body and returns the body of the answer.
pub fn request(address: SocketAddr, method: &str, path: &str) -> Result<String> {
    const PATIENCE: Duration = Duration::from_secs(180);
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("nobody listens at {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAccept: text/plain\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("no answer to {method} {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        let why = body.lines().next().unwrap_or_default();
        bail!("{method} {path} gave {status}: {why}");
    }
    Ok(body.to_owned())
}

/// Returns the sum of all samples of a family.
pub fn sum(scrape: &str, family: &str) -> f64 {
    scrape
        .lines()
        .filter(|line| {
            line.strip_prefix(family)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Returns the number of samples of a scrape.
pub fn series(scrape: &str) -> usize {
    scrape
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .count()
}

#[cfg(test)]
mod tests {
    use super::{series, sum};

    #[test]
    fn a_family_is_summed_without_its_namesakes() {
        let scrape = "# HELP a b\na{x=\"1\"} 2\na{x=\"2 3\"} 3.5\na_b 9\n\nab 7\na 1\n";
        assert!((sum(scrape, "a") - 6.5).abs() < 1e-9);
        assert_eq!(series(scrape), 5);
    }
}
