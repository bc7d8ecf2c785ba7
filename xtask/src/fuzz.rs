//! `cargo xtask fuzz`: runs the parsers of untrusted input under libFuzzer.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::setup::{Install, Setup};
use crate::shell;
use crate::steps::{Outcome, Steps};
use crate::workspace::Workspace;

/// Folder of the targets.
const FOLDER: &str = "fuzz";

/// Memory limit of an input, in MiB.
const MEMORY: u32 = 1024;
/// Time limit of an input, in seconds. It is long because a busy machine is slow, while an endless loop never ends.
const LONGEST: u32 = 30;

/// Give parsers inputs that nobody thought of, as many at once as there are CPUs.
///
/// What is found is kept in the target folder, and the next run goes on from there.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only these targets; all of them unless given.
    targets: Vec<String>,

    /// How long each target runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask fuzz                      every target for a minute, as CI does
  cargo xtask fuzz btf --seconds 3600   one for an hour
  cargo test -p stallscope-fuzz         only what is known already: the corpus";

/// Sets up, builds the targets and runs them.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<()> {
    let all = targets(&workspace.root.join(FOLDER))?;
    let chosen = choose(&all, &args.targets)?;
    let mut setup = Setup::new(install);
    let fuzzer = setup.fuzzer(workspace)?;
    setup.finish()?;
    let fuzzer = fuzzer.context(
        "set-up found nothing missing and yet no cargo-fuzz; this is a fault of `cargo xtask`",
    )?;
    let triple = host()?;
    let place = workspace.target.join(FOLDER);
    let mut build = workspace.scoped(Command::new(fuzzer));
    shell::forget_this_package(&mut build);
    build
        // Builds faster than with more optimisation, and finds as much.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
        // Sanitizers need a nightly compiler. Panics, overflows, hangs and memory limits are found without.
        .args(["fuzz", "build", "--sanitizer", "none"])
        .args(["--features", "libfuzzer", "--fuzz-dir", FOLDER])
        .args(["--target", &triple, "--target-dir"])
        .arg(&place);
    shell::run(&mut build)?;
    let programs = place.join(triple).join("release");

    let waiting = Mutex::new(VecDeque::from(chosen));
    let done = Mutex::new(Vec::new());
    let next = || waiting.lock().ok()?.pop_front();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    println!("==> {target} runs for {} s", args.seconds);
                    let outcome = fuzz(workspace, &programs, &target, args.seconds);
                    if let Ok(mut done) = done.lock() {
                        done.push((target, outcome));
                    }
                }
            });
        }
    });
    let mut steps = Steps::default();
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (target, outcome) in done {
        steps.step(&target, || outcome);
    }
    steps.finish()
}

/// Returns the names of the targets.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let folder = folder.join("fuzz_targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))?;
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_suffix(".rs")?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

fn choose(all: &[String], asked: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = asked.iter().find(|name| !all.contains(name)) {
        bail!(
            "there is no target `{unknown}`; expected some of {}",
            all.join(", ")
        );
    }
    Ok(if asked.is_empty() { all } else { asked }.to_vec())
}

/// Returns this machine's target triple.
fn host() -> Result<String> {
    let version = shell::stdout(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .with_context(|| format!("`rustc -vV` names no host:\n{version}"))
}

fn fuzz(workspace: &Workspace, programs: &Path, target: &str, seconds: u32) -> Result<Outcome> {
    let place = workspace.target.join(FOLDER);
    let folder = |name: &str| -> Result<PathBuf> {
        let folder = place.join(name).join(target);
        fs::create_dir_all(&folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        Ok(folder)
    };
    // New inputs go to the first folder. libFuzzer only reads those of the repository.
    let (corpus, broken) = (folder("corpus")?, folder("broken")?);
    let log = place.join(format!("{target}.log"));
    let output =
        fs::File::create(&log).with_context(|| format!("could not write {}", log.display()))?;
    let status = Command::new(programs.join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={LONGEST}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", broken.display()))
        .arg(corpus)
        .arg(workspace.root.join(FOLDER).join("corpus").join(target))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .status()
        .with_context(|| format!("could not start the target {target}"))?;
    // Names of inputs and the output about them may be any bytes.
    let said = fs::read(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    if !status.success() {
        bail!("{}\n{}", broken_by(target, &said), last(&said));
    }
    let inputs = executed(&said).with_context(|| {
        format!(
            "the target {target} says nothing of inputs:\n{}",
            last(&said)
        )
    })?;
    Ok(Outcome::Passed(format!("{inputs} inputs")))
}

/// Says how to keep an input that broke a target.
fn broken_by(target: &str, said: &str) -> String {
    let written = said
        .lines()
        .find_map(|line| line.split_once("Test unit written to "));
    let Some((_, input)) = written else {
        return format!("the target {target} ended without naming an input");
    };
    format!(
        "{input} broke the target {target}: copy it to {FOLDER}/corpus/{target}/, and `cargo test -p stallscope-fuzz` repeats it"
    )
}

fn executed(said: &str) -> Option<u64> {
    let mut lines = said.lines();
    let number = lines.find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    number.trim().parse().ok()
}

/// Returns the last lines of a long text.
fn last(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(60).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{broken_by, choose, executed};

    #[test]
    fn a_target_that_is_not_there_is_refused_by_name() {
        let all = ["btf".to_owned(), "cri".to_owned()];
        assert_eq!(choose(&all, &[]).unwrap(), all);
        assert_eq!(choose(&all, &all[1..]).unwrap(), all[1..]);
        let error = choose(&all, &["bft".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`bft`") && error.contains("btf, cri"));
    }

    #[test]
    fn what_libfuzzer_says_is_read() {
        let said = "#2 INITED\nstat::number_of_executed_units: 41208\nstat::peak_rss_mb: 61\n";
        assert_eq!(executed(said), Some(41_208));
        assert_eq!(executed("#2 INITED"), None);
        let said = "==7== ERROR: libFuzzer: deadly signal\nartifact_prefix='/t/'; Test unit written to /t/crash-0a\n";
        let told = broken_by("btf", said);
        assert!(told.starts_with("/t/crash-0a broke") && told.contains("fuzz/corpus/btf/"));
    }
}
