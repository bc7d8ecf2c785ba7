//! The agent as the worker of its thread.

use std::{os::fd::OwnedFd, time::Duration};

use serde_json::Value;
use tokio::io::unix::AsyncFd;

use super::{Agent, actor::Looks};

impl Looks for Agent {
    fn look(&mut self) {
        self.tick();
    }

    fn next(&self) -> Duration {
        self.next_tick()
    }

    fn changes(&self) -> Option<AsyncFd<OwnedFd>> {
        Self::changes(self)
    }

    fn follows_changes(&self) -> bool {
        Self::follows_changes(self)
    }

    fn ready(&self) -> Result<(), String> {
        Self::ready(self)
    }

    fn version(&self) -> String {
        let fallback = self.owners.fallback().unwrap_or_default();
        format!(
            "{} {} {} {fallback}",
            self.grown,
            self.host.slots,
            self.owners.names()
        )
    }

    fn status(&self) -> Value {
        serde_json::to_value(Self::status(self)).unwrap_or_default()
    }

    fn ended(&self) -> Option<String> {
        self.owners.names().ended()
    }
}
