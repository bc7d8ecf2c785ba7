//! From cgroups and a kubelet's files to owners: both are real directories, of the form that kernel and kubelet give them.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::PathBuf,
    time::{Duration, Instant},
};

use stallscope::{
    cgroup::{CgroupId, Hierarchy, Watch},
    deadline::Reads,
    ledger::Account,
    owners::{GRACE, LabelSet, OwnerIndex, Owners, PATIENCE, PodCgroups},
    pods::names::{Chosen, Names, Source},
};
use tempfile::TempDir;

const UID: [&str; 2] = [
    "8d0d32a5-8c5b-4b0c-9b0f-1f9a2b3c4d5e",
    "0c7e0f7e-6a35-4d34-8d39-b1f0f5f7a001",
];

/// A container's ID.
fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A node: its cgroups, its kubelet's files, and the agent's view of both.
struct Node {
    dir: TempDir,
    owners: Owners,
    now: Instant,
}

impl Node {
    fn new(labels: &str, budget: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cgroups = dir.path().join("cgroup");
        for path in ["cgroup", "log/pods", "log/containers"] {
            fs::create_dir_all(dir.path().join(path)).expect("a directory");
        }
        for (file, text) in [
            ("cgroup.procs", ""),
            ("cgroup.controllers", "cpu\n"),
            ("cgroup.subtree_control", "cpu\n"),
        ] {
            fs::write(cgroups.join(file), text).expect("a file");
        }
        let hierarchy = Hierarchy::at(&cgroups, None).expect("a hierarchy");
        let names = Names::new(Chosen {
            source: Source::Files(dir.path().join("log")),
            reason: "asked for".to_owned(),
        });
        let watch = Watch::new(hierarchy).expect("a watch");
        let labels: LabelSet = labels.parse().expect("labels");
        let mut owners = Owners::new(watch, names, labels, budget);
        let reads = Reads::register(&prometheus::Registry::new()).expect("an empty registry");
        // A poll waits for the files however busy the machine is.
        let moment = Duration::from_secs(60);
        let started = owners.start_names(&reads, moment);
        started.expect("the source starts");
        let now = Instant::now();
        let mut node = Self { dir, owners, now };
        node.poll();
        node
    }

