//! Names from the kubelet's log directories, without the API and without rights on it.
//!
//! A directory `<root>/pods/<namespace>_<pod>_<UID>` names a pod before its containers start. A link
//! `<root>/containers/<pod>_<namespace>_<container>-<ID>.log` to `…/<namespace>_<pod>_<UID>/<container>/<N>.log` names
//! a container once it runs. The agent reads only names and the links' targets, never a log: a target need not exist
//! here.

mod directory;
mod names;
mod reading;
mod view;

use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use self::directory::{Look, Place, shown};
use self::names::{Link, PodName, Wrong};
use self::view::View;
use super::feed::{Closed, Feed, Message};
use super::rejected::Doubts;
use crate::host::deadline::at;
pub use reading::{News, Reading};

/// The kubelet's directories below the root.
const PODS: &str = "pods";
const CONTAINERS: &str = "containers";

/// Parses lines as names in the kubelet's directories, `NAME` or `NAME -> TARGET`, and makes pods of them: the entry
/// point for `fuzz/`.
#[doc(hidden)]
pub fn fuzz(listing: &str) {
    let mut pods = Vec::new();
    let mut links = Vec::new();
    for line in listing.lines() {
        match line.split_once(" -> ") {
            Some((name, target)) => links.extend(Link::parse(name, Path::new(target))),
            None => pods.extend(PodName::parse(line)),
        }
    }
    let mut doubts = Doubts::default();
    let before = View::default().next(pods.iter(), links.iter(), &mut doubts);
    let after = before.next(pods.iter().skip(1), links.iter().rev(), &mut doubts);
    let (feed, inbox) = super::feed::feed();
    let said = before
        .say_all(&feed)
        .and_then(|()| after.say_changes(&before, &feed))
        .and_then(|()| doubts.say(&feed));
    assert!(said.is_ok(), "somebody listens");
    assert!(inbox.drain().count() > 0, "all is said at first");
}

/// Source of pods' names from the kubelet's log directories.
///
/// It compares a directory's own time stamp to see whether it has changed. Unlike inotify watches, this uses up no
/// limited resource, and it misses nothing where the directory itself is replaced or mounted over. It compares the
/// entries with those of the last reading, and reports the difference.
#[derive(Debug)]
pub struct Files {
    feed: Feed,
    pods: Place<PodName>,
    containers: Place<Link>,
    view: View,
    contradictions: Doubts,
    /// Reason why `pods`, and `containers`, could not be read at the last look.
    failed: [Option<&'static str>; 2],
    /// True if the next reading has to be reported as a whole.
    starts: bool,
}

impl Files {
    /// Makes a source for the kubelet's `pods` and `containers` below `root`, usually `/var/log`. Reads nothing yet.
    #[must_use]
    pub fn new(root: PathBuf, feed: Feed) -> Self {
        let containers = root.join(CONTAINERS);
        let mut pods = root;
        pods.push(PODS);
        Self {
            feed,
            pods: Place::new(pods, read_pod),
            containers: Place::new(containers, read_link),
            view: View::default(),
            contradictions: Doubts::default(),
            failed: [None; 2],
            starts: true,
        }
    }

    /// Reports changes since the last poll. Takes two system calls if nothing has changed.
    ///
    /// If the agent has dropped its end of the feed, nothing is reported.
    pub fn poll(&mut self) {
        let _ = self.try_poll(Instant::now());
    }

    /// Returns the number of known pods.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.view.len()
    }

    fn try_poll(&mut self, now: Instant) -> Result<(), Closed> {
        let looks = [self.pods.look(now), self.containers.look(now)];
        self.say_failures(&looks)?;
        if !looks.iter().any(|look| matches!(look, Look::Read)) {
            return Ok(());
        }
        self.feed.say(Message::Up)?;
        self.say_changes()?;
        let [pods, containers] = looks;
        if matches!(pods, Look::Read) {
            self.pods.doubts.say(&self.feed)?;
        }
        if matches!(containers, Look::Read) {
            self.containers.doubts.say(&self.feed)?;
        }
        self.contradictions.say(&self.feed)
    }

    fn say_changes(&mut self) -> Result<(), Closed> {
        let mut doubts = self.contradictions.next();
        let next = self.view.next(
            self.pods.entries.values(),
            self.containers.entries.values(),
            &mut doubts,
        );
        self.contradictions = doubts;
        let before = std::mem::replace(&mut self.view, next);
        if std::mem::take(&mut self.starts) {
            return self.view.say_all(&self.feed);
        }
        self.view.say_changes(&before, &self.feed)
    }

