//! Images of a static busybox: one archive in OCI's image layout, for `ctr images import`.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Names of busybox in the image.
const NAMES: [&str; 8] = [
    "sh", "cat", "sleep", "true", "kill", "usleep", "head", "date",
];

/// Writes an image called `name` with this command to `archive`.
pub fn write(archive: &Path, name: &str, busybox: &Path, command: &[&str]) -> io::Result<()> {
    let mut blobs = Vec::new();
    let layer = layer(&fs::read(busybox)?)?;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = blob(
        &mut blobs,
        "config.v1+json",
        config.to_string().into_bytes(),
    );
    let layer = blob(&mut blobs, "layer.v1.tar", layer);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let mut manifest = blob(
        &mut blobs,
        "manifest.v1+json",
        manifest.to_string().into_bytes(),
    );
    manifest["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});

    let mut tar = Builder::new(fs::File::create(archive)?);
    add(
        &mut tar,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
        0o644,
    )?;
    add(&mut tar, "index.json", index.to_string().as_bytes(), 0o644)?;
    for (digest, bytes) in blobs {
        add(&mut tar, &format!("blobs/sha256/{digest}"), &bytes, 0o644)?;
    }
    tar.into_inner()?.flush()
}

/// Returns the architecture in OCI's terms.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layer(busybox: &[u8]) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "bin/busybox", busybox, 0o755)?;
    for name in NAMES {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox")?;
    }
    tar.into_inner()
}

fn add(tar: &mut Builder<impl io::Write>, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, bytes)
}

fn digest(bytes: &[u8]) -> String {
    let hex: Vec<String> = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{}", hex.concat())
}

/// Stores a part of the image and returns its descriptor.
fn blob(blobs: &mut Vec<(String, Vec<u8>)>, kind: &str, bytes: Vec<u8>) -> Value {
    let digest = digest(&bytes);
    let pointer = json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": digest, "size": bytes.len(),
    });
    let name = digest.trim_start_matches("sha256:").to_owned();
    blobs.push((name, bytes));
    pointer
}
