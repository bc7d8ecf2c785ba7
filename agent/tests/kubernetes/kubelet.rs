//! The kubelet's role: it makes the cgroups, log folders and links of pods, and manages their life through the
//! runtime's interface.
//!
//! Unlike with a kubelet, pods are in the host's network, because there is no CNI plugin.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use tonic::Status;

use super::{
    cgroups,
    cri::{
        AskContainer, ContainerConfig, ContainerMetadata, ContainerStatus, CreateContainer, Cri,
        Empty, Id, Image, Life, LinuxPod, Namespaces, PodConfig, PodMetadata, PodSecurity, Profile,
        Resources, RunPod, Security, StopContainer,
    },
    daemon::{Containerd, SHELL},
};
use crate::kernel::label;

/// Namespace of all pods here.
pub const NAMESPACE: &str = "stallscope-test";
/// Period of a quota in microseconds, as a kubelet sets it.
pub const PERIOD: i64 = 100_000;
const NODE: i32 = 2;
const CONTAINER: i32 = 1;

/// A machine with a container runtime and a kubelet's folders.
pub struct Node {
    /// Runtime of the node.
    pub containerd: Containerd,
    /// Folder that stands for `/var/log`.
    pub logs: PathBuf,
    _parents: cgroups::Parents,
    // The last field is dropped last, when nothing is in the folder any more.
    _folder: tempfile::TempDir,
}

impl Node {
    /// Starts a runtime with images for pods.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let parents = cgroups::Parents::make();
        let logs = folder.path().join("log");
        for part in ["pods", "containers"] {
            fs::create_dir_all(logs.join(part)).expect("a folder for logs");
        }
        let containerd = Containerd::start(folder.path());
        containerd.make_images();
        Self {
            containerd,
            logs,
            _parents: parents,
            _folder: folder,
        }
    }
}

/// QoS class of a pod. The kubelet derives it from requests and limits, and chooses the pod's cgroup by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    fn parent(self) -> String {
        let level = match self {
            Self::Guaranteed => "",
            Self::Burstable => "/burstable",
            Self::BestEffort => "/besteffort",
        };
        format!("{}{level}", cgroups::TREE)
    }
}

/// Specification of a container.
#[derive(Clone)]
pub struct Container {
    /// Name in the pod.
    pub name: String,
    /// Microseconds of CPU time per 100 ms; 0 for no limit.
    pub quota: i64,
    /// CPU request, in the kernel's shares of 1024 per core.
    pub shares: i64,
    /// Differences from [`Container::shell`].
    pub config: ContainerConfig,
}

impl Container {
    /// Returns a container that runs `script` in a shell.
    pub fn shell(name: &str, quota: i64, script: &str) -> Self {
        let config = ContainerConfig {
            image: Some(Image {
                image: SHELL.to_owned(),
            }),
            args: vec![script.to_owned()],
            ..ContainerConfig::default()
        };
        Self {
            name: name.to_owned(),
            quota,
            // Like a kubelet, a limit without a request sets the request too, and 2 is the minimum.
            shares: (quota * 1024 / PERIOD).max(2),
            config,
        }
    }

    fn resources(&self) -> Resources {
        Resources {
            cpu_period: if self.quota == 0 { 0 } else { PERIOD },
            cpu_quota: self.quota,
            cpu_shares: self.shares,
            oom_score_adj: 1000,
        }
    }

    /// Returns the configuration that a kubelet sends.
    fn config(&self) -> ContainerConfig {
        let mut config = self.config.clone();
        config.metadata = Some(ContainerMetadata {
            name: self.name.clone(),
            attempt: 0,
        });
        config.log_path = format!("{}/0.log", self.name);
        let linux = config.linux.get_or_insert_default();
        linux.resources = Some(self.resources());
        let security = linux.security.get_or_insert_with(default_security);
        security.namespaces = Some(namespaces(CONTAINER));
        config
    }
}

fn namespaces(pid: i32) -> Namespaces {
    Namespaces {
        network: NODE,
        pid,
        ipc: 0,
    }
}

