//! Answers of the JSON API, from the history and from the present state of the host.

mod choose;
mod files;
mod pod;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use super::Agent;
use crate::{
    api::{
        self, Container, Cost, DaemonTime, Gap, Labels, NotMeasured, Now, Refusal, Request,
        Timeline, Top, Window, moment,
    },
    attribution::owners::OwnerIndex,
    explain::{Case, Other, Report, Subject as Explained, cpu_seconds, lost_by_cause, total},
    ledger::history::{History, MOST_ENDED, Quantity, Subject, Sums},
    probe::State,
};
use choose::{has_labels, whose};
pub use files::{Explaining, Ranking, Unread};
use stallscope_ebpf::Daemon;

/// Maximum number of containers whose memory by node, threads and limits are read.
const READ_FOR: usize = 100;

/// Maximum number of earlier windows that make up a baseline.
const BASELINE_WINDOWS: u32 = 60;

/// An owner with its labels and its sums. Times are in seconds.
struct Found {
    owner: OwnerIndex,
    labels: Labels,
    sums: Sums,
    causes: BTreeMap<String, f64>,
    lost: f64,
    cpu: f64,
}

impl Found {
    fn new(owner: OwnerIndex, labels: Labels, sums: Sums) -> Self {
        let causes = lost_by_cause(&sums);
        Self {
            owner,
            labels,
            lost: total(causes.values().copied()),
            causes,
            cpu: cpu_seconds(&sums),
            sums,
        }
    }
}

impl Agent {
    /// Ranks the containers by time lost in a window, in descending order.
    ///
    /// # Errors
    /// When the window makes no sense, or no part of it is recorded.
    pub fn top(&self, request: &Request) -> Result<Top, Refusal> {
        let ranking = self.rank(request)?;
        let facts = ranking.unread.read();
        Ok(ranking.with(facts))
    }

    /// Ranks the containers without the facts that come from files.
    ///
    /// # Errors
    /// See [`Agent::top`].
    pub fn rank(&self, request: &Request) -> Result<Ranking, Refusal> {
        let now = Now::read();
        let history = self.history()?;
        let window = Window::find(history, request, now)?;
        let mut found = Self::active(history, window);
        self.check_labels(&request.labels)?;
        found.retain(|each| has_labels(&each.labels, &request.labels));
        found.sort_by(|a, b| {
            (b.lost.total_cmp(&a.lost))
                .then(b.cpu.total_cmp(&a.cpu))
                .then(a.labels.cmp(&b.labels))
        });
        let mut paths = self.paths();
        let mut unread = Vec::new();
        let containers = found.into_iter().enumerate().map(|(rank, each)| {
            let paths = paths.remove(&each.owner);
            let live = paths.is_some();
            if rank < READ_FOR {
                unread.push(paths);
            }
            self.container(each, live)
        });
        let containers = containers.collect();
        let (first, end) = history.recorded().unwrap_or_default();
        let top = Top {
            time: now.unix(history.begin(window.to)),
            window_seconds: window.seconds(),
            recorded_seconds: window.recorded_seconds(),
            history_seconds: f64::from(end - first),
            containers,
            daemons: daemons(&history.sums(Subject::Host, window.from, window.to)),
            not_measured: self.not_measured(history, window, now),
            agent: self.cost(history, window),
        };
        let unread = Unread {
            place: self.place(),
            paths: unread,
        };
        Ok(Ranking { top, unread })
    }

