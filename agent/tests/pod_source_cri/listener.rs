//! The agent's end of a source.

use std::path::Path;
use std::time::{Duration, Instant};

use stallscope::attribution::pods::cri::spawn;
use stallscope::attribution::pods::feed::{Inbox, Message, Trouble, feed};
use stallscope::host::deadline::Reads;

/// Receiver of a source's messages.
pub struct Listener {
    pub inbox: Inbox,
}

impl Listener {
    /// Starts the source.
    pub fn new(socket: &Path) -> Self {
        let (feed, inbox) = feed();
        let reads = Reads::register(&prometheus::Registry::new()).unwrap();
        spawn(socket.to_owned(), feed, &reads).unwrap();
        Self { inbox }
    }

    /// Waits up to 20 seconds for a message that `pick` accepts.
    pub fn wait<T>(&self, what: &str, pick: impl Fn(Message) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = self.inbox.drain().find_map(&pick) {
                return found;
            }
            assert!(Instant::now() < end, "not within 20 s: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the source reports that it can read nothing.
    pub fn trouble(&self) -> Trouble {
        self.wait("trouble", |message| match message {
            Message::Trouble(trouble) => {
                assert!(trouble.down, "{trouble:?}");
                Some(trouble)
            }
            Message::Up => panic!("the source is up"),
            _ => None,
        })
    }
}
