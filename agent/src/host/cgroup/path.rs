//! Path of a cgroup, and the one form in which the agent shows it as text.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Path of a cgroup from its hierarchy's mount: `/` for the root, otherwise one or more names, each after a `/`.
///
/// Names are bytes: up to 255 of anything but `/` and NUL. Cheap to clone.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CgroupPath(Arc<[u8]>);

impl CgroupPath {
    /// Returns the path of a hierarchy's root.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from(&b"/"[..]))
    }

    /// Makes a path from bytes in the format of `/proc/PID/cgroup`, without repeated and trailing slashes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self::from_components(bytes.split(|&byte| byte == b'/'))
    }

    /// Makes a path from its names, without empty ones.
    pub(crate) fn from_components<'a>(components: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::new();
        for component in components
            .into_iter()
            .filter(|component| !component.is_empty())
        {
            bytes.push(b'/');
            bytes.extend_from_slice(component);
        }
        if bytes.is_empty() {
            Self::root()
        } else {
            Self(bytes.into())
        }
    }

    /// Returns the path of the cgroup called `name` below this one.
    #[must_use]
    pub fn join(&self, name: &OsStr) -> Self {
        let above: &[u8] = if self.is_root() { b"" } else { &self.0 };
        Self([above, b"/", name.as_bytes()].concat().into())
    }

    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether it is the hierarchy's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        *self.0 == *b"/"
    }

    /// Returns the names that make up the path; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|&byte| byte == b'/')
            .filter(|component| !component.is_empty())
    }

    /// Returns the cgroup's directory if the hierarchy is mounted at `mount`.
    #[must_use]
    pub fn below(&self, mount: &Path) -> PathBuf {
        mount.join(OsStr::from_bytes(&self.0[1..]))
    }

    /// Returns the path as text, for labels and terminals. Different paths never become the same text.
    ///
    /// - UTF-8 stays as it is, so ordinary names read as in `systemd-cgls` and can be typed into a query.
    /// - A byte that is not UTF-8, and each byte of a control character (C0, DEL, C1), becomes `\xNN` in lower-case
    ///   hex: one cgroup stays one line, and a name that a tenant chose cannot steer a terminal.
    /// - A backslash becomes `\x5c` only where it would otherwise read as such an escape. systemd's own escapes, such
    ///   as `\x2d` for a dash, are of printable characters, so they stay as they are.
    #[must_use]
    pub fn label(&self) -> Cow<'_, str> {
        label(&self.0)
    }
}

impl fmt::Debug for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.label(), f)
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.label())
    }
}

/// Converts bytes to text by the rule of [`CgroupPath::label`].
pub(crate) fn label(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes)
        && !text.contains(|c: char| c.is_control() || c == '\\')
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    let mut rest = bytes;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || (c == '\\' && reads_as_escape(rest)) {
                escape(&mut out, &rest[..c.len_utf8()]);
            } else {
                out.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
        escape(&mut out, chunk.invalid());
        rest = &rest[chunk.invalid().len()..];
    }
    Cow::Owned(out)
}

/// Returns whether the text starts with something that [`label`] could have written as an escape.
fn reads_as_escape(text: &[u8]) -> bool {
    let &[b'\\', b'x', high, low, ..] = text else {
        return false;
    };
    let (Some(high), Some(low)) = (hex_digit(high), hex_digit(low)) else {
        return false;
    };
    let byte = high << 4 | low;
    byte == b'\\' || byte.is_ascii_control() || !byte.is_ascii()
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn escape(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}
