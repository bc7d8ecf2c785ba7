//! Tests of the live page in a real browser, with the real agent.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Count, built::Built, obstacle};
use crate::setup::browser::{Browser, TESTS};
use crate::shell::{self, Privilege};
use crate::steps::Outcome;
use crate::workspace::{AGENT_PACKAGE, Workspace};

/// Filter that selects these tests alone.
pub const FILTER: &str = "page";

/// Builds the agent and runs the tests. Skips them without a browser, or where the agent cannot run.
pub fn run(workspace: &Workspace, browser: &Result<Browser, String>) -> Result<Outcome> {
    let browser = match browser {
        Ok(browser) => browser,
        Err(why) => return Ok(Outcome::Skipped(why.clone())),
    };
    let privilege = Privilege::find();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    if let Some(why) = obstacle(privilege, &status, btf) {
        return Ok(Outcome::Skipped(why));
    }
    let pictures = workspace.target.join("page");
    fs::create_dir_all(&pictures)
        .with_context(|| format!("could not make {}", pictures.display()))?;
    // sudo passes no environment on.
    let mut command = privilege.command("env")?;
    command
        .args([
            given("STALLSCOPE_TEST_AGENT", &agent(workspace)?),
            given("STALLSCOPE_TEST_BROWSER", &browser.program),
            given("STALLSCOPE_TEST_MODULES", &browser.modules),
            given("STALLSCOPE_TEST_PICTURES", &pictures),
        ])
        .arg(&browser.node)
        .args(["--test", "--test-concurrency=1", "--test-reporter=spec"])
        .args(files(&workspace.root.join(TESTS))?)
        .current_dir(&workspace.root);
    let mut count = Count::default();
    let status = shell::lines(&mut command, |line| {
        println!("{line}");
        tally(&mut count, line);
        Ok(())
    })?;
    if !status.success() || count.failed > 0 || count.passed == 0 {
        bail!("{count}; `cargo xtask test {FILTER}` runs these alone");
    }
    Ok(Outcome::Passed(count.to_string()))
}

fn given(name: &str, path: &Path) -> OsString {
    let mut text = OsString::from(name);
    text.push("=");
    text.push(path);
    text
}

/// Returns the test files, sorted by name: Node.js before 21 does not expand patterns.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".test.mjs"))
        .collect();
    files.sort();
    Ok(files)
}

/// Adds the result of a line such as `ℹ pass 12`.
fn tally(count: &mut Count, line: &str) {
    let Some((word, number)) = line
        .strip_prefix("ℹ ")
        .and_then(|rest| rest.split_once(' '))
    else {
        return;
    };
    let Ok(number) = number.parse::<u64>() else {
        return;
    };
    match word {
        "pass" => count.passed += number,
        "fail" | "cancelled" => count.failed += number,
        "skipped" => count.ignored += number,
        _ => {}
    }
}

/// Returns the agent that the other tests have built.
fn agent(workspace: &Workspace) -> Result<PathBuf> {
    Built::tests(workspace, "page")?
        .binary(AGENT_PACKAGE)
        .context("Cargo built the agent's tests but named no agent; is its message format another?")
}

#[cfg(test)]
mod tests {
    use super::{Count, tally};

    #[test]
    fn the_sums_of_a_run_are_read() {
        let mut count = Count::default();
        for line in [
            "✔ pass 3 (1.5ms)",
            "ℹ tests 16",
            "ℹ pass 12",
            "ℹ fail 1",
            "ℹ cancelled 1",
            "ℹ skipped 2",
            "ℹ duration_ms 1.5",
        ] {
            tally(&mut count, line);
        }
        assert_eq!(count.to_string(), "12 passed, 2 failed, 2 ignored");
    }
}
