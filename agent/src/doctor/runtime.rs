//! Settings of the container runtime, as far as the kubelet has to agree with them.

use toml::{Table, Value};

use super::{kubelet::Setting, root::Root};

/// Paths of containerd's configuration, by distribution.
const CONTAINERD: [&str; 3] = [
    "/etc/containerd/config.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
];
const CRIO: &str = "/etc/crio/crio.conf";
const CRIO_DROP_INS: &str = "/etc/crio/crio.conf.d";

/// Container runtime of a node.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// `containerd` or `cri-o`.
    pub name: &'static str,
    /// Cgroup driver, `systemd` or `cgroupfs`, and the file that sets it.
    pub driver: Setting,
}

/// Returns the runtime whose configuration exists; none if none is in sight.
#[must_use]
pub fn read(root: &Root) -> Option<Runtime> {
    containerd(root).or_else(|| crio(root))
}

fn containerd(root: &Root) -> Option<Runtime> {
    let main = CONTAINERD.into_iter().find(|path| root.exists(path))?;
    let config = table(root, main)?;
    let mut driver = setting(&config, main);
    for import in imports(root, &config) {
        if let Some(found) = table(root, &import).and_then(|table| setting(&table, &import)) {
            driver = Some(found);
        }
    }
    Some(Runtime {
        name: "containerd",
        driver: driver.unwrap_or_else(|| Setting {
            value: "cgroupfs".to_owned(),
            read: format!("{main} (SystemdCgroup is not set: the default)"),
        }),
    })
}

/// Returns `SystemdCgroup` of the default runtime's options, in any version of the file's format.
fn setting(config: &Table, path: &str) -> Option<Setting> {
    let plugins = config.get("plugins")?.as_table()?;
    let names = [
        "io.containerd.grpc.v1.cri",
        "io.containerd.cri.v1.runtime",
        "cri",
    ];
    let containerd = names
        .iter()
        .find_map(|name| plugins.get(*name)?.get("containerd"))?;
    let default = containerd.get("default_runtime_name");
    let default = default.and_then(Value::as_str).unwrap_or("runc");
    let options = containerd.get("runtimes")?.get(default)?.get("options")?;
    let systemd = options.get("SystemdCgroup")?.as_bool()?;
    Some(Setting {
        value: if systemd { "systemd" } else { "cgroupfs" }.to_owned(),
        read: format!("{path} (SystemdCgroup)"),
    })
}

/// Returns the imported files: named ones, and those of `DIR/*.toml`.
fn imports(root: &Root, config: &Table) -> Vec<String> {
    let named = config.get("imports").and_then(Value::as_array);
    let named = named.into_iter().flatten().filter_map(Value::as_str);
    named
        .flat_map(|import| match import.strip_suffix("/*.toml") {
            Some(folder) if root.exists(folder) => root
                .names(folder)
                .unwrap_or_default()
                .into_iter()
                .filter(|name| name.strip_suffix(".toml").is_some())
                .map(|name| format!("{folder}/{name}"))
                .collect(),
            Some(_) => Vec::new(),
            None => vec![import.to_owned()],
        })
        .collect()
}

fn crio(root: &Root) -> Option<Runtime> {
    if !root.exists("/etc/crio") {
        return None;
    }
    let mut files = vec![CRIO.to_owned()];
    if root.exists(CRIO_DROP_INS) {
        let names = root.names(CRIO_DROP_INS).unwrap_or_default();
        files.extend(names.iter().map(|name| format!("{CRIO_DROP_INS}/{name}")));
    }
    let set = files.iter().filter_map(|path| {
        let config = root.exists(path).then(|| table(root, path))??;
        let value = config.get("crio")?.get("runtime")?.get("cgroup_manager")?;
        Some(Setting {
            value: value.as_str()?.to_owned(),
            read: format!("{path} (cgroup_manager)"),
        })
    });
    Some(Runtime {
        name: "cri-o",
        driver: set.last().unwrap_or_else(|| Setting {
            value: "systemd".to_owned(),
            read: "/etc/crio (cgroup_manager is not set: the default)".to_owned(),
        }),
    })
}

fn table(root: &Root, path: &str) -> Option<Table> {
    let text = root.text(path).ok()?;
    // This file also holds credentials of registries, which must not be part of a report.
    root.keep_only(path, &without_secrets(&text));
    match text.parse() {
        Ok(table) => Some(table),
        Err(error) => {
            let error: toml::de::Error = error;
            let said = error
                .message()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            root.reject(path, &format!("it is not TOML: {said}"));
            None
        }
    }
}

/// Returns the lines that decide the cgroup driver, with the headers of their tables, and nothing
/// else.
fn without_secrets(text: &str) -> String {
    const KEPT: [&str; 6] = [
        "version",
        "imports",
        "SystemdCgroup",
        "default_runtime_name",
        "cgroup_manager",
        "systemd_cgroup",
    ];
    let kept = text.lines().filter(|line| {
        let line = line.trim();
        line.starts_with('[')
            && line.ends_with(']')
            && ["runtimes", "crio", "containerd"]
                .iter()
                .any(|word| line.contains(word))
            || KEPT.iter().any(|key| {
                line.split('=')
                    .next()
                    .is_some_and(|name| name.trim() == *key)
            })
    });
    kept.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_node_says_the_same_and_holds_no_password() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r\".auth]\n  \
                    password = \"hunter2\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
                    default_runtime_name = \"runc\"\n\
                    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n  SystemdCgroup = true\n";
        let kept = without_secrets(text);
        assert!(!kept.contains("hunter2"), "{kept}");
        let whole = setting(&text.parse().unwrap(), "f");
        assert_eq!(whole.as_ref().unwrap().value, "systemd");
        assert_eq!(setting(&kept.parse().unwrap(), "f"), whole);
    }
}
