//! Checks of the kubelet's managers of CPUs, memory and topology.

use serde_json::Value;

use crate::doctor::{
    Node,
    check::{Check, Finding, Group, MendKind, Severity, Unmade},
    kubelet::{Kubelet, Setting, yaml},
};
use crate::host::topology::{CpuList, MAX_CPU};
use crate::text::shell_command::ShellCommand;

/// File in which the CPU manager records the CPUs of each container.
pub const CPU_STATE: &str = "/var/lib/kubelet/cpu_manager_state";
const MEMORY_STATE: &str = "/var/lib/kubelet/memory_manager_state";

pub fn cpu_manager(kubelet: &Kubelet) -> Setting {
    kubelet.setting("cpu-manager-policy", "cpuManagerPolicy", "none")
}

fn topology_manager(kubelet: &Kubelet) -> Setting {
    kubelet.setting("topology-manager-policy", "topologyManagerPolicy", "none")
}

pub static CPU_MANAGER_POLICY: Check = Check {
    name: "cpu-manager-policy",
    group: Group::Kubernetes,
    summary: "Several nodes, and no pod has CPUs of its own",
    severities: &[Severity::Warning],
    reads: "the kubelet's `cpuManagerPolicy`, `/sys/devices/system/node`",
    run: cpu_manager_policy,
};

fn cpu_manager_policy(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    let topology = node.several_nodes()?;
    let policy = cpu_manager(kubelet);
    if policy.value != "none" {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::warning("Pods run on all CPUs of all nodes")
            .value(format!("cpuManagerPolicy: none, {} NUMA nodes", topology.nodes().len()))
            .read(&policy.read)
            .why(format!("{}, the scheduler moves threads between nodes as it balances load: their memory stays behind, and caches start cold. Latency-critical pods of Guaranteed class cannot be kept from it.", node.here()))
            .mend(MendKind::Kubelet, "cpuManagerPolicy: static (with reservedSystemCPUs; drain the node and remove /var/lib/kubelet/cpu_manager_state before the restart)"),
    ])
}

pub static CPU_MANAGER_STATE: Check = Check {
    name: "cpu-manager-state",
    group: Group::Kubernetes,
    summary: "A state file of the kubelet that does not fit its settings or the machine",
    severities: &[Severity::Problem],
    reads: "`/var/lib/kubelet/{cpu,memory}_manager_state`, the kubelet's policies, `cpu/online`",
    run: cpu_manager_state,
};

fn cpu_manager_state(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    let memory = kubelet.setting("memory-manager-policy", "memoryManagerPolicy", "None");
    let mut found = Vec::new();
    for (file, policy) in [(CPU_STATE, cpu_manager(kubelet)), (MEMORY_STATE, memory)] {
        if !node.root.exists(file) {
            continue;
        }
        let state = yaml(&node.root, file)?;
        let was = state["policyName"].as_str().unwrap_or_default();
        // Without a policy, older kubelets do not write one.
        if !was.is_empty() && was != policy.value {
            found.push(
                Finding::problem(format!("The state is of policy {was}, the setting says {}", policy.value))
                    .value(was)
                    .read(file)
                    .read(&policy.read)
                    .why("The kubelet refuses to start with a state of another policy; where it runs already, the setting has not taken effect.")
                    .command(ShellCommand::new("rm").arg(file))
                    .mend(MendKind::Advice, "drain the node and stop the kubelet before, start it after"),
            );
        }
        if file == CPU_STATE && was == "static" {
            found.extend(impossible(node, &state)?);
        }
    }
    Ok(found)
}

