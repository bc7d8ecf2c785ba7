//! The container image of the agent for all architectures, as one archive in OCI's layout.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use oci_spec::image::{
    self, ConfigBuilder, Descriptor, DescriptorBuilder, HistoryBuilder, ImageConfiguration,
    ImageConfigurationBuilder, ImageIndex, ImageIndexBuilder, ImageManifest, ImageManifestBuilder,
    MediaType, Os, Platform, PlatformBuilder, RootFsBuilder, Sha256Digest,
};
use serde::Serialize;

use super::archive::{self, Entry, Layer};
use super::digest::sha256;

use super::release::Release;
use crate::bpf::Arch;

/// Where the agent is in the image.
pub const PROGRAM: &str = "stallscope";
/// Where the licences are in the image.
pub const LICENCES: &str = "licenses/";
/// Where the parts of an image are in the archive.
pub const BLOBS: &str = "blobs/sha256/";
/// The version of the layout that is written here.
pub const LAYOUT: &str = "1.0.0";
/// The name that containerd gives the image when it is imported; no registry has it.
const NAME: &str = "localhost/stallscope";
/// The annotation containerd reads that name from.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The agent of one architecture.
#[derive(Debug)]
pub struct Agent {
    /// Its architecture.
    pub arch: Arch,
    /// The program.
    pub bytes: Vec<u8>,
}

/// Packs agents and licences, the latter by name, into an archive that only depends on what it is given.
pub fn pack(
    release: &Release,
    agents: &[Agent],
    licences: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let licences = Layer::pack(licence_files(licences), release.seconds.unwrap_or(0))?;
    let mut manifests = Vec::new();
    for agent in agents {
        let manifest = blobs.image(release, agent, &licences)?;
        manifests.push(manifest);
    }
    let images = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .annotations(annotations(release)?)
        .build()?;
    let mut images = blobs.json(MediaType::ImageIndex, &images)?;
    images.set_annotations(Some(HashMap::from([
        (
            image::ANNOTATION_REF_NAME.to_owned(),
            release.version.clone(),
        ),
        (
            CONTAINERD_NAME.to_owned(),
            format!("{NAME}:{}", release.version),
        ),
    ])));
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![images])
        .build()?;
    blobs.archive(&index, release.seconds.unwrap_or(0))
}

fn licence_files(licences: &BTreeMap<String, Vec<u8>>) -> Vec<Entry> {
    let files = licences
        .iter()
        .map(|(name, bytes)| Entry::file(format!("{LICENCES}{name}"), bytes.clone()));
    std::iter::once(Entry::folder(LICENCES))
        .chain(files)
        .collect()
}

/// What the image says of itself, to registries as annotations and to container engines as labels.
fn annotations(release: &Release) -> Result<HashMap<String, String>> {
    let known = [
        (image::ANNOTATION_TITLE, Some(PROGRAM.to_owned())),
        (
            image::ANNOTATION_DESCRIPTION,
            Some(release.description.clone()),
        ),
        (image::ANNOTATION_VERSION, Some(release.version.clone())),
        (image::ANNOTATION_LICENSES, Some(release.licences.clone())),
        (image::ANNOTATION_REVISION, release.revision.clone()),
        (image::ANNOTATION_CREATED, release.date()?),
        (image::ANNOTATION_SOURCE, release.source.clone()),
    ];
    Ok(known
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect())
}

/// The architecture as images name it.
pub fn platform(arch: Arch) -> Result<Platform> {
    Ok(PlatformBuilder::default()
        .architecture(arch.debian())
        .os(Os::Linux)
        .build()?)
}

fn configuration(release: &Release, arch: Arch, layers: &[&Layer]) -> Result<ImageConfiguration> {
    let process = ConfigBuilder::default()
        // Only a root user's process keeps the two capabilities it is given on every runtime; see docs/release.md.
        .user("0:0")
        .entrypoint(vec![format!("/{PROGRAM}")])
        .cmd(["run", "--listen", "0.0.0.0:9750"].map(str::to_owned))
        // So that `stallscope status` can be started in the running container by its name.
        .env(vec!["PATH=/".to_owned()])
        .exposed_ports(vec!["9750/tcp".to_owned()])
        .working_dir("/")
        .labels(annotations(release)?)
        .build()?;
    let files = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(
            layers
                .iter()
                .map(|layer| format!("sha256:{}", layer.diff))
                .collect::<Vec<_>>(),
        )
        .build()?;
    let mut configuration = ImageConfigurationBuilder::default()
        .architecture(arch.debian())
        .os(Os::Linux)
        .config(process)
        .rootfs(files);
    let mut history = Vec::new();
    for what in ["licences", "agent"] {
        let mut step = HistoryBuilder::default().created_by(format!("cargo xtask dist: {what}"));
        if let Some(date) = release.date()? {
            step = step.created(date);
        }
        history.push(step.build()?);
    }
    if let Some(date) = release.date()? {
        configuration = configuration.created(date);
    }
    Ok(configuration.history(history).build()?)
}

/// The parts of an image by their SHA-256.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, kind: MediaType, bytes: Vec<u8>) -> Result<Descriptor> {
        let digest = sha256(&bytes);
        let descriptor = DescriptorBuilder::default()
            .media_type(kind)
            .digest(Sha256Digest::from_str(&digest)?)
            .size(bytes.len() as u64)
            .build()?;
        self.0.insert(digest, bytes);
        Ok(descriptor)
    }

    fn json(&mut self, kind: MediaType, value: &impl Serialize) -> Result<Descriptor> {
        self.add(kind, json(value)?)
    }

    fn image(&mut self, release: &Release, agent: &Agent, licences: &Layer) -> Result<Descriptor> {
        let program = vec![Entry::program(PROGRAM, agent.bytes.clone())];
        let program = Layer::pack(program, release.seconds.unwrap_or(0))?;
        let configuration = configuration(release, agent.arch, &[licences, &program])?;
        let manifest: ImageManifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageManifest)
            .config(self.json(MediaType::ImageConfig, &configuration)?)
            .layers(vec![
                self.add(MediaType::ImageLayerGzip, licences.bytes.clone())?,
                self.add(MediaType::ImageLayerGzip, program.bytes)?,
            ])
            .annotations(annotations(release)?)
            .build()?;
        let mut descriptor = self.json(MediaType::ImageManifest, &manifest)?;
        descriptor.set_platform(Some(platform(agent.arch)?));
        Ok(descriptor)
    }

    fn archive(self, index: &ImageIndex, seconds: u64) -> Result<Vec<u8>> {
        let layout = serde_json::json!({ "imageLayoutVersion": LAYOUT });
        let mut entries = vec![
            Entry::file("oci-layout", json(&layout)?),
            Entry::file("index.json", json(index)?),
            Entry::folder("blobs/"),
            Entry::folder(BLOBS),
        ];
        entries.extend(
            self.0
                .into_iter()
                .map(|(digest, bytes)| Entry::file(format!("{BLOBS}{digest}"), bytes)),
        );
        archive::pack(entries, seconds)
    }
}

/// Keys in order: the maps of the specification's types have none of their own.
fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(value)?;
    serde_json::to_vec(&value).context("could not write a part of the image as JSON")
}