/// Returns the security settings of a container whose pod asks for nothing special.
pub fn default_security() -> Security {
    let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    Security {
        masked_paths: list(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/sys/firmware",
        ]),
        readonly_paths: list(&[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]),
        seccomp: Some(Profile::default()),
        ..Security::default()
    }
}

/// A created container.
#[derive(Clone, Debug)]
pub struct Created {
    pub name: String,
    pub id: String,
}

/// A pod on a node. Dropping it stops and removes it with everything it has.
pub struct Pod {
    cri: Cri,
    pub name: String,
    pub uid: String,
    pub qos: Qos,
    /// Path of its cgroup below the root of a hierarchy.
    pub cgroup: String,
    pub containers: Vec<Created>,
    sandbox: String,
    config: PodConfig,
    logs: PathBuf,
}

impl Pod {
    /// Makes a pod and starts its containers in order.
    pub fn start(node: &Node, name: &str, qos: Qos, containers: &[Container]) -> Self {
        Self::try_start(node, name, qos, containers)
            .unwrap_or_else(|error| panic!("pod {name}: {error}\n{}", last(&node.containerd.log())))
    }

    /// Makes a pod that the runtime may refuse.
    pub fn try_start(
        node: &Node,
        name: &str,
        qos: Qos,
        containers: &[Container],
    ) -> Result<Self, Status> {
        let uid = uid();
        let cgroup = format!("{}/pod{uid}", qos.parent());
        // Like a kubelet, the pod's limit is the sum of the containers' limits, where each has one.
        let limited = containers.iter().all(|container| container.quota > 0);
        let quota = limited.then(|| containers.iter().map(|container| container.quota).sum());
        let shares = containers.iter().map(|container| container.shares).sum();
        cgroups::make(&cgroup, shares, quota);
        let folder = format!("{NAMESPACE}_{name}_{uid}");
        let mut pod = Self {
            cri: node.containerd.connect(),
            name: name.to_owned(),
            config: pod_config(name, &uid, &cgroup, &node.logs.join("pods").join(&folder)),
            uid,
            qos,
            cgroup,
            containers: Vec::new(),
            sandbox: String::new(),
            logs: node.logs.clone(),
        };
        fs::create_dir_all(&pod.config.log_directory).expect("a folder for logs");
        let config = Some(pod.config.clone());
        let sandbox: Id = pod
            .cri
            .call("RuntimeService/RunPodSandbox", RunPod { config })?;
        pod.sandbox = sandbox.id;
        for container in containers {
            pod.add(container)?;
        }
        Ok(pod)
    }

    fn add(&mut self, container: &Container) -> Result<(), Status> {
        fs::create_dir_all(Path::new(&self.config.log_directory).join(&container.name))
            .expect("a folder for logs");
        let create = CreateContainer {
            sandbox: self.sandbox.clone(),
            config: Some(container.config()),
            pod: Some(self.config.clone()),
        };
        let created: Id = self.cri.call("RuntimeService/CreateContainer", create)?;
        let created = Created {
            name: container.name.clone(),
            id: created.id,
        };
        let request = Id {
            id: created.id.clone(),
        };
        self.containers.push(created);
        let _: Empty = self.cri.call("RuntimeService/StartContainer", request)?;
        let created = &self.containers[self.containers.len() - 1];
        symlink(self.link_target(created), self.link(created)).expect("a link to the log");
        Ok(())
    }

    /// Returns the log link `<pod>_<namespace>_<container>-<id>.log`, as fluent-bit and others read it.
    fn link(&self, container: &Created) -> PathBuf {
        let Created { name, id } = container;
        let file = format!("{}_{NAMESPACE}_{name}-{id}.log", self.name);
        self.logs.join("containers").join(file)
    }

    /// Returns the path of the log on a node whose logs are in `/var/log`.
    fn link_target(&self, container: &Created) -> PathBuf {
        let folder = format!("{NAMESPACE}_{}_{}", self.name, self.uid);
        Path::new("/var/log/pods")
            .join(folder)
            .join(&container.name)
            .join("0.log")
    }

    /// Returns the container of that name.
    pub fn container(&self, name: &str) -> &Created {
        let found = self.containers.iter().find(|each| each.name == name);
        found.unwrap_or_else(|| panic!("pod {} has no container {name}", self.name))
    }

