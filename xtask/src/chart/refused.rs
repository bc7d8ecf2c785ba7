//! Values that the chart must refuse, each with a part of the error message.

use anyhow::{Result, bail};

use super::VERSIONS;
use super::engine::{Case, Engine};
use crate::steps::Outcome;

/// Refused values, and text that the error must contain.
const BAD: [(&str, &str); 45] = [
    ("bogus: 1", "additional properties 'bogus' not allowed"),
    (
        "image: {regsitry: x}",
        "at '/image': additional properties 'regsitry' not allowed",
    ),
    ("image: {repository: 'a b'}", "at '/image/repository'"),
    (
        "image: {repository: 'stallscope:1.0'}",
        "at '/image/repository'",
    ),
    ("image: {digest: 'sha256:abc'}", "at '/image/digest'"),
    (
        "image: {pullPolicy: Sometimes}",
        "value must be one of 'Always', 'IfNotPresent', 'Never'",
    ),
    (
        "podSource: kubelet",
        "value must be one of 'auto', 'files', 'api', 'cri', 'none'",
    ),
    (
        "{podSource: api, kubeApi: {url: 'ftp://x'}}",
        "at '/kubeApi/url'",
    ),
    ("criSocket: containerd.sock", "at '/criSocket'"),
    ("hostPaths: {cgroup: /}", "at '/hostPaths/cgroup'"),
    ("hostPaths: {podLogs: var/log}", "at '/hostPaths/podLogs'"),
    ("hostPaths: {cgroup: []}", "at '/hostPaths/cgroup'"),
    ("hostPaths: {cgroup: [cpu]}", "at '/hostPaths/cgroup'"),
    (
        "hostPaths: {cgroup: [/sys/fs/cgroup/memory, /sys/fs/cgroup/cpu]}",
        "must begin with the mount of the cpu controller, such as /sys/fs/cgroup/cpu, and begins with /sys/fs/cgroup/memory",
    ),
    (
        "recursiveReadOnly: true",
        "at '/recursiveReadOnly': value must be one of '', 'auto'",
    ),
    ("kubeVersionOverride: latest", "at '/kubeVersionOverride'"),
    (
        "doctorRootPropagation: Bidirectional",
        "at '/doctorRootPropagation': value must be one of 'HostToContainer', 'None'",
    ),
    (
        "priorityQuota: -1",
        "at '/priorityQuota': minimum: got -1, want 0",
    ),
    ("allowedHosts: ['example.com:9750']", "at '/allowedHosts/0'"),
    (
        "kubeletCgroupRoots: [kubelet]",
        "at '/kubeletCgroupRoots/0'",
    ),
    (
        "{nestedPods: true, kubeletCgroupRoots: [/kubelet]}",
        "nestedPods and kubeletCgroupRoots contradict each other",
    ),
    (
        "networkPolicy: {enabled: auto}",
        "at '/networkPolicy/enabled'",
    ),
    (
        "networkPolicy: {scraper: {namespaces: [Monitoring]}}",
        "at '/networkPolicy/scraper/namespaces/0'",
    ),
    ("seriesLabels: []", "minItems: got 0, want 1"),
    (
        "seriesLabels: [node]",
        "at '/seriesLabels/0': value must be one of 'namespace'",
    ),
    ("seriesLabels: [pod, pod]", "items at 0 and 1 are equal"),
    ("maxSeries: 0", "at '/maxSeries': minimum: got 0, want 1"),
    (
        "maxSeries: '100000'",
        "at '/maxSeries': got string, want integer",
    ),
    (
        "logLevel: verbose",
        "at '/logLevel': value must be one of 'error'",
    ),
    (
        "listen: {port: 70000}",
        "at '/listen/port': maximum: got 70,000, want 65,535",
    ),
    ("listen: {address: localhost}", "at '/listen/address'"),
    (
        "capabilities: {add: [SYS_ADMIN]}",
        "at '/capabilities': additional properties 'add' not allowed",
    ),
    (
        "dropCapabilities: 'yes'",
        "at '/dropCapabilities': got string, want boolean",
    ),
    (
        "privileged: true",
        "additional properties 'privileged' not allowed",
    ),
    (
        "podMonitor: {interval: 30}",
        "at '/podMonitor/interval': got number, want string",
    ),
    (
        "seriesPodLabels: [team]",
        "seriesPodLabels needs podSource: api, and it is auto",
    ),
    (
        "kubeApi: {url: 'https://api:6443'}",
        "kubeApi.url is used with podSource: api only, and it is auto",
    ),
    (
        "{podSource: files, seriesLabels: [namespace, workload]}",
        "seriesLabels: workload needs podSource: api, and it is files",
    ),
    ("slots: 1", "at '/slots'"),
    ("history: 1d", "at '/history'"),
    (
        "historyMemory: 0",
        "at '/historyMemory': minimum: got 0, want 1",
    ),
    (
        "doctorRoot: /host",
        "at '/doctorRoot': got string, want boolean",
    ),
    (
        "prometheusRule: {enabled: true, disabledAlerts: [StallscopeDwon]}",
        "there is no alert StallscopeDwon; there are StallscopeDown, ",
    ),
    (
        "{podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}",
        "every series would be scraped twice",
    ),
    (
        "{hostNetwork: true, updateStrategy: {rollingUpdate: {maxSurge: 1}}}",
        "two agents cannot listen on one port",
    ),
];

/// Values that the chart passes on unchecked, and the objection that the Kubernetes schemas must raise.
const FAULTY: [(&str, &str); 3] = [
    ("extraEnv: [{name: A, vlaue: b}]", "'vlaue' was unexpected"),
    ("extraVolumes: [{nmae: a}]", "'name' is a required property"),
    (
        "podSecurityContext: {runAsUser: root}",
        "'root' is not of type 'integer'",
    ),
];

/// Checks that every case is refused for its reason.
pub fn check(engine: &Engine) -> Result<Outcome> {
    let cases: Vec<Case> = BAD
        .iter()
        .chain(&FAULTY)
        .map(|(values, _)| Case::new(values, "stallscope"))
        .collect();
    let mut answers = engine.ask(&VERSIONS[..1], &cases)?;
    let passed_on = answers.split_off(BAD.len());
    let refused = answers.into_iter().map(|answer| answer.error);
    let faults = passed_on
        .iter()
        .map(|answer| answer.complaints().join("; "));
    let wrong: Vec<String> = BAD
        .iter()
        .chain(&FAULTY)
        .zip(refused.chain(faults))
        .filter(|((_, words), said)| !said.contains(words))
        .map(|((values, words), said)| {
            let said = if said.is_empty() {
                "taken"
            } else {
                said.trim_end()
            };
            format!("`{values}` should be refused with `{words}`, and was: {said}")
        })
        .collect();
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(Outcome::Passed(format!("{} refused", cases.len())))
}
