//! Container image of the agent for all architectures, as one archive in OCI's image layout.

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

/// Path of the agent in the image.
pub const PROGRAM: &str = "stallscope";
/// Folder of the licences in the image.
pub const LICENCES: &str = "licenses/";
/// Folder of an image's parts in the archive.
pub const BLOBS: &str = "blobs/sha256/";
/// Version of the image layout.
pub const LAYOUT: &str = "1.0.0";
/// Name that containerd gives the image on import. No registry has it.
const NAME: &str = "localhost/stallscope";
/// Annotation from which containerd reads that name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The agent of one architecture.
#[derive(Debug)]
pub struct Agent {
    /// Architecture of the agent.
    pub arch: Arch,
    /// Program file.
    pub bytes: Vec<u8>,
}

/// Packs agents and licences (by name) into an archive. Equal input gives equal bytes.
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

/// Returns the image's metadata, for registries as annotations and for container engines as labels.
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

/// Returns the architecture in OCI's terms.
pub fn platform(arch: Arch) -> Result<Platform> {
    Ok(PlatformBuilder::default()
        .architecture(arch.debian())
        .os(Os::Linux)
        .build()?)
}

fn configuration(release: &Release, arch: Arch, layers: &[&Layer]) -> Result<ImageConfiguration> {
    let process = ConfigBuilder::default()
        // On every runtime only a root user's process keeps the two capabilities that it is given; see docs/release.md.
        .user("0:0")
        .entrypoint(vec![format!("/{PROGRAM}")])
        .cmd(["run", "--listen", "0.0.0.0:9750"].map(str::to_owned))
        // With this `PATH`, users can run `stallscope status` in the container by its name.
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

/// Parts of an image, by their SHA-256.
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

/// Serializes a value with sorted keys: the maps of the specification's types have no order of their own.
fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(value)?;
    serde_json::to_vec(&value).context("could not write a part of the image as JSON")
}
