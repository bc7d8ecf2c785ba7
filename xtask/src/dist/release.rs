//! Metadata of a release: its version, its sources and their date.

use std::env;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::parts;
use crate::bpf::Arch;
use crate::shell;
use crate::workspace::{AGENT_PACKAGE, BPF_PACKAGE, Workspace};

/// A release before it is packed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Release {
    /// Version of the agent.
    pub version: String,
    /// Description of the agent, in one line.
    pub description: String,
    /// Licences of the agent and of the kernel side inside it, as an SPDX expression.
    pub licences: String,
    /// Address of the sources, when the manifest has it.
    pub source: Option<String>,
    /// Commit, with the suffix `-dirty` when files differ from it; none outside a repository.
    pub revision: Option<String>,
    /// Date of the sources in seconds since 1970. Every file of the release gets it.
    pub seconds: Option<u64>,
}

impl Release {
    /// Reads the metadata from Cargo's manifests and git.
    pub fn find(workspace: &Workspace) -> Result<Self> {
        // The manifests of the workspace's own packages are the same on every platform.
        let metadata = parts::metadata(workspace, Arch::X86_64.triple())?;
        let package = |name: &str| {
            metadata
                .workspace_packages()
                .into_iter()
                .find(|package| package.name == name)
                .with_context(|| format!("the workspace has no package `{name}`"))
        };
        let agent = package(AGENT_PACKAGE)?;
        let commit = commit(workspace);
        let epoch = env::var("SOURCE_DATE_EPOCH").ok();
        Ok(Self {
            version: agent.version.to_string(),
            description: agent.description.clone().unwrap_or_default(),
            // The agent embeds the kernel side, whose licences include the agent's own.
            licences: package(BPF_PACKAGE)?
                .license
                .clone()
                .context("the kernel side's manifest names no licence")?,
            source: agent.repository.clone(),
            seconds: seconds(
                epoch.as_deref(),
                commit.as_ref().map(|commit| commit.seconds),
            )?,
            revision: commit.map(|commit| commit.revision),
        })
    }

    /// Fails when the sources have changed since the release was begun: its parts would differ.
    pub fn check_unchanged(&self, now: &Self) -> Result<()> {
        if self == now {
            return Ok(());
        }
        let named = |release: &Self| release.revision.clone().unwrap_or("no commit".to_owned());
        bail!(
            "the sources changed from {} to {} while the release was built; build it again",
            named(self),
            named(now)
        );
    }

    /// Formats the date of the sources as RFC 3339, in UTC.
    pub fn date(&self) -> Result<Option<String>> {
        let Some(seconds) = self.seconds else {
            return Ok(None);
        };
        let date = i64::try_from(seconds)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .and_then(|date| date.format(&Rfc3339).ok());
        date.map(Some).with_context(|| {
            format!("{seconds} seconds since 1970 are no date that can be written")
        })
    }
}

/// Returns the date of the sources. `SOURCE_DATE_EPOCH`, which distributions set for reproducible builds, comes before
/// the commit's date.
fn seconds(epoch: Option<&str>, commit: Option<u64>) -> Result<Option<u64>> {
    match epoch.filter(|epoch| !epoch.is_empty()) {
        None => Ok(commit),
        Some(epoch) => epoch.parse().map(Some).with_context(|| {
            format!("SOURCE_DATE_EPOCH is `{epoch}`, but should be seconds since 1970, such as 1767225600")
        }),
    }
}

struct Commit {
    revision: String,
    seconds: u64,
}

/// Returns the commit; none without git or a repository, because sources from an archive have no commit.
fn commit(workspace: &Workspace) -> Option<Commit> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&workspace.root).args(arguments);
        shell::stdout(&mut git).ok()
    };
    // Sources unpacked inside another project's repository do not belong to its commits.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if workspace.root.canonicalize().ok()? != std::path::Path::new(top.trim_end()) {
        return None;
    }
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    parse_commit(&git(&["log", "-1", "--format=%H %ct"])?, clean)
}

fn parse_commit(text: &str, clean: bool) -> Option<Commit> {
    let (hash, seconds) = text.trim_end().split_once(' ')?;
    Some(Commit {
        revision: format!("{hash}{}", if clean { "" } else { "-dirty" }),
        seconds: seconds.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Release, parse_commit, seconds};

    #[test]
    fn the_date_is_that_of_the_sources_unless_given() {
        assert_eq!(seconds(None, Some(7)).unwrap(), Some(7));
        assert_eq!(seconds(Some("9"), Some(7)).unwrap(), Some(9));
        assert_eq!(seconds(Some(""), None).unwrap(), None);
        let error = seconds(Some("today"), Some(7)).unwrap_err().to_string();
        assert!(error.contains("`today`"), "{error}");
    }

    #[test]
    fn dates_are_written_in_utc() {
        let mut release = Release {
            seconds: Some(1_767_225_600),
            ..Release::default()
        };
        assert_eq!(release.date().unwrap().unwrap(), "2026-01-01T00:00:00Z");
        release.seconds = None;
        assert_eq!(release.date().unwrap(), None);
        release.seconds = Some(u64::MAX);
        assert!(release.date().is_err());
    }

    #[test]
    fn sources_that_change_meanwhile_make_no_release() {
        let begun = Release {
            revision: Some("abc".into()),
            ..Release::default()
        };
        assert!(begun.check_unchanged(&begun.clone()).is_ok());
        let now = Release {
            revision: Some("abc-dirty".into()),
            ..Release::default()
        };
        let error = begun.check_unchanged(&now).unwrap_err().to_string();
        assert!(error.contains("from abc to abc-dirty"), "{error}");
    }

    #[test]
    fn changed_sources_are_not_their_commit() {
        let commit = parse_commit("abc 5\n", true).unwrap();
        assert_eq!((commit.revision.as_str(), commit.seconds), ("abc", 5));
        assert_eq!(
            parse_commit("abc 5\n", false).unwrap().revision,
            "abc-dirty"
        );
        assert!(parse_commit("", true).is_none());
    }
}
