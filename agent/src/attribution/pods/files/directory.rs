//! One of the kubelet's directories, which the agent reads again when it has changed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::attribution::pods::rejected::Doubts;
use crate::host::deadline::at;

/// Maximum number of entries kept of one directory; a node has room for some hundred pods.
const MAX_KEPT: usize = 8192;

/// Maximum number of entries read of one directory.
const MAX_READ: usize = 4 * MAX_KEPT;

/// Time after a seen change at which the directory is read once more. The coarsest time stamp of a file system is two
/// seconds: a further change within the same stamp shows only so.
const SETTLED: Duration = Duration::from_millis(2500);

/// Multiple of a reading's CPU time to pause before the next, so that a directory that is large and changes all the
/// time takes a tenth of a CPU at most. Wall time would be wrong: waiting for a CPU depends on the load, not on the
/// directory.
const REST: u32 = 9;

/// Reads one entry. Returns none for an entry that has gone meanwhile, and for one that makes no sense, which it notes
/// as a doubt.
pub(super) type ReadEntry<T> = fn(&DirEntry, &mut Doubts) -> Option<T>;

/// A directory, and its entries as parsed.
#[derive(Debug)]
pub(super) struct Place<T> {
    path: PathBuf,
    read_entry: ReadEntry<T>,
    /// Entries by file name, as last read; kept while the directory cannot be read.
    pub(super) entries: BTreeMap<OsString, T>,
    pub(super) doubts: Doubts,
    stamp: Option<Stamp>,
    settle: Option<Instant>,
    /// Time before which the directory is not read again.
    rested: Option<Instant>,
}

/// Result of a look.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing has changed.
    Same,
    /// The entries were read again.
    Read,
    /// The directory cannot be read.
    Failed(io::Error),
}

/// The part of a directory's metadata that changes with its identity, its entries or its rights.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl<T> Place<T> {
    pub(super) fn new(path: PathBuf, read_entry: ReadEntry<T>) -> Self {
        Self {
            path,
            read_entry,
            entries: BTreeMap::new(),
            doubts: Doubts::default(),
            stamp: None,
            settle: None,
            rested: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the directory if it may have changed. Otherwise this takes one system call.
    pub(super) fn look(&mut self, now: Instant) -> Look {
        match self.try_look(now) {
            Ok(look) => look,
            Err(error) => {
                self.stamp = None;
                Look::Failed(error)
            }
        }
    }

    fn try_look(&mut self, now: Instant) -> io::Result<Look> {
        at(|| self.path.display().to_string());
        // Taken before reading, so that the next look finds what changes meanwhile.
        let stamp = Stamp::of(&fs::metadata(&self.path)?);
        let before = self.stamp;
        let is_same_place = before.is_some_and(|before| before.is_at(stamp));
        if is_same_place && self.rested.is_some_and(|rested| now < rested) {
            return Ok(Look::Same);
        }
        if before != Some(stamp) {
            self.settle = Some(now + SETTLED);
        } else if self.settle.is_none_or(|settle| now < settle) {
            return Ok(Look::Same);
        } else {
            self.settle = None;
        }
        let start = cpu_time();
        self.read()?;
        let took = cpu_time().saturating_sub(start);
        self.rested = Some(now + took * (REST + 1));
        self.stamp = Some(stamp);
        Ok(Look::Read)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut doubts = self.doubts.next();
        let mut entries = BTreeMap::new();
        // Known entries keep their place: which entries are left out must not change from one look to the next.
        let mut room = MAX_KEPT.saturating_sub(self.entries.len());
        let (mut is_full, mut is_cut) = (false, false);
        for (index, entry) in fs::read_dir(&self.path)?.enumerate() {
            let entry = entry?;
            if index == MAX_READ {
                is_cut = true;
                break;
            }
            let name = entry.file_name();
            let is_known = self.entries.contains_key(&name);
            if !is_known && room == 0 {
                is_full = true;
                continue;
            }
            if let Some(said) = (self.read_entry)(&entry, &mut doubts) {
                room -= usize::from(!is_known);
                entries.insert(name, said);
            }
        }
        if is_full || is_cut {
            doubts.note("many", || self.too_many());
        }
        if is_cut {
            self.entries.append(&mut entries);
        } else {
            self.entries = entries;
        }
        self.doubts = doubts;
        Ok(())
    }

    fn too_many(&self) -> String {
        format!(
            "{} has more than {MAX_KEPT} entries, which no node has pods for; the others are left out; remove what is not the \
             kubelet's",
            self.path.display()
        )
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Returns whether both stamps are of one directory.
    fn is_at(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Returns the CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// Formats a file name for a message: readable, and of a bounded length.
pub(super) fn shown(name: &OsStr) -> String {
    let text = name.to_string_lossy();
    let cut: String = text.chars().take(80).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_name(entry: &DirEntry, _: &mut Doubts) -> Option<()> {
        entry.file_name().to_str().map(|_| ())
    }

    fn read(place: &mut Place<()>, now: Instant) -> bool {
        match place.look(now) {
            Look::Same => false,
            Look::Read => true,
            Look::Failed(error) => panic!("{error}"),
        }
    }

    fn place() -> (tempfile::TempDir, Place<()>, Instant) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pods");
        fs::create_dir(&path).expect("a folder");
        let (mut place, now) = (Place::new(path, read_name), Instant::now());
        assert!(read(&mut place, now), "the first time");
        (folder, place, now)
    }

    fn stamp(place: &Place<()>) -> Stamp {
        Stamp::of(&fs::metadata(place.path()).expect("it is there"))
    }

    #[test]
    fn what_comes_within_the_stamp_of_a_reading_is_read_once_more() {
        let (_folder, mut place, now) = place();
        fs::create_dir(place.path().join("late")).expect("a folder");
        // A coarse time stamp would not change.
        place.stamp = Some(stamp(&place));
        assert!(!read(&mut place, now + Duration::from_secs(2)));
        assert!(place.entries.is_empty());
        assert!(read(&mut place, now + SETTLED));
        assert_eq!(place.entries.len(), 1);
        assert!(!read(&mut place, now + Duration::from_secs(3600)));
    }

    #[test]
    fn a_directory_that_took_long_is_left_alone_unless_another_is_in_its_place() {
        let (folder, mut place, now) = place();
        let rested = now + Duration::from_secs(60);
        place.rested = Some(rested);
        fs::create_dir(place.path().join("one")).expect("a folder");
        assert!(!read(&mut place, now + Duration::from_secs(59)));
        assert!(read(&mut place, rested));
        assert_eq!(place.entries.len(), 1);

        place.rested = Some(rested + Duration::from_secs(60));
        fs::rename(place.path(), folder.path().join("old")).expect("it moves");
        fs::create_dir(place.path()).expect("a folder");
        assert!(read(&mut place, rested));
        assert!(place.entries.is_empty());
    }
}