    /// Looks, and lets the clock of the file system go on, so that what comes next is seen at the next look.
    fn poll(&mut self) {
        self.owners.poll(self.now).expect("a poll");
        std::thread::sleep(Duration::from_millis(20));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.poll();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Makes a cgroup and says its id.
    fn cgroup(&self, path: &str) -> CgroupId {
        let dir = self.path("cgroup").join(path);
        fs::create_dir_all(&dir).expect("a cgroup");
        CgroupId(fs::metadata(dir).expect("it is there").ino())
    }

    fn container(&self, pod: usize, digit: char) -> CgroupId {
        self.cgroup(&format!("kubepods/burstable/pod{}/{}", UID[pod], id(digit)))
    }

    fn remove(&self, pod: usize, digit: char) {
        let path = format!("cgroup/kubepods/burstable/pod{}/{}", UID[pod], id(digit));
        fs::remove_dir(self.path(&path)).expect("a cgroup goes");
    }

    /// The log directory that a kubelet makes before the first container of a pod.
    fn log_pod(&self, pod: usize, name: &str) {
        let dir = self.path(&format!("log/pods/shop_{name}_{}", UID[pod]));
        fs::create_dir(dir).expect("a pod's logs");
    }

    /// The link that it makes after the start of a container.
    fn log_container(&self, pod: usize, name: &str, container: &str, digit: char) {
        let target = self.path(&format!(
            "log/pods/shop_{name}_{}/{container}/0.log",
            UID[pod]
        ));
        let link = format!("log/containers/{name}_shop_{container}-{}.log", id(digit));
        symlink(target, self.path(&link)).expect("a link");
    }

    fn owner(&mut self, cgroup: CgroupId) -> Option<OwnerIndex> {
        match self.owners.account(cgroup) {
            Account::Owner(owner) => Some(owner),
            Account::Pending => None,
        }
    }

    /// The label text of a cgroup's owner; `pending` while its name is waited for.
    fn labels(&mut self, cgroup: CgroupId) -> String {
        let owner = self.owner(cgroup);
        let labels = owner.map(|owner| self.owners.labels(owner).expect("an owner has labels"));
        labels.map_or("pending".to_owned(), |labels| labels.as_str().to_owned())
    }
}

fn text(pod: &str, container: &str, cgroup: &str) -> String {
    let namespace = if pod.is_empty() { "" } else { "shop" };
    format!("namespace=\"{namespace}\",pod=\"{pod}\",container=\"{container}\",cgroup=\"{cgroup}\"")
}

fn pod_path(pod: usize) -> String {
    format!("/kubepods/burstable/pod{}", UID[pod])
}

const ALL: &str = "namespace,pod,container,cgroup";

#[test]
fn a_container_waits_for_its_name_and_a_pod_is_named_before_its_containers() {
    let mut node = Node::new(ALL, 100);
    node.log_pod(0, "cart-0");
    let server = node.container(0, 'a');
    let pod = node.cgroup(&pod_path(0)[1..]);
    node.poll();
    assert_eq!(node.labels(server), "pending");
    assert_eq!(node.labels(pod), text("cart-0", "", &pod_path(0)));
    assert_eq!(node.owners.pod_cgroups().pending, 1);
    node.log_container(0, "cart-0", "server", 'a');
    node.pass(Duration::from_secs(1));
    assert_eq!(node.labels(server), text("cart-0", "server", &pod_path(0)));
    // Cgroups that a container makes for itself are its own.
    let nested = node.cgroup(&format!("{}/{}/nested/deep", &pod_path(0)[1..], id('a')));
    node.poll();
    assert_eq!(node.owner(nested), node.owner(server));
    let unit = node.cgroup("system.slice/sshd.service");
    node.poll();
    assert_eq!(
        node.labels(unit),
        text("", "", "/system.slice/sshd.service")
    );
}

#[test]
fn what_has_no_name_in_a_pod_belongs_to_the_pod_once_patience_is_over() {
    let mut node = Node::new(ALL, 100);
    node.log_pod(0, "cart-0");
    let sandbox = node.container(0, 'f');
    node.poll();
    node.pass(PATIENCE.saturating_sub(Duration::from_secs(1)));
    assert_eq!(node.labels(sandbox), "pending");
    node.pass(Duration::from_secs(1));
    assert_eq!(node.labels(sandbox), text("cart-0", "", &pod_path(0)));
    // A name that comes late is taken all the same.
    node.log_container(0, "cart-0", "server", 'f');
    node.pass(Duration::from_secs(60));
    assert_eq!(node.labels(sandbox), text("cart-0", "server", &pod_path(0)));
}

#[test]
fn pods_that_no_source_names_share_one_sum_until_they_are_named() {
    let mut node = Node::new(ALL, 100);
    let containers = [node.container(0, 'a'), node.container(1, 'b')];
    node.poll();
    node.pass(PATIENCE);
    for container in containers {
        assert_eq!(node.owner(container), Some(Owners::UNRESOLVED));
        assert_eq!(node.labels(container), text("", "", "(unresolved)"));
    }
    let count = |named, unresolved| PodCgroups {
        named,
        pending: 0,
        unresolved,
    };
    // Two containers and their pods' own cgroups.
    assert_eq!(node.owners.pod_cgroups(), count(0, 4));
    node.log_pod(0, "cart-0");
    node.log_container(0, "cart-0", "server", 'a');
    node.pass(Duration::from_secs(600));
    assert_eq!(
        node.labels(containers[0]),
        text("cart-0", "server", &pod_path(0))
    );
    assert_eq!(node.owner(containers[1]), Some(Owners::UNRESOLVED));
    assert_eq!(node.owners.pod_cgroups(), count(2, 2));
}

#[test]
fn a_container_that_starts_anew_goes_on_under_its_name() {
    let mut node = Node::new(ALL, 100);
    node.log_pod(0, "cart-0");
    node.log_container(0, "cart-0", "server", 'a');
    let first = node.container(0, 'a');
    node.poll();
    let owner = node.owner(first);
    node.remove(0, 'a');
    node.pass(Duration::from_secs(20));
    node.log_container(0, "cart-0", "server", 'b');
    let second = node.container(0, 'b');
    node.pass(Duration::from_secs(1));
    assert_eq!(node.owner(second), owner);
    // It has not ended, however long ago its first container did.
    node.pass(GRACE);
    assert_eq!(node.owners.expire(node.now).0, Vec::new());
    assert_eq!(node.owner(second), owner);
}

#[test]
fn a_pod_that_ended_keeps_its_name_for_its_last_counts_and_then_goes() {
    let mut node = Node::new(ALL, 100);
    node.log_pod(0, "job-1");
    let container = node.container(0, 'a');
    node.poll();
    // It ends before its link is seen, and the kubelet removes its logs.
    node.log_container(0, "job-1", "work", 'a');
    node.pass(Duration::from_millis(500));
    fs::remove_dir_all(node.path("log/pods")).expect("the logs go");
    fs::remove_dir_all(node.path("log/containers")).expect("the links go");
    fs::remove_dir_all(node.path("cgroup/kubepods")).expect("the cgroups go");
    node.pass(Duration::from_secs(1));
    let labels = text("job-1", "work", &pod_path(0));
    assert_eq!(node.labels(container), labels);
    node.pass(GRACE.saturating_sub(Duration::from_secs(1)));
    assert!(node.owners.expire(node.now).0.is_empty());
    assert_eq!(node.labels(container), labels);
    let owner = node.owner(container);
    node.pass(Duration::from_secs(2));
    let (owners, cgroups) = node.owners.expire(node.now);
    assert!(owners.contains(&owner.expect("an owner")));
    assert!(cgroups.contains(&container));
    assert_eq!(node.owners.budget().0, 1, "the root stays");
}

#[test]
fn fewer_labels_make_fewer_owners() {
    let mut node = Node::new("namespace", 100);
    for (pod, name, digit) in [(0, "cart-0", 'a'), (1, "cart-1", 'b')] {
        node.log_pod(pod, name);
        node.log_container(pod, name, "server", digit);
    }
    let containers = [node.container(0, 'a'), node.container(1, 'b')];
    let unit = node.cgroup("system.slice/sshd.service");
    node.poll();
    assert_eq!(node.labels(containers[0]), "namespace=\"shop\"");
    assert_eq!(node.owner(containers[0]), node.owner(containers[1]));
    assert_eq!(node.labels(unit), "namespace=\"\"");
    // The shop, and everything that is in no namespace.
    assert_eq!(node.owners.budget().0, 2);
    let removed = node.owners.labels(Owners::REMOVED).expect("a sum");
    assert_eq!(removed.as_str(), "namespace=\"(removed)\"");
    // One of two pods that are one owner ends: the owner does not.
    node.remove(0, 'a');
    node.pass(GRACE);
    assert!(node.owners.expire(node.now).0.is_empty());
}

#[test]
fn beyond_the_budget_and_when_folded_cgroups_belong_to_the_rest() {
    let mut node = Node::new(ALL, 2);
    let one = node.cgroup("one");
    node.poll();
    let two = node.cgroup("two");
    node.poll();
    assert_eq!(node.owner(two), Some(Owners::OTHER));
    assert_eq!((node.owners.budget().0, node.owners.folded()), (2, 1));
    let owner = node.owner(one).expect("an owner");
    node.owners.fold(&[owner].into());
    assert_eq!(node.owner(one), Some(Owners::OTHER));
    assert_eq!(node.labels(one), text("", "", "(other)"));
    assert_eq!((node.owners.budget().0, node.owners.folded()), (1, 2));
    // Sums never end, whoever leaves them.
    for name in ["one", "two"] {
        fs::remove_dir(node.path("cgroup").join(name)).expect("a cgroup goes");
    }
    node.pass(GRACE);
    node.pass(GRACE);
    let (owners, _) = node.owners.expire(node.now);
    assert!(!owners.contains(&Owners::OTHER) && !owners.contains(&Owners::UNRESOLVED));
}

#[test]
fn containers_of_a_pod_are_one_anothers_own_whatever_their_labels() {
    let mut node = Node::new("namespace", 100);
    let containers = [
        node.container(0, 'a'),
        node.container(0, 'b'),
        node.container(1, 'c'),
    ];
    node.poll();
    let groups = containers.map(|container| node.owners.group_of(container).expect("a group"));
    assert_eq!(groups[0], groups[1]);
    assert_ne!(groups[0], groups[2]);
}