    /// Returns a window second by second, summed over the containers that have the requested labels.
    ///
    /// # Errors
    /// When the window or the labels make no sense, or nothing is recorded of them.
    pub fn timeline(&self, request: &Request) -> Result<Timeline, Refusal> {
        let now = Now::read();
        let history = self.history()?;
        let window = Window::find(history, request, now)?;
        let chosen = self.chosen(history, request, window)?;
        let steps = (window.to - window.from) as usize;
        let complete = chosen
            .iter()
            .map(|owner| history.incomplete_before(Subject::Owner(*owner)));
        let known_from = complete.max().unwrap_or(0).max(window.recorded_from);
        let unknown = (known_from.min(window.to) - window.from) as usize;
        let place = |second: u32| (second - window.from) as usize;
        let mut empty: Vec<_> = (0..steps)
            .map(|step| (step >= unknown).then_some(0.0))
            .collect();
        let mut gaps: Vec<_> = history
            .gaps(known_from.max(window.from), window.to)
            .map(|gap| {
                empty[place(gap.first)..=place(gap.last)].fill(None);
                (gap, Gap::new(now.unix(history.begin(gap.first)), gap))
            })
            .collect();
        let mut causes: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
        let mut cpu = empty.clone();
        for owner in &chosen {
            history.visit(
                Subject::Owner(*owner),
                known_from.max(window.from),
                window.to,
                |stretch, quantity, us| {
                    let seconds = us as f64 / 1e6;
                    let gap = gaps.iter_mut().find(|(gap, _)| *gap == stretch);
                    if let Some((_, gap)) = gap {
                        gap.add(quantity, seconds);
                        return;
                    }
                    let series = match (quantity, quantity.cause()) {
                        (Quantity::Cpu(_), _) => &mut cpu,
                        (_, Some(cause)) => causes
                            .entry(cause.to_owned())
                            .or_insert_with(|| empty.clone()),
                        _ => return,
                    };
                    if let Some(Some(sum)) = series.get_mut(place(stretch.first)) {
                        *sum += seconds;
                    }
                },
            );
        }
        Ok(Timeline {
            labels: request.labels.iter().cloned().collect(),
            containers: chosen.len(),
            start: now.unix(history.begin(window.from)),
            step_seconds: 1.0,
            steps,
            causes,
            cpu_seconds: cpu,
            gaps: gaps.into_iter().map(|(_, gap)| gap).collect(),
        })
    }

    /// Explains why the containers with the requested labels lost time, or the container that lost most.
    ///
    /// # Errors
    /// When the window or the labels make no sense, or nothing is recorded of them.
    pub fn explain(&self, request: &Request) -> Result<Report, Refusal> {
        Ok(self.recorded(request)?.read())
    }

    /// Returns the recorded part of an explanation, without the facts that come from files.
    ///
    /// # Errors
    /// See [`Agent::explain`].
    pub fn recorded(&self, request: &Request) -> Result<Explaining, Refusal> {
        let now = Now::read();
        let history = self.history()?;
        let window = Window::find(history, request, now)?;
        let active = Self::active(history, window);
        let (labels, chosen) = if request.worst {
            self.worst(&active, request)?
        } else {
            let chosen = self.chosen(history, request, window)?;
            (request.labels.iter().cloned().collect(), chosen)
        };
        let paths = self.paths();
        let paths: Vec<_> = chosen
            .iter()
            .filter_map(|owner| paths.get(owner))
            .flatten()
            .cloned()
            .collect();
        let cgroups = outermost(&paths);
        let case = Case {
            subject: Explained {
                labels,
                containers: chosen.len(),
                cgroups,
            },
            start: now.unix(history.begin(window.from)),
            end: now.unix(history.begin(window.to)),
            recorded_seconds: window.recorded_seconds(),
            window: sums(history, &chosen, window.from, window.to),
            before: before(history, &chosen, window),
            others: self.others(&active, &chosen),
            daemons: daemons(&history.sums(Subject::Host, window.from, window.to)),
            pod: self.pod_facts(history, &chosen),
            not_measured: self.not_measured(history, window, now),
            ..Case::default()
        };
        Ok(Explaining {
            place: self.place(),
            case,
            paths,
        })
    }

    fn history(&self) -> Result<&History, Refusal> {
        self.history
            .as_ref()
            .ok_or_else(|| Refusal::missing("the agent keeps no history: it runs with --history 0"))
    }

    /// Returns all owners with any counts in a window.
    fn active(history: &History, window: Window) -> Vec<Found> {
        let found = history.subjects().filter_map(|(subject, labels)| {
            let (Subject::Owner(owner), Some(labels)) = (subject, labels) else {
                return None;
            };
            let sums = history.sums(subject, window.from, window.to);
            let labels = || labels.pairs().into_iter().collect();
            (!sums.is_empty()).then(|| Found::new(owner, labels(), sums))
        });
        found.collect()
    }

