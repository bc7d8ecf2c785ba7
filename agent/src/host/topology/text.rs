//! Text form of the topology: a tree from packages down to the lowest level that separates CPUs.

use std::fmt::{self, Write};

use super::{Boundary, CpuList, Group, Level, Node, Source, Topology};

// Levels of the tree, outermost first. It omits cores, of which the first line states the number.
const TREE: [Boundary; 5] = [
    Boundary::Package,
    Boundary::Die,
    Boundary::Node,
    Boundary::Llc,
    Boundary::Cluster,
];

/// Set of CPUs: a leaf if no shown level separates them further, otherwise the parent of those that one does.
struct Branch<'a> {
    /// Groups that hold exactly these CPUs, outermost first.
    groups: Vec<(Boundary, Option<&'a Group>)>,
    cpus: CpuList,
    children: Vec<Branch<'a>>,
}

impl Topology {
    /// Returns the text of `stallscope topology`: tree, distances, levels and notes.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        self.write_host(out)?;
        let mut top = Vec::new();
        self.grow(&mut top, &self.cpus.online, &TREE);
        self.write_branches(out, &top, 0)?;
        for node in self.nodes.iter().filter(|node| node.cpus.is_empty()) {
            writeln!(out, "node {}: no CPUs{}", node.id, memory(node))?;
        }
        self.write_distances(out)?;
        self.write_levels(out)?;
        if !self.notes.is_empty() {
            writeln!(out, "\nnotes")?;
        }
        for note in &self.notes {
            writeln!(out, "  {note}")?;
        }
        Ok(())
    }

    fn write_host(&self, out: &mut String) -> fmt::Result {
        let online = &self.cpus.online;
        write!(out, "host: CPUs {online} ({})", online.len())?;
        for (boundary, one, many) in [
            (Boundary::Core, "core", "cores"),
            (Boundary::Node, "node", "nodes"),
            (Boundary::Package, "package", "packages"),
        ] {
            if let Some(level) = self
                .level(boundary)
                .filter(|level| level.source != Source::None)
            {
                // There can be more nodes than groups: some nodes have no CPUs.
                let count = if boundary == Boundary::Node {
                    self.nodes.len()
                } else {
                    level.groups.len()
                };
                write!(out, ", {count} {}", if count == 1 { one } else { many })?;
            }
        }
        writeln!(
            out,
            "{}\n",
            match self.smt_active {
                Some(true) => ", SMT on",
                Some(false) => ", SMT off",
                None => "",
            }
        )
    }

    fn level(&self, boundary: Boundary) -> Option<&Level> {
        self.levels.iter().find(|level| level.boundary == boundary)
    }

    /// Splits `cpus` by the first level of `rest`, and each part by the levels after it.
    fn grow<'a>(&'a self, into: &mut Vec<Branch<'a>>, cpus: &CpuList, rest: &[Boundary]) {
        let Some((&boundary, rest)) = rest.split_first() else {
            return;
        };
        let groups = self.level(boundary).map_or(&[][..], |level| &level.groups);
        if groups.is_empty() {
            return self.grow(into, cpus, rest);
        }
        let mut left = cpus.clone();
        let mut parts = Vec::new();
        for group in groups {
            let part: CpuList = group
                .cpus
                .iter()
                .filter(|cpu| cpus.contains(*cpu))
                .collect();
            if !part.is_empty() {
                left = left.without(&part);
                parts.push((Some(group), part));
            }
        }
        if !left.is_empty() {
            parts.push((None, left));
        }
        for (group, cpus) in parts {
            let mut branch = Branch {
                groups: vec![(boundary, group)],
                cpus,
                children: Vec::new(),
            };
            let mut children = Vec::new();
            self.grow(&mut children, &branch.cpus, rest);
            // A level that does not separate these CPUs is merely another name for them.
            match <[Branch; 1]>::try_from(children) {
                Ok([only]) => {
                    branch.groups.extend(only.groups);
                    branch.children = only.children;
                }
                Err(children) => branch.children = children,
            }
            into.push(branch);
        }
    }

    fn write_branches(
        &self,
        out: &mut String,
        branches: &[Branch<'_>],
        depth: usize,
    ) -> fmt::Result {
        let indent = depth * 2;
        if let Some(line) = one_line(branches) {
            return writeln!(out, "{:indent$}{line}", "");
        }
        for branch in branches {
            let names: Vec<String> = branch
                .groups
                .iter()
                .map(|(boundary, group)| name(*boundary, *group))
                .collect();
            write!(
                out,
                "{:indent$}{}: CPUs {}",
                "",
                names.join(", "),
                branch.cpus
            )?;
            for (boundary, group) in &branch.groups {
                if let (Boundary::Node, Some(group)) = (boundary, group)
                    && let Some(node) = self
                        .nodes
                        .iter()
                        .find(|node| node.id == u32::from(group.id))
                {
                    out.push_str(&memory(node));
                }
            }
            out.push('\n');
            self.write_branches(out, &branch.children, depth + 1)?;
        }
        Ok(())
    }

    fn write_distances(&self, out: &mut String) -> fmt::Result {
        if self.nodes.iter().all(|node| node.distances.is_empty()) {
            return Ok(());
        }
        write!(out, "\ndistances\n  node")?;
        for node in &self.nodes {
            write!(out, "{:>5}", node.id)?;
        }
        out.push('\n');
        for from in &self.nodes {
            write!(out, "  {:>4}", from.id)?;
            for to in &self.nodes {
                match from.distances.get(&to.id) {
                    Some(distance) => write!(out, "{distance:>5}")?,
                    None => write!(out, "{:>5}", "-")?,
                }
            }
            out.push('\n');
        }
        Ok(())
    }

    fn write_levels(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\nlevels, nearest first")?;
        for level in &self.levels {
            write!(out, "  {:<8} {:<16}", level.boundary, level.source.as_str())?;
            match &level.reason {
                Some(reason) => writeln!(out, "{reason}")?,
                None => writeln!(out, "{}", sizes(&level.groups))?,
            }
        }
        Ok(())
    }
}

