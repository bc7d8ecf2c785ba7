//! A node: the kubelet's files, and the agent's directory of pods.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stallscope::attribution::pods::feed::{Inbox, Message, Trouble, feed};
use stallscope::attribution::pods::files::Files;
use stallscope::attribution::pods::{Directory, Found, PodIdentity};
use stallscope::host::cgroup::CgroupPath;
use tempfile::TempDir;

/// A pod with one container, with the kubelet's names.
#[derive(Clone, Debug)]
pub struct Named {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
    pub id: String,
}

impl Named {
    /// Returns a pod with unique names from its number.
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

    /// Returns `namespace/pod/container`.
    pub fn full(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.pod, self.container)
    }

    /// Returns `namespace/pod`.
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
    /// All troubles: reason, text, whether the source was down.
    pub troubles: Vec<(&'static str, String, bool)>,
    pub is_up: bool,
    /// Number of messages that named pods or ended them.
    pub changes: usize,
}

impl Node {
    /// Makes a node without pods.
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

    /// Returns a path in the node's folder. The logs are below `log`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes the directory that the kubelet makes before a pod's containers start.
    pub fn make_pod(&self, named: &Named) {
        fs::create_dir(self.path("log/pods").join(named.directory())).unwrap();
    }

    /// Makes the link that the kubelet makes once a container has started. The target is on the host, out of reach.
    pub fn start(&self, named: &Named) {
        let target = Path::new("/nonexistent/log/pods")
            .join(named.directory())
            .join(&named.container)
            .join("0.log");
        symlink(target, self.path("log/containers").join(named.link())).unwrap();
    }

    /// Makes a pod and starts its container.
    pub fn run(&self, named: &Named) {
        self.make_pod(named);
        self.start(named);
    }

    /// Removes the directory, as the kubelet does after a pod's deletion. Links stay until its next clean-up.
    pub fn remove_pod(&self, named: &Named) {
        fs::remove_dir(self.path("log/pods").join(named.directory())).unwrap();
    }

    pub fn remove_link(&self, named: &Named) {
        fs::remove_file(self.path("log/containers").join(named.link())).unwrap();
    }

    /// Polls once, and handles the messages as the agent does.
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

    /// Polls many times, for longer than a source pauses after it has read a small directory.
    pub fn poll_often(&mut self) {
        for _ in 0..20 {
            self.poll();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Polls until `done`, for at most half a minute: the source sees a change with the same time stamp as another a
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

    /// Returns `namespace/pod/container` of a cgroup, or the known part of it.
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

    /// Returns the same for a container's cgroup.
    pub fn name_of(&self, named: &Named) -> String {
        self.name_at(&named.uid, Some(&named.id))
    }

    /// Returns the reasons of all troubles so far, in order.
    pub fn reasons(&self) -> Vec<&'static str> {
        self.troubles.iter().map(|(reason, ..)| *reason).collect()
    }
}
