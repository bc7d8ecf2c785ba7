//! Commands for this host and this container.

use super::{Case, Quota, Remedy, text};

impl Case {
    fn label(&self, name: &str) -> Option<&str> {
        let label = self.subject.labels.get(name).map(String::as_str);
        label.filter(|value| !value.is_empty())
    }

    /// Namespace and pod, on Kubernetes.
    fn pod(&self) -> Option<(&str, &str)> {
        Some((self.label("namespace")?, self.label("pod")?))
    }

    /// The systemd service that it is.
    fn service(&self) -> Option<&str> {
        let name = self.label("cgroup")?.rsplit('/').next()?;
        name.ends_with(".service").then_some(name)
    }

    /// How the resources of its container are set: on the workload, because those of a pod that runs cannot be.
    fn set_resources(&self, text: String, resources: &str) -> Option<Remedy> {
        let (namespace, pod) = self.pod()?;
        let container = self
            .label("container")
            .map(|name| format!(" -c {}", quoted(name)));
        let container = container.unwrap_or_default();
        let workload = match (self.label("workload_type"), self.label("workload")) {
            (Some(kind), Some(name)) => quoted(&format!("{kind}/{name}")),
            _ => format!(
                "\"$(kubectl -n {} get pod {} -o jsonpath='{{.metadata.ownerReferences[0].kind}}/{{.metadata.ownerReferences[0].name}}')\"",
                quoted(namespace),
                quoted(pod),
            ),
        };
        // A ReplicaSet is its Deployment's, which would set it back.
        let note = if self.label("workload").is_some() {
            ""
        } else {
            " (if that names a ReplicaSet, name its Deployment)"
        };
        Some(Remedy::run(
            text + note,
            format!(
                "kubectl -n {} set resources {workload}{container} {resources}",
                quoted(namespace)
            ),
        ))
    }

    /// A larger CPU quota, for `cpus` CPUs' worth of time.
    pub(super) fn raise_cpu_limit(&self, cpus: f64) -> Remedy {
        let text = format!(
            "Raise the CPU limit to {}, or drop it and keep the request",
            text::cpus(cpus)
        );
        if let Some(remedy) = self.set_resources(text.clone(), &format!("--limits=cpu={cpus}")) {
            return remedy;
        }
        if let Some(service) = self.service() {
            let percent = cpus * 100.0;
            return Remedy::run(
                text,
                format!(
                    "systemctl set-property {} CPUQuota={percent}%",
                    quoted(service)
                ),
            );
        }
        let Some(Quota {
            file, period_us, ..
        }) = self.facts.quotas.first()
        else {
            return Remedy::advice(text);
        };
        let quota = (cpus * *period_us as f64).round();
        let command = if self.node.unified {
            format!("echo '{quota} {period_us}' > {}", quoted(file))
        } else {
            format!("echo {quota} > {}", quoted(file))
        };
        Remedy::run(text, command)
    }

    /// A larger share of CPUs that others want too.
    pub(super) fn raise_cpu_share(&self) -> Remedy {
        let text = "Give it a larger part of the CPUs that others want too".to_owned();
        let used = (self.cpu_seconds() / self.window_seconds().max(1.0)).ceil();
        if let Some(remedy) = self.set_resources(
            "Request the CPUs it needs, so that it gets its part and is not placed beside too many others".to_owned(),
            &format!("--requests=cpu={used}"),
        ) {
            return remedy;
        }
        if let Some(service) = self.service() {
            return Remedy::run(
                text,
                format!("systemctl set-property {} CPUWeight=1000", quoted(service)),
            );
        }
        let (file, value) = if self.node.unified {
            ("cpu.weight", 1000)
        } else {
            ("cpu.shares", 10240)
        };
        match &self.facts.cpu_dir {
            Some(dir) => Remedy::run(
                text,
                format!("echo {value} > {}", quoted(&format!("{dir}/{file}"))),
            ),
            None => Remedy::advice(text),
        }
    }

    /// More memory for its cgroup.
    pub(super) fn raise_memory_limit(&self) -> Option<Remedy> {
        let (_, limit, file) = self.facts.memory_limit.as_ref()?;
        let wanted = limit / 2 * 3;
        let mebibytes = wanted >> 20;
        let text = format!("Raise the memory limit, by half to {mebibytes} MiB to begin with");
        if let Some(remedy) =
            self.set_resources(text.clone(), &format!("--limits=memory={mebibytes}Mi"))
        {
            return Some(remedy);
        }
        Some(match self.service() {
            Some(service) => Remedy::run(
                text,
                format!(
                    "systemctl set-property {} MemoryMax={mebibytes}M",
                    quoted(service)
                ),
            ),
            None => Remedy::run(text, format!("echo {wanted} > {}", quoted(file))),
        })
    }

    /// Its threads and memory on one NUMA node: that on which it ran most.
    pub(super) fn keep_on_a_node(&self) -> Vec<Remedy> {
        let node = self.busiest_node();
        let mut remedies = Vec::new();
        if self.pod().is_some() {
            remedies.push(Remedy::advice(
                "Keep pods of whole CPUs (requests equal to limits) on one NUMA node: kubelet --cpu-manager-policy=static --topology-manager-policy=single-numa-node --memory-manager-policy=Static, then `systemctl restart kubelet` after removing /var/lib/kubelet/cpu_manager_state",
            ));
            return remedies;
        }
        let Some((node, cpus)) = node else {
            return remedies;
        };
        if let Some(dir) = &self.facts.cpuset_dir {
            let text = format!("Keep its threads and memory on node {node}, where it ran most");
            let (cpus_file, mems_file) =
                (format!("{dir}/cpuset.cpus"), format!("{dir}/cpuset.mems"));
            remedies.push(Remedy::run(
                text,
                format!(
                    "echo {cpus} > {} && echo {node} > {}",
                    quoted(&cpus_file),
                    quoted(&mems_file)
                ),
            ));
        }
        remedies.push(Remedy::run(
            format!("Start it on node {node}"),
            format!("numactl --cpunodebind={node} --membind={node} COMMAND"),
        ));
        remedies
    }
}

/// A word as a shell takes it for itself.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_a_shell_reads() {
        for word in [
            "plain/1.2_a",
            "two words",
            "it's",
            "$(reboot)",
            "a;b",
            "",
            "é\nb",
            "<img src=x>",
        ] {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            assert_eq!(output.expect("sh runs").stdout, word.as_bytes(), "{script}");
        }
    }
}
