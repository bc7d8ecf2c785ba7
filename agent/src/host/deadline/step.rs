//! The file or step that a thread is at, for those who wait for it.

use std::{
    borrow::Cow,
    cell::RefCell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

thread_local! {
    static HERE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// Current file or step of one thread, with its beginning; empty while the thread rests.
#[derive(Clone, Debug, Default)]
pub struct Place(Arc<Mutex<Option<At>>>);

/// A file that a thread reads, or a step of its work.
#[derive(Clone, Debug)]
pub struct At {
    /// Path of the file, or a description of the step.
    pub what: Cow<'static, str>,
    /// Time at which it began.
    pub since: Instant,
}

impl At {
    /// Time that it has taken until `now`.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

impl Place {
    /// Makes this the place of the calling thread, which [`at`] sets.
    pub fn follow(&self) {
        HERE.with_borrow_mut(|here| *here = Some(self.clone()));
    }

    /// Begins a file or a step.
    pub fn enter(&self, what: impl Into<Cow<'static, str>>) {
        *self.lock() = Some(At {
            what: what.into(),
            since: Instant::now(),
        });
    }

    /// Marks the thread as at rest.
    pub fn leave(&self) {
        *self.lock() = None;
    }

    /// The thread's current file or step.
    #[must_use]
    pub fn get(&self) -> Option<At> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<At>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the current file or step of this thread. Where nobody waits for the thread, `what` is not
/// called.
pub fn at<W: Into<Cow<'static, str>>>(what: impl FnOnce() -> W) {
    HERE.with_borrow(|here| {
        if let Some(place) = here {
            place.enter(what());
        }
    });
}
