//! Settings of the kernel that a truth changes for a while.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A file of settings, put back as it was when dropped.
#[derive(Debug)]
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Opens a file of `/proc/sys` or `/sys`, without changing it.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // Of a choice, the word in brackets is the chosen one.
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        let before = chosen.map_or(text.trim(), |(word, _)| word).to_owned();
        Ok(Self { path, before })
    }

    /// Opens a file and sets it.
    ///
    /// # Errors
    /// Names the file and what was to be written.
    pub fn put(path: impl AsRef<Path>, value: &str) -> Result<Self> {
        let setting = Self::open(path)?;
        setting.set(value)?;
        Ok(setting)
    }

    /// Writes another value.
    ///
    /// # Errors
    /// Names the file and what was to be written.
    pub fn set(&self, value: &str) -> Result<()> {
        fs::write(&self.path, value)
            .with_context(|| format!("cannot write {value} to {}", self.path.display()))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = self.set(&self.before) {
            println!("    it stays changed: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Setting;

    #[test]
    fn a_setting_is_put_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "1000\n").unwrap();
        let read = || std::fs::read_to_string(file.path()).unwrap();
        let setting = Setting::put(file.path(), "7").unwrap();
        assert_eq!(read(), "7");
        drop(setting);
        assert_eq!(read(), "1000");
        assert!(Setting::put("/proc/no-such-file", "1").is_err());
    }

    #[test]
    fn of_a_choice_the_chosen_word_is_put_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "always [madvise] never\n").unwrap();
        drop(Setting::put(file.path(), "always").unwrap());
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "madvise");
    }
}
