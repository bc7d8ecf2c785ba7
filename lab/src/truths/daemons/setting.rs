//! A setting of the kernel, as it was again when dropped.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// A file of `/proc/sys` or `/sys`.
pub(super) struct Setting {
    path: PathBuf,
    was: String,
}

impl Setting {
    pub(super) fn open(path: &str) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        // Of a choice, the word in brackets is the one chosen.
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        Ok(Self {
            path: path.into(),
            was: chosen.map_or(text.trim(), |(word, _)| word).to_owned(),
        })
    }

    pub(super) fn set(&self, value: &str) -> Result<()> {
        fs::write(&self.path, value)
            .with_context(|| format!("cannot write {value} to {}", self.path.display()))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // An error means that the kernel does not take back what it said.
        let _ = self.set(&self.was);
    }
}
