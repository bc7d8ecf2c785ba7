//! Fixtures: answers of an agent, and the expected screens.

use std::{fs, path::PathBuf};

use serde::de::DeserializeOwned;

use crate::{
    api::{Timeline, Top},
    explain::Report,
};

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/top")).join(name)
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let text = fs::read_to_string(path(name)).expect("the fixture is there");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the ranking of a node with much activity, and with hostile names.
pub(super) fn busy() -> Top {
    read("busy.json")
}

/// Returns the timeline and report of one of its containers.
pub(super) fn detail() -> (Timeline, Report) {
    (read("timeline.json"), read("explain.json"))
}

/// Compares a text with the golden file; with `UPDATE_GOLDEN=1`, writes the file instead.
pub(super) fn assert_golden(name: &str, text: &str) {
    let path = path(&format!("{name}.golden"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).expect("it is written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{} is otherwise; UPDATE_GOLDEN=1 keeps this, if it is right:\n{text}",
        path.display()
    );
}
