//! Resolution of owners from cgroups and a kubelet's files. Both are real directories in the form that the kernel and
//! the kubelet give them.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::PathBuf,
    time::{Duration, Instant},
};

use stallscope::{
    attribution::{
        owners::{
            Account, GRACE, LabelSet, MOST_REMOVED, OwnerIndex, Owners, PATIENCE, PodCgroups,
        },
        pods::{
            PodTrees,
            names::{Chosen, Names, Source},
        },
    },
    host::{
        cgroup::{CgroupId, Hierarchy, Watch},
        deadline::Reads,
    },
};
use tempfile::TempDir;

const UID: [&str; 2] = [
    "8d0d32a5-8c5b-4b0c-9b0f-1f9a2b3c4d5e",
    "0c7e0f7e-6a35-4d34-8d39-b1f0f5f7a001",
];

/// Returns a container's ID.
fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A node: its cgroups, its kubelet's files, and the agent's view of both.
struct Node {
    dir: TempDir,
    owners: Owners,
    now: Instant,
    /// Recent activity of owners.
    activity: HashMap<OwnerIndex, u64>,
    /// Evicted owners, and the owners that took over their totals.
    evicted: Vec<(OwnerIndex, OwnerIndex)>,
}

impl Node {
    fn new(labels: &str, budget: usize) -> Self {
        Self::with(labels, budget, PodTrees::Found)
    }

    fn with(labels: &str, budget: usize, trees: PodTrees) -> Self {
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
        let mut owners = Owners::new(watch, names, labels, trees, budget);
        let reads = Reads::register(&prometheus::Registry::new()).expect("an empty registry");
        // A poll waits for the files even on a busy machine.
        let moment = Duration::from_secs(60);
        let started = owners.start_names(&reads, moment);
        started.expect("the source starts");
        let now = Instant::now();
        let (activity, evicted) = (HashMap::new(), Vec::new());
        let mut node = Self {
            dir,
            owners,
            now,
            activity,
            evicted,
        };
        node.poll();
        node
    }

