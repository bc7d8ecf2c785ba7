//! The way from a source to the agent: what it knows, and how it fares.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender, TryRecvError, channel},
};

use tokio::sync::Notify;

use super::{Pod, PodUid};

/// What a source says.
#[derive(Debug)]
pub enum Message {
    /// A pod is there, or has changed. Containers that were named before need not be named again.
    Put(PodUid, Pod),
    /// A pod has ended.
    Ended(PodUid),
    /// All pods that there are: the others have ended.
    All(Vec<(PodUid, Pod)>),
    /// The source answered.
    Up,
    /// The source, or one thing in it, cannot be read.
    Trouble(Trouble),
}

/// Something that went wrong. Names already known stay.
#[derive(Debug)]
pub struct Trouble {
    /// What kind of thing: a word for the label `reason`, of which there are few.
    pub reason: &'static str,
    /// What happened, with the name of the file, pod or address, and what to do.
    pub text: String,
    /// Whether nothing can be read now, rather than one thing in the source.
    pub down: bool,
}

/// The source's end. What it is given is taken in at the agent's next look, about once a second.
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

/// The other end is gone: to a source, the agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the other end has ended")]
pub struct Closed;

/// Both ends.
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
    /// Says something.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub fn say(&self, message: Message) -> Result<(), Closed> {
        self.messages.send(message).map_err(|_| Closed)
    }

    /// Says that nothing can be read now.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub fn down(&self, reason: &'static str, text: impl Into<String>) -> Result<(), Closed> {
        self.trouble(reason, text.into(), true)
    }

    /// Says that one thing cannot be read, or makes no sense.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub fn doubt(&self, reason: &'static str, text: impl Into<String>) -> Result<(), Closed> {
        self.trouble(reason, text.into(), false)
    }

    fn trouble(&self, reason: &'static str, text: String, down: bool) -> Result<(), Closed> {
        self.say(Message::Trouble(Trouble { reason, text, down }))
    }

    /// Waits until the agent sees a pod or container without a name. For sources that have to be asked.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

impl Inbox {
    /// What was said since the last time.
    pub fn drain(&self) -> impl Iterator<Item = Message> {
        self.messages.try_iter()
    }

    /// The next thing that was said; none when there is no more for now.
    ///
    /// # Errors
    /// When nobody is left to say anything.
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
