//! The agent from its own image, in a container with the privileges of its DaemonSet and no more.

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

/// Name of the agent's container.
pub const CONTAINER: &str = "stallscope";
/// Capabilities that the agent needs, without `CAP_`.
pub const NEEDED: [&str; 2] = ["BPF", "PERFMON"];

/// Options of the agent's container.
#[derive(Clone)]
pub struct Options {
    /// Arguments of the program, without the address to listen on.
    pub args: Vec<String>,
    /// All capabilities of the container.
    pub capabilities: Vec<String>,
    /// User ID.
    pub user: i64,
    /// Seccomp profile.
    pub seccomp: Profile,
    /// Read-only mounts of the host.
    pub mounts: Vec<Mount>,
}

impl Options {
    /// Returns the chart's defaults.
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

    /// Returns a container with these privileges and mounts and another image, which runs `script`.
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

/// Returns a read-only mount of a folder of the host.
pub fn mount(host_path: &str, container_path: &str) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_owned(),
        readonly: true,
        propagation: 0,
    }
}

/// An agent in its own pod.
pub struct Agent {
    /// Pod of the agent.
    pub pod: Pod,
    address: String,
}

impl Agent {
    /// Starts an agent; `image` is from [`Containerd::import_agent`](super::daemon::Containerd::import_agent).
    pub fn start(node: &Node, image: &str, name: &str, options: &Options) -> Self {
        let address = http::free_address();
        let container = options.container(image, &address);
        Self {
            pod: Pod::start(node, name, Qos::Burstable, &[container]),
            address,
        }
    }

    /// Starts an agent and waits until it is ready.
    pub fn ready(node: &Node, image: &str, name: &str, options: &Options) -> Self {
        let agent = Self::start(node, image, name, options);
        assert!(agent.gets_ready(), "the agent ends:\n{}", agent.said());
        agent
    }

    /// Waits until the agent is ready or has ended. Returns whether it is ready.
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

    /// Returns whether the agent's container runs.
    pub fn running(&self) -> bool {
        self.pod.status(CONTAINER).0.state == 1
    }

    /// Returns the log and output of the agent.
    pub fn said(&self) -> String {
        self.pod.output(CONTAINER)
    }

    /// Returns the agent's pid on this host.
    pub fn pid(&self) -> u32 {
        self.pod.status(CONTAINER).1.expect("the agent runs")
    }

    /// Returns the status and body of an answer; none without an answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        self.get_within(path, Duration::from_secs(20))
    }

    /// Returns the same, with a shorter timeout.
    pub fn get_within(&self, path: &str, patience: Duration) -> Option<(u16, String)> {
        http::get_within(&self.address, path, patience)
    }

    /// Scrapes the agent once.
    pub fn scrape(&self) -> Scrape {
        match self.get("/metrics") {
            Some((200, body)) => Scrape(body),
            answer => panic!("no scrape but {answer:?}:\n{}", self.said()),
        }
    }
}
