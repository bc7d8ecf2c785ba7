//! Copies of `dashboards/` in the chart: Helm reads nothing outside of a chart's folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::CHART;
use crate::steps::Outcome;
use crate::workspace::Workspace;

/// Compares the chart's copies with the originals, or updates them.
pub fn check(workspace: &Workspace, fix: bool) -> Result<Outcome> {
    let wanted = originals(&workspace.root.join("dashboards"))?;
    let folder = format!("{CHART}/files");
    let written = same(&workspace.root, &folder, &wanted, fix)?;
    Ok(Outcome::Passed(match written {
        0 => format!("{} files", wanted.len()),
        _ => format!("{written} written"),
    }))
}

/// Returns the files that the chart should have, by their path there.
fn originals(dashboards: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut wanted = BTreeMap::new();
    for name in ["rules.yaml", "alerts.yaml"] {
        wanted.insert(PathBuf::from(name), read(&dashboards.join(name))?);
    }
    for path in files(dashboards, "json")? {
        let name = path.file_name().unwrap_or_default();
        wanted.insert(Path::new("dashboards").join(name), read(&path)?);
    }
    Ok(wanted)
}

/// Makes the files below a folder exactly these, or fails and names the differences. Returns the number of changed
/// files.
pub fn same(
    root: &Path,
    folder: &str,
    wanted: &BTreeMap<PathBuf, Vec<u8>>,
    fix: bool,
) -> Result<usize> {
    let mut stale = Vec::new();
    let shown = folder;
    let folder = &root.join(folder);
    for (name, bytes) in wanted {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|kept| kept == *bytes) {
            continue;
        }
        if fix {
            path.parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::write(&path, bytes))
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        stale.push(format!("{shown}/{} is stale or missing", name.display()));
    }
    for path in all_files(folder)? {
        let name = path.strip_prefix(folder).unwrap_or(&path);
        if wanted.contains_key(name) {
            continue;
        }
        if fix {
            fs::remove_file(&path)
                .with_context(|| format!("could not remove {}", path.display()))?;
        }
        stale.push(format!("{shown}/{} belongs to nothing", name.display()));
    }
    if !fix && !stale.is_empty() {
        bail!(
            "{}; run `cargo xtask check --fix` and commit it",
            stale.join("; ")
        );
    }
    Ok(stale.len())
}

/// Returns the files of a folder with that extension, sorted by name; none where there is no folder.
pub fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = all_files(folder)?;
    found.retain(|path| {
        path.parent() == Some(folder) && path.extension().is_some_and(|e| e == extension)
    });
    Ok(found)
}

fn all_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("could not read {}", folder.display()));
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("could not read {}", folder.display()))?
            .path();
        if path.is_dir() {
            found.extend(all_files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("could not read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{originals, same};
    use std::fs;

    #[test]
    fn copies_follow_their_originals_and_nothing_is_left_over() {
        let root = tempfile::tempdir().unwrap();
        let (dashboards, chart) = (root.path().join("d"), root.path().join("c"));
        let same = |wanted, fix| same(root.path(), "c", wanted, fix);
        fs::create_dir_all(&dashboards).unwrap();
        for name in ["rules.yaml", "alerts.yaml", "host.json"] {
            fs::write(dashboards.join(name), name).unwrap();
        }
        let wanted = originals(&dashboards).unwrap();
        assert!(same(&wanted, false).is_err());
        assert_eq!(same(&wanted, true).unwrap(), 3);
        assert_eq!(same(&wanted, false).unwrap(), 0);

        fs::write(chart.join("dashboards/gone.json"), "{}").unwrap();
        fs::write(chart.join("rules.yaml"), "edited").unwrap();
        let error = same(&wanted, false).unwrap_err().to_string();
        assert!(
            error.contains("rules.yaml is stale") && error.contains("gone.json belongs to nothing"),
            "{error}"
        );
        assert_eq!(same(&wanted, true).unwrap(), 2);
        assert_eq!(same(&wanted, false).unwrap(), 0);
    }
}