    /// Returns the paths of each owner's live cgroups.
    fn paths(&self) -> HashMap<OwnerIndex, Vec<String>> {
        let mut paths: HashMap<OwnerIndex, Vec<String>> = HashMap::new();
        for (id, path) in self.owners.cgroups() {
            // Skips paths that are not UTF-8.
            let Ok(path) = str::from_utf8(path.as_bytes()) else {
                continue;
            };
            if let Some(owner) = self.owners.owner_of(id) {
                paths
                    .entry(owner)
                    .or_default()
                    .push(format!("/{}", path.trim_matches('/')));
            }
        }
        for paths in paths.values_mut() {
            paths.sort_unstable();
        }
        paths
    }

    fn container(&self, found: Found, live: bool) -> Container {
        let sums = &found.sums;
        let count = |quantity| sums.get(&quantity).copied().unwrap_or(0);
        let counted = |quantity| self.recorder.has(quantity);
        let cpu = sums.iter().filter_map(|(quantity, us)| match quantity {
            Quantity::Cpu(node) => {
                let node = node.map_or_else(|| "(other)".to_owned(), |node| node.to_string());
                Some((node, *us as f64 / 1e6))
            }
            _ => None,
        });
        let (local, remote) = (count(Quantity::LocalFaults), count(Quantity::RemoteFaults));
        Container {
            live,
            cpu_seconds: found.cpu,
            lost_seconds: found.lost,
            cpu_by_node: cpu.collect(),
            memory_by_node: None,
            migrations: counted(Quantity::Migrations).then(|| count(Quantity::Migrations)),
            migrations_between_nodes: counted(Quantity::NodeMigrations)
                .then(|| count(Quantity::NodeMigrations)),
            faults: counted(Quantity::LocalFaults).then_some(local + remote),
            remote_faults: counted(Quantity::RemoteFaults).then_some(remote),
            threads: None,
            cpu_limit: None,
            labels: found.labels,
            causes: found.causes,
        }
    }

    /// Returns the active owners outside the pod or service of the chosen ones that used CPUs, in descending order of
    /// CPU time.
    fn others(&self, active: &[Found], chosen: &[OwnerIndex]) -> Vec<Other> {
        let is_chosen = |each: &&Found| chosen.contains(&each.owner);
        let mine: BTreeSet<_> = active
            .iter()
            .filter(is_chosen)
            .map(|each| whose(&each.labels))
            .collect();
        let of_host = self.owners.of_host();
        let others = active
            .iter()
            .filter(|each| !mine.contains(&whose(&each.labels)));
        let mut others: Vec<_> = others
            .map(|each| Other {
                name: api::name(&each.labels),
                cpu_seconds: each.cpu,
                of_host: of_host.contains(&each.owner),
            })
            .filter(|other| other.cpu_seconds > 0.0)
            .collect();
        others.sort_by(|a, b| {
            (b.cpu_seconds.total_cmp(&a.cpu_seconds)).then_with(|| a.name.cmp(&b.name))
        });
        others
    }

    fn not_measured(&self, history: &History, window: Window, now: Now) -> Vec<NotMeasured> {
        let missing = |state: &State| !matches!(state, State::Attached { .. });
        let mut all = Vec::new();
        for instance in &self.instances {
            let status = &instance.status;
            let hooks = status.hooks.iter().filter(|hook| missing(&hook.state));
            all.extend(hooks.map(|hook| NotMeasured {
                what: format!("{}: {}", status.probe, hook.hook),
                reason: hook.state.detail(),
            }));
            if missing(&status.state) && status.hooks.is_empty() {
                all.push(NotMeasured {
                    what: status.probe.to_owned(),
                    reason: status.state.detail(),
                });
            }
        }
        let forgotten = history.forgotten_before();
        if forgotten > window.recorded_from {
            all.push(NotMeasured {
                what: format!(
                    "some containers that ended before {}",
                    moment(now.unix(history.begin(forgotten)))
                ),
                reason: format!(
                    "their records have left: of those that have ended at most {MOST_ENDED} are kept, pods the longest, in no more memory than --history-memory"
                ),
            });
        }
        all
    }

