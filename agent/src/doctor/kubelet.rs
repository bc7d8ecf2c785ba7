//! Settings of the kubelet: its configuration file with the drop-ins, and the flags that override
//! them.

use serde_json::Value;

use super::root::{Root, Unread};

/// Paths at which distributions keep the configuration, in the order of the search.
const CONFIGS: [&str; 6] = [
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubelet/config.json",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/home/kubernetes/kubelet-config.yaml",
    "/etc/kubernetes/kubelet-config.yaml",
    "/etc/kubernetes/kubelet.conf.yaml",
];
/// Directories of drop-ins that no flag names.
const DROP_INS: [&str; 2] = [
    "/etc/kubernetes/kubelet/config.json.d",
    "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d",
];
/// Files with flags in a variable.
const FLAGS: [&str; 3] = [
    "/var/lib/kubelet/kubeadm-flags.env",
    "/etc/default/kubelet",
    "/etc/sysconfig/kubelet",
];

/// Settings of a node's kubelet.
#[derive(Clone, Debug, Default)]
pub struct Kubelet {
    config: Vec<(String, Value)>,
    flags: Vec<(String, String)>,
    /// File from which the flags were read.
    flags_read: String,
    /// Reason for which the settings are not known, if so, although there is a kubelet.
    pub unknown: Option<String>,
}

/// Setting and its source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Value; the kubelet's default if not set.
    pub value: String,
    /// File that sets it, or a remark that it is the default.
    pub read: String,
}

impl Kubelet {
    /// Reads the flags of a kubelet's process, or of files if there is no process, and the
    /// configuration.
    ///
    /// # Errors
    /// When neither a process, a configuration nor `/var/lib/kubelet` is in sight.
    pub fn read(root: &Root) -> Result<Self, String> {
        let process = process(root);
        let (flags, flags_read) = match &process {
            Some((path, flags)) => (flags.clone(), path.clone()),
            None => flags_of_files(root),
        };
        let mut kubelet = Self {
            config: Vec::new(),
            flags,
            flags_read,
            unknown: None,
        };
        let named = kubelet.flag("config").map(str::to_owned);
        let config = named.or_else(|| config_path(root));
        if process.is_none() && config.is_none() && !root.exists("/var/lib/kubelet") {
            return Err(
                "no kubelet is in sight: no process of that name, no configuration, no /var/lib/kubelet (in a container, mount the host's / and name it with --root)".to_owned(),
            );
        }
        if process.is_none() && config.is_none() && kubelet.flags.is_empty() {
            let why = "neither the kubelet's process nor its configuration is in sight";
            kubelet.unknown = Some(why.to_owned());
        }
        for path in config.into_iter().chain(drop_ins(root, &kubelet)) {
            match yaml(root, &path) {
                Ok(value) => kubelet.config.push((path, value)),
                Err(unread) => kubelet.unknown = Some(unread.to_string()),
            }
        }
        Ok(kubelet)
    }

    /// Returns a setting by the name of its flag, which overrides, and its key in the file.
    #[must_use]
    pub fn setting(&self, flag: &str, key: &str, default: &str) -> Setting {
        if let Some(value) = self.flag(flag) {
            return Setting {
                value: value.to_owned(),
                read: format!("{} (--{flag})", self.flags_read),
            };
        }
        let of_file = self.config.iter().rev().find_map(|(path, config)| {
            let value = match config.get(key)? {
                Value::String(text) => text.clone(),
                Value::Null => return None,
                other => other.to_string(),
            };
            Some((path, value))
        });
        match of_file {
            Some((path, value)) if !value.is_empty() => Setting {
                value,
                read: path.clone(),
            },
            _ => Setting {
                value: default.to_owned(),
                read: match self.config.first() {
                    Some((path, _)) => format!("{path} (not set: the default)"),
                    None => "the kubelet's default".to_owned(),
                },
            },
        }
    }

    /// Returns a value of the configuration that may be a list or a map.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        let mut found = self.config.iter().rev();
        found.find_map(|(_, config)| config.get(key))
    }

    /// Returns the value of a flag; `true` for a flag without value.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<&str> {
        let mut flags = self.flags.iter().rev();
        let found = flags.find(|(flag, _)| flag == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the file to edit for a change of settings.
    #[must_use]
    pub fn config_path(&self) -> &str {
        self.config
            .first()
            .map_or("/var/lib/kubelet/config.yaml", |(path, _)| path)
    }
}

