//! Names from a real container runtime, over its socket and from the files beside it: both must match the pods that the
//! test made.

mod kernel;
mod kubernetes;
mod serving;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use kubernetes::{
    daemon,
    kubelet::{Container, NAMESPACE, Node, Pod, Qos},
};
use stallscope::{
    attribution::pods::{
        Directory, Found, PodIdentity, cri,
        feed::{Inbox, Message, feed},
        files::Files,
    },
    host::{cgroup::CgroupPath, deadline::Reads},
};

/// Receiving end of a source, and the directory that it fills.
struct Known {
    inbox: Inbox,
    files: Option<Files>,
    directory: Directory,
    troubles: Vec<String>,
}

impl Known {
    fn new(start: impl FnOnce(stallscope::attribution::pods::feed::Feed) -> Option<Files>) -> Self {
        let (feed, inbox) = feed();
        Self {
            files: start(feed),
            inbox,
            directory: Directory::default(),
            troubles: Vec::new(),
        }
    }

    fn poll(&mut self) {
        self.inbox.want();
        if let Some(files) = &mut self.files {
            files.poll();
        }
        for message in self.inbox.drain() {
            let now = Instant::now();
            match message {
                Message::Put(uid, pod) => self.directory.put(uid, pod).expect("one name each"),
                Message::Ended(uid) => self.directory.end(&uid, now),
                Message::All(pods) => {
                    self.directory
                        .end_others(pods.iter().map(|(uid, _)| uid), now);
                    for (uid, pod) in pods {
                        self.directory.put(uid, pod).expect("one name each");
                    }
                }
                Message::Up => {}
                Message::Trouble(trouble) => self.troubles.push(trouble.text),
            }
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Directory) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.poll();
            if done(&self.directory) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {:?}", self.troubles);
            sleep(Duration::from_millis(50));
        }
    }
}

/// Returns `namespace/pod/container` of a cgroup, as far as the directory knows it.
fn name(directory: &Directory, cgroup: &str) -> String {
    let identity = PodIdentity::parse(&CgroupPath::new(cgroup.as_bytes())).expect("a pod's path");
    match directory.find(&identity) {
        Found::Nothing => String::new(),
        Found::Pod(pod) => pod.to_string(),
        Found::Container(pod, name) => format!("{pod}/{name}"),
    }
}

fn all_named(directory: &Directory, pods: &[Pod]) -> bool {
    pods.iter().all(|pod| {
        let whole = format!("{NAMESPACE}/{}", pod.name);
        name(directory, &pod.cgroup) == whole
            && pod.containers.iter().all(|container| {
                let cgroup = format!("{}/{}", pod.cgroup, container.id);
                name(directory, &cgroup) == format!("{whole}/{}", container.name)
            })
    })
}

#[test]
#[ignore = "needs root and a container runtime"]
fn a_real_runtime_and_the_files_beside_it_name_all_pods() {
    if let Some(why) = daemon::unavailable() {
        println!("skipped: {why}");
        return;
    }
    let node = Node::start();
    let socket = node.containerd.socket();
    let logs = node.logs.clone();
    let reads = Reads::register(&prometheus::Registry::new()).expect("an empty registry");
    let mut sources = [
        Known::new(|feed| {
            let started = cri::spawn(socket, feed, &reads);
            started.map(|()| None).expect("a thread")
        }),
        Known::new(|feed| Some(Files::new(logs, feed))),
    ];
    let containers = [
        Container::shell("front", 0, "sleep 1000"),
        Container::shell("back-end", 0, "sleep 1000"),
        Container::shell("ended", 0, "true"),
    ];
    let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
    let mut pods: Vec<Pod> = classes
        .into_iter()
        .map(|qos| {
            let name = format!("pod-{qos:?}").to_lowercase();
            Pod::start(&node, &name, qos, &containers)
        })
        .collect();
    for source in &mut sources {
        source.until("names", |directory| all_named(directory, &pods));
        assert_eq!(source.directory.running(), 3);
    }

    let gone = pods.pop().expect("three pods");
    let cgroup = gone.cgroup.clone();
    let whole = format!("{NAMESPACE}/{}", gone.name);
    drop(gone);
    for source in &mut sources {
        source.until("an end", |directory| directory.running() == 2);
        assert_eq!(name(&source.directory, &cgroup), whole, "kept for a while");
        assert!(all_named(&source.directory, &pods));
        assert_eq!(source.troubles, Vec::<String>::new());
    }
}
