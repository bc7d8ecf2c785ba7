//! Mutation tests of the probes: a truth must fail on each mutant, or it proves nothing.

mod list;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use super::assembly::Maker;
use super::matrix::{self, Machine, Printer};
use super::outcome::Outcome;
use super::{Args, Hierarchy};
use crate::bpf::Arch;
use crate::shell;
use crate::workspace::Workspace;

use list::MUTANTS;

/// One change of the sources that makes a measurement wrong.
#[derive(Debug)]
pub struct Mutant {
    /// Description of the error.
    pub wrong: &'static str,
    /// Path of the changed file, from the workspace's folder.
    pub file: &'static str,
    /// Text that occurs once in the file.
    pub old: &'static str,
    /// Text that replaces it.
    pub new: &'static str,
    /// Truth that must fail.
    pub truth: &'static str,
}

impl Mutant {
    fn applied(&self, text: &str) -> Result<String> {
        let found = text.matches(self.old).count();
        ensure!(
            found == 1,
            "`{}`: {} should hold the following once, and holds it {found} times; has it been changed?\n{}",
            self.wrong,
            self.file,
            self.old
        );
        Ok(text.replacen(self.old, self.new, 1))
    }
}

/// A copy of the sources to mutate, with its own target folder.
pub struct Copy {
    from: PathBuf,
    /// Workspace of the copy.
    pub workspace: Workspace,
}

impl Copy {
    /// Copies every file that git tracks, or that is new and not ignored.
    pub fn make(original: &Workspace) -> Result<Self> {
        let root = original.target.join("mutants");
        let mut git = Command::new("git");
        git.current_dir(&original.root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        for file in shell::stdout(&mut git)?.split_terminator('\0') {
            copy(&original.root.join(file), &root.join(file))?;
        }
        let target = root.join("target");
        fs::create_dir_all(&target)
            .with_context(|| format!("could not make {}", target.display()))?;
        let tools = target.join("tools");
        if !tools.exists() {
            std::os::unix::fs::symlink(original.tools(), &tools)
                .with_context(|| format!("could not link {}", tools.display()))?;
        }
        Ok(Self {
            from: original.root.clone(),
            workspace: Workspace {
                root,
                target,
                bpf_bins: original.bpf_bins.clone(),
            },
        })
    }

    /// Applies one mutant and reverts all others.
    pub fn breaks(&self, mutant: &Mutant) -> Result<()> {
        for other in MUTANTS {
            copy(
                &self.from.join(other.file),
                &self.workspace.root.join(other.file),
            )?;
        }
        let path = self.workspace.root.join(mutant.file);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("could not read {}", path.display()))?;
        fs::write(&path, mutant.applied(&text)?)
            .with_context(|| format!("could not write {}", path.display()))
    }
}

/// Runs every mutant, or those of the truths that the user names.
pub fn run(maker: &Maker, args: &Args) -> Result<ExitCode> {
    let kernel = args.kernel(Arch::Aarch64)?;
    let copy = Copy::make(maker.workspace)?;
    let broken = Maker {
        workspace: &copy.workspace,
        ..*maker
    };
    let machine = Machine {
        kernel,
        hierarchy: args.cgroup.unwrap_or(Hierarchy::V2),
        cpus: args.cpus(),
    };
    let asked = |truth: &str| args.test.iter().any(|test| truth.contains(test.as_str()));
    let mut survivors = Vec::new();
    let mut table =
        String::from("| what is wrong | truth that has to fail | caught by |\n|---|---|---|\n");
    for mutant in MUTANTS {
        if !args.test.is_empty() && !asked(mutant.truth) {
            continue;
        }
        println!("==> mutant: {}", mutant.wrong);
        copy.breaks(mutant)?;
        let (caught, how) = match caught(&broken, machine, mutant) {
            Ok(Some(how)) => (true, how),
            Ok(None) => (false, "**nothing**".to_owned()),
            Err(error) => (false, format!("**not run**: {error:#}")),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| {} | {} | {how} |", mutant.wrong, mutant.truth);
        if !caught {
            survivors.push(mutant.wrong);
        }
    }
    println!("\n{table}");
    super::table::write(args.table.as_deref(), &table)?;
    if !survivors.is_empty() {
        bail!("not caught: {}", survivors.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Boots a mutant. Returns what the truth found wrong, or none if it passed.
fn caught(broken: &Maker, machine: Machine, mutant: &Mutant) -> Result<Option<String>> {
    let parts = broken.parts(machine.kernel.arch)?;
    let guest = broken.guest(machine.kernel, &parts, &[])?;
    let tests = [mutant.truth.to_owned()];
    let outcomes = matrix::boot(machine, guest, &tests, &Printer { json: None }, "")?;
    let found = outcomes.into_iter().find(|o| o.test == mutant.truth);
    Ok(found
        .filter(Outcome::failed)
        .map(|outcome| brief(&outcome.detail)))
}

/// Returns the first of many reasons.
fn brief(detail: &str) -> String {
    match detail.split_once("; ") {
        None => detail.to_owned(),
        Some((first, others)) => format!("{first}, and {} more", others.split("; ").count()),
    }
}

/// Copies a file only if it differs, so that Cargo rebuilds nothing that is the same.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let Ok(bytes) = fs::read(from) else {
        // git tracks the file, but the user removed it.
        return Ok(());
    };
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let Some(folder) = to.parent() else {
        bail!("{} has no folder", to.display());
    };
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(to, bytes))
        .with_context(|| format!("could not write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::{MUTANTS, brief};
    use std::path::Path;

    #[test]
    fn every_mutant_still_fits_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for mutant in MUTANTS {
            let text = std::fs::read_to_string(root.join(mutant.file)).unwrap();
            let broken = mutant.applied(&text).unwrap();
            assert_ne!(broken, text, "{}", mutant.wrong);
        }
    }

    #[test]
    fn of_many_reasons_one_is_told() {
        assert_eq!(brief("wrong: own"), "wrong: own");
        assert_eq!(
            brief("wrong: a; wrong: b; wrong: c"),
            "wrong: a, and 2 more"
        );
    }

    #[test]
    fn a_change_that_no_longer_fits_is_named() {
        let error = MUTANTS[0].applied("").unwrap_err().to_string();
        assert!(error.contains(MUTANTS[0].wrong) && error.contains("0 times"));
    }
}
