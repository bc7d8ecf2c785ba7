//! Validation of an image's archive: every part is present and used, and has the stated length and digest.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use oci_spec::image::{
    Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, OciLayout, Os,
};
use serde::de::DeserializeOwned;

use super::archive::{self, Entry, Layer};
use super::digest::sha256;
use super::image::{Agent, BLOBS, LAYOUT, LICENCES, PROGRAM};
use crate::bpf::Arch;
use crate::build::elf;

/// Reads an archive and returns its agents. Returns an error when anything in it is wrong.
pub fn read(archive: &[u8]) -> Result<Vec<Agent>> {
    let files = archive::unpack(archive)?;
    let mut contents = Contents {
        files,
        used: BTreeSet::new(),
    };
    let agents = contents.agents()?;
    contents.nothing_else()?;
    Ok(agents)
}

struct Contents {
    files: BTreeMap<String, Entry>,
    used: BTreeSet<String>,
}

impl Contents {
    fn file(&mut self, path: &str) -> Result<Vec<u8>> {
        self.used.insert(path.to_owned());
        let entry = self.files.get(path);
        entry
            .map(|entry| entry.bytes.clone())
            .with_context(|| format!("the archive has no {path}"))
    }

    fn part(&mut self, descriptor: &Descriptor, kind: &MediaType) -> Result<Vec<u8>> {
        if descriptor.media_type() != kind {
            bail!(
                "{} is of the type {}, but should be {kind}",
                descriptor.digest(),
                descriptor.media_type()
            );
        }
        let digest = descriptor
            .as_digest_sha256()
            .with_context(|| format!("{} is no SHA-256", descriptor.digest()))?
            .to_owned();
        let bytes = self.file(&format!("{BLOBS}{digest}"))?;
        if bytes.len() as u64 != descriptor.size() {
            bail!(
                "{digest} should have {} bytes, but has {}",
                descriptor.size(),
                bytes.len()
            );
        }
        if sha256(&bytes) != digest {
            bail!("{digest} has the digest {}", sha256(&bytes));
        }
        Ok(bytes)
    }

    fn parsed<T: DeserializeOwned>(
        &mut self,
        descriptor: &Descriptor,
        kind: &MediaType,
    ) -> Result<T> {
        let bytes = self.part(descriptor, kind)?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no {kind}", descriptor.digest()))
    }

    fn agents(&mut self) -> Result<Vec<Agent>> {
        let layout: OciLayout = serde_json::from_slice(&self.file("oci-layout")?)?;
        if layout.image_layout_version() != LAYOUT {
            bail!(
                "the layout is of version {}, but should be {LAYOUT}",
                layout.image_layout_version()
            );
        }
        let index: ImageIndex = serde_json::from_slice(&self.file("index.json")?)?;
        let [images] = index.manifests().as_slice() else {
            bail!(
                "index.json names {} images, but should name one",
                index.manifests().len()
            );
        };
        let images: ImageIndex = self.parsed(images, &MediaType::ImageIndex)?;
        let mut agents: Vec<Agent> = Vec::new();
        for manifest in images.manifests() {
            let agent = self.agent(manifest)?;
            if agents.iter().any(|other| other.arch == agent.arch) {
                bail!("the image for {} is there twice", agent.arch.debian());
            }
            agents.push(agent);
        }
        Ok(agents)
    }

    fn agent(&mut self, descriptor: &Descriptor) -> Result<Agent> {
        let platform = descriptor
            .platform()
            .as_ref()
            .with_context(|| format!("the image {} names no platform", descriptor.digest()))?;
        let arch = architecture(&platform.architecture().to_string())?;
        let manifest: ImageManifest = self.parsed(descriptor, &MediaType::ImageManifest)?;
        let configuration: ImageConfiguration =
            self.parsed(manifest.config(), &MediaType::ImageConfig)?;
        if configuration.architecture() != platform.architecture()
            || *platform.os() != Os::Linux
            || *configuration.os() != Os::Linux
        {
            bail!(
                "the image for {} says otherwise in its configuration",
                arch.debian()
            );
        }
        let files = self.files_of(&manifest, &configuration)?;
        let bytes = program(&files, &configuration)?;
        elf::check_static_bytes(&bytes, arch).with_context(|| {
            format!(
                "the agent in the image for {} cannot be used",
                arch.debian()
            )
        })?;
        Ok(Agent { arch, bytes })
    }

    fn files_of(
        &mut self,
        manifest: &ImageManifest,
        configuration: &ImageConfiguration,
    ) -> Result<BTreeMap<String, Entry>> {
        let diffs = configuration.rootfs().diff_ids();
        if diffs.len() != manifest.layers().len() {
            bail!(
                "the image has {} layers, but its configuration names {}",
                manifest.layers().len(),
                diffs.len()
            );
        }
        let mut files = BTreeMap::new();
        for (descriptor, diff) in manifest.layers().iter().zip(diffs) {
            let layer = Layer::decompress(&self.part(descriptor, &MediaType::ImageLayerGzip)?)?;
            if *diff != format!("sha256:{}", sha256(&layer)) {
                bail!(
                    "the layer {} is not the {diff} that the configuration names",
                    descriptor.digest()
                );
            }
            files.extend(archive::unpack(&layer)?);
        }
        Ok(files)
    }

    fn nothing_else(&self) -> Result<()> {
        let stray = self
            .files
            .keys()
            .find(|path| !path.ends_with('/') && !self.used.contains(*path));
        if let Some(stray) = stray {
            bail!("{stray} is in the archive, but nothing refers to it");
        }
        Ok(())
    }
}

fn architecture(name: &str) -> Result<Arch> {
    [Arch::X86_64, Arch::Aarch64]
        .into_iter()
        .find(|arch| arch.debian() == name)
        .with_context(|| format!("there is an image for {name}, which Stallscope does not run on"))
}

/// Returns the program that a container of the image starts. A missing licence is an error too.
fn program(files: &BTreeMap<String, Entry>, configuration: &ImageConfiguration) -> Result<Vec<u8>> {
    let entrypoint = configuration
        .config()
        .as_ref()
        .and_then(|config| config.entrypoint().as_deref());
    if entrypoint != Some([format!("/{PROGRAM}")].as_slice()) {
        bail!("the image starts {entrypoint:?}, but should start /{PROGRAM}");
    }
    let program = files
        .get(PROGRAM)
        .with_context(|| format!("the image has no /{PROGRAM}"))?;
    if program.mode != 0o755 {
        bail!(
            "/{PROGRAM} has the mode {:o}, but should have 755",
            program.mode
        );
    }
    let licence = |path: &&String| path.starts_with(LICENCES) && path.as_str() != LICENCES;
    if !files.keys().any(|path| licence(&path)) {
        bail!("the image has no licences in /{LICENCES}");
    }
    Ok(program.bytes.clone())
}
