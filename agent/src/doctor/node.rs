//! A node as its files describe it: what several checks need, read once.

use super::{
    check::Unmade,
    cpu_model::{self, CpuModel},
    groups::Groups,
    kernel::{Options, Version},
    kubelet::Kubelet,
    live::Live,
    root::Root,
    runtime::{self, Runtime},
};
use crate::topology::{self, Topology};

/// What is known of a node.
#[derive(Debug)]
pub struct Node {
    /// Its files.
    pub root: Root,
    /// What no file says.
    pub live: Live,
    /// CPUs and nodes, or why they are not known.
    pub topology: Result<Topology, String>,
    /// Models of its CPUs, with the CPUs.
    pub models: Vec<(CpuModel, Vec<u32>)>,
    /// Name of the machine or instance.
    pub product: Option<String>,
    /// Who virtualizes it.
    pub hypervisor: Option<String>,
    /// Bytes of a page.
    pub page_bytes: Option<u64>,
    /// `uname -r`.
    pub release: Option<String>,
    /// The first two numbers of it.
    pub version: Option<Version>,
    /// What the kernel was built with.
    pub options: Options,
    /// Its cgroups.
    pub groups: Result<Groups, String>,
    /// Its kubelet's settings.
    pub kubelet: Result<Kubelet, String>,
    /// Its container runtime's.
    pub runtime: Option<Runtime>,
}

impl Node {
    /// Reads what several checks need.
    #[must_use]
    pub fn read(root: Root, live: Live) -> Self {
        let topology = topology(&root);
        let online: Vec<u32> = topology
            .as_ref()
            .map(|topology| topology.cpus().online.iter().collect())
            .unwrap_or_default();
        let release = root.text("/proc/sys/kernel/osrelease").ok();
        let release_or_none = release.clone().unwrap_or_default();
        let options = Options::read(&root, &release_or_none);
        Self {
            models: cpu_model::read(&root, &online),
            product: product(&root),
            hypervisor: hypervisor(&root),
            page_bytes: page_bytes(&root, &options),
            version: Version::parse(&release_or_none),
            options,
            groups: Groups::read(&root).map_err(|unread| unread.to_string()),
            kubelet: Kubelet::read(&root),
            runtime: runtime::read(&root),
            release,
            topology,
            live,
            root,
        }
    }

    /// CPUs and nodes.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn topology(&self) -> Result<&Topology, Unmade> {
        self.topology.as_ref().map_err(Unmade::unknown)
    }

    /// CPUs and nodes of a machine with several nodes.
    ///
    /// # Errors
    /// When it has one only, or that is not known.
    pub fn several_nodes(&self) -> Result<&Topology, Unmade> {
        let topology = self.topology()?;
        if topology.nodes().len() < 2 {
            return Err(Unmade::not_here("this machine has one NUMA node"));
        }
        Ok(topology)
    }

    /// Whether there are several nodes; false where that is not known.
    #[must_use]
    pub fn has_several_nodes(&self) -> bool {
        self.several_nodes().is_ok()
    }

    /// Its cgroups.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn groups(&self) -> Result<&Groups, Unmade> {
        self.groups.as_ref().map_err(Unmade::unknown)
    }

    /// Its kubelet, whose settings are known.
    ///
    /// # Errors
    /// When none is in sight, or its settings are not.
    pub fn kubelet(&self) -> Result<&Kubelet, Unmade> {
        let kubelet = self.kubelet.as_ref().map_err(Unmade::not_here)?;
        match &kubelet.unknown {
            Some(why) => Err(Unmade::unknown(format!(
                "the kubelet's settings are not known: {why}"
            ))),
            None => Ok(kubelet),
        }
    }

    /// Whether it is a node of Kubernetes, whatever is known of its settings.
    #[must_use]
    pub fn is_kubernetes(&self) -> bool {
        self.kubelet.is_ok()
    }

    /// Its kernel's version.
    ///
    /// # Errors
    /// When it is not known.
    pub fn version(&self) -> Result<Version, Unmade> {
        self.version
            .ok_or_else(|| Unmade::unknown("the kernel's version could not be read"))
    }

    /// The CPU and kernel, as the subject of a sentence about both.
    #[must_use]
    pub fn here(&self) -> String {
        let cpu = match self.models.first() {
            Some((model, _)) if !model.model.is_empty() => model.name(),
            _ => "this CPU".to_owned(),
        };
        let kernel = match &self.release {
            Some(release) => format!("Linux {release}"),
            None => "an unknown kernel".to_owned(),
        };
        format!("On {cpu} with {kernel}")
    }

    /// The page size for a sentence.
    #[must_use]
    pub fn pages(&self) -> String {
        self.page_bytes
            .map_or("an unknown page size".to_owned(), |bytes| {
                format!("pages of {} KiB", bytes / 1024)
            })
    }

    /// Whether the CPUs are Arm's; false where that is not known.
    #[must_use]
    pub fn is_arm(&self) -> bool {
        self.models
            .first()
            .is_some_and(|(model, _)| model.id.starts_with("implementer"))
    }
}

