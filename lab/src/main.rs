//! `stallscope-lab`: the truths, and the first process of the machines they run in.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use stallscope_lab::{
    World,
    agent_process::Served,
    demo::{self, Cause},
    init, interrupt, truths,
};

/// Make stalls happen on purpose and hold what Stallscope exports against the kernel's own truth.
#[derive(Debug, Parser)]
#[command(name = "stallscope-lab", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring truths about and judge what the agent says of them
    #[command(after_help = "Examples:
  stallscope-lab truths --list
  stallscope-lab truths --agent target/release/stallscope
  stallscope-lab truths --agent target/release/stallscope --test adds_up --json")]
    Truths(Truths),
    /// Stall a service on purpose, cause by cause, and see whether `stallscope explain` names each one first
    #[command(after_help = "Examples:
  stallscope-lab demo --agent target/release/stallscope
  stallscope-lab demo --agent target/release/stallscope --once throttled --json

Exits with 0 when every cause was named first, 1 when one was not, 2 when that could not be found out, 3 when this
machine can have none of the causes asked for.")]
    Demo(Demo),
}

#[derive(Debug, clap::Args)]
struct Demo {
    /// The agent to ask
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// Only this cause
    #[arg(long, value_name = "CAUSE", value_enum)]
    once: Option<Cause>,
    /// How often, each time with an agent and a service of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print one JSON object a cause, and what is for the reader on the error output
    #[arg(long)]
    json: bool,
    /// This machine is the lab's own: all of its memory may be used up
    #[arg(long)]
    guest: bool,
}

#[derive(Debug, clap::Args)]
struct Truths {
    /// Name every truth and what it shows, and do nothing
    #[arg(long)]
    list: bool,
    /// The agent to judge
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    agent: Option<PathBuf>,
    /// Only truths whose name contains this; may be given several times
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,
    /// Print one JSON object a truth besides what is for the reader
    #[arg(long)]
    json: bool,
    /// This machine is the lab's own: settings of the kernel may be changed
    #[arg(long)]
    guest: bool,
    /// The loopback port for the agent to serve on
    #[arg(long, default_value_t = 9751)]
    port: u16,
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    let done = match Cli::parse().verb {
        Verb::Truths(args) => run(&args).map(|passed| u8::from(!passed)),
        Verb::Demo(args) => demonstrate(args),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            // As shells do: 128 and the signal. Ctrl-C's stands for all.
            ExitCode::from(if interrupt::stopped() { 130 } else { 2 })
        }
    }
}

fn demonstrate(args: Demo) -> anyhow::Result<u8> {
    let options = demo::Options {
        agent: args.agent,
        once: args.once,
        runs: args.runs,
        json: args.json,
        guest: args.guest,
    };
    Ok(demo::run(&options)? as u8)
}

fn run(args: &Truths) -> anyhow::Result<bool> {
    let Some(program) = args.agent.as_deref().filter(|_| !args.list) else {
        for truth in truths::all() {
            println!("{:32} {}", truth.name, truth.about);
        }
        return Ok(true);
    };
    let chosen = truths::chosen(&args.tests)?;
    let log = std::env::temp_dir().join(format!("stallscope-lab-{}.log", std::process::id()));
    let listen = format!("127.0.0.1:{}", args.port);
    println!("the agent attaches its probes");
    let agent = Served::start(program, &listen, &log, &[])?;
    let mut world = World::new(agent, program, args.guest)?;
    let passed = truths::run(&mut world, &chosen, args.json)?;
    drop(world);
    // The agent's log is only of interest where it did not start.
    let _ = std::fs::remove_file(log);
    Ok(passed)
}
