//! Facts of a node that several checks need, each read once.

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
use crate::host::topology::{self, Topology};

/// Facts of a node.
#[derive(Debug)]
pub struct Node {
    /// Files of the node.
    pub root: Root,
    /// Facts that no file states.
    pub live: Live,
    /// CPUs and NUMA nodes, or the reason for which they are not known.
    pub topology: Result<Topology, String>,
    /// CPU models, each with its CPUs.
    pub models: Vec<(CpuModel, Vec<u32>)>,
    /// Name of the machine or instance.
    pub product: Option<String>,
    /// Hypervisor.
    pub hypervisor: Option<String>,
    /// Page size, in bytes.
    pub page_bytes: Option<u64>,
    /// `uname -r`.
    pub release: Option<String>,
    /// The first two numbers of the release.
    pub version: Option<Version>,
    /// Build options of the kernel.
    pub options: Options,
    /// Cgroups, or the reason for which they are not known.
    pub groups: Result<Groups, String>,
    /// Settings of the kubelet, or the reason for which there are none.
    pub kubelet: Result<Kubelet, String>,
    /// Settings of the container runtime.
    pub runtime: Option<Runtime>,
}

impl Node {
    /// Reads the facts that several checks need.
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

    /// Returns the CPUs and NUMA nodes.
    ///
    /// # Errors
    /// When they are not known.
    pub fn topology(&self) -> Result<&Topology, Unmade> {
        self.topology.as_ref().map_err(Unmade::unknown)
    }

    /// Returns the CPUs and NUMA nodes of a machine with several nodes.
    ///
    /// # Errors
    /// When it has only one, or the nodes are not known.
    pub fn several_nodes(&self) -> Result<&Topology, Unmade> {
        let topology = self.topology()?;
        if topology.nodes().len() < 2 {
            return Err(Unmade::not_here("this machine has one NUMA node"));
        }
        Ok(topology)
    }

    /// Returns whether there are several NUMA nodes; false if that is not known.
    #[must_use]
    pub fn has_several_nodes(&self) -> bool {
        self.several_nodes().is_ok()
    }

    /// Returns the cgroups.
    ///
    /// # Errors
    /// When they are not known.
    pub fn groups(&self) -> Result<&Groups, Unmade> {
        self.groups.as_ref().map_err(Unmade::unknown)
    }

    /// Returns the kubelet with its settings.
    ///
    /// # Errors
    /// When there is no kubelet in sight, or its settings are not known.
    pub fn kubelet(&self) -> Result<&Kubelet, Unmade> {
        let kubelet = self.kubelet.as_ref().map_err(Unmade::not_here)?;
        match &kubelet.unknown {
            Some(why) => Err(Unmade::unknown(format!(
                "the kubelet's settings are not known: {why}"
            ))),
            None => Ok(kubelet),
        }
    }

    /// Returns whether it is a Kubernetes node, even if its kubelet's settings are not known.
    #[must_use]
    pub fn is_kubernetes(&self) -> bool {
        self.kubelet.is_ok()
    }

    /// Returns the kernel's version.
    ///
    /// # Errors
    /// When it is not known.
    pub fn version(&self) -> Result<Version, Unmade> {
        self.version
            .ok_or_else(|| Unmade::unknown("the kernel's version could not be read"))
    }

    /// Describes the CPU and kernel as the opening words of a sentence about both.
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

    /// Describes the page size for use in a sentence.
    #[must_use]
    pub fn pages(&self) -> String {
        self.page_bytes
            .map_or("an unknown page size".to_owned(), |bytes| {
                format!("pages of {} KiB", bytes / 1024)
            })
    }

    /// Returns whether the CPUs are Arm's; false if that is not known.
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
        // The addresses of the agent's own process must not end up in a report.
        root.keep_only(SMAPS, &format!("KernelPageSize: {kib} kB\n"));
        // The largest page of any architecture has 256 KiB.
        if (1..=1024).contains(&kib) {
            return Some(kib * 1024);
        }
        root.reject(
            SMAPS,
            &format!("a page of at most 1024 kB was expected, and it reads `{kib}`"),
        );
    }
    // A huge page has as many pages as a page has entries of eight bytes.
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

/// Reads the product's name by DMI, else by device tree.
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