/// Returns a finding if the state has CPUs that are not online.
fn impossible(node: &Node, state: &Value) -> Result<Option<Finding>, Unmade> {
    let online = &node.topology()?.cpus().online;
    let set = state["defaultCpuSet"].as_str().unwrap_or_default();
    let set = CpuList::parse(set, MAX_CPU).map_err(|error| {
        node.root.reject(
            CPU_STATE,
            &format!("defaultCpuSet is no list of CPUs: {error}"),
        )
    })?;
    let missing = set.without(online);
    if missing.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        Finding::problem("The kubelet's state names CPUs that are not there")
            .value(format!("CPUs {missing} of {set}"))
            .read(CPU_STATE)
            .read("/sys/devices/system/cpu/online")
            .why(format!("{}, {} CPUs are online: the kubelet refuses to start with such a state, as after a change of the instance's size or of SMT.", node.here(), online.len()))
            .command(ShellCommand::new("rm").arg(CPU_STATE))
            .mend(MendKind::Advice, "drain the node and stop the kubelet before, start it after; or bring the CPUs back online"),
    ))
}

pub static TOPOLOGY_MANAGER: Check = Check {
    name: "topology-manager",
    group: Group::Kubernetes,
    summary: "Exclusive CPUs that may come from several nodes",
    severities: &[Severity::Warning, Severity::Info],
    reads: "the kubelet's `topologyManagerPolicy`, `topologyManagerScope`, `cpuManagerPolicy`",
    run: topology_manager_policy,
};

fn topology_manager_policy(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    let topology = node.several_nodes()?;
    if cpu_manager(kubelet).value != "static" {
        return Err(Unmade::not_here(
            "the CPU manager gives nobody exclusive CPUs",
        ));
    }
    let policy = topology_manager(kubelet);
    let scope = kubelet.setting(
        "topology-manager-scope",
        "topologyManagerScope",
        "container",
    );
    let nodes = topology.nodes().len();
    if matches!(policy.value.as_str(), "none" | "best-effort") {
        let how = if policy.value == "none" {
            "does not look at nodes"
        } else {
            "takes several nodes where one would need a wait"
        };
        return Ok(vec![
            Finding::warning("Exclusive CPUs of one pod may be on different nodes")
                .value(format!("topologyManagerPolicy: {}, {nodes} NUMA nodes", policy.value))
                .read(&policy.read)
                .why(format!("{}, the topology manager {how}: a pod can get half of its CPUs on a far node, pinned there for its whole life.", node.here()))
                .mend(MendKind::Kubelet, "topologyManagerPolicy: single-numa-node (or restricted, where pods are larger than a node)"),
        ]);
    }
    if scope.value == "pod" {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::info("Containers of one pod may be on different nodes")
            .value(format!("topologyManagerScope: {}", scope.value))
            .read(&scope.read)
            .why(format!("{}, each container is placed by itself: a proxy beside its application can be on another node, and everything they exchange crosses over.", node.here()))
            .mend(MendKind::Kubelet, "topologyManagerScope: pod"),
    ])
}

pub static MEMORY_MANAGER: Check = Check {
    name: "memory-manager",
    group: Group::Kubernetes,
    summary: "CPUs are kept on one node and memory is not",
    severities: &[Severity::Problem, Severity::Warning],
    reads: "the kubelet's `memoryManagerPolicy`, `reservedMemory`, `topologyManagerPolicy`",
    run: memory_manager,
};

fn memory_manager(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    let policy = kubelet.setting("memory-manager-policy", "memoryManagerPolicy", "None");
    if policy.value == "Static" {
        let reserved =
            kubelet.flag("reserved-memory").is_some() || kubelet.value("reservedMemory").is_some();
        if reserved {
            return Ok(Vec::new());
        }
        return Ok(vec![
            Finding::problem("The memory manager is static, and no memory is reserved by node")
                .value("reservedMemory is not set")
                .read(&policy.read)
                .why("The kubelet refuses to start: it has to know from which nodes the memory it reserves (kubeReserved, systemReserved, the eviction threshold) is taken.")
                .mend(MendKind::Kubelet, "reservedMemory: [{numaNode: 0, limits: {memory: SUM}}], where SUM is kubeReserved + systemReserved + the hard eviction threshold"),
        ]);
    }
    node.several_nodes()?;
    if topology_manager(kubelet).value != "single-numa-node"
        || cpu_manager(kubelet).value != "static"
    {
        return Err(Unmade::not_here("CPUs are not kept on one node either"));
    }
    Ok(vec![
        Finding::warning("CPUs are kept on one node, memory is not")
            .value(format!("memoryManagerPolicy: {}", policy.value))
            .read(&policy.read)
            .why(format!("{}, a pod whose CPUs are all on one node still gets memory from others as soon as that node is full, because nothing counts memory by node when pods are admitted.", node.here()))
            .mend(MendKind::Kubelet, "memoryManagerPolicy: Static, with reservedMemory for each node"),
    ])
}

