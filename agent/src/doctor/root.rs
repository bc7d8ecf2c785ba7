//! The only door to the node: files below a directory, each read once, within limits, and remembered.

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

use crate::{
    deadline::at,
    topology::{CpuList, excerpt},
};

/// Bytes of a file at most: what a node says of itself is far shorter.
const LIMIT: usize = 1 << 20;
/// Bytes of a file that has a line an interrupt and a column a CPU.
const LARGE: usize = 8 << 20;
/// Entries of a directory at most.
const ENTRIES: usize = 65_536;

/// A node's files: `/`, or a tree of the same form.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
    /// The same, opened.
    top: OwnedFd,
    seen: RefCell<BTreeMap<String, Result<Vec<u8>, Unread>>>,
    /// Files that were read and are not what they should be.
    rejected: RefCell<BTreeMap<String, Unread>>,
    /// Files and directories that are there, as far as somebody asked.
    marks: RefCell<BTreeSet<String>>,
}

/// Why a file says nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unread {
    /// The file, from the root.
    pub path: String,
    /// What kind of reason.
    pub kind: Kind,
    /// The reason, to be read after "because".
    pub because: String,
}

/// Kinds of reason why a file says nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// There is none: often an answer by itself.
    Absent,
    /// This user may not.
    Denied,
    /// The kernel has the file but not what it stands for.
    Unsupported,
    /// It is there, and not what it should be.
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
    /// The node below `dir`.
    ///
    /// # Errors
    /// When that is no directory, or may not be read.
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

    /// Whether it is the running host's own.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.dir == Path::new("/")
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file's bytes.
    ///
    /// # Errors
    /// Why not.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>, Unread> {
        self.limited(path, LIMIT)
    }

    /// The text of a file that grows with interrupts and CPUs.
    ///
    /// # Errors
    /// Why not.
    pub fn large_text(&self, path: &str) -> Result<String, Unread> {
        let bytes = self.limited(path, LARGE)?;
        self.as_text(path, bytes)
    }

    /// A file's text without the white space around it.
    ///
    /// # Errors
    /// Why not; an empty file is an error too.
    pub fn text(&self, path: &str) -> Result<String, Unread> {
        let text = self.text_or_empty(path)?;
        if text.is_empty() {
            return Err(self.reject(path, "it is empty"));
        }
        Ok(text)
    }

    /// The same of a file that may well be empty.
    ///
    /// # Errors
    /// Why not.
    pub fn text_or_empty(&self, path: &str) -> Result<String, Unread> {
        let bytes = self.bytes(path)?;
        Ok(self.as_text(path, bytes)?.trim().to_owned())
    }

    /// The number that is all a file says.
    ///
    /// # Errors
    /// Why not.
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

    /// The word in brackets of a file that lists what there is to choose from.
    ///
    /// # Errors
    /// Why not.
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

    /// A list of CPUs or nodes, such as `0-3,8`; it may be empty.
    ///
    /// # Errors
    /// Why not.
    pub fn cpus(&self, path: &str, max: u32) -> Result<CpuList, Unread> {
        let text = self.text_or_empty(path)?;
        CpuList::parse(&text, max).map_err(|error| {
            self.reject(
                path,
                &format!("a list such as `0-3,8` was expected, but {error}"),
            )
        })
    }

    /// The number after `key` in a file of lines `key value` or `key: value unit`.
    ///
    /// # Errors
    /// Why not; a missing line is an error too.
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

    /// The first number on a line that begins with `key`, wherever in the file; no such line says nothing of the file.
    ///
    /// # Errors
    /// Why not.
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

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// Why not.
    pub fn names(&self, path: &str) -> Result<Vec<String>, Unread> {
        let entries = self.entries(path)?;
        Ok(entries.into_iter().map(|(name, _)| name).collect())
    }

    /// The names of the directories in a directory, sorted; links to directories are not among them.
    ///
    /// # Errors
    /// Why not.
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

    /// Whether there is such a file or directory, readable or not.
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

    /// Remembers that a file is not what it should be.
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

    /// Remembers something else as a file's content: what of it may leave the node.
    pub fn keep_only(&self, path: &str, text: &str) {
        self.remember(path, Ok(text.as_bytes().to_vec()));
    }

    /// The files that could not be read, save those that are not there or stand for something this kernel has not.
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

    /// Every file that was read, with its content.
    #[must_use]
    pub fn evidence(&self) -> Vec<(String, Vec<u8>)> {
        let seen = self.seen.borrow();
        seen.iter()
            .filter_map(|(path, result)| Some((path.clone(), result.clone().ok()?)))
            .collect()
    }

    /// Files and directories that were found to be there.
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
        // A pipe without a writer would never open otherwise.
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

    /// Opens below the root, which no link in a tree leads out of.
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
            // Before 5.6, and where a sandbox does not know the call.
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
