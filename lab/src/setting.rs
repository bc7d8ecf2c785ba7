//! Settings of the kernel that a truth needs for a while.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A setting, put back as it was when dropped.
#[derive(Debug)]
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Writes a file of `/proc/sys` or `/sys`.
    ///
    /// # Errors
    /// Names the file and what was to be written.
    pub fn put(path: impl AsRef<Path>, value: &str) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let before = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .trim()
            .to_owned();
        fs::write(&path, value)
            .with_context(|| format!("cannot write {value} to {}", path.display()))?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            println!("    {} stays changed: {error}", self.path.display());
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
}
