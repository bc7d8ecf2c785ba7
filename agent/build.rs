//! Puts the BPF objects into the agent.
//!
//! `cargo xtask build` leaves them in the target folder, one `NAME.o` per program. Without them the list is empty and
//! everything still compiles, so that checking and editing the agent needs no BPF compiler.

use std::env;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=STALLSCOPE_BPF_DIR");

    let out = PathBuf::from(variable("OUT_DIR")?);
    let folder = match env::var_os("STALLSCOPE_BPF_DIR") {
        // Cargo starts this script in the package's folder, but the user's path is relative to the workspace.
        Some(folder) => {
            let folder = Path::new("..").join(folder);
            folder.canonicalize().map_err(|error| {
                format!(
                    "STALLSCOPE_BPF_DIR should name a folder of BPF objects, but {}: {error}",
                    folder.display()
                )
            })?
        }
        None => default_folder(&out)?,
    };
    // Cargo treats a missing path as changed and would rebuild the agent each time. It notices objects that appear in
    // an empty folder. A folder that cannot be created is no reason to fail.
    let _ = fs::create_dir_all(&folder);
    println!("cargo::rerun-if-changed={}", folder.display());

    let objects = objects(&folder)?;
    // The copies lie beside the module, so that its text does not contain the build path and equal sources give equal
    // agents.
    for (name, path) in &objects {
        fs::copy(path, out.join(format!("{name}.o")))?;
    }
    fs::write(out.join("objects.rs"), source(&objects)?)?;
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}; this is started by Cargo only"))
}

/// Returns `TARGET_DIR/bpf/ARCH`. Cargo does not say where the target folder is, but runs this script in
/// `TARGET_DIR[/TRIPLE]/PROFILE/build/…`.
fn default_folder(out: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let build = out
        .ancestors()
        .find(|folder| folder.ends_with("build"))
        .ok_or_else(|| {
            format!(
                "{} is not in a `build` folder; set STALLSCOPE_BPF_DIR to the folder of the BPF objects",
                out.display()
            )
        })?;
    let mut target = build.ancestors().nth(2).unwrap_or(build);
    if target.ends_with(variable("TARGET")?) {
        target = target.parent().unwrap_or(target);
    }
    Ok(target.join("bpf").join(variable("CARGO_CFG_TARGET_ARCH")?))
}

/// Returns the names and paths of the objects, sorted by name so that equal inputs give equal agents.
fn objects(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut objects = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "o") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            objects.push((name.into_owned(), path));
        }
    }
    objects.sort();
    Ok(objects)
}

/// Returns the module's text. The ELF reader needs aligned input, which `include_bytes` alone does not guarantee.
fn source(objects: &[(String, PathBuf)]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    if !objects.is_empty() {
        text.push_str(
            "/// Bytes at an address that is a multiple of eight.\n\
             #[repr(C, align(8))]\n\
             struct Aligned<T: ?Sized>(T);\n\n",
        );
    }
    for (number, (name, _)) in objects.iter().enumerate() {
        let file = format!("{name}.o");
        writeln!(
            text,
            "static OBJECT_{number}: &Aligned<[u8]> = &Aligned(*include_bytes!({file:?}));"
        )?;
    }
    text.push_str(
        "\n/// The BPF objects that were built for this architecture: name and ELF file, in name order.\n\
         pub static OBJECTS: &[(&str, &[u8])] = &[\n",
    );
    for (number, (name, _)) in objects.iter().enumerate() {
        writeln!(text, "    ({name:?}, &OBJECT_{number}.0),")?;
    }
    text.push_str("];\n");
    Ok(text)
}
