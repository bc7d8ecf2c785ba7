//! Selection of the containers that a request is about.

use std::collections::BTreeSet;

use super::{Agent, Found};
use crate::{
    api::{self, Kind, Labels, Refusal, Request, Window},
    attribution::owners::{OwnerIndex, Owners},
    ledger::history::{History, Subject},
};

impl Agent {
    /// Returns the owners that have the requested labels, preferring those that ran in the window. All must belong to
    /// one pod, or the request is refused.
    pub(super) fn chosen(
        &self,
        history: &History,
        request: &Request,
        window: Window,
    ) -> Result<Vec<OwnerIndex>, Refusal> {
        if request.labels.is_empty() {
            return Err(Refusal::bad(format!(
                "no container is chosen: give labels, such as {}",
                self.label_examples()
            )));
        }
        self.check_labels(&request.labels)?;
        let known = history
            .subjects()
            .filter_map(|(subject, labels)| match subject {
                Subject::Owner(owner) => {
                    Some((owner, labels?.pairs().into_iter().collect::<Labels>()))
                }
                Subject::Host => None,
            });
        // Of several generations of a pod, prefer those that ran in the window.
        let (ran, idle): (Vec<_>, Vec<_>) = known
            .filter(|(_, labels)| has_labels(labels, &request.labels))
            .partition(|(owner, _)| {
                let sums = history.sums(Subject::Owner(*owner), window.from, window.to);
                !sums.is_empty()
            });
        let known = if ran.is_empty() { idle } else { ran };
        if known.is_empty() {
            return Err(Self::no_such(history, request));
        }
        let pods: BTreeSet<_> = known.iter().map(|(_, labels)| whose(labels)).collect();
        if pods.len() > 1 {
            let pods: Vec<_> = pods.iter().take(10).map(String::as_str).collect();
            return Err(Refusal::bad(format!(
                "{} is not one pod, service or cgroup but several: {}; say which by another label",
                words(&request.labels),
                pods.join("; ")
            )));
        }
        Ok(known.into_iter().map(|(owner, _)| owner).collect())
    }

    /// Returns the owner that lost most, among those active in the window that have the requested labels.
    pub(super) fn worst(
        &self,
        active: &[Found],
        request: &Request,
    ) -> Result<(Labels, Vec<OwnerIndex>), Refusal> {
        self.check_labels(&request.labels)?;
        // Sums over many owners belong to none.
        let found = active.iter().filter(|each| {
            has_labels(&each.labels, &request.labels)
                && ![Owners::OTHER, Owners::REMOVED, Owners::UNRESOLVED].contains(&each.owner)
        });
        let worst = found.max_by(|a, b| (a.lost.total_cmp(&b.lost)).then(b.labels.cmp(&a.labels)));
        match worst {
            Some(found) => Ok((found.labels.clone(), vec![found.owner])),
            None => Err(Refusal::missing("nothing did anything in this window")),
        }
    }

    pub(super) fn check_labels(&self, asked: &[(String, String)]) -> Result<(), Refusal> {
        let known = self.config.labels.names();
        match asked.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::bad(format!(
                "`{name}` is neither a parameter nor a label here: expected at, window, worst or one of the labels {} (see --labels)",
                known.join(", ")
            ))),
        }
    }

    fn label_examples(&self) -> String {
        let names = self.config.labels.names();
        names
            .iter()
            .map(|name| format!("{name}=…"))
            .collect::<Vec<_>>()
            .join(" or ")
    }

    fn no_such(history: &History, request: &Request) -> Refusal {
        let labels = history
            .subjects()
            .filter_map(|(_, labels)| Some(labels?.pairs()));
        let all: BTreeSet<String> = labels
            .map(|pairs| whose(&pairs.into_iter().collect()))
            .collect();
        let asked = |name: &&String| {
            request
                .labels
                .iter()
                .any(|(_, value)| !value.is_empty() && name.contains(value.as_str()))
        };
        let mut near: Vec<_> = all.iter().filter(asked).collect();
        if near.is_empty() {
            near = all.iter().collect();
        }
        let shown: Vec<_> = near.iter().take(5).map(|name| name.as_str()).collect();
        Refusal {
            kind: Kind::Missing,
            error: format!(
                "nothing is recorded of {}; there is a record of {}{}",
                words(&request.labels),
                shown.join("; "),
                if near.len() > shown.len() {
                    "; …"
                } else {
                    ""
                },
            ),
        }
    }
}

/// Returns the name of a container's pod, else of the container itself.
pub(super) fn whose(labels: &Labels) -> String {
    let pod = labels.get("pod").is_some_and(|pod| !pod.is_empty());
    let mut labels = labels.clone();
    if pod {
        labels.remove("container");
        let cgroup = labels.get("cgroup").filter(|path| !path.is_empty());
        let cgroup = cgroup
            .map(|path| format!(" (cgroup={path})"))
            .unwrap_or_default();
        return api::name(&labels) + &cgroup;
    }
    api::name(&labels)
}

pub(super) fn has_labels(labels: &Labels, asked: &[(String, String)]) -> bool {
    asked
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

/// Formats labels as they were requested.
fn words(labels: &[(String, String)]) -> String {
    let pairs: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("`{name}={value}`"))
        .collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_a_pod_are_the_same_pods_and_pods_of_the_same_name_are_not() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect()
        };
        let pod = |container, cgroup| {
            whose(&labels(&[
                ("namespace", "a"),
                ("pod", "b"),
                ("container", container),
                ("cgroup", cgroup),
            ]))
        };
        assert_eq!(pod("x", "/kubepods/1"), pod("y", "/kubepods/1"));
        assert_ne!(pod("x", "/kubepods/1"), pod("x", "/kubepods/2"));
        let cgroup = |path| whose(&labels(&[("namespace", ""), ("pod", ""), ("cgroup", path)]));
        assert_ne!(cgroup("/a"), cgroup("/b"));
    }
}
