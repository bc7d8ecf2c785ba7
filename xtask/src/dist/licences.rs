//! Licence texts of everything in the agents, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::native::Library;
use super::parts::Part;

/// Names of licence files, without the part after a dot or hyphen.
const NAMES: [&str; 7] = [
    "COPYING",
    "COPYRIGHT",
    "LICENCE",
    "LICENSE",
    "LICENSES",
    "NOTICE",
    "UNLICENSE",
];
const RULE: &str =
    "\n--------------------------------------------------------------------------------\n";

/// A licensed component: its name with version, an SPDX expression, and the texts that came with it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Licensed {
    name: String,
    expression: String,
    origin: String,
    texts: BTreeSet<String>,
}

impl Licensed {
    /// Reads a crate's licence from the files that its authors published in it.
    pub fn of_part(part: &Part) -> Result<Self> {
        let package = &part.package;
        let folder = package
            .manifest_path
            .parent()
            .context("a manifest has no folder")?;
        let mut files = licence_files(folder.as_std_path())?;
        files.extend(package.license_file().map(PathBuf::from));
        Ok(Self {
            name: format!("{} {}", package.name, package.version),
            expression: package.license.clone().unwrap_or_default(),
            origin: package.repository.clone().unwrap_or_default(),
            texts: texts(&files)?,
        })
    }

    /// Reads the licence of a library that is not a crate.
    pub fn of_library(library: &Library) -> Result<Self> {
        Ok(Self {
            name: format!(
                "{} {}",
                library.name,
                library.version.as_deref().unwrap_or("")
            ),
            expression: library.licence.to_owned(),
            origin: library.package.clone().unwrap_or_default(),
            texts: texts(&library.texts)?,
        })
    }
}

fn licence_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase();
        let stem = name.split(['-', '.', '_']).next().unwrap_or_default();
        if NAMES.contains(&stem) && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn texts(files: &[PathBuf]) -> Result<BTreeSet<String>> {
    files
        .iter()
        .map(|file| {
            let bytes =
                fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            Ok(text.trim_matches('\n').trim_end().to_owned())
        })
        .collect()
}

/// Formats one page: a list of all components, then each text with the components it belongs to.
pub fn page(mut all: Vec<Licensed>) -> String {
    all.sort();
    all.dedup();
    let mut page = String::from(
        "What others wrote that is in stallscope and in the objects it loads into the kernel.\n\
         Texts follow the list, each once, below the names of those it came with.\n\n",
    );
    let mut owners: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in &all {
        let missing = if one.texts.is_empty() {
            " (its package has no text)"
        } else {
            ""
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "{}: {}: {}{missing}",
            one.name.trim_end(),
            one.expression,
            one.origin
        );
        for text in &one.texts {
            owners.entry(text).or_default().insert(one.name.trim_end());
        }
    }
    let mut sections: Vec<(Vec<&str>, &str)> = owners
        .into_iter()
        .map(|(text, owners)| (owners.into_iter().collect(), text))
        .collect();
    sections.sort();
    for (owners, text) in sections {
        let _ = write!(page, "{RULE}{}{RULE}\n{text}\n", owners.join(", "));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::{Licensed, licence_files, page, texts};
    use std::fs;

    fn licensed(name: &str, text: Option<&str>) -> Licensed {
        Licensed {
            name: name.into(),
            expression: "MIT".into(),
            origin: "https://example.com".into(),
            texts: text.map(str::to_owned).into_iter().collect(),
        }
    }

    #[test]
    fn a_text_that_several_share_is_there_once() {
        let page = page(vec![
            licensed("b 2", Some("The text.")),
            licensed("a 1", Some("The text.")),
            licensed("a 1", Some("The text.")),
            licensed("c 3", None),
            Licensed {
                origin: "https://example.com/arm64".into(),
                ..licensed("a 1", Some("The text."))
            },
        ]);
        assert_eq!(page.matches("The text.").count(), 1);
        assert!(page.contains("---\na 1, b 2\n---"), "{page}");
        assert!(
            page.contains("c 3: MIT: https://example.com (its package has no text)"),
            "{page}"
        );
    }

    #[test]
    fn files_with_licences_are_known_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "LICENSE-MIT",
            "license.txt",
            "COPYING",
            "Cargo.toml",
            "licensed.rs",
        ] {
            fs::write(folder.path().join(name), "A\r\nB\n").unwrap();
        }
        let mut files = licence_files(folder.path()).unwrap();
        assert_eq!(
            texts(&files).unwrap().into_iter().collect::<Vec<_>>(),
            ["A\nB"]
        );
        files.sort();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["COPYING", "LICENSE-MIT", "license.txt"]);
    }
}
