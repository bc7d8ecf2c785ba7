//! Trying a release: what is in `dist/`, not what was meant to be there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::contents;
use super::image::Agent;
use super::release::Release;
use super::{IMAGE, SUMS, file_name, names};
use crate::bpf::Arch;
use crate::shell;
use crate::steps::{Outcome, Steps};

/// Every proof that this machine allows.
pub fn run(steps: &mut Steps, folder: &Path, release: &Release, archs: &[Arch]) {
    steps.step("checksums", || {
        shell::stdout(
            Command::new("sha256sum")
                .args(["-c", SUMS])
                .current_dir(folder),
        )?;
        Ok(Outcome::Passed(String::new()))
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

/// The agents in the image, which have to be those beside it.
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

/// Starts an agent with nothing around it, no environment and no files of its own.
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

/// What another program makes of the archive.
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
