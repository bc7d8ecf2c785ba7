//! The demonstration: it stalls a service on purpose, one cause after the other, and `stallscope explain` has to name
//! each one first.

mod answer;
pub mod cause;
mod expected;
mod inject;
mod page;
mod place;
mod series;
mod service;

use std::{
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::fd::AsFd as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{World, agent_process::Served, interrupt};
pub use cause::Cause;
pub use expected::{accepted, possible};
pub use series::{Outcome, Series};

/// Port of the agent, if it is free.
const PORT: u16 = 9750;

/// Causes to try when none is asked for.
const ALL: [Cause; 8] = [
    Cause::None,
    Cause::Throttled,
    Cause::Neighbour,
    Cause::Own,
    Cause::DirectReclaim,
    Cause::Kswapd,
    Cause::NodeMigrations,
    Cause::RemoteMemory,
];

/// Options of the demonstration.
#[derive(Debug)]
pub struct Options {
    /// The agent's program.
    pub agent: PathBuf,
    /// The only cause to try; `None` for all that this machine can have.
    pub once: Option<Cause>,
    /// Number of runs, each with an agent and a service of its own.
    pub runs: u32,
    /// True to print one JSON object for each cause on the output, and the text for the reader on the error output.
    pub json: bool,
    /// True if this machine is the lab's own.
    pub guest: bool,
}

/// Result of one cause, as it is printed.
#[derive(Debug, Eq, PartialEq, Serialize)]
struct Judged {
    cause: String,
    /// First cause in the answer, or `none`; null where nothing was asked.
    ranked_first: Option<String>,
    met: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

/// Result of all causes, as the exit status of the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Every cause that was brought about was named first.
    Met = 0,
    /// One was not.
    Missed = 1,
    /// This machine can have none of those asked for.
    Skipped = 3,
}

/// Runs the demonstration.
///
/// # Errors
/// When the agent does not start, a cause cannot be brought about or asked for, or a signal came.
pub fn run(options: &Options) -> Result<Status> {
    interrupt::on_signals();
    let output = options.json.then(quiet_output).transpose()?;
    let mut judged = Vec::new();
    for number in 1..=options.runs {
        if options.runs > 1 {
            println!("==> run {number} of {}", options.runs);
        }
        judged.extend(once(options, output.as_ref(), number == 1)?);
    }
    let status = status(&judged);
    conclude(&judged);
    Ok(status)
}

/// Tries all causes that are asked for, with an agent and a service of its own.
fn once(options: &Options, output: Option<&File>, first: bool) -> Result<Vec<Judged>> {
    let log = std::env::temp_dir().join(format!("stallscope-demo-{}.log", std::process::id()));
    let listen = format!("127.0.0.1:{}", free_port()?);
    println!("==> the agent attaches its probes");
    let served = Served::start(&options.agent, &listen, &log, &[]);
    // The agent's log is only of interest where it did not start, and then a part of the error.
    let _ = std::fs::remove_file(&log);
    let world = World::new(served?, &options.agent, options.guest)?;
    println!("    page: http://{listen}/");
    if first && !options.json {
        page::open(&format!("http://{listen}/"));
    }
    let name = format!("stallscope-demo-{}", std::process::id());
    let mut series = Series::start(&world, &name)?;
    println!(
        "==> a service in the cgroup {} on the CPUs {:?}",
        series.cgroup(),
        series.cpus()
    );
    let all = options
        .once
        .map_or_else(|| ALL.to_vec(), |cause| vec![cause]);
    let mut judged = Vec::new();
    for cause in all {
        println!("==> {}", cause.name());
        let outcome = series.bring(cause, &|text| println!("    {text}"))?;
        let line = judge(cause, &outcome);
        show(&outcome, &line);
        if let Some(mut output) = output {
            let line = serde_json::to_string(&line)? + "\n";
            output
                .write_all(line.as_bytes())
                .context("cannot write to the output")?;
        }
        judged.push(line);
    }
    Ok(judged)
}

fn judge(cause: Cause, outcome: &Outcome) -> Judged {
    let (first, skipped) = match outcome {
        Outcome::Skipped(why) => (None, Some(why.clone())),
        Outcome::Answered(answer, _) => (Some(answer.first().to_owned()), None),
    };
    let met = first
        .as_ref()
        .is_some_and(|first| accepted(cause).contains(first));
    Judged {
        cause: cause.name(),
        ranked_first: first,
        met,
        skipped,
    }
}

fn show(outcome: &Outcome, judged: &Judged) {
    match outcome {
        Outcome::Skipped(why) => println!("    left out: {why}"),
        Outcome::Answered(answer, [calm, now]) => {
            let text = |time: &Option<Duration>| {
                time.map_or_else(
                    || "none written".to_owned(),
                    |time| format!("{} ms", time.as_millis()),
                )
            };
            println!(
                "    its longest checkpoint: {}, before: {}",
                text(now),
                text(calm)
            );
            println!("    stallscope explain:");
            answer
                .lines()
                .iter()
                .for_each(|line| println!("      {line}"));
            let first = judged.ranked_first.as_deref().unwrap_or_default();
            let word = if judged.met { "met" } else { "NOT MET" };
            println!(
                "    {word}: {} was done, {first} was named first",
                judged.cause
            );
        }
    }
}

fn status(judged: &[Judged]) -> Status {
    let tried: Vec<&Judged> = judged
        .iter()
        .filter(|each| each.skipped.is_none())
        .collect();
    if tried.is_empty() {
        Status::Skipped
    } else if tried.iter().all(|each| each.met) {
        Status::Met
    } else {
        Status::Missed
    }
}

fn conclude(judged: &[Judged]) {
    let count = |of: fn(&&Judged) -> bool| judged.iter().filter(of).count();
    let (met, skipped) = (count(|each| each.met), count(|each| each.skipped.is_some()));
    println!(
        "==> {met} of {} met, {skipped} left out",
        judged.len() - skipped
    );
}

/// Returns a free port of the loopback: the agent's own, if it can be.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("cannot find a free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// Sends what is printed from here on to the error output, and returns the output itself.
fn quiet_output() -> Result<File> {
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    rustix::stdio::dup2_stdout(std::io::stderr()).context("cannot redirect the output")?;
    Ok(File::from(output.context("cannot share the output")?))
}

#[cfg(test)]
mod tests {
    use super::{Judged, Status, status};

    fn judged(ranked_first: Option<&str>, met: bool) -> Judged {
        Judged {
            cause: "own".to_owned(),
            ranked_first: ranked_first.map(str::to_owned),
            met,
            skipped: ranked_first.is_none().then(|| "why".to_owned()),
        }
    }

    #[test]
    fn a_result_is_one_line_of_json() {
        let text = serde_json::to_string(&judged(Some("own"), true)).unwrap();
        assert_eq!(text, r#"{"cause":"own","ranked_first":"own","met":true}"#);
        let text = serde_json::to_string(&judged(None, false)).unwrap();
        let expected = r#"{"cause":"own","ranked_first":null,"met":false,"skipped":"why"}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn one_miss_is_a_miss_and_nothing_tried_is_no_success() {
        let (met, missed) = (judged(Some("own"), true), judged(Some("none"), false));
        let skipped = || judged(None, false);
        assert_eq!(status(&[skipped()]), Status::Skipped);
        assert_eq!(status(&[]), Status::Skipped);
        assert_eq!(status(&[skipped(), met]), Status::Met);
        assert_eq!(status(&[judged(Some("own"), true), missed]), Status::Missed);
    }
}
