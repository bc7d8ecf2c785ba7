//! The documentation pages of the checks.

use std::fs;
use std::path::{Path, PathBuf};

use stallscope::doctor::{CHECKS, reference};

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor")
}

#[test]
fn every_check_has_a_page_that_says_why_and_what_to_do() {
    for check in CHECKS {
        let path = pages().join(format!("{}.md", check.name));
        let page =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            page.starts_with(&format!("# {}\n", check.name)),
            "{}",
            check.name
        );
        for section in ["## Why it matters", "## What to do", "## When to leave it"] {
            let body = page.split_once(section).map(|(_, rest)| rest.trim());
            assert!(
                body.is_some_and(|body| body.len() > 40),
                "{}: {section}",
                check.name
            );
        }
    }
}

#[test]
fn no_page_is_of_a_check_that_is_gone() {
    for entry in fs::read_dir(pages()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = CHECKS
            .iter()
            .any(|check| name == format!("{}.md", check.name));
        assert!(known || name == "README.md", "{name}");
    }
}

#[test]
fn the_table_is_made_from_the_checks() {
    let kept = fs::read_to_string(pages().join("README.md")).unwrap();
    assert_eq!(kept, reference(), "run `cargo xtask check --fix`");
}
