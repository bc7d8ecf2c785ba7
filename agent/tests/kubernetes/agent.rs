//! The agent from its own image, in a container with no more than a node's daemon set gives it.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    cri::{Capabilities, ContainerConfig, Image, LinuxContainer, Mount, Number, Profile, Security},
    daemon::SHELL,
    kubelet::{Container, Node, Pod, Qos, default_security},
};
use crate::{kernel::Scrape, serving::http};

/// The name of its container.
pub const CONTAINER: &str = "stallscope";
/// Capabilities that it needs, by their names without `CAP_`.
pub const NEEDED: [&str; 2] = ["BPF", "PERFMON"];

/// How its container is to be.
#[derive(Clone)]
pub struct Options {
    /// Arguments of the program, but for the address to listen on.
    pub args: Vec<String>,
    /// Capabilities beside none.
    pub capabilities: Vec<String>,
    /// The user's number.
    pub user: i64,
    /// Which system calls it may make.
    pub seccomp: Profile,
    /// What it gets to see of the host, read-only.
    pub mounts: Vec<Mount>,
}

impl Options {
    /// What the chart has by default.
    pub fn chart(node: &Node) -> Self {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let logs = |part: &str| {
            let host = node.logs.join(part).display().to_string();
            mount(&host, &format!("/var/log/{part}"))
        };
        Self {
            args: words(&["run", "--drop-capabilities"]),
            capabilities: words(&NEEDED),
            user: 0,
            seccomp: Profile::default(),
            mounts: vec![
                mount("/sys/fs/cgroup", "/sys/fs/cgroup"),
                logs("pods"),
                logs("containers"),
            ],
        }
    }

    /// A container of these privileges and mounts with another image, which runs `script`.
    pub fn shell(&self, script: &str) -> Container {
        let mut container = self.container(SHELL, "");
        container.config.args = vec![script.to_owned()];
        container
    }

    fn container(&self, image: &str, address: &str) -> Container {
        let security = Security {
            capabilities: Some(Capabilities {
                add: self.capabilities.clone(),
                drop: vec!["ALL".to_owned()],
            }),
            run_as_user: Some(Number { value: self.user }),
            readonly_rootfs: true,
            no_new_privs: true,
            seccomp: Some(self.seccomp.clone()),
            ..default_security()
        };
        let mut args = self.args.clone();
        if args.first().is_some_and(|verb| verb == "run") {
            args.extend(["--listen".to_owned(), address.to_owned()]);
        }
        Container {
            name: CONTAINER.to_owned(),
            quota: 0,
            shares: 102,
            config: ContainerConfig {
                image: Some(Image {
                    image: image.to_owned(),
                }),
                args,
                mounts: self.mounts.clone(),
                linux: Some(LinuxContainer {
                    security: Some(security),
                    resources: None,
                }),
                ..ContainerConfig::default()
            },
        }
    }
}

/// A folder of the host, read-only.
pub fn mount(host_path: &str, container_path: &str) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_owned(),
        readonly: true,
        propagation: 0,
    }
}

/// An agent in a pod of its own.
pub struct Agent {
    /// The pod.
    pub pod: Pod,
    address: String,
}

impl Agent {
    /// Starts one; `image` is from [`Containerd::import_agent`](super::daemon::Containerd::import_agent).
    pub fn start(node: &Node, image: &str, name: &str, options: &Options) -> Self {
        let address = http::free_address();
        let container = options.container(image, &address);
        Self {
            pod: Pod::start(node, name, Qos::Burstable, &[container]),
            address,
        }
    }

    /// Starts one and waits until it is ready.
    pub fn ready(node: &Node, image: &str, name: &str, options: &Options) -> Self {
        let agent = Self::start(node, image, name, options);
        assert!(agent.gets_ready(), "the agent ends:\n{}", agent.said());
        agent
    }

    /// Waits until it is ready or has ended; returns whether it is ready.
    pub fn gets_ready(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let running = self.running();
            match self.get("/readyz") {
                Some((200, _)) => return true,
                _ if !running => return false,
                answer => assert!(
                    Instant::now() < deadline,
                    "the agent does not get ready, it answers {answer:?}:\n{}",
                    self.said()
                ),
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether its container runs.
    pub fn running(&self) -> bool {
        self.pod.status(CONTAINER).0.state == 1
    }

    /// What it has logged or printed.
    pub fn said(&self) -> String {
        self.pod.output(CONTAINER)
    }

    /// Its pid on this host.
    pub fn pid(&self) -> u32 {
        self.pod.status(CONTAINER).1.expect("the agent runs")
    }

    /// The status and body of an answer; none when nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        self.get_within(path, Duration::from_secs(20))
    }

    /// The same, for a caller of less patience.
    pub fn get_within(&self, path: &str, patience: Duration) -> Option<(u16, String)> {
        http::get_within(&self.address, path, patience)
    }

    /// One scrape.
    pub fn scrape(&self) -> Scrape {
        match self.get("/metrics") {
            Some((200, body)) => Scrape(body),
            answer => panic!("no scrape but {answer:?}:\n{}", self.said()),
        }
    }
}
