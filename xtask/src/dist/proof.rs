//! Trial of a release: reads and runs the files in `dist/` as they are.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use memchr::memmem;
use serde::Deserialize;

use super::contents;
use super::image::Agent;
use super::release::Release;
use super::{IMAGE, SUMS, file_name, folder, names};
use crate::bpf::Arch;
use crate::shell;
use crate::steps::{Outcome, Steps};
use crate::workspace::{self, Workspace};

/// Runs every trial that this machine allows.
pub fn run(steps: &mut Steps, workspace: &Workspace, release: &Release, archs: &[Arch]) {
    let folder = &folder(workspace);
    steps.step("checksums", || {
        shell::stdout(
            Command::new("sha256sum")
                .args(["-c", SUMS])
                .current_dir(folder),
        )?;
        Ok(Outcome::Passed(String::new()))
    });
    steps.step("no folder of this machine named", || {
        let mut private = vec![workspace.root.clone(), workspace.target.clone()];
        private.extend(workspace::cargo_home());
        nameless(folder, &private)
    });
    let mut agents = Vec::new();
    steps.step("image read back", || {
        agents = image(folder, archs)?;
        Ok(Outcome::Passed(names(archs)))
    });
    for agent in &agents {
        steps.step(
            &format!("{} from the image starts", agent.arch.debian()),
            || starts(agent, release),
        );
    }
    for arch in archs {
        steps.step(&format!("skopeo finds {}", arch.debian()), || {
            inspected(folder, release, *arch)
        });
    }
}

/// Fails when a released file contains the path of a folder that only this machine has.
///
/// The image is left out: it holds the same files, compressed.
fn nameless(folder: &Path, private: &[PathBuf]) -> Result<Outcome> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let bytes =
            fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        for folder in private.iter().filter(|folder| is_telling(folder)) {
            let prefix = format!("{}/", folder.display());
            if let Some(at) = memmem::find(&bytes, prefix.as_bytes()) {
                let named = bytes[at..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_graphic());
                let named: String = named.take(100).map(|byte| char::from(*byte)).collect();
                bail!("{} names {named}", path.display());
            }
        }
    }
    Ok(Outcome::Passed(String::new()))
}

/// Returns whether a folder's path identifies this machine. One such as `/src` does not: it occurs in the paths of all
/// compilers.
fn is_telling(folder: &Path) -> bool {
    folder.components().count() > 2
}

/// Reads the agents in the image and checks that they equal the files beside it.
fn image(folder: &Path, archs: &[Arch]) -> Result<Vec<Agent>> {
    let path = folder.join(IMAGE);
    let bytes = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
    let agents = contents::read(&bytes)
        .with_context(|| format!("{} is not as it should be", path.display()))?;
    let found: Vec<Arch> = agents.iter().map(|agent| agent.arch).collect();
    if found != archs {
        bail!(
            "the image is for {}, but should be for {}",
            names(&found),
            names(archs)
        );
    }
    for agent in &agents {
        let path = folder.join(file_name(agent.arch));
        let beside =
            fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        if beside != agent.bytes {
            bail!("{} is another than the image's", path.display());
        }
    }
    Ok(agents)
}

/// Starts an agent alone, without environment and without other files.
fn starts(agent: &Agent, release: &Release) -> Result<Outcome> {
    let Some(starter) = starter(agent.arch) else {
        return Ok(Outcome::Skipped(format!(
            "this machine has another architecture and no qemu-{}-static",
            agent.arch.name()
        )));
    };
    let root = tempfile::tempdir().context("could not make a temporary folder")?;
    let path = root.path().join("stallscope");
    fs::write(&path, &agent.bytes)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("could not write {}", path.display()))?;
    let mut command = match starter {
        Starter::Itself => Command::new(&path),
        Starter::Emulator(emulator) => {
            let mut command = Command::new(emulator);
            command.arg(&path);
            command
        }
    };
    let said = shell::stdout(
        command
            .arg("--version")
            .current_dir(root.path())
            .env_clear(),
    )?;
    if !said.contains(&release.version) {
        bail!("it should be version {}, but says: {said}", release.version);
    }
    Ok(Outcome::Passed(said.trim_end().to_owned()))
}

enum Starter {
    Itself,
    Emulator(PathBuf),
}

fn starter(arch: Arch) -> Option<Starter> {
    if Arch::host().ok() == Some(arch) {
        return Some(Starter::Itself);
    }
    [
        format!("qemu-{}-static", arch.name()),
        format!("qemu-{}", arch.name()),
    ]
    .iter()
    .find_map(|name| shell::which(name))
    .map(Starter::Emulator)
}

/// Inspects the archive with skopeo.
fn inspected(folder: &Path, release: &Release, arch: Arch) -> Result<Outcome> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        architecture: String,
        os: String,
        layers: Vec<String>,
        labels: std::collections::BTreeMap<String, String>,
    }
    if shell::which("skopeo").is_none() {
        return Ok(Outcome::Skipped("there is no skopeo here".to_owned()));
    }
    let mut skopeo = Command::new("skopeo");
    skopeo
        .args(["--override-os", "linux", "--override-arch", arch.debian()])
        .arg("inspect")
        .arg(format!("oci-archive:{}", folder.join(IMAGE).display()));
    let image: Inspected =
        serde_json::from_str(&shell::stdout(&mut skopeo)?).context("skopeo printed no JSON")?;
    let version = image.labels.get("org.opencontainers.image.version");
    if image.architecture != arch.debian()
        || image.os != "linux"
        || version != Some(&release.version)
    {
        bail!(
            "skopeo finds {}/{} of version {version:?}",
            image.os,
            image.architecture
        );
    }
    Ok(Outcome::Passed(format!("{} layers", image.layers.len())))
}

#[cfg(test)]
mod tests {
    use super::nameless;
    use std::fs;

    #[test]
    fn a_folder_of_this_machine_is_found_wherever_it_is_named() {
        let dist = tempfile::tempdir().unwrap();
        fs::write(dist.path().join("agent"), b"\0/home/me/project2/x\0/src/y").unwrap();
        let private = ["/home/me/project".into(), "/src".into()];
        assert!(nameless(dist.path(), &private).is_ok());
        fs::write(
            dist.path().join("bill"),
            b"at/home/me/project/agent/src/x.rs\0",
        )
        .unwrap();
        let error = nameless(dist.path(), &private).unwrap_err().to_string();
        assert!(
            error.ends_with("names /home/me/project/agent/src/x.rs"),
            "{error}"
        );
    }
}
