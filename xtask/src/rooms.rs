//! Imports between the modules of the agent: from the top down only.
//!
//! The modules at the root of `agent/src` are rooms, and each imports only from rooms below it, so that a reader who
//! knows a room needs to know none above it, and no two need each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    str::FromStr as _,
};

use anyhow::{Context as _, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::steps::Outcome;
use crate::workspace::Workspace;

/// The rooms, the lowest first.
const ROOMS: [&str; 13] = [
    "text",
    "exposition",
    "host",
    "attribution",
    "ledger",
    "probe",
    "probes",
    "doctor",
    "api",
    "explain",
    "server",
    "agent",
    "commands",
];

/// Files that put rooms together: they belong to none.
const ROOTS: [&str; 2] = ["lib", "main"];

/// Checks the agent's rooms, and prints how many there are and what is wrong with them.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let house = House::read(&workspace.root.join("agent/src"))?;
    let upwards = house.upwards(&ROOMS)?;
    let circles = house.circles();
    println!(
        "rooms {}, imports upwards {}, circles {}",
        house.imports.len(),
        upwards.len(),
        circles.len()
    );
    if !upwards.is_empty() {
        bail!(
            "rooms import from rooms above them:\n{}",
            upwards.join("\n")
        );
    }
    Ok(Outcome::Passed(format!("{} rooms", house.imports.len())))
}

/// Rooms that each room imports from, and the files that do.
#[derive(Debug, Default)]
struct House {
    imports: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl House {
    fn read(sources: &Path) -> Result<Self> {
        let mut house = Self::default();
        let mut folders = vec![sources.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.file_stem().is_some_and(|stem| stem == "tests") {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let source = fs::read_to_string(&path)
                        .with_context(|| format!("cannot read {}", path.display()))?;
                    let file = path.strip_prefix(sources).unwrap_or(&path);
                    house
                        .add(file, &source)
                        .with_context(|| format!("cannot parse {}", path.display()))?;
                }
            }
        }
        Ok(house)
    }

    /// Adds the imports of a file, whose path is relative to the sources.
    fn add(&mut self, file: &Path, source: &str) -> Result<()> {
        let first = file.components().next();
        let first = first.map_or(Path::new(""), |first| Path::new(first.as_os_str()));
        let room = first.with_extension("").to_string_lossy().into_owned();
        if ROOTS.contains(&room.as_str()) {
            return Ok(());
        }
        let tokens = TokenStream::from_str(source).map_err(|error| anyhow::anyhow!("{error}"))?;
        let mut names = BTreeSet::new();
        imports(tokens, &mut names);
        let imports = self.imports.entry(room.clone()).or_default();
        for name in names {
            if name != room {
                let files = imports.entry(name).or_default();
                files.insert(file.display().to_string());
            }
        }
        Ok(())
    }

    /// Returns the imports of each room from one that is not below it.
    fn upwards(&self, rooms: &[&str]) -> Result<Vec<String>> {
        let floor = |room: &str| rooms.iter().position(|each| *each == room);
        let mut upwards = Vec::new();
        for (room, imports) in &self.imports {
            let own = floor(room).with_context(|| {
                format!("`agent/src/{room}` is not in the list of rooms in `xtask/src/rooms.rs`: put it on its floor")
            })?;
            for (import, files) in imports {
                if floor(import).is_none_or(|floor| floor > own) {
                    let files: Vec<&str> = files.iter().map(String::as_str).collect();
                    upwards.push(format!("  {room} imports {import}: {}", files.join(", ")));
                }
            }
        }
        let missing = rooms.iter().find(|room| !self.imports.contains_key(**room));
        if let Some(room) = missing {
            bail!(
                "there is no room `{room}` in agent/src: take it off the list in `xtask/src/rooms.rs`"
            );
        }
        Ok(upwards)
    }