fn topology(root: &Root) -> Result<Topology, String> {
    Topology::read(&root.dir().join("sys")).map_err(|error| {
        let (path, because) = match &error {
            topology::Error::Read { path, source }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return format!("there is no {}", inside(root, path));
            }
            topology::Error::Read { path, source } => (path, source.to_string()),
            topology::Error::Malformed {
                path,
                expected,
                problem,
            } => (path, format!("{expected} was expected, but {problem}")),
        };
        root.reject(&inside(root, path), &because).to_string()
    })
}

fn inside(root: &Root, path: &std::path::Path) -> String {
    match path.strip_prefix(root.dir()) {
        Ok(rest) => format!("/{}", rest.display()),
        Err(_) => path.display().to_string(),
    }
}

fn page_bytes(root: &Root, options: &Options) -> Option<u64> {
    const SMAPS: &str = "/proc/self/smaps";
    if let Ok(kib) = root.field_line(SMAPS, "KernelPageSize:") {
        // The addresses of our own process are nobody's business.
        root.keep_only(SMAPS, &format!("KernelPageSize: {kib} kB\n"));
        // The largest of any architecture has 256 KiB.
        if (1..=1024).contains(&kib) {
            return Some(kib * 1024);
        }
        root.reject(
            SMAPS,
            &format!("a page of at most 1024 kB was expected, and it reads `{kib}`"),
        );
    }
    // A huge page is as many pages as a page holds entries of eight bytes.
    let huge = root.number::<u64>(&format!("{}/hpage_pmd_size", super::facts::THP));
    let by_huge = |huge: u64| {
        [4096, 16384, 65536]
            .into_iter()
            .find(|page| page * (page / 8) == huge)
    };
    let built = [
        ("ARM64_64K_PAGES", 65536),
        ("ARM64_16K_PAGES", 16384),
        ("ARM64_4K_PAGES", 4096),
    ];
    let by_option = || {
        let mut set = built
            .into_iter()
            .filter(|(name, _)| options.has(name) == Some(true));
        set.next().map(|(_, bytes)| bytes)
    };
    huge.ok().and_then(by_huge).or_else(by_option)
}

/// By DMI, else by device tree.
fn product(root: &Root) -> Option<String> {
    let dmi = |name: &str| root.text(&format!("/sys/class/dmi/id/{name}")).ok();
    match (dmi("sys_vendor"), dmi("product_name")) {
        (Some(vendor), Some(product)) => return Some(format!("{vendor} {product}")),
        (None, Some(product)) => return Some(product),
        _ => {}
    }
    let bytes = root.bytes("/proc/device-tree/model").ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_end_matches('\0').to_owned())
}

fn hypervisor(root: &Root) -> Option<String> {
    let kind = root.text("/sys/hypervisor/type").ok();
    let vendor = root.text("/sys/class/dmi/id/sys_vendor").ok();
    let product = root.text("/sys/class/dmi/id/product_name").ok();
    let metal = product.as_ref().is_some_and(|name| name.contains("metal"));
    let by_vendor = vendor.and_then(|vendor| {
        let known = [
            "QEMU",
            "Amazon EC2",
            "Google",
            "VMware",
            "Xen",
            "KVM",
            "Alibaba Cloud",
        ];
        let cloud = known.iter().any(|name| vendor.contains(name)) && !metal;
        let hyper_v = product.as_deref() == Some("Virtual Machine");
        (cloud || hyper_v).then_some(vendor)
    });
    let flagged = || {
        let text = root.large_text("/proc/cpuinfo").ok()?;
        let mut flags = text.lines().filter(|line| line.starts_with("flags"));
        let set = flags
            .next()?
            .split_ascii_whitespace()
            .any(|flag| flag == "hypervisor");
        set.then(|| "one that does not say its name".to_owned())
    };
    let tree = || {
        let bytes = root.bytes("/proc/device-tree/hypervisor/compatible").ok()?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.split('\0').next()?.to_owned())
    };
    kind.or(by_vendor).or_else(tree).or_else(flagged)
}
