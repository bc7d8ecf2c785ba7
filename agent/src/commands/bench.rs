//! `stallscope bench`: the agent's side of `cargo xtask bench`. Not for users.

use std::{
    collections::HashSet,
    io::{self, BufRead as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, Program, ProgramInfo, loaded_programs, tp_btf::BtfTracePointLink},
    sys::{Stats, enable_stats},
};
use serde_json::{Value, json};
use stallscope_ebpf::MAX_CPUS;

use super::{logging, show};
use crate::{
    agent::{self, Agent, Config},
    host::preflight,
    probe,
};

/// Serve the measurements of `cargo xtask bench`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Attach and detach programs as told on standard input, a line of JSON for each line read
    Control,
    /// Print the most kernel memory that the maps take on a host of so many CPUs
    MapBound {
        /// Possible CPUs
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CPUS)))]
        cpus: u32,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::start("error");
    preflight::check(Path::new("/proc"), Path::new("/sys"))?;
    preflight::raise_memlock_limit();
    match args.what {
        What::Control => Control::new()?.serve()?,
        What::MapBound { cpus } => {
            let bound = agent::map_bound(cpus)?;
            let bound = json!({"bytes": bound.bytes, "slots": bound.slots});
            show(&format!("{bound}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All of the agent's programs, and empty ones on the same hooks.
struct Control {
    agent: Agent,
    empty: Ebpf,
    attached: Vec<(String, BtfTracePointLink)>,
    stats: Option<OwnedFd>,
}

impl Control {
    fn new() -> anyhow::Result<Self> {
        let mut agent = Agent::start(Config::default(), prometheus::Registry::new())?;
        // Names the cgroups that appear meanwhile. Two ticks, so that the agent's own sampling of BPF statistics is
        // over.
        agent.tick();
        std::thread::sleep(Duration::from_millis(300));
        agent.tick();
        let btf = Btf::from_sys_fs().context("cannot parse the kernel's type information")?;
        let mut empty = EbpfLoader::new().load(probe::object("baseline")?)?;
        for (hook, program) in empty.programs_mut() {
            let program: &mut BtfTracePoint = program.try_into()?;
            program
                .load(hook, &btf)
                .with_context(|| format!("cannot load the empty program for {hook}"))?;
        }
        let mut control = Self {
            agent,
            empty,
            attached: Vec::new(),
            stats: None,
        };
        control.set("-", "-", false)?;
        Ok(control)
    }

    fn serve(mut self) -> anyhow::Result<()> {
        for line in io::stdin().lock().lines() {
            let line = line.context("cannot read commands")?;
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match words[..] {
                ["programs"] => self.programs(),
                ["others"] => Ok(json!({"others": self.others()})),
                ["set", empty, ours] => self.set(empty, ours, false),
                ["set", empty, ours, "ours-first"] => self.set(empty, ours, true),
                ["stats", "on"] => self.measure(true),
                ["stats", "off"] => self.measure(false),
                _ => Err(anyhow::anyhow!("unknown command")),
            };
            let answer = answer.unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
            let mut out = io::stdout().lock();
            writeln!(out, "{answer}")
                .and_then(|()| out.flush())
                .context("cannot answer")?;
        }
        Ok(())
    }

    /// Returns all programs that attach on this kernel, with the kernel's counts of their runs.
    fn programs(&mut self) -> anyhow::Result<Value> {
        let mut programs = Vec::new();
        let counted = |program: Option<&Program>| -> anyhow::Result<(u64, u64)> {
            let info: ProgramInfo = program.context("the program is gone")?.info()?;
            Ok((info.run_count(), info.run_time().as_nanos() as u64))
        };
        for (probe, running) in self.agent.running_mut() {
            for linked in running.programs() {
                let (attach, program) = (linked.attach, linked.program);
                let (runs, ns) = counted(running.ebpf.program(program))?;
                programs.push(json!({
                    "probe": probe, "program": program, "hook": attach.to_string(),
                    "symbol": attach.symbol(), "runs": runs, "ns": ns,
                }));
            }
        }
        for (symbol, program) in self.empty.programs() {
            let (runs, ns) = counted(Some(program))?;
            programs.push(json!({
                "probe": null, "program": symbol, "hook": format!("tp_btf/{symbol}"),
                "symbol": symbol, "runs": runs, "ns": ns,
            }));
        }
        Ok(Value::Array(programs))
    }

    /// Returns the number of loaded tracing programs that are not this process's.
    fn others(&mut self) -> usize {
        let mut ours = HashSet::new();
        for (_, running) in self.agent.running_mut() {
            let infos = running.ebpf.programs().map(|(_, program)| program.info());
            ours.extend(infos.flatten().map(|info| info.id()));
        }
        let infos = self.empty.programs().map(|(_, program)| program.info());
        ours.extend(infos.flatten().map(|info| info.id()));
        loaded_programs()
            .flatten()
            .filter(|info| TRACING.contains(&(info.program_type() as u32)))
            .filter(|info| !ours.contains(&info.id()))
            .count()
    }

    /// Attaches exactly these programs: kernel symbols separated by commas, `*` for all, `-` for none. Of two programs
    /// on one hook, the second finds its arguments in the CPU's cache.
    fn set(&mut self, empty: &str, ours: &str, ours_first: bool) -> anyhow::Result<Value> {
        if ours_first {
            self.set_ours(ours)?;
            self.set_empty(empty)?;
        } else {
            self.set_empty(empty)?;
            self.set_ours(ours)?;
        }
        Ok(json!({}))
    }

    fn set_ours(&mut self, symbols: &str) -> anyhow::Result<()> {
        for (_, running) in self.agent.running_mut() {
            running.set_attached(|attach| chosen(symbols, attach.symbol()))?;
        }
        Ok(())
    }

    fn set_empty(&mut self, symbols: &str) -> anyhow::Result<()> {
        self.attached.retain(|(symbol, _)| chosen(symbols, symbol));
        for (symbol, program) in self.empty.programs_mut() {
            let there = self.attached.iter().any(|(attached, _)| attached == symbol);
            if chosen(symbols, symbol) && !there {
                let program: &mut BtfTracePoint = program.try_into()?;
                let link = program.attach()?;
                let link = program.take_link(link)?;
                self.attached.push((symbol.to_owned(), link));
            }
        }
        Ok(())
    }

    fn measure(&mut self, on: bool) -> anyhow::Result<Value> {
        self.stats = if on {
            Some(enable_stats(Stats::RunTime).context("no BPF statistics")?)
        } else {
            None
        };
        Ok(json!({}))
    }
}

/// Types of programs that run on the measured hooks: kprobe, tracepoint, perf event, raw tracepoint, writable raw
/// tracepoint, tracing (`enum bpf_prog_type` in `include/uapi/linux/bpf.h`).
const TRACING: [u32; 6] = [2, 5, 7, 17, 24, 26];

fn chosen(symbols: &str, symbol: &str) -> bool {
    symbols == "*" || symbols.split(',').any(|s| s == symbol)
}