    /// Returns the labels of a container's series. An empty name stands for the pod without its containers.
    pub fn labels(&self, container: &str) -> Vec<String> {
        vec![
            label("namespace", NAMESPACE),
            label("pod", &self.name),
            label("container", container),
            label("cgroup", &self.cgroup),
        ]
    }

    /// Returns the processes of a container, in this pid namespace.
    pub fn processes(&self, name: &str) -> Vec<i32> {
        let text = cgroups::read(&self.container_cgroup(name), "cgroup.procs");
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Returns a container's cgroup below the root of a hierarchy.
    pub fn container_cgroup(&self, name: &str) -> String {
        format!("{}/{}", self.cgroup, self.container(name).id)
    }

    /// Returns the output of a container, without the runtime's prefix of each line.
    pub fn output(&self, name: &str) -> String {
        let path = Path::new(&self.config.log_directory)
            .join(name)
            .join("0.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        // The prefix is the time, the stream, and whether the line is whole.
        let lines = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.fold(String::new(), |text, line| text + line + "\n")
    }

    /// Returns the runtime's status of a container, and the pid of its first process in this pid namespace.
    pub fn status(&self, name: &str) -> (Life, Option<u32>) {
        let request = AskContainer {
            id: self.container(name).id.clone(),
            verbose: true,
        };
        let answer: ContainerStatus = self
            .cri
            .call("RuntimeService/ContainerStatus", request)
            .expect("the runtime knows the container");
        let info: Option<serde_json::Value> = answer
            .info
            .get("info")
            .and_then(|text| serde_json::from_str(text).ok());
        let pid = info
            .and_then(|info| info["pid"].as_u64())
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0);
        (answer.status.unwrap_or_default(), pid)
    }

    /// Waits until a container has ended. Returns its exit code.
    pub fn wait(&self, name: &str, patience: Duration) -> i32 {
        let deadline = Instant::now() + patience;
        loop {
            let (state, _) = self.status(name);
            if state.state == 2 {
                return state.exit_code;
            }
            assert!(
                Instant::now() < deadline,
                "container {name} of pod {} does not end",
                self.name
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Stops a container with SIGTERM, and with SIGKILL after `grace`.
    pub fn stop(&self, name: &str, grace: Duration) {
        let request = StopContainer {
            id: self.container(name).id.clone(),
            timeout: i64::try_from(grace.as_secs()).expect("seconds"),
        };
        let _: Empty = self
            .cri
            .call("RuntimeService/StopContainer", request)
            .expect("the container ends");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !self.sandbox.is_empty() {
            for method in ["StopPodSandbox", "RemovePodSandbox"] {
                let request = Id {
                    id: self.sandbox.clone(),
                };
                let method = format!("RuntimeService/{method}");
                if let Err(error) = self.cri.call::<Empty>(&method, request) {
                    println!("pod {}: {method}: {error}", self.name);
                }
            }
        }
        for container in &self.containers {
            let _ = fs::remove_file(self.link(container));
        }
        let _ = fs::remove_dir_all(&self.config.log_directory);
        cgroups::remove(&self.cgroup);
    }
}

fn pod_config(name: &str, uid: &str, cgroup: &str, logs: &Path) -> PodConfig {
    let label = |key: &str, value: &str| (format!("io.kubernetes.pod.{key}"), value.to_owned());
    PodConfig {
        metadata: Some(PodMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: NAMESPACE.to_owned(),
            attempt: 0,
        }),
        hostname: String::new(),
        log_directory: logs.display().to_string(),
        labels: HashMap::from([
            label("name", name),
            label("namespace", NAMESPACE),
            label("uid", uid),
        ]),
        linux: Some(LinuxPod {
            cgroup_parent: cgroup.to_owned(),
            security: Some(PodSecurity {
                namespaces: Some(namespaces(0)),
                seccomp: Some(Profile::default()),
            }),
        }),
    }
}

/// Returns a UID that no other pod here has.
fn uid() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:08x}-57a1-45c0-9e00-{count:012x}", std::process::id())
}

/// Returns the last lines of a long text.
fn last(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