    fn cost(&self, history: &History, window: Window) -> Cost {
        let host = history.sums(Subject::Host, window.from, window.to);
        let pages = std::fs::read_to_string(Path::new("/proc/self/statm"));
        let pages = pages
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
        Cost {
            cpu_seconds: host.get(&Quantity::Agent).copied().unwrap_or(0) as f64 / 1e6,
            resident_bytes: pages.unwrap_or(0) * rustix::param::page_size() as u64,
            map_bytes: self
                .running()
                .map(|(_, r)| crate::probe::overhead::map_bytes(r))
                .sum(),
            history_bytes: history.bytes() as u64,
        }
    }
}

/// Returns the root directory in which a hierarchy has the usual mount point.
fn root_of(mount: &Path) -> Option<&Path> {
    let cgroups = mount
        .ancestors()
        .find(|path| path.ends_with("sys/fs/cgroup"))?;
    cgroups.ancestors().nth(3)
}

/// Returns those paths that are not below another.
fn outermost(paths: &[String]) -> Vec<String> {
    let mut all: Vec<&String> = paths.iter().collect();
    all.sort_unstable();
    let mut kept: Vec<String> = Vec::new();
    for path in all {
        let below = |above: &String| {
            let rest = path.strip_prefix(above.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if !kept.iter().any(below) {
            kept.push(path.clone());
        }
    }
    kept
}

fn sums(history: &History, owners: &[OwnerIndex], from: u32, to: u32) -> Sums {
    let mut all = Sums::new();
    for owner in owners {
        for (quantity, value) in history.sums(Subject::Owner(*owner), from, to) {
            *all.entry(quantity).or_default() += value;
        }
    }
    all
}

/// Returns the sums of earlier windows of the same length, latest first, as far back as the containers existed.
fn before(history: &History, owners: &[OwnerIndex], window: Window) -> Vec<Sums> {
    let length = window.to - window.from;
    let first = history.recorded().map_or(u32::MAX, |(first, _)| first);
    let mut all = Vec::new();
    for back in 1..=BASELINE_WINDOWS {
        let Some(from) = window
            .from
            .checked_sub(length * back)
            .filter(|from| *from >= first)
        else {
            break;
        };
        all.push(sums(history, owners, from, from + length));
    }
    // A container lost nothing before it existed; that is no baseline.
    while all.last().is_some_and(Sums::is_empty) {
        all.pop();
    }
    all
}

fn daemons(sums: &Sums) -> Vec<DaemonTime> {
    let mut daemons: Vec<_> = sums
        .iter()
        .filter_map(|(quantity, us)| match quantity {
            Quantity::Daemon(daemon, node) => Some((*daemon, *node, *us)),
            _ => None,
        })
        .collect();
    daemons.sort_unstable();
    let named = daemons.into_iter().filter_map(|(daemon, node, us)| {
        let daemon = Daemon::ALL.into_iter().find(|each| *each as u8 == daemon)?;
        // khugepaged serves the whole host.
        let node = match daemon {
            Daemon::Khugepaged => String::new(),
            _ => node.to_string(),
        };
        Some(DaemonTime {
            daemon: daemon.label().to_owned(),
            node,
            cpu_seconds: us as f64 / 1e6,
        })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_read_where_they_are_mounted() {
        for (mount, root) in [
            ("/sys/fs/cgroup", Some("/")),
            ("/sys/fs/cgroup/cpu,cpuacct", Some("/")),
            ("/host/sys/fs/cgroup", Some("/host")),
            ("/mnt/a/sys/fs/cgroup/cpu", Some("/mnt/a")),
            ("/cgroup", None),
        ] {
            assert_eq!(root_of(Path::new(mount)), root.map(Path::new), "{mount}");
        }
    }

    #[test]
    fn of_nested_cgroups_the_outermost_count() {
        let paths = |all: &[&str]| all.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let nested = paths(&["/a/x", "/a", "/ab", "/b/y", "/b/y/z", "/a/x/y"]);
        assert_eq!(outermost(&nested), paths(&["/a", "/ab", "/b/y"]));
        assert_eq!(outermost(&paths(&["/", "/a"])), paths(&["/"]));
        assert!(outermost(&[]).is_empty());
    }
}