    /// Polls, and waits until the clock of the file system advances, so that the next poll sees the next change.
    fn poll(&mut self) {
        let Self {
            owners, activity, ..
        } = self;
        let did = |owner| activity.get(&owner).copied().unwrap_or_default();
        owners.poll(self.now, &did).expect("a poll");
        self.evicted = owners.evicted();
        std::thread::sleep(Duration::from_millis(20));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.poll();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Makes a cgroup and returns its ID.
    fn cgroup(&self, path: &str) -> CgroupId {
        let dir = self.path("cgroup").join(path);
        fs::create_dir_all(&dir).expect("a cgroup");
        CgroupId(fs::metadata(dir).expect("it is there").ino())
    }

    /// Makes a cgroup in which any user may make others.
    fn delegated(&self, path: &str) {
        self.cgroup(path);
        let dir = self.path("cgroup").join(path);
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("its permissions");
    }

    fn end(&self, path: &str) {
        fs::remove_dir(self.path("cgroup").join(path)).expect("a cgroup goes");
    }

    fn container(&self, pod: usize, digit: char) -> CgroupId {
        self.cgroup(&format!("kubepods/burstable/pod{}/{}", UID[pod], id(digit)))
    }

    fn remove(&self, pod: usize, digit: char) {
        let path = format!("cgroup/kubepods/burstable/pod{}/{}", UID[pod], id(digit));
        fs::remove_dir(self.path(&path)).expect("a cgroup goes");
    }

    /// Makes the log directory that a kubelet makes before the first container of a pod.
    fn log_pod(&self, pod: usize, name: &str) {
        let dir = self.path(&format!("log/pods/shop_{name}_{}", UID[pod]));
        fs::create_dir(dir).expect("a pod's logs");
    }

    /// Makes the link that a kubelet makes after the start of a container.
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

    /// Returns the label text of a cgroup's owner; `pending` while its name is pending.
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
    // Cgroups that a container makes below its own belong to the container.
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
    // A late name still replaces the pending one.
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
        refused: 0,
    };
    // Two containers and their pods' own cgroups count.
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
    // The owner has not ended, no matter how long ago its first container did.
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
    // The container ends before the agent sees its link, and the kubelet removes its logs.
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
    // The owners are the shop, and everything without a namespace.
    assert_eq!(node.owners.budget().0, 2);
    let removed = node.owners.labels(Owners::REMOVED).expect("a sum");
    assert_eq!(removed.as_str(), "namespace=\"(removed)\"");
    // One of two pods with the same owner ends, and the owner does not.
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
    // Sums never end, no matter which owners end.
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

/// A cgroup delegated to a user.
const USER: &str = "user.slice/user-1000.slice/user@1000.service";

#[test]
fn a_users_cgroup_named_after_a_pod_is_not_the_pods() {
    let mut node = Node::new(ALL, 100);
    node.log_pod(0, "cart-0");
    node.log_container(0, "cart-0", "server", 'a');
    let server = node.container(0, 'a');
    node.delegated(USER);
    let forged = [
        format!("{USER}/kubepods/burstable/pod{}/{}", UID[0], id('a')),
        format!("{USER}/pod{}", UID[0]),
        format!(
            "{USER}/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{}.scope",
            UID[0],
            id('a')
        ),
        format!(
            "{USER}/kubepods-pod{}.slice:cri-containerd:{}",
            UID[0],
            id('a')
        ),
    ];
    let claims: Vec<_> = forged.iter().map(|path| node.cgroup(path)).collect();
    node.poll();
    assert_eq!(node.labels(server), text("cart-0", "server", &pod_path(0)));
    let pod = node.owners.group_of(server);
    for (claim, path) in claims.into_iter().zip(&forged) {
        let labels = node.labels(claim);
        assert!(
            labels.contains(&format!("pod=\"\",container=\"\",cgroup=\"/{USER}")),
            "{path}: {labels}"
        );
        assert_ne!(node.owner(claim), node.owner(server), "{path}");
        assert_ne!(node.owners.group_of(claim), pod, "{path}");
    }
    let trees = node.owners.trees();
    assert!(trees.starts_with("in /kubepods: "), "{trees}");
    // These are pods and their containers, of the four made-up ones.
    assert!(
        trees.contains("; 6 cgroups elsewhere are named after pods"),
        "{trees}"
    );
}

#[test]
fn one_cgroup_is_a_pod_and_a_second_that_says_so_is_counted_by_its_path() {
    let mut node = Node::new(ALL, 100);
    node.log_pod(0, "cart-0");
    node.log_container(0, "cart-0", "server", 'a');
    let first = node.container(0, 'a');
    node.poll();
    let second = format!("kubepods/besteffort/pod{}/{}", UID[0], id('a'));
    let claim = node.cgroup(&second);
    node.poll();
    let labels = text("cart-0", "server", &pod_path(0));
    assert_eq!(node.labels(first), labels);
    assert_eq!(node.labels(claim), text("", "", &format!("/{second}")));
    assert_ne!(node.owners.group_of(claim), node.owners.group_of(first));
    let pods = node.owners.pod_cgroups();
    assert_eq!((pods.named, pods.refused), (2, 2));
    // The first one goes, for example with the kubelet's old root.
    node.remove(0, 'a');
    node.end(&pod_path(0)[1..]);
    node.pass(Duration::from_secs(1));
    let labels = text(
        "cart-0",
        "server",
        &format!("/kubepods/besteffort/pod{}", UID[0]),
    );
    assert_eq!(node.labels(claim), labels);
    assert_eq!(node.owners.pod_cgroups().refused, 0);
}

#[test]
fn a_runtime_of_another_driver_has_its_containers_beside_the_pods_cgroup() {
    let mut node = Node::new(ALL, 100);
    node.log_pod(0, "cart-0");
    node.log_container(0, "cart-0", "server", 'a');
    let slice = format!("kubepods-pod{}.slice", UID[0].replace('-', "_"));
    let pod = node.cgroup(&format!("kubepods.slice/{slice}"));
    let service = "system.slice/containerd.service";
    let server = node.cgroup(&format!("{service}/{slice}:cri-containerd:{}", id('a')));
    node.poll();
    assert_eq!(
        node.labels(pod),
        text("cart-0", "", &format!("/kubepods.slice/{slice}"))
    );
    let labels = text("cart-0", "server", &format!("/{service}/{slice}"));
    assert_eq!(node.labels(server), labels);
    assert_eq!(node.owners.group_of(pod), node.owners.group_of(server));
}

#[test]
fn a_pod_of_the_kubelets_goes_before_one_that_was_made_in_a_container() {
    let mut node = Node::with(ALL, 100, PodTrees::Nested);
    node.log_pod(0, "cart-0");
    node.log_container(0, "cart-0", "server", 'a');
    let docker = id('d');
    let inside = node.cgroup(&format!(
        "docker/{docker}/kubepods/pod{}/{}",
        UID[0],
        id('a')
    ));
    node.poll();
    let tree = format!("/docker/{docker}/kubepods/pod{}", UID[0]);
    assert_eq!(node.labels(inside), text("cart-0", "server", &tree));
    let server = node.container(0, 'a');
    node.poll();
    assert_eq!(node.labels(server), text("cart-0", "server", &pod_path(0)));
    assert_eq!(
        node.labels(inside),
        text("", "", &format!("/docker/{docker}"))
    );
    assert_ne!(node.owners.group_of(inside), node.owners.group_of(server));
}

#[test]
fn pods_go_before_services_and_these_before_what_a_user_makes() {
    let mut node = Node::new(ALL, 8);
    node.delegated(USER);
    let flood: Vec<_> = (0..40)
        .map(|n| node.cgroup(&format!("{USER}/x{n}.service")))
        .collect();
    node.poll();
    assert_eq!(node.owners.budget(), (8, 8));
    let seated = |node: &mut Node, groups: &[CgroupId]| {
        let owners: Vec<_> = groups.iter().map(|group| node.owner(*group)).collect();
        owners
            .iter()
            .filter(|owner| **owner != Some(Owners::OTHER))
            .count()
    };
    // Places go to the root, the three levels above, and as much of the flood as there is room for.
    assert_eq!(seated(&mut node, &flood), 4);
    let lucky: Vec<_> = flood
        .iter()
        .copied()
        .filter(|group| node.owners.owner_of(*group) != Some(Owners::OTHER))
        .collect();
    for (at, group) in lucky.iter().enumerate() {
        let owner = node.owner(*group).expect("an owner");
        node.activity.insert(owner, [3, 1, 4, 2][at]);
    }
    // When a pod comes, the owner with the least activity is evicted at once.
    let least = node.owner(lucky[1]);
    node.log_pod(0, "cart-0");
    node.log_container(0, "cart-0", "server", 'a');
    let server = node.container(0, 'a');
    node.poll();
    assert_eq!(node.labels(server), text("cart-0", "server", &pod_path(0)));
    assert_eq!(node.owner(lucky[1]), Some(Owners::OTHER));
    assert!(
        node.evicted
            .contains(&(least.expect("it had a seat"), Owners::OTHER))
    );
    // kubepods and its burstable belong to no pod, but to root. The pod's own cgroup is named without its container.
    let services: Vec<_> = (0..8)
        .map(|n| node.cgroup(&format!("system.slice/s{n}.service")))
        .collect();
    node.poll();
    assert_eq!(seated(&mut node, &flood), 0);
    assert!(seated(&mut node, &services) > 0);
    let pods: Vec<_> = (0..20)
        .map(|n| {
            let uid = format!("0c7e0f7e-6a35-4d34-8d39-b1f0f5f7{n:04}");
            let dir = format!("log/pods/shop_many-{n}_{uid}");
            fs::create_dir(node.path(&dir)).expect("a pod's logs");
            node.cgroup(&format!("kubepods/pod{uid}"))
        })
        .collect();
    node.poll();
    assert_eq!(seated(&mut node, &services), 0);
    assert_eq!(
        seated(&mut node, &pods),
        6,
        "all seats but those of the first pod"
    );
    assert_eq!(node.owners.budget(), (8, 8));
    assert_eq!(node.labels(server), text("cart-0", "server", &pod_path(0)));
}

#[test]
fn room_is_given_back_at_once() {
    let mut node = Node::new(ALL, 6);
    node.delegated(USER);
    let flood: Vec<_> = (0..10)
        .map(|n| node.cgroup(&format!("{USER}/x{n}.scope")))
        .collect();
    node.poll();
    // Places go to the root, three levels, and two of ten.
    let other = |node: &Node, group| node.owners.owner_of(group) == Some(Owners::OTHER);
    let seated: Vec<_> = (0..10).filter(|n| !other(&node, flood[*n])).collect();
    assert_eq!(seated.len(), 2);
    let ended = node.owner(flood[seated[0]]).expect("an owner");
    node.end(&format!("{USER}/x{}.scope", seated[0]));
    node.pass(Duration::from_millis(100));
    // One of the waiting owners has its place, long before its grace period is over, and its counts are with the
    // removed.
    assert_eq!(node.evicted, [(ended, Owners::REMOVED)]);
    assert_eq!(node.owner(flood[seated[0]]), Some(Owners::REMOVED));
    let standing = (0..10).filter(|n| other(&node, flood[*n])).count();
    assert_eq!(standing, 7);
    for n in (0..10).filter(|n| *n != seated[0]) {
        node.end(&format!("{USER}/x{n}.scope"));
    }
    let next = node.cgroup("next");
    node.pass(Duration::from_millis(100));
    assert_eq!(node.labels(next), text("", "", "/next"));
}

#[test]
fn what_is_gone_is_bounded_in_number() {
    let mut node = Node::new(ALL, 10);
    node.delegated(USER);
    for round in 0..2 {
        for n in 0..MOST_REMOVED {
            node.cgroup(&format!("{USER}/r{round}-{n}"));
        }
        node.poll();
        for n in 0..MOST_REMOVED {
            node.end(&format!("{USER}/r{round}-{n}"));
        }
        node.poll();
    }
    assert!(node.owners.crowded());
    let (_, forgotten) = node.owners.expire(node.now);
    assert!(forgotten.len() >= MOST_REMOVED, "{}", forgotten.len());
    assert!(!node.owners.crowded());
}