/// Returns one line for all caches or clusters that nothing separates further, since a host can have dozens; none for
/// other branches.
fn one_line(branches: &[Branch<'_>]) -> Option<String> {
    let mut ids = Vec::new();
    let mut cpus = Vec::new();
    let mut shared = None;
    for branch in branches {
        let [(boundary @ (Boundary::Llc | Boundary::Cluster), Some(group))] = branch.groups[..]
        else {
            return None;
        };
        if !branch.children.is_empty() || *shared.get_or_insert(boundary) != boundary {
            return None;
        }
        ids.push(u32::from(group.id));
        cpus.push(branch.cpus.to_string());
    }
    let plural = match shared? {
        Boundary::Llc => "LLCs",
        _ => "clusters",
    };
    Some(format!(
        "{plural} {}: CPUs {}",
        ids.into_iter().collect::<CpuList>(),
        cpus.join(" | ")
    ))
}

fn name(boundary: Boundary, group: Option<&Group>) -> String {
    let level = if boundary == Boundary::Llc {
        "LLC"
    } else {
        boundary.as_str()
    };
    match group {
        None => format!("{level} not reported"),
        // Firmware numbers packages arbitrarily, so the text shows both numbers for readers who know the other one.
        Some(group) => match group
            .sysfs_id
            .filter(|id| boundary == Boundary::Package && *id != i64::from(group.id))
        {
            Some(id) => format!("{level} {} (physical_package_id {id})", group.id),
            None => format!("{level} {}", group.id),
        },
    }
}

// Returns an empty text if memory is not reported, else a comma and the size.
fn memory(node: &Node) -> String {
    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
    node.memory_bytes.map_or_else(String::new, |bytes| {
        format!(", {:.1} GiB", bytes as f64 / GIB)
    })
}

/// Describes the groups' sizes, such as `8 groups of 16 CPUs`, or `3 groups of 2 to 4 CPUs`.
fn sizes(groups: &[Group]) -> String {
    let lens = || groups.iter().map(|group| group.cpus.len());
    let (least, most) = (lens().min().unwrap_or(0), lens().max().unwrap_or(0));
    let range = if least == most {
        most.to_string()
    } else {
        format!("{least} to {most}")
    };
    let plural = |count| if count == 1 { "" } else { "s" };
    let count = groups.len();
    format!(
        "{count} group{} of {range} CPU{}",
        plural(count),
        plural(most)
    )
}
