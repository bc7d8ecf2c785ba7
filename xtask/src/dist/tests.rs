//! Tests with releases of tiny programs: packed, damaged in many ways, and read back.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::archive::{self, Entry, Layer};
use super::contents;
use super::digest::sha256;
use super::image::{self, Agent};
use super::release::Release;
use super::{Files, SUMS};
use crate::bpf::Arch;
use crate::build::elf::tiny;

const ARCHS: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

fn release() -> Release {
    Release {
        version: "1.2.3".into(),
        description: "An agent".into(),
        licences: "MIT".into(),
        source: None,
        revision: Some("abc".into()),
        seconds: Some(1_767_225_600),
    }
}

fn agents() -> Vec<Agent> {
    ARCHS
        .map(|arch| Agent {
            arch,
            bytes: tiny::program(arch),
        })
        .into()
}

fn licences() -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([("LICENSE-MIT".to_owned(), b"Take it.".to_vec())])
}

fn packed() -> Vec<u8> {
    image::pack(&release(), &agents(), &licences()).unwrap()
}

/// Returns the files of an archive, to change and pack again.
fn files(archive: &[u8]) -> BTreeMap<String, Entry> {
    archive::unpack(archive).unwrap()
}

fn refused(files: BTreeMap<String, Entry>) -> String {
    let archive = archive::pack(files.into_values().collect(), 0).unwrap();
    format!("{:#}", contents::read(&archive).unwrap_err())
}

/// Returns the JSON of the part of an image that has that key.
fn part_with(files: &BTreeMap<String, Entry>, key: &str) -> (String, serde_json::Value) {
    files
        .iter()
        .filter(|(path, _)| path.starts_with(image::BLOBS))
        .find_map(|(path, entry)| {
            let json: serde_json::Value = serde_json::from_slice(&entry.bytes).ok()?;
            json.get(key)?;
            Some((path.clone(), json))
        })
        .unwrap()
}

#[test]
fn both_architectures_come_back_from_the_image() {
    let read = contents::read(&packed()).unwrap();
    let programs: Vec<_> = read
        .into_iter()
        .map(|agent| (agent.arch, agent.bytes))
        .collect();
    let expected = ARCHS.map(|arch| (arch, tiny::program(arch)));
    assert_eq!(programs, expected);
}

#[test]
fn equal_input_gives_equal_bytes_and_other_input_others() {
    assert_eq!(sha256(&packed()), sha256(&packed()));
    let mut later = release();
    later.seconds = Some(1_767_225_601);
    let later = image::pack(&later, &agents(), &licences()).unwrap();
    assert_ne!(sha256(&packed()), sha256(&later));
}

#[test]
fn the_image_says_what_it_is_and_how_it_runs() {
    let files = files(&packed());
    let (_, configuration) = part_with(&files, "rootfs");
    let process = &configuration["config"];
    assert_eq!(process["User"], "0:0");
    assert_eq!(process["Entrypoint"], serde_json::json!(["/stallscope"]));
    assert_eq!(
        process["ExposedPorts"],
        serde_json::json!({ "9750/tcp": {} })
    );
    assert_eq!(configuration["created"], "2026-01-01T00:00:00Z");
    let (_, manifest) = part_with(&files, "layers");
    let (_, index) = part_with(&files, "manifests");
    for said in [
        &process["Labels"],
        &manifest["annotations"],
        &index["annotations"],
    ] {
        let about = |key: &str| said[format!("org.opencontainers.image.{key}")].clone();
        assert_eq!(about("version"), "1.2.3");
        assert_eq!(about("revision"), "abc");
        assert_eq!(about("licenses"), "MIT");
        assert!(about("source").is_null());
    }
}

#[test]
fn layers_hold_the_program_and_the_licences_and_the_latter_once() {
    let files = files(&packed());
    let layers: Vec<_> = files
        .values()
        .filter_map(|entry| archive::unpack(&Layer::decompress(&entry.bytes).ok()?).ok())
        .collect();
    assert_eq!(layers.len(), 3, "one of licences, one for each program");
    let with = |path: &str| {
        layers
            .iter()
            .filter(|layer| layer.contains_key(path))
            .count()
    };
    assert_eq!((with("licenses/LICENSE-MIT"), with("stallscope")), (1, 2));
    let program = layers
        .iter()
        .find_map(|layer| layer.get("stallscope"))
        .unwrap();
    assert_eq!(program.mode, 0o755);
}

#[test]
fn every_changed_byte_of_a_part_is_noticed() {
    let whole = files(&packed());
    let parts = whole
        .keys()
        .filter(|path| path.starts_with(image::BLOBS) && !path.ends_with('/'));
    for part in parts {
        let mut changed = whole.clone();
        changed.get_mut(part).unwrap().bytes[7] ^= 1;
        assert!(refused(changed).contains("has the digest"));
        let mut shorter = whole.clone();
        shorter.get_mut(part).unwrap().bytes.pop();
        assert!(refused(shorter).contains("should have"));
        let mut missing = whole.clone();
        missing.remove(part);
        assert!(refused(missing).contains("has no blobs"));
    }
}

#[test]
fn what_nothing_refers_to_is_noticed() {
    let mut files = files(&packed());
    let stray = Entry::file("blobs/sha256/0", Vec::new());
    files.insert(stray.path.clone(), stray);
    assert!(refused(files).contains("nothing refers to it"));
}

#[test]
fn an_agent_for_another_platform_than_its_image_is_noticed() {
    let mut swapped = agents();
    swapped[0].bytes = tiny::program(Arch::Aarch64);
    let archive = image::pack(&release(), &swapped, &licences()).unwrap();
    let error = format!("{:#}", contents::read(&archive).unwrap_err());
    assert!(error.contains("should be for x86_64"), "{error}");
}

#[test]
fn an_agent_that_needs_a_c_library_is_refused() {
    let mut needing = agents();
    needing[1].bytes = tiny::needing_library(Arch::Aarch64);
    let archive = image::pack(&release(), &needing, &licences()).unwrap();
    let error = format!("{:#}", contents::read(&archive).unwrap_err());
    assert!(error.contains("shared libraries"), "{error}");
}

#[test]
fn an_image_without_licences_is_refused() {
    let archive = image::pack(&release(), &agents(), &BTreeMap::new()).unwrap();
    let error = format!("{:#}", contents::read(&archive).unwrap_err());
    assert!(error.contains("no licences"), "{error}");
}

#[test]
fn checksums_hold_and_a_former_release_goes() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("dist");
    let mut files = Files::default();
    files.add("stallscope-old", Vec::new());
    files.write(&folder).unwrap();
    fs::write(folder.join("notes"), "kept").unwrap();
    let mut files = Files::default();
    files.add("stallscope-new", b"new".to_vec());
    files.write(&folder).unwrap();
    assert!(!folder.join("stallscope-old").exists() && folder.join("notes").exists());
    let check = || {
        Command::new("sha256sum")
            .args(["--strict", "-c", SUMS])
            .current_dir(&folder)
            .output()
            .unwrap()
    };
    assert!(check().status.success());
    fs::write(folder.join("stallscope-new"), "other").unwrap();
    assert!(!check().status.success());
}
