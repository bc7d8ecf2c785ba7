//! Remedies that change a container's limits and shares on this host, with their commands.

use super::{
    Case, Remedy,
    pod::{Change, cpu_amount},
    text,
};
use crate::{
    attribution::pods::QosClass, doctor::groups::raise, ledger::history::Quantity,
    text::shell_command::ShellCommand,
};
use stallscope_ebpf::Cause;

impl Case {
    /// Returns the systemd service that the subject is, if it belongs to the system's manager, which makes services
    /// only below slices. A cgroup below a service (of a user's manager, a container, a delegated unit) is excluded,
    /// since its user names it freely.
    fn service(&self) -> Option<&str> {
        let path = self.subject.labels.get("cgroup")?.strip_prefix('/')?;
        let (slices, name) = path.rsplit_once('/')?;
        let is_service = name.ends_with(".service") && !name.starts_with('-');
        let of_slices = slices
            .split('/')
            .all(|name| name.strip_suffix(".slice").is_some());
        (is_service && of_slices).then_some(name)
    }

    /// Makes the command that sets a property of the subject's service.
    fn set_property(&self, property: &str) -> Option<ShellCommand> {
        let service = self.service()?;
        Some(ShellCommand::new("systemctl").args(["set-property", service, property]))
    }

    /// Returns the CPU quota of the container, in CPUs.
    fn cpu_limit(&self) -> Option<f64> {
        self.facts.quotas.first().map(super::Limit::cpus)
    }

    /// Returns the remedy of a larger CPU quota, of `cpus` CPUs.
    pub(super) fn raise_cpu_limit(&self, cpus: f64) -> Vec<Remedy> {
        if let Some(pod) = &self.pod {
            let exclusive = pod.qos == Some(QosClass::Guaranteed)
                && self.cpu_limit().is_some_and(|limit| limit.fract() == 0.0);
            // Only a whole number of CPUs can be exclusive.
            let cpus = if exclusive { cpus.ceil() } else { cpus };
            let text = format!("Raise the CPU limit to {}", text::cpus(cpus));
            return pod.change(&text, &Change::limit("cpu", cpu_amount(cpus)));
        }
        let text = format!(
            "Raise the CPU limit to {}, or drop it and keep the request",
            text::cpus(cpus)
        );
        let property = self.set_property(&format!("CPUQuota={}%", cpus * 100.0));
        let command = property.or_else(|| raise(&self.facts.limits, self.node.unified, cpus));
        vec![Remedy { text, command }]
    }

    /// Returns the remedy of a larger share of CPUs that others want too.
    pub(super) fn raise_cpu_share(&self) -> Vec<Remedy> {
        if let Some(pod) = &self.pod {
            return self.raise_request(pod);
        }
        if self.facts.root {
            return vec![Remedy::advice(
                "Start what runs in the root cgroup as a service or in a cgroup of its own: the root's share of the CPUs cannot be set",
            )];
        }
        let text = "Give it a larger part of the CPUs that others want too".to_owned();
        let value = if self.node.unified { 1000 } else { 10240 };
        let property = self.set_property("CPUWeight=1000");
        let file = self.facts.share_file.as_ref();
        let command = property.or_else(|| Some(ShellCommand::write(value, file?)));
        vec![Remedy { text, command }]
    }

    /// Returns the remedy of a CPU request for the CPUs that the subject used, plus those that it lost to neighbours
    /// and the host, but not more than its limit.
    fn raise_request(&self, pod: &super::PodFacts) -> Vec<Remedy> {
        if pod.qos == Some(QosClass::Guaranteed) {
            return vec![Remedy::advice(
                "It requests all that it may use: a larger part of the CPUs takes a higher limit with an equal request, or CPUs of its own",
            )];
        }
        let kept_from_it =
            self.of(Quantity::wait(Cause::Neighbour)) + self.of(Quantity::wait(Cause::Host));
        let cpus = (self.cpu_seconds() + kept_from_it) / self.window_seconds().max(1.0);
        let cpus = ((cpus * 10.0).ceil() / 10.0).max(0.1);
        let cpus = self.cpu_limit().map_or(cpus, |limit| cpus.min(limit));
        let text = format!(
            "Request {}, unless it requests more already, so that it gets its part and is not placed beside too many others",
            text::cpus(cpus)
        );
        pod.change(&text, &Change::request("cpu", cpu_amount(cpus)))
    }

    /// Returns the remedy of a higher memory limit.
    pub(super) fn raise_memory_limit(&self) -> Vec<Remedy> {
        let Some((_, limit, file)) = self.facts.memory_limit.as_ref() else {
            return Vec::new();
        };
        let wanted = limit / 2 * 3;
        let mebibytes = wanted >> 20;
        let text = format!("Raise the memory limit, by half to {mebibytes} MiB to begin with");
        if let Some(pod) = &self.pod {
            return pod.change(&text, &Change::limit("memory", format!("{mebibytes}Mi")));
        }
        let property = self.set_property(&format!("MemoryMax={mebibytes}M"));
        let command = property.unwrap_or_else(|| ShellCommand::write(wanted, file));
        vec![Remedy::run(text, command)]
    }

    /// Returns the remedies that keep threads and memory on one NUMA node, the one on which the subject ran most.
    pub(super) fn keep_on_a_node(&self) -> Vec<Remedy> {
        let mut remedies = Vec::new();
        if self.pod.is_some() {
            remedies.push(Remedy::advice(
                "Keep pods of whole CPUs (requests equal to limits) on one NUMA node: kubelet --cpu-manager-policy=static --topology-manager-policy=single-numa-node --memory-manager-policy=Static, then `systemctl restart kubelet` after removing /var/lib/kubelet/cpu_manager_state",
            ));
            return remedies;
        }
        let Some((node, cpus)) = self.busiest_node() else {
            return remedies;
        };
        if let Some(dir) = &self.facts.cpuset_dir {
            let text = format!("Keep its threads and memory on node {node}, where it ran most");
            let (cpus_file, mems_file) =
                (format!("{dir}/cpuset.cpus"), format!("{dir}/cpuset.mems"));
            let command = ShellCommand::write(cpus, &cpus_file);
            remedies.push(Remedy::run(
                text,
                command.and(&ShellCommand::write(node, &mems_file)),
            ));
        }
        remedies.push(Remedy::run(
            format!("Start it on node {node}"),
            ShellCommand::new("numactl")
                .arg(format!("--cpunodebind={node}"))
                .arg(format!("--membind={node}"))
                .arg("COMMAND"),
        ));
        remedies
    }
}
