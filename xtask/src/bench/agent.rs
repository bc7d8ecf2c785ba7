//! A running agent: started, asked, and looked at from outside.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::load;
use super::stop;

/// An agent on a port of its own; ended when dropped.
pub struct Agent {
    child: Child,
    address: SocketAddr,
}

impl Agent {
    /// Starts one, and waits until it measures.
    pub fn start(program: &Path) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .context("no free port")?;
        let mut command = Command::new(program);
        command
            .args(["run", "--listen", &address.to_string()])
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: prctl is safe to call between fork and exec.
        unsafe {
            // Nobody would end it if this program were killed.
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let mut agent = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(30);
        while agent.get("/readyz").is_err() {
            if let Some(status) = agent.child.try_wait().context("no news of the agent")? {
                bail!("the agent ended with {status}; its last words are above");
            }
            if Instant::now() > deadline {
                bail!("the agent is not ready after 30 s");
            }
            stop::sleep(Duration::from_millis(50))?;
        }
        Ok(agent)
    }

    /// The body of an answer.
    pub fn get(&self, path: &str) -> Result<String> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let mut stream = TcpStream::connect(self.address).context("the agent does not listen")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: text/plain\r\n\r\n",
            self.address
        )?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .with_context(|| format!("no answer to GET {path}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.split(' ').nth(1) != Some("200") {
            bail!(
                "GET {path} gave {}",
                head.lines().next().unwrap_or_default()
            );
        }
        Ok(body.to_owned())
    }

    /// CPU time of all its threads so far, in nanoseconds.
    pub fn cpu_ns(&self) -> Result<u64> {
        load::process_cpu_ns(self.child.id())
    }

    /// CPU time a second over a while, in nanoseconds.
    pub fn idle_ns_per_second(&self, time: Duration) -> Result<f64> {
        let (start, before) = (Instant::now(), self.cpu_ns()?);
        stop::sleep(time)?;
        let cpu = self.cpu_ns()? - before;
        Ok(cpu as f64 / start.elapsed().as_secs_f64())
    }

    /// Resident memory in bytes: all, and without what it shares with the kernel or files.
    pub fn resident(&self) -> Result<(u64, u64)> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        let field =
            |name| kibibytes(&text, name).with_context(|| format!("{path} has no line `{name}`"));
        Ok((field("Rss:")? * 1024, field("Anonymous:")? * 1024))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It ends by itself on SIGTERM, and has nothing to lose.
        // SAFETY: a child of this process that was not waited for, so the id is still its own.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kibibytes(smaps: &str, name: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The sum of all samples of a family.
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

/// The number of samples.
pub fn series(scrape: &str) -> usize {
    scrape
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .count()
}

#[cfg(test)]
mod tests {
    use super::{kibibytes, series, sum};

    #[test]
    fn a_family_is_summed_without_its_namesakes() {
        let scrape = "# HELP a b\na{x=\"1\"} 2\na{x=\"2 3\"} 3.5\na_b 9\n\nab 7\na 1\n";
        assert!((sum(scrape, "a") - 6.5).abs() < 1e-9);
        assert_eq!(series(scrape), 5);
    }

    #[test]
    fn memory_is_read_in_kibibytes() {
        let text = "00-ff ---p [rollup]\nRss:                2948 kB\nAnonymous:   12 kB\n";
        assert_eq!(kibibytes(text, "Rss:"), Some(2948));
        assert_eq!(kibibytes(text, "Anonymous:"), Some(12));
        assert_eq!(kibibytes(text, "Swap:"), None);
    }
}
