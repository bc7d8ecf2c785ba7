//! Where a thread is, for those who wait for it.

use std::{
    borrow::Cow,
    cell::RefCell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

thread_local! {
    static HERE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// What one thread is at, and since when; nothing while it rests.
#[derive(Clone, Debug, Default)]
pub struct Place(Arc<Mutex<Option<At>>>);

/// Something that a thread is at: a file, or a step of its work.
#[derive(Clone, Debug)]
pub struct At {
    /// Its path, or what the step does.
    pub what: Cow<'static, str>,
    /// When it began.
    pub since: Instant,
}

impl At {
    /// How long it has taken until `now`.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

impl Place {
    /// Is of this thread from now on: what [`at`] is told goes here.
    pub fn follow(&self) {
        HERE.with_borrow_mut(|here| *here = Some(self.clone()));
    }

    /// Begins something.
    pub fn enter(&self, what: impl Into<Cow<'static, str>>) {
        *self.lock() = Some(At {
            what: what.into(),
            since: Instant::now(),
        });
    }

    /// Rests.
    pub fn leave(&self) {
        *self.lock() = None;
    }

    /// What the thread is at.
    #[must_use]
    pub fn get(&self) -> Option<At> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<At>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes what this thread is at now. Where nobody waits for it, `what` is not called.
pub fn at<W: Into<Cow<'static, str>>>(what: impl FnOnce() -> W) {
    HERE.with_borrow(|here| {
        if let Some(place) = here {
            place.enter(what());
        }
    });
}
