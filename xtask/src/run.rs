//! `cargo xtask run`: builds the agent and starts it.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::build;
use crate::setup::Install;
use crate::shell::{self, Privilege};
use crate::workspace::Workspace;

/// Build the agent and start it on this machine; Ctrl-C or SIGTERM ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Arguments for `stallscope run`.
    #[arg(last = true, value_name = "AGENT ARGS")]
    agent: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask run                                  metrics on http://127.0.0.1:9750/metrics
  cargo xtask run -- --listen 127.0.0.1:9999       on another port
  cargo xtask run -- --help                        what the agent takes";

/// Default listen address of the agent: only this machine can connect.
const LISTEN: &str = "127.0.0.1:9750";

/// Builds the agent, prints the address of its page, and replaces this process with the agent.
pub fn run(workspace: &Workspace, install: Install, args: &Args) -> Result<()> {
    let agent = build::run(workspace, install, &build::Args::default())?;
    let (listen, arguments) = arguments(&args.agent);
    let mut command = Privilege::find().command(&agent)?;
    command.args(arguments).current_dir(&workspace.root);
    println!("==> starting {}", shell::line(&command));
    println!("    metrics: http://{listen}/metrics");
    println!("    page:    http://{listen}/");
    println!("    status:  {} status", workspace.shown(&agent));
    println!("    Ctrl-C ends it");
    // The agent itself then receives every signal, and the caller its exit code.
    Err(command.exec()).with_context(|| format!("could not start {}", agent.display()))
}

/// Returns the listen address, and the agent's arguments with the default address when none is given.
fn arguments(user: &[String]) -> (String, Vec<String>) {
    let mut arguments = vec!["run".to_owned()];
    let mut listen = None;
    let mut words = user.iter();
    while let Some(word) = words.next() {
        if word == "--listen" {
            listen = words.next().cloned();
        } else if let Some(address) = word.strip_prefix("--listen=") {
            listen = Some(address.to_owned());
        }
    }
    let given = user
        .iter()
        .any(|word| word == "--listen" || word.starts_with("--listen="));
    if !given {
        arguments.extend(["--listen".to_owned(), LISTEN.to_owned()]);
    }
    arguments.extend_from_slice(user);
    (listen.unwrap_or_else(|| LISTEN.to_owned()), arguments)
}

#[cfg(test)]
mod tests {
    use super::arguments;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_default_address_gives_way_to_the_users() {
        let (listen, all) = arguments(&words("--log debug"));
        assert_eq!(listen, "127.0.0.1:9750");
        assert_eq!(all, words("run --listen 127.0.0.1:9750 --log debug"));
        let (listen, all) = arguments(&words("--listen [::1]:1"));
        assert_eq!(
            (listen.as_str(), all),
            ("[::1]:1", words("run --listen [::1]:1"))
        );
        let (listen, all) = arguments(&words("--listen=:2"));
        assert_eq!((listen.as_str(), all), (":2", words("run --listen=:2")));
    }
}
