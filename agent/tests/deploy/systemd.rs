//! The systemd unit, checked by systemd's own tools.

use super::{read, root};
use std::process::Command;

const UNIT: &str = "deploy/systemd/stallscope.service";

/// Limit on systemd's exposure scale of 0 to 100. The rest is what measuring and serving need.
const MOST_EXPOSURE: u32 = 20;

/// Runs systemd-analyze, if it can judge files that are not installed (version 250 and later).
fn analyze(args: &[&str]) -> Option<(bool, String)> {
    let version = Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .ok();
    let version: u32 = version
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| text.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    if version < 250 {
        println!("skipped: this machine has no systemd-analyze of version 250 or later");
        return None;
    }
    let output = Command::new("systemd-analyze")
        .args(args)
        .current_dir(root())
        .output()
        .expect("it answered before");
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

#[test]
fn systemd_understands_the_unit() {
    let folder = tempfile::tempdir().expect("a folder");
    let unit = folder.path().join("stallscope.service");
    let check = |text: String| {
        std::fs::write(&unit, text).expect("it is written");
        analyze(&["verify", unit.to_str().expect("a name in UTF-8")])
    };
    // The program need not be installed on the machine that builds it.
    let text = read(UNIT).replace("/usr/local/bin/stallscope", "/bin/true");
    if let Some((passed, said)) = check(text.clone()) {
        assert!(passed && said.is_empty(), "{said}");
        let (_, said) = check(text.replace("DynamicUser", "DynamicUsr")).expect("as before");
        assert!(
            said.contains("DynamicUsr"),
            "a misspelt key is not noticed: {said}"
        );
    }
}

#[test]
fn the_unit_leaves_little_exposed() {
    let threshold = format!("--threshold={MOST_EXPOSURE}");
    if let Some((passed, said)) = analyze(&["security", "--offline=true", &threshold, UNIT]) {
        assert!(passed, "{said}");
    }
}
