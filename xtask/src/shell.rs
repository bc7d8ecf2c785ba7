//! Child processes: environment, privileges, output and errors.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command that prints for the user.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("could not start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a command and returns its output. Its standard error becomes part of the error.
pub fn stdout(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}`", line(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}\n{}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that is not UTF-8", line(command)))
}

/// Runs a command and passes on each line of its output as it comes.
pub fn lines(
    command: &mut Command,
    mut hear: impl FnMut(&str) -> Result<()>,
) -> Result<ExitStatus> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{}`", line(command)))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(|| format!("the output of `{}`", self::line(command)))?;
            hear(&String::from_utf8_lossy(&line))?;
        }
    }
    child
        .wait()
        .with_context(|| format!("could not wait for `{}`", line(command)))
}

/// Formats the command as a user would type it, without its environment. Cargo's long path becomes `cargo`.
pub fn line(command: &Command) -> String {
    let program = command.get_program();
    let cargo = env::var_os("CARGO").is_some_and(|cargo| cargo == program);
    let program = if cargo { OsStr::new("cargo") } else { program };
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Removes the environment that `cargo run` sets about this package, which would mislead the builds started from here.
pub fn forget_this_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let about_us = name
            .to_str()
            .is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_"));
        if about_us {
            command.env_remove(name);
        }
    }
}

/// Returns the first program of that name in `PATH`.
pub fn which(name: &str) -> Option<PathBuf> {
    all_in_path(name).into_iter().next()
}

/// Returns every program of that name in `PATH`, in order.
pub fn all_in_path(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .filter(|program| is_program(program))
        .collect()
}

/// Returns whether the path is an executable file.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Returns whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no arguments, no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Way to start a command as root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Privilege {
    /// This process is root already.
    Root,
    /// The command runs through sudo.
    Sudo,
    /// Neither works; the text says why.
    None(&'static str),
}

impl Privilege {
    /// Finds the way, without asking for a password that nobody could type.
    pub fn find() -> Self {
        if is_root() {
            return Self::Root;
        }
        let sudo = which("sudo").is_some();
        let silent = sudo
            && Command::new("sudo")
                .args(["-n", "true"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
        Self::through_sudo(sudo, silent, std::io::stdin().is_terminal())
    }

    fn through_sudo(exists: bool, silent: bool, terminal: bool) -> Self {
        match (exists, silent || terminal) {
            (true, true) => Self::Sudo,
            (false, _) => Self::None("you are not root and there is no sudo"),
            (true, false) => Self::None(
                "you are not root, sudo wants a password and there is no terminal to ask on",
            ),
        }
    }

    /// Returns the command to start, or an error with the reason why it cannot be started.
    pub fn command(self, program: impl AsRef<OsStr>) -> Result<Command> {
        match self {
            Self::Root => Ok(Command::new(program)),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("--").arg(program);
                Ok(command)
            }
            Self::None(why) => bail!(
                "`{}` needs root: {why}; run this as root, or allow sudo without a password",
                program.as_ref().to_string_lossy()
            ),
        }
    }
}

/// Duplicates standard output, so that it can be used when prints go elsewhere.
pub fn duplicate_output() -> Result<File> {
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    Ok(File::from(output.context("could not share the output")?))
}

/// Redirects prints to standard error and returns the original standard output.
pub fn quiet_output() -> Result<File> {
    let output = duplicate_output()?;
    rustix::stdio::dup2_stdout(std::io::stderr()).context("could not redirect the output")?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::{Privilege, line};
    use std::process::Command;

    #[test]
    fn lines_can_be_pasted_into_a_shell() {
        let mut command = Command::new("cargo");
        command.args(["test", "--test", "*", "it's"]);
        assert_eq!(line(&command), r"cargo test --test '*' 'it'\''s'");
    }

    #[test]
    fn sudo_is_used_only_when_it_can_answer() {
        assert_eq!(Privilege::through_sudo(true, true, false), Privilege::Sudo);
        assert_eq!(Privilege::through_sudo(true, false, true), Privilege::Sudo);
        let refused = |exists, silent, terminal| {
            let found = Privilege::through_sudo(exists, silent, terminal);
            matches!(found, Privilege::None(_))
        };
        assert!(refused(true, false, false));
        assert!(refused(false, false, true));
    }
}
