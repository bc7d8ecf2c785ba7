//! Files that are shipped beside the agent, and promtool's checks of them.
#![allow(dead_code, reason = "each test uses a part")]

use std::{fs, path::Path, process::Command};

/// Returns the folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
}

/// Returns the text of a file below the workspace.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs promtool, which must succeed, and returns its output; none where it is not installed.
pub fn promtool(args: &[&str]) -> Option<String> {
    let mut command = Command::new("promtool");
    match command.args(args).current_dir(root()).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(output.status.success(), "{args:?}: {text}");
            Some(text)
        }
        Err(error) => {
            println!(
                "skipped: promtool cannot be run ({error}); `cargo xtask test` fetches it, and the package `prometheus` has it"
            );
            None
        }
    }
}
