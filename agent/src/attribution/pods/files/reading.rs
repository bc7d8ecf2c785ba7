//! Looks at the directories on a thread of its own: they may be on a file system that hangs.

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
    attribution::pods::feed::Feed,
    host::deadline::{Late, Reader, Reads},
};

/// Time after which a pending read counts as a failure of the source.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the directories, and waits at most a moment for them.
#[derive(Debug)]
pub struct Reading {
    files: Arc<Mutex<Files>>,
    root: String,
    reader: Reader,
    moment: Duration,
    /// A look that takes longer than a moment and is still under way.
    looking: Option<Receiver<()>>,
    late: bool,
}

/// A change of the directories' state.
#[derive(Debug)]
pub enum News {
    /// They do not answer.
    Late(Late),
    /// They answer again.
    Back,
}

impl Reading {
    /// Makes a reading; see [`Files::new`]. A poll waits up to `moment` for the look, which is usually enough.
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

    /// Starts a look, unless one is under way. Returns the change of the directories' state, if any.
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