pub static RESERVED_CPUS: Check = Check {
    name: "reserved-cpus",
    group: Group::Kubernetes,
    summary: "Exclusive CPUs, and none or impossible ones reserved for the system",
    severities: &[Severity::Problem, Severity::Info],
    reads: "the kubelet's `reservedSystemCPUs`, `kubeReserved`, `systemReserved`, `cpu/online`",
    run: reserved_cpus,
};

fn reserved_cpus(node: &Node) -> Result<Vec<Finding>, Unmade> {
    let kubelet = node.kubelet()?;
    let policy = cpu_manager(kubelet);
    let reserved = kubelet.setting("reserved-cpus", "reservedSystemCPUs", "");
    if !reserved.value.is_empty() {
        return reserved_list(node, &reserved);
    }
    if policy.value != "static" {
        return Err(Unmade::not_here(
            "the CPU manager gives nobody exclusive CPUs",
        ));
    }
    let amount = ["kubeReserved", "systemReserved"]
        .iter()
        .find_map(|key| kubelet.value(key)?.get("cpu"));
    let flags = ["kube-reserved", "system-reserved"]
        .iter()
        .filter_map(|flag| kubelet.flag(flag));
    if amount.is_none() && !flags.into_iter().any(|flag| flag.contains("cpu=")) {
        return Ok(vec![
            Finding::problem("The CPU manager is static, and no CPU is reserved for the system")
                .value("neither reservedSystemCPUs nor a reservation of CPU is set")
                .read(&policy.read)
                .why("The kubelet refuses to start: with every CPU given away there would be none for the kubelet, the runtime and the kernel's own threads.")
                .mend(MendKind::Kubelet, "reservedSystemCPUs: \"0\" (and its SMT sibling)"),
        ]);
    }
    Ok(vec![
        Finding::info("How many CPUs are reserved is set, and not which")
            .value(amount.map(Value::to_string).unwrap_or_default())
            .read(&policy.read)
            .why(format!("{}, the kubelet takes the lowest CPUs: interrupts and kernel threads have to be kept there to match, or they run on exclusive CPUs.", node.here()))
            .mend(MendKind::Kubelet, "reservedSystemCPUs: a list, of each node's first CPUs where interrupts of its devices go"),
    ])
}

fn reserved_list(node: &Node, reserved: &Setting) -> Result<Vec<Finding>, Unmade> {
    let online = &node.topology()?.cpus().online;
    let finding = |problem: String| {
        vec![
            Finding::problem(problem)
                .value(&reserved.value)
                .read(&reserved.read)
                .read("/sys/devices/system/cpu/online")
                .why(format!("{}, CPUs {online} are online: the kubelet refuses to start, or reserves less than was meant.", node.here()))
                .mend(MendKind::Kubelet, "reservedSystemCPUs: a list of CPUs that are online"),
        ]
    };
    match CpuList::parse(&reserved.value, MAX_CPU) {
        Err(error) => Ok(finding(format!("The reserved CPUs are no list: {error}"))),
        Ok(list) if !list.without(online).is_empty() => Ok(finding(format!(
            "Reserved CPUs {} are not there",
            list.without(online)
        ))),
        Ok(_) => Ok(Vec::new()),
    }
}