/// Finds the configuration if no flag names it: at a usual path, or by a name that contains
/// `kubelet`.
fn config_path(root: &Root) -> Option<String> {
    if let Some(usual) = CONFIGS.into_iter().find(|path| root.exists(path)) {
        return Some(usual.to_owned());
    }
    let folders = ["/etc/kubernetes", "/etc/kubernetes/kubelet"];
    let files = folders
        .into_iter()
        .filter(|folder| root.exists(folder))
        .flat_map(|folder| {
            let names = root.names(folder).unwrap_or_default();
            names
                .into_iter()
                .map(move |name| format!("{folder}/{name}"))
        });
    let mut settings = files.filter(|path| {
        [".yaml", ".yml", ".json"]
            .iter()
            .any(|end| path.ends_with(end))
    });
    // Other files there may hold credentials, so the audit goes by their names and does not read
    // them.
    settings.find(|path| {
        path.rsplit('/')
            .next()
            .is_some_and(|name| name.contains("kubelet"))
    })
}

/// Reads a file of YAML, which includes JSON.
///
/// # Errors
/// When it cannot be read or is neither.
pub fn yaml(root: &Root, path: &str) -> Result<Value, Unread> {
    let text = root.text(path)?;
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| {
        let said = error.to_string();
        let first = said.lines().next().unwrap_or_default().to_owned();
        root.reject(path, &format!("it is not YAML: {first}"))
    })?;
    if !value.is_object() {
        return Err(root.reject(path, "it is YAML, but no list of settings (`key: value`)"));
    }
    Ok(value)
}

/// Returns the command line of the process called `kubelet`, if one runs.
fn process(root: &Root) -> Option<(String, Vec<(String, String)>)> {
    let pids = root.names("/proc").ok()?;
    let mut pids = pids
        .iter()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let pid = pids.find(|pid| {
        // k3s runs the kubelet within its own process, which has other flags.
        root.text(&format!("/proc/{pid}/comm"))
            .is_ok_and(|comm| comm == "kubelet")
    })?;
    let path = format!("/proc/{pid}/cmdline");
    let bytes = root.bytes(&path).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let words = text.split('\0').filter(|word| !word.is_empty());
    Some((path, flags(words)))
}

fn flags_of_files(root: &Root) -> (Vec<(String, String)>, String) {
    let mut found = Vec::new();
    let mut read = String::new();
    for path in FLAGS {
        let Ok(text) = root.text(path) else { continue };
        let words = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .flat_map(|(_, value)| value.trim().trim_matches(['"', '\'']).split_whitespace());
        let these = flags(words);
        if !these.is_empty() {
            found.extend(these);
            path.clone_into(&mut read);
        }
    }
    (found, read)
}

/// Parses `--name=value`, `--name value` and `--name`.
fn flags<'a>(words: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for word in words {
        if let Some(flag) = word.strip_prefix("--") {
            let (name, value) = flag.split_once('=').unwrap_or((flag, "true"));
            open = !flag.contains('=');
            found.push((name.to_owned(), value.to_owned()));
        } else if let Some((_, value)) = found.last_mut().filter(|_| open) {
            word.clone_into(value);
            open = false;
        }
    }
    found
}

fn drop_ins(root: &Root, kubelet: &Kubelet) -> Vec<String> {
    let asked = kubelet.flag("config-dir").map(str::to_owned);
    let folders = asked.into_iter().chain(DROP_INS.map(str::to_owned));
    folders
        .filter(|folder| root.exists(folder))
        .flat_map(|folder| {
            let names = root.names(&folder).unwrap_or_default();
            names
                .into_iter()
                .filter(|name| {
                    [".conf", ".json", ".yaml"]
                        .iter()
                        .any(|end| name.ends_with(end))
                })
                .map(move |name| format!("{folder}/{name}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::flags;

    #[test]
    fn flags_are_read_in_both_forms() {
        let words = "/usr/bin/kubelet --a=1 --b 2 --c --d=x=y stray";
        let found = flags(words.split(' '));
        let expected = [("a", "1"), ("b", "2"), ("c", "true"), ("d", "x=y")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected);
    }
}