    /// Reports which directories cannot be read, when that has changed. One readable directory is enough to go on.
    fn say_failures(&mut self, looks: &[Look; 2]) -> Result<(), Closed> {
        let failed = looks.each_ref().map(reason);
        if failed == self.failed {
            return Ok(());
        }
        self.failed = failed;
        let paths = [self.pods.path(), self.containers.path()];
        let texts = looks
            .iter()
            .zip(paths)
            .filter_map(|(look, path)| match look {
                Look::Failed(error) => Some(cannot_read(path, error)),
                _ => None,
            });
        let texts: Vec<String> = texts.collect();
        match failed {
            [Some(reason), Some(_)] => {
                self.starts = true;
                self.feed.down(reason, texts.join("; "))
            }
            [Some(reason), None] | [None, Some(reason)] => {
                self.feed.doubt(reason, texts.join("; "))
            }
            [None, None] => Ok(()),
        }
    }
}

/// Checks that at least one of the two directories below `root` can be read.
///
/// # Errors
/// When neither can be read: both paths, the causes and the remedies.
pub fn readable(root: &Path) -> Result<(), String> {
    let errors = [PODS, CONTAINERS].map(|name| {
        let path = root.join(name);
        at(|| path.display().to_string());
        let listed = fs::read_dir(&path);
        listed.err().map(|error| cannot_read(&path, &error))
    });
    match errors {
        [Some(pods), Some(containers)] => Err(format!("{pods}; {containers}")),
        _ => Ok(()),
    }
}

/// Returns the value of the label `reason` for a failed look.
fn reason(look: &Look) -> Option<&'static str> {
    let Look::Failed(error) = look else {
        return None;
    };
    Some(match error.kind() {
        ErrorKind::NotFound => "absent",
        ErrorKind::PermissionDenied => "denied",
        _ => "unreadable",
    })
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::NotFound => {
            "mount the host's directory there, or say with --kubelet-logs where it is"
        }
        ErrorKind::PermissionDenied => {
            "run as a user that may read it (root, or CAP_DAC_READ_SEARCH)"
        }
        _ => "check that it is the kubelet's own directory, not a file or a link to nowhere",
    };
    format!(
        "cannot read {}, expected the kubelet's directory: {error}; {remedy}",
        path.display()
    )
}

fn read_pod(entry: &DirEntry, doubts: &mut Doubts) -> Option<PodName> {
    let name = entry.file_name();
    match entry.file_type() {
        Ok(kind) if kind.is_dir() => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        _ => {
            doubts.note("name", || {
                format!(
                    "{} in the kubelet's pods is no directory; it is left out",
                    shown(&name)
                )
            });
            return None;
        }
    }
    let pod = name.to_str().and_then(PodName::parse);
    if pod.is_none() {
        doubts.note("name", || {
            format!(
                "{} in the kubelet's pods is not named <namespace>_<pod>_<UID>; it is left out",
                shown(&name)
            )
        });
    }
    pod
}

fn read_link(entry: &DirEntry, doubts: &mut Doubts) -> Option<Link> {
    let name = entry.file_name();
    let target = match fs::read_link(entry.path()) {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            doubts.note("link", || {
                let name = shown(&name);
                format!("{name} in the kubelet's containers is no link: {error}; it is left out")
            });
            return None;
        }
    };
    let name_text = name.to_str().ok_or(Wrong::Name);
    match name_text.and_then(|name| Link::parse(name, &target)) {
        Ok(link) => Some(link),
        Err(wrong) => {
            let (name, target) = (shown(&name), shown(target.as_os_str()));
            let reason = match wrong {
                Wrong::Target => "link",
                Wrong::Name => "name",
            };
            doubts.note(reason, || wrong_link(wrong, &name, &target));
            None
        }
    }
}

fn wrong_link(wrong: Wrong, name: &str, target: &str) -> String {
    match wrong {
        Wrong::Target => format!(
            "{name} in the kubelet's containers leads to {target}, expected …/<namespace>_<pod>_<UID>/<container>/<N>.log; \
             it is left out"
        ),
        Wrong::Name => format!(
            "{name} in the kubelet's containers leads to {target} but is not named <pod>_<namespace>_<container>-<ID>.log \
             after it; it is left out"
        ),
    }
}
