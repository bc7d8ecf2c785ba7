//! Version and build options of a node's kernel.

use std::{fmt, io::Read as _};

use super::root::Root;

/// Version of a kernel, as far as features depend on it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// Parses the first two numbers of `uname -r`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self(next()?, next()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Build options of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Options {
    text: String,
    /// File from which they were read; empty if no file has them.
    pub read: String,
}

impl Options {
    /// Reads the options from the places in which distributions keep them.
    #[must_use]
    pub fn read(root: &Root, release: &str) -> Self {
        let plain = [
            format!("/boot/config-{release}"),
            format!("/lib/modules/{release}/config"),
            format!("/usr/lib/modules/{release}/config"),
            "/proc/config".to_owned(),
        ];
        for path in plain {
            if root.exists(&path)
                && let Ok(text) = root.text(&path)
            {
                return Self { text, read: path };
            }
        }
        packed(root, "/proc/config.gz").unwrap_or_default()
    }

    /// Returns whether the options are known at all.
    #[must_use]
    pub fn known(&self) -> bool {
        !self.read.is_empty()
    }

    /// Returns an option's value, such as `y` or `m`; none if it is not set, or no options are
    /// known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let value = line.strip_prefix("CONFIG_")?.strip_prefix(name)?;
            value.strip_prefix('=')
        })
    }

    /// Returns whether an option is built in or a module; none if no options are known.
    #[must_use]
    pub fn has(&self, name: &str) -> Option<bool> {
        self.known()
            .then(|| matches!(self.get(name), Some("y" | "m")))
    }
}

fn packed(root: &Root, path: &str) -> Option<Options> {
    const LIMIT: u64 = 4 << 20;
    if !root.exists(path) {
        return None;
    }
    let bytes = root.bytes(path).ok()?;
    let mut text = String::new();
    let unpacked = flate2::read::GzDecoder::new(bytes.as_slice())
        .take(LIMIT)
        .read_to_string(&mut text);
    if let Err(error) = unpacked {
        root.reject(path, &format!("it is no gzip file of text: {error}"));
        return None;
    }
    Some(Options {
        text,
        read: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert_eq!(Version::parse("6.12.9-arm64-16k"), Some(Version(6, 12)));
        assert!(Version::parse("6.12").unwrap() > Version(6, 4));
        assert_eq!(Version::parse("next"), None);
    }

    #[test]
    fn an_option_is_found_by_its_whole_name() {
        let options = Options {
            text: "CONFIG_KPROBES_ON_FTRACE=y\n# CONFIG_KPROBES is not set\nCONFIG_BPF=y".into(),
            read: "f".into(),
        };
        assert_eq!(options.has("KPROBES"), Some(false));
        assert_eq!(options.has("BPF"), Some(true));
        assert_eq!(Options::default().has("BPF"), None);
    }
}