    /// Returns the sets of rooms that import each other, directly or through others.
    fn circles(&self) -> BTreeSet<BTreeSet<&str>> {
        let mut circles = BTreeSet::new();
        for room in self.imports.keys() {
            let reached = self.reach(room).into_iter();
            let circle: BTreeSet<&str> = reached
                .filter(|other| self.reach(other).contains(room.as_str()))
                .collect();
            if !circle.is_empty() {
                circles.insert(circle);
            }
        }
        circles
    }

    /// Returns the rooms that a room imports from, directly or through others.
    fn reach(&self, room: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut ahead = vec![room];
        while let Some(room) = ahead.pop() {
            for import in self.imports.get(room).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(import.as_str()) {
                    ahead.push(import);
                }
            }
        }
        reached
    }
}

/// Collects the first names after `crate::` in code that is not only for tests.
fn imports(tokens: TokenStream, names: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, what: &str| {
        tokens
            .get(at)
            .is_some_and(|token| token.to_string() == what)
    };
    let mut for_tests = false;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                for_tests |= group.stream().to_string() == "cfg (test)";
            }
            TokenTree::Group(group) => {
                let skipped = for_tests && group.delimiter() == Delimiter::Brace;
                if !skipped {
                    imports(group.stream(), names);
                }
                for_tests &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => for_tests = false,
            TokenTree::Ident(ident)
                if *ident == "crate" && is(at + 1, ":") && is(at + 2, ":") && !for_tests =>
            {
                match tokens.get(at + 3) {
                    Some(TokenTree::Ident(name)) => drop(names.insert(name.to_string())),
                    Some(TokenTree::Group(list)) => first_names(list.stream(), names),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Collects the first name of each path in a list.
fn first_names(list: TokenStream, names: &mut BTreeSet<String>) {
    let mut first = true;
    for token in list {
        match token {
            TokenTree::Ident(name) if first => {
                names.insert(name.to_string());
                first = false;
            }
            TokenTree::Punct(punct) if punct.as_char() == ',' => first = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(files: &[(&str, &str)]) -> House {
        let mut house = House::default();
        for (file, source) in files {
            house.add(Path::new(file), source).expect("it is Rust");
        }
        house
    }

    #[test]
    fn the_agent_imports_from_the_top_down() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/src");
        let house = House::read(&sources).expect("the agent's sources");
        assert_eq!(
            house.upwards(&ROOMS).expect("all rooms"),
            Vec::<String>::new()
        );
        assert_eq!(house.circles().len(), 0);
    }

    #[test]
    fn an_import_is_found_in_lists_in_paths_and_in_macros() {
        let house = house(&[
            ("low.rs", "fn f() { format!(\"{}\", crate::high::A) }"),
            ("low/deep.rs", "use crate::{low::B, middle::{C, D}};"),
            ("middle.rs", "pub use crate::low::E;"),
            ("high.rs", ""),
            ("lib.rs", "pub use crate::high::A;"),
        ]);
        let upwards = house
            .upwards(&["low", "middle", "high"])
            .expect("all rooms");
        assert_eq!(
            upwards,
            [
                "  low imports high: low.rs",
                "  low imports middle: low/deep.rs"
            ]
        );
        assert_eq!(house.circles(), [["low", "middle"].into()].into());
    }

    #[test]
    fn imports_of_tests_do_not_count() {
        let house = house(&[
            (
                "low.rs",
                "#[cfg(test)] mod tests { use crate::high::A; } #[cfg(test)] use crate::high::B; mod c {}",
            ),
            ("high.rs", "use crate::low::C;"),
        ]);
        assert_eq!(house.upwards(&["low", "high"]).expect("all rooms").len(), 0);
        assert_eq!(house.circles().len(), 0);
    }

    #[test]
    fn a_room_without_a_floor_and_a_floor_without_a_room_are_errors() {
        let house = house(&[("low.rs", "")]);
        let error = |rooms: &[&str]| house.upwards(rooms).expect_err("refused").to_string();
        assert!(error(&[]).contains("`agent/src/low` is not in the list"));
        assert!(error(&["low", "gone"]).contains("no room `gone`"));
    }
}
