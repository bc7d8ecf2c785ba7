//! The directories looked at on a thread of their own: they may be on a file system that hangs.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::Files;
use crate::{
    deadline::{Late, Reader, Reads},
    pods::feed::Feed,
};

/// How long a file may take before the source counts as not readable.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the directories, and never waits for them longer than a moment.
#[derive(Debug)]
pub struct Reading {
    files: Arc<Mutex<Files>>,
    root: String,
    reader: Reader,
    moment: Duration,
    /// A look that took longer than a moment.
    looking: Option<Receiver<()>>,
    late: bool,
}

/// What has become of the directories.
#[derive(Debug)]
pub enum News {
    /// They do not answer.
    Late(Late),
    /// They answer again.
    Back,
}

impl Reading {
    /// See [`Files::new`]. What changes is usually there within a `moment`, which a poll waits.
    #[must_use]
    pub fn new(root: PathBuf, feed: Feed, reads: &Reads, moment: Duration) -> Self {
        Self {
            root: root.display().to_string(),
            files: Arc::new(Mutex::new(Files::new(root, feed))),
            reader: reads.reader("kubelet_logs", PATIENCE),
            moment,
            looking: None,
            late: false,
        }
    }

    /// Has the directories looked at once more, unless a look is under way; says what has changed about them.
    pub fn poll(&mut self) -> Option<News> {
        self.look();
        let late = self.reader.late();
        let before = std::mem::replace(&mut self.late, late.is_some());
        match late {
            Some(late) if !before => Some(News::Late(late)),
            None if before => Some(News::Back),
            _ => None,
        }
    }

    fn look(&mut self) {
        let (looking, moment) = match self.looking.take() {
            Some(looking) => (looking, Duration::ZERO),
            None => match self.begin() {
                Some(looking) => (looking, self.moment),
                None => return,
            },
        };
        if looking.recv_timeout(moment) == Err(RecvTimeoutError::Timeout) {
            self.looking = Some(looking);
        }
    }

    fn begin(&self) -> Option<Receiver<()>> {
        let files = Arc::clone(&self.files);
        let look = move || files.lock().unwrap_or_else(PoisonError::into_inner).poll();
        match self.reader.begin(self.root.clone(), look) {
            Ok(looking) => Some(looking),
            Err(late) => {
                tracing::debug!(root = %Path::new(&self.root).display(), %late, "cannot look for pods' names");
                None
            }
        }
    }
}
