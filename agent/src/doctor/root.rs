//! Access to the node's files below a directory: each is read once, within limits, and remembered.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{
    fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2},
    io::Errno,
};

use crate::host::{
    deadline::at,
    topology::{CpuList, excerpt},
};

/// Cap on a file's size, in bytes. A node's files about itself are far shorter.
const LIMIT: usize = 1 << 20;
/// Cap on the size of a file that has a line per interrupt and a column per CPU, in bytes.
const LARGE: usize = 8 << 20;
/// Cap on the entries of a directory.
const ENTRIES: usize = 65_536;

/// Files of a node: `/`, or a tree of the same layout.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
    /// Open descriptor of `dir`.
    top: OwnedFd,
    seen: RefCell<BTreeMap<String, Result<Vec<u8>, Unread>>>,
    /// Files that were read and have unexpected content.
    rejected: RefCell<BTreeMap<String, Unread>>,
    /// Files and directories that a caller looked for and that exist.
    marks: RefCell<BTreeSet<String>>,
}

/// Failure to get information from a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unread {
    /// Path of the file from the root.
    pub path: String,
    /// Kind of failure.
    pub kind: Kind,
    /// Reason, worded to follow "because".
    pub because: String,
}

/// Kind of failure to get information from a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The file does not exist, which is often an answer by itself.
    Absent,
    /// This user may not read the file.
    Denied,
    /// The kernel has the file but not the feature behind it.
    Unsupported,
    /// The file exists but has unexpected content.
    Bad,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Absent => write!(f, "there is no {}", self.path),
            _ => write!(f, "could not read {} because {}", self.path, self.because),
        }
    }
}

