//! Mounts of cgroup hierarchies, from `/proc/PID/mountinfo` (man `proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mounted cgroup hierarchy.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Mount {
    /// The part of the hierarchy that is mounted, as seen from the reader's cgroup namespace.
    pub(super) root: Vec<u8>,
    /// Mount point.
    pub(super) point: PathBuf,
    /// Controllers of a v1 hierarchy; none for v2.
    pub(super) v1_controllers: Option<Vec<Vec<u8>>>,
    /// True if the mount allows writes; the modes of its files may still forbid them.
    pub(super) writable: bool,
}

impl Mount {
    /// Returns whether the mount shows the v1 hierarchy that has `controller`.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.v1_controllers
            .as_ref()
            .is_some_and(|all| all.iter().any(|name| name == controller.as_bytes()))
    }
}

/// Returns the cgroup mounts of a mountinfo file, and the number (from 1) of its first line that is not in that format.
pub(super) fn parse(text: &[u8]) -> (Vec<Mount>, Option<usize>) {
    let mut mounts = Vec::new();
    let mut malformed = None;
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        match Line::parse(line) {
            Some(line) => mounts.extend(line.cgroup_mount()),
            None if line.is_empty() => {}
            None => malformed = malformed.or(Some(index + 1)),
        }
    }
    (mounts, malformed)
}

/// Returns whether the root directory is mounted read-only. The last line about it decides: later mounts hide earlier
/// ones.
pub(super) fn root_is_read_only(text: &[u8]) -> bool {
    let lines = text.split(|&byte| byte == b'\n').rev();
    let root = lines
        .filter_map(Line::parse)
        .find(|line| line.point == b"/");
    root.is_some_and(|line| !line.is_writable())
}

/// The fields of a line that the agent uses.
struct Line<'a> {
    root: &'a [u8],
    point: &'a [u8],
    options: &'a [u8],
    file_system: &'a [u8],
    super_options: &'a [u8],
}

impl<'a> Line<'a> {
    /// Parses a line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`. The
    /// number of optional fields before the dash varies.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let _id = number(fields.next()?)?;
        let _parent = number(fields.next()?)?;
        let _device = fields.next()?;
        let root = fields.next()?;
        let point = fields.next()?;
        let options = fields.next()?;
        fields.find(|&field| field == b"-")?;
        let file_system = fields.next()?;
        let _source = fields.next()?;
        let super_options = fields.next().unwrap_or_default();
        Some(Self {
            root,
            point,
            options,
            file_system,
            super_options,
        })
    }

    fn is_writable(&self) -> bool {
        self.options
            .split(|&byte| byte == b',')
            .any(|option| option == b"rw")
    }

    fn cgroup_mount(&self) -> Option<Mount> {
        let v1_controllers = match self.file_system {
            b"cgroup2" => None,
            b"cgroup" => Some(
                self.super_options
                    .split(|&byte| byte == b',')
                    .map(<[u8]>::to_vec)
                    .collect(),
            ),
            _ => return None,
        };
        let point = PathBuf::from(OsString::from_vec(unescape(self.point)));
        Some(Mount {
            root: unescape(self.root),
            point,
            v1_controllers,
            writable: self.is_writable(),
        })
    }
}

fn number(field: &[u8]) -> Option<u64> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the octal escapes of the kernel's `mangle_path`, which writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        if let [
            b'\\',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            tail @ ..,
        ] = rest
        {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            out.push(*byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_optional_fields() {
        let text = b"1 2 0:3 / /a\\040b\\134c\\011\\012 rw shared:1 master:2 - cgroup cgroup rw,xattr,cpu,cpuacct\n\
            3 2 0:4 / / rw - ext4 /dev/sda rw\n\
            4 2 0:5 /../.. /v2 rw - cgroup2 none rw\n";
        let (mounts, malformed) = parse(text);
        assert_eq!(malformed, None);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, PathBuf::from("/a b\\c\t\n"));
        assert!(mounts[0].has("cpu") && mounts[0].has("cpuacct") && !mounts[0].has("pids"));
        assert_eq!(
            (mounts[1].root.as_slice(), &mounts[1].v1_controllers),
            (&b"/../.."[..], &None)
        );
    }

    #[test]
    fn what_may_be_written_to_is_the_mounts_own() {
        let text = b"1 2 0:3 / / rw - overlay o rw\n\
            5 2 0:3 / / ro,relatime - overlay o rw\n\
            3 2 0:4 / /a ro,nosuid - cgroup cgroup rw,cpu\n\
            4 2 0:5 / /b nosuid,rw - cgroup2 none ro\n";
        let (mounts, _) = parse(text);
        assert_eq!(
            mounts.iter().map(|m| m.writable).collect::<Vec<_>>(),
            [false, true]
        );
        assert!(root_is_read_only(text));
        assert!(!root_is_read_only(&text[..30]));
        assert!(!root_is_read_only(b"") && !root_is_read_only(b"hello\n"));
    }

    #[test]
    fn other_text_is_reported_by_line() {
        let (mounts, malformed) = parse(b"1 2 0:3 / /x rw - cgroup2 none rw\nhello\n\xff\n");
        assert_eq!((mounts.len(), malformed), (1, Some(2)));
        assert_eq!(parse(b""), (vec![], None));
    }
}
