//! A node: what its kubelet writes, and what the agent makes of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stallscope::cgroup::CgroupPath;
use stallscope::pods::feed::{Inbox, Message, Trouble, feed};
use stallscope::pods::files::Files;
use stallscope::pods::{Directory, Found, PodIdentity};
use tempfile::TempDir;

/// A pod with one container, as the kubelet names it.
#[derive(Clone, Debug)]
pub struct Named {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
    pub id: String,
}

impl Named {
    /// A pod told apart from others by its number.
    pub fn new(number: usize) -> Self {
        Self {
            namespace: "shop".to_owned(),
            pod: format!("cart-{number}"),
            uid: format!("3d2f0a9c-11b7-4e6c-8a55-{number:012x}"),
            container: "web-server".to_owned(),
            id: format!("{number:064x}"),
        }
    }

    pub fn directory(&self) -> String {
        format!("{}_{}_{}", self.namespace, self.pod, self.uid)
    }

    pub fn link(&self) -> String {
        let mut name = format!(
            "{}_{}_{}-{}",
            self.pod, self.namespace, self.container, self.id
        );
        name.truncate(255 - ".log".len());
        name + ".log"
    }

    /// `namespace/pod/container`.
    pub fn full(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.pod, self.container)
    }

    /// `namespace/pod`.
    pub fn short(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }
}

/// A node's log directories, the source that reads them, and the agent's directory of pods.
pub struct Node {
    folder: TempDir,
    pub files: Files,
    inbox: Inbox,
    pub directory: Directory,
    /// Everything that went wrong: reason, text, whether the source was down.
    pub troubles: Vec<(&'static str, String, bool)>,
    pub is_up: bool,
    /// Messages that named pods or ended them.
    pub changes: usize,
}

impl Node {
    /// A node without pods.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("log");
        for name in ["pods", "containers"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let (feed, inbox) = feed();
        Self {
            folder,
            files: Files::new(root, feed),
            inbox,
            directory: Directory::default(),
            troubles: Vec::new(),
            is_up: false,
            changes: 0,
        }
    }

    /// A path in the node's folder; the logs are below `log`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the kubelet does before a pod's containers start.
    pub fn make_pod(&self, named: &Named) {
        fs::create_dir(self.path("log/pods").join(named.directory())).unwrap();
    }

    /// What it does once a container has started. The target is on the host, out of reach.
    pub fn start(&self, named: &Named) {
        let target = Path::new("/nonexistent/log/pods")
            .join(named.directory())
            .join(&named.container)
            .join("0.log");
        symlink(target, self.path("log/containers").join(named.link())).unwrap();
    }

    /// Both.
    pub fn run(&self, named: &Named) {
        self.make_pod(named);
        self.start(named);
    }

    /// What it does once a pod is deleted; links stay until its next clean-up.
    pub fn remove_pod(&self, named: &Named) {
        fs::remove_dir(self.path("log/pods").join(named.directory())).unwrap();
    }

    pub fn remove_link(&self, named: &Named) {
        fs::remove_file(self.path("log/containers").join(named.link())).unwrap();
    }

    /// Polls once, and takes in what is said as the agent does.
    pub fn poll(&mut self) {
        self.files.poll();
        for message in self.inbox.drain() {
            let now = Instant::now();
            self.changes += usize::from(!matches!(message, Message::Up | Message::Trouble(_)));
            match message {
                Message::Put(uid, pod) => self.directory.put(uid, pod).unwrap(),
                Message::Ended(uid) => self.directory.end(&uid, now),
                Message::All(pods) => {
                    self.directory
                        .end_others(pods.iter().map(|(uid, _)| uid), now);
                    for (uid, pod) in pods {
                        self.directory.put(uid, pod).unwrap();
                    }
                }
                Message::Up => self.is_up = true,
                Message::Trouble(Trouble { reason, text, down }) => {
                    self.is_up &= !down;
                    self.troubles.push((reason, text, down));
                }
            }
        }
    }

    /// Polls many times, for longer than a source rests after it has read a small directory.
    pub fn poll_often(&mut self) {
        for _ in 0..20 {
            self.poll();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Polls until `done`, which it must be within half a minute: a change within the same time stamp as another is seen a
    /// little later.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            self.poll();
            if done(self) {
                return;
            }
            assert!(
                Instant::now() < end,
                "not within 30 s: {what}; {:?}",
                self.troubles
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `namespace/pod/container` of a cgroup, or as much as is known.
    pub fn name_at(&self, uid: &str, id: Option<&str>) -> String {
        let id = id.map(|id| format!("/{id}")).unwrap_or_default();
        let path = CgroupPath::new(format!("/kubepods/pod{uid}{id}").as_bytes());
        let identity = PodIdentity::parse(&path).unwrap();
        match self.directory.find(&identity) {
            Found::Nothing => String::new(),
            Found::Pod(pod) => pod.to_string(),
            Found::Container(pod, name) => format!("{pod}/{name}"),
        }
    }

    /// The same for a container's cgroup.
    pub fn name_of(&self, named: &Named) -> String {
        self.name_at(&named.uid, Some(&named.id))
    }

    /// The reasons of all troubles so far, in order.
    pub fn reasons(&self) -> Vec<&'static str> {
        self.troubles.iter().map(|(reason, ..)| *reason).collect()
    }
}