impl Root {
    /// Opens the node below `dir`.
    ///
    /// # Errors
    /// When `dir` is not a directory, or this user may not read it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        at(|| dir.display().to_string());
        std::fs::read_dir(dir)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            top: openat(CWD, dir, flags, Mode::empty())?,
            dir: dir.to_owned(),
            seen: RefCell::default(),
            rejected: RefCell::default(),
            marks: RefCell::default(),
        })
    }

    /// Returns whether the root is the running host's own.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.dir == Path::new("/")
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>, Unread> {
        self.limited(path, LIMIT)
    }

    /// Reads the text of a file that grows with interrupts and CPUs.
    ///
    /// # Errors
    /// When the file cannot be read or is not text.
    pub fn large_text(&self, path: &str) -> Result<String, Unread> {
        let bytes = self.limited(path, LARGE)?;
        self.as_text(path, bytes)
    }

    /// Reads a file's text, without the white space around it.
    ///
    /// # Errors
    /// When the file cannot be read, is not text, or is empty.
    pub fn text(&self, path: &str) -> Result<String, Unread> {
        let text = self.text_or_empty(path)?;
        if text.is_empty() {
            return Err(self.reject(path, "it is empty"));
        }
        Ok(text)
    }

    /// Reads the text of a file that may be empty, without the white space around it.
    ///
    /// # Errors
    /// When the file cannot be read or is not text.
    pub fn text_or_empty(&self, path: &str) -> Result<String, Unread> {
        let bytes = self.bytes(path)?;
        Ok(self.as_text(path, bytes)?.trim().to_owned())
    }

    /// Reads a file that consists of one number.
    ///
    /// # Errors
    /// When the file cannot be read or is not a number.
    pub fn number<T: FromStr>(&self, path: &str) -> Result<T, Unread> {
        let text = self.text(path)?;
        text.parse().map_err(|_| {
            let found = excerpt(&text);
            self.reject(
                path,
                &format!("a number was expected, and it reads `{found}`"),
            )
        })
    }

    /// Reads the word in brackets from a file that lists the choices of a setting.
    ///
    /// # Errors
    /// When the file cannot be read or has no word in brackets.
    pub fn choice(&self, path: &str) -> Result<String, Unread> {
        let text = self.text(path)?;
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        chosen.map(|(word, _)| word.to_owned()).ok_or_else(|| {
            let found = excerpt(&text);
            self.reject(
                path,
                &format!("words with one in brackets were expected, and it reads `{found}`"),
            )
        })
    }

    /// Reads a list of CPUs or nodes, such as `0-3,8`, which may be empty.
    ///
    /// # Errors
    /// When the file cannot be read or is not a list.
    pub fn cpus(&self, path: &str, max: u32) -> Result<CpuList, Unread> {
        let text = self.text_or_empty(path)?;
        CpuList::parse(&text, max).map_err(|error| {
            self.reject(
                path,
                &format!("a list such as `0-3,8` was expected, but {error}"),
            )
        })
    }

    /// Reads the number after `key` in a file of lines `key value` or `key: value unit`.
    ///
    /// # Errors
    /// When the file cannot be read or has no such line.
    pub fn field(&self, path: &str, key: &str) -> Result<u64, Unread> {
        let text = self.text(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let word = line.and_then(|rest| {
            rest.trim_start_matches(':')
                .split_ascii_whitespace()
                .next()?
                .parse()
                .ok()
        });
        word.ok_or_else(|| self.reject(path, &format!("it has no line `{key}` with a number")))
    }

    /// Reads the first number on the first line that begins with `key`. A missing line is `Kind::Absent`, which does
    /// not count as a failure of the file.
    ///
    /// # Errors
    /// When the file cannot be read or has no such line.
    pub fn field_line(&self, path: &str, key: &str) -> Result<u64, Unread> {
        let text = self.large_text(path)?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(key));
        let word = lines.next().and_then(|rest| rest.split_whitespace().next());
        word.and_then(|word| word.parse().ok()).ok_or(Unread {
            path: path.to_owned(),
            kind: Kind::Absent,
            because: format!("it has no line `{key}`"),
        })
    }

    /// Returns the names in a directory, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self, path: &str) -> Result<Vec<String>, Unread> {
        let entries = self.entries(path)?;
        Ok(entries.into_iter().map(|(name, _)| name).collect())
    }

    /// Returns the names of the directories in a directory, sorted, without links to directories.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn folders(&self, path: &str) -> Result<Vec<String>, Unread> {
        let folders = self.entries(path)?.into_iter();
        let folders = folders.filter(|(_, kind)| *kind == FileType::Directory);
        Ok(folders.map(|(name, _)| name).collect())
    }

    fn entries(&self, path: &str) -> Result<Vec<(String, FileType)>, Unread> {
        let failed = |error| self.fail(path, error);
        let fd = self
            .fd(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(failed)?;
        self.marks.borrow_mut().insert(path.to_owned());
        let mut entries = Vec::new();
        for entry in Dir::read_from(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                entries.push((name.into_owned(), entry.file_type()));
            }
            if entries.len() > ENTRIES {
                return Err(self.reject(path, &format!("it has more than {ENTRIES} entries")));
            }
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// Returns whether there is such a file or directory, readable or not.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        let there = match self.fd(path, OFlags::PATH) {
            Ok(_) => true,
            Err(error) => !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::NODEV),
        };
        if there {
            self.marks.borrow_mut().insert(path.to_owned());
        }
        there
    }

    /// Records that a file has unexpected content.
    pub fn reject(&self, path: &str, because: &str) -> Unread {
        let unread = Unread {
            path: path.to_owned(),
            kind: Kind::Bad,
            because: because.to_owned(),
        };
        let mut rejected = self.rejected.borrow_mut();
        rejected.insert(path.to_owned(), unread.clone());
        unread
    }

    /// Replaces a file's remembered content by the part of it that may leave the node.
    pub fn keep_only(&self, path: &str, text: &str) {
        self.remember(path, Ok(text.as_bytes().to_vec()));
    }

    /// Returns the files that could not be read, except those that do not exist or whose feature this kernel does not
    /// have.
    #[must_use]
    pub fn failures(&self) -> Vec<Unread> {
        let (seen, rejected) = (self.seen.borrow(), self.rejected.borrow());
        let failed = seen.values().filter_map(|result| result.as_ref().err());
        let failed = failed.chain(rejected.values());
        failed
            .filter(|unread| matches!(unread.kind, Kind::Denied | Kind::Bad))
            .cloned()
            .collect()
    }

    /// Returns every file that was read, with its content.
    #[must_use]
    pub fn evidence(&self) -> Vec<(String, Vec<u8>)> {
        let seen = self.seen.borrow();
        seen.iter()
            .filter_map(|(path, result)| Some((path.clone(), result.clone().ok()?)))
            .collect()
    }

    /// Returns the files and directories that a caller looked for and that exist.
    #[must_use]
    pub fn marks(&self) -> Vec<String> {
        self.marks.borrow().iter().cloned().collect()
    }

    fn as_text(&self, path: &str, bytes: Vec<u8>) -> Result<String, Unread> {
        if bytes.contains(&0) {
            return Err(self.reject(path, "it is binary"));
        }
        String::from_utf8(bytes).map_err(|_| self.reject(path, "it is not text (UTF-8)"))
    }

    fn limited(&self, path: &str, limit: usize) -> Result<Vec<u8>, Unread> {
        if let Some(result) = self.seen.borrow().get(path) {
            return result.clone();
        }
        let result = self.read(path, limit).map_err(|error| match error {
            Refused::System(error) => unread(path, error),
            Refused::Other(because) => Unread {
                path: path.to_owned(),
                kind: Kind::Bad,
                because,
            },
        });
        self.remember(path, result.clone());
        result
    }

    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, Refused> {
        // Without this flag, opening a pipe that has no writer would block forever.
        let fd = self
            .fd(path, OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(Refused::System)?;
        let stat = fstat(&fd).map_err(Refused::System)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Refused::Other("it is no regular file".to_owned()));
        }
        let mut bytes = Vec::new();
        File::from(fd)
            .take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Refused::System(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        if bytes.len() > limit {
            return Err(Refused::Other(format!("it is larger than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Opens a path below the root. No link in a tree leads out of it.
    fn fd(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        at(|| {
            self.dir
                .join(path.trim_start_matches('/'))
                .display()
                .to_string()
        });
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT;
        let opened = openat2(&self.top, path, flags, Mode::empty(), resolve);
        match opened {
            // `openat2` is unknown before Linux 5.6, and to some sandboxes.
            Err(Errno::NOSYS | Errno::PERM) if self.is_host() => {
                openat(CWD, path, flags, Mode::empty())
            }
            opened => opened,
        }
    }

    fn fail(&self, path: &str, error: Errno) -> Unread {
        let unread = unread(path, error);
        self.remember(path, Err(unread.clone()));
        unread
    }

    fn remember(&self, path: &str, result: Result<Vec<u8>, Unread>) {
        self.seen.borrow_mut().insert(path.to_owned(), result);
    }
}

enum Refused {
    System(Errno),
    Other(String),
}

fn unread(path: &str, error: Errno) -> Unread {
    let kind = match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::SRCH => Kind::Absent,
        Errno::ACCESS | Errno::PERM => Kind::Denied,
        Errno::OPNOTSUPP | Errno::INVAL | Errno::BUSY => Kind::Unsupported,
        _ => Kind::Bad,
    };
    let because = match kind {
        Kind::Denied => "this user may not (run as root)".to_owned(),
        _ => format!("the system says: {}", io::Error::from(error)),
    };
    Unread {
        path: path.to_owned(),
        kind,
        because,
    }
}
