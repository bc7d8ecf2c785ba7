//! Channel from a source of names to the agent: pods, and the state of the source.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender, TryRecvError, channel},
};

use tokio::sync::Notify;

use super::{Pod, PodUid};

/// A message from a source.
#[derive(Debug)]
pub enum Message {
    /// A pod is new or has changed. Containers that were named before need not be named again.
    Put(PodUid, Pod),
    /// A pod has ended.
    Ended(PodUid),
    /// The complete set of running pods: the others have ended.
    All(Vec<(PodUid, Pod)>),
    /// The source answered.
    Up,
    /// The source, or one thing in it, cannot be read.
    Trouble(Trouble),
}

/// A problem of a source. Names that are known stay.
#[derive(Debug)]
pub struct Trouble {
    /// Kind of the problem: one of a few words, the value of the label `reason`.
    pub reason: &'static str,
    /// Description: the problem, the file, pod or address, and the remedy.
    pub text: String,
    /// True if the whole source cannot be read now, false if only one thing in it cannot.
    pub down: bool,
}

/// The source's end. The agent reads messages about once a second.
#[derive(Clone, Debug)]
pub struct Feed {
    messages: Sender<Message>,
    wanted: Arc<Notify>,
}

/// The agent's end.
#[derive(Debug)]
pub struct Inbox {
    messages: Receiver<Message>,
    wanted: Arc<Notify>,
}

/// Error: the other end is gone. To a source, the other end is the agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the other end has ended")]
pub struct Closed;

/// Makes a channel and returns both ends.
#[must_use]
pub fn feed() -> (Feed, Inbox) {
    let (sender, receiver) = channel();
    let wanted = Arc::new(Notify::new());
    let feed = Feed {
        messages: sender,
        wanted: Arc::clone(&wanted),
    };
    let inbox = Inbox {
        messages: receiver,
        wanted,
    };
    (feed, inbox)
}

impl Feed {
    /// Sends a message.
    ///
    /// # Errors
    /// When the agent has dropped its end.
    pub fn say(&self, message: Message) -> Result<(), Closed> {
        self.messages.send(message).map_err(|_| Closed)
    }

    /// Reports that the whole source cannot be read now.
    ///
    /// # Errors
    /// When the agent has dropped its end.
    pub fn down(&self, reason: &'static str, text: impl Into<String>) -> Result<(), Closed> {
        self.trouble(reason, text.into(), true)
    }

    /// Reports that one thing cannot be read, or makes no sense.
    ///
    /// # Errors
    /// When the agent has dropped its end.
    pub fn doubt(&self, reason: &'static str, text: impl Into<String>) -> Result<(), Closed> {
        self.trouble(reason, text.into(), false)
    }

    fn trouble(&self, reason: &'static str, text: String, down: bool) -> Result<(), Closed> {
        self.say(Message::Trouble(Trouble { reason, text, down }))
    }

    /// Waits until the agent sees a pod or container without a name. For sources that the agent has to ask.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

impl Inbox {
    /// Returns the messages sent since the last call.
    pub fn drain(&self) -> impl Iterator<Item = Message> {
        self.messages.try_iter()
    }

    /// Returns the next message; none when there is no more for now.
    ///
    /// # Errors
    /// When the source has dropped its end.
    pub fn next(&self) -> Result<Option<Message>, Closed> {
        match self.messages.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Closed),
        }
    }

    /// Asks the source to look again.
    pub fn want(&self) {
        self.wanted.notify_one();
    }
}
