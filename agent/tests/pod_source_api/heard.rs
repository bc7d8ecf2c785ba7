//! A running source, and the messages that the agent would receive from it.

use std::time::{Duration, Instant};

use stallscope::attribution::pods::api::{Config, Timing, spawn};
use stallscope::attribution::pods::feed::{Inbox, Message, feed};
use stallscope::attribution::pods::{Pod, PodUid};

/// Timeout longer than anything here takes, and short enough to fail a hanging test.
pub const LONG: Duration = Duration::from_secs(60);

/// Received messages in short form, and the texts of troubles.
pub struct Heard {
    inbox: Inbox,
    pub lines: Vec<String>,
    pub texts: Vec<String>,
    pub pods: Vec<(PodUid, Pod)>,
    read: usize,
}

/// Returns a configuration with pauses that do not delay a test.
pub fn config(url: &str) -> Config {
    Config {
        address: Some(url.to_owned()),
        labels: vec!["app".to_owned()],
        timing: Timing {
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_millis(200),
            connect: Duration::from_secs(2),
            answer: Duration::from_secs(5),
            watch: Duration::from_secs(10),
            steady: Duration::from_secs(1),
        },
        ..Config::in_cluster("node-1")
    }
}

impl Heard {
    pub fn start(config: Config) -> Self {
        let (feed, inbox) = feed();
        spawn(config, feed).unwrap();
        Self {
            inbox,
            lines: Vec::new(),
            texts: Vec::new(),
            pods: Vec::new(),
            read: 0,
        }
    }

    pub fn of(server: &super::server::Server) -> Self {
        Self::start(config(&server.url()))
    }

    fn drain(&mut self) {
        let messages: Vec<Message> = self.inbox.drain().collect();
        for message in messages {
            let line = self.line(message);
            self.lines.push(line);
        }
    }

    fn line(&mut self, message: Message) -> String {
        match message {
            Message::Put(uid, pod) => {
                let line = format!("put {pod} {}", containers(&pod));
                self.pods.push((uid, pod));
                line.trim_end().to_owned()
            }
            Message::Ended(uid) => {
                let pod = self.pods.iter().rev().find(|(known, _)| *known == uid);
                format!(
                    "ended {}",
                    pod.map_or_else(|| uid.to_string(), |(_, pod)| pod.to_string())
                )
            }
            Message::All(pods) => {
                let names: Vec<String> = pods.iter().map(|(_, pod)| pod.to_string()).collect();
                self.pods.extend(pods);
                format!("all {}", names.join(" ")).trim_end().to_owned()
            }
            Message::Up => "up".to_owned(),
            Message::Trouble(trouble) => {
                let kind = if trouble.down { "down" } else { "doubt" };
                self.texts.push(trouble.text);
                format!("{kind} {}", trouble.reason)
            }
        }
    }

    /// Waits for a line after the one at which the last wait ended.
    pub async fn until(&mut self, line: &str) {
        let start = Instant::now();
        loop {
            self.drain();
            if let Some(index) = self.lines[self.read..]
                .iter()
                .position(|heard| heard == line)
            {
                self.read += index + 1;
                return;
            }
            assert!(
                start.elapsed() < LONG,
                "no {line:?} in {:?} {:?}",
                &self.lines[self.read..],
                self.texts.last()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Skips the messages so far.
    pub fn skip(&mut self) {
        self.drain();
        self.read = self.lines.len();
    }

    /// Returns the text of the last trouble.
    pub fn text(&self) -> &str {
        self.texts.last().map_or("", String::as_str)
    }

    /// Returns how often a line was received.
    pub fn count(&mut self, line: &str) -> usize {
        self.drain();
        self.lines.iter().filter(|heard| *heard == line).count()
    }
}

fn containers(pod: &Pod) -> String {
    let names: Vec<&str> = pod
        .containers
        .iter()
        .map(|(_, name)| name.as_str())
        .collect();
    names.join(" ")
}
