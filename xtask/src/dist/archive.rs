//! Reproducible tar archives (equal files give equal bytes), and the image layers made of them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use tar::{Archive, Builder, EntryType, Header};

use super::digest::sha256;

/// A file or folder in an archive. Its owner is root.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    /// Path without a leading slash; that of a folder ends in one.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content of the file; empty for a folder.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Creates a folder that everyone may read.
    pub fn folder(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            mode: 0o755,
            bytes: Vec::new(),
        }
    }

    /// Creates a file that everyone may read.
    pub fn file(path: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            path: path.into(),
            mode: 0o644,
            bytes,
        }
    }

    /// Creates a file that everyone may execute.
    pub fn program(path: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            mode: 0o755,
            ..Self::file(path, bytes)
        }
    }

    fn header(&self, seconds: u64) -> Result<Header> {
        let mut header = Header::new_ustar();
        header
            .set_path(&self.path)
            .with_context(|| format!("`{}` is no path for an archive", self.path))?;
        header.set_entry_type(if self.path.ends_with('/') {
            EntryType::Directory
        } else {
            EntryType::Regular
        });
        header.set_mode(self.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(seconds);
        header.set_size(self.bytes.len() as u64);
        header.set_cksum();
        Ok(header)
    }
}

/// Packs files in the order of their paths, with `seconds` since 1970 as the time of each.
pub fn pack(mut entries: Vec<Entry>, seconds: u64) -> Result<Vec<u8>> {
    entries.sort();
    let mut archive = Builder::new(Vec::new());
    for entry in &entries {
        archive
            .append(&entry.header(seconds)?, entry.bytes.as_slice())
            .with_context(|| format!("could not pack {}", entry.path))?;
    }
    archive.into_inner().context("could not finish an archive")
}

/// Reads all files of an archive, by path.
pub fn unpack(bytes: &[u8]) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    for file in Archive::new(bytes).entries().context("it is no archive")? {
        let mut file = file.context("it is a damaged archive")?;
        let path = String::from_utf8(file.path_bytes().into_owned())
            .context("a path in the archive is not UTF-8")?;
        let mut entry = Entry {
            mode: file.header().mode()?,
            path: path.clone(),
            bytes: Vec::new(),
        };
        file.read_to_end(&mut entry.bytes)
            .with_context(|| format!("{path} in the archive is cut short"))?;
        if entries.insert(path.clone(), entry).is_some() {
            bail!("{path} is in the archive twice");
        }
    }
    Ok(entries)
}

/// A layer of an image.
#[derive(Debug)]
pub struct Layer {
    /// Compressed archive.
    pub bytes: Vec<u8>,
    /// SHA-256 of the archive before compression, in hex.
    pub diff: String,
}

impl Layer {
    /// Packs files into a layer, with `seconds` since 1970 as the time of each.
    pub fn pack(entries: Vec<Entry>, seconds: u64) -> Result<Self> {
        let archive = pack(entries, seconds)?;
        // The time in gzip's own header stays 0.
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(&archive)
            .and_then(|()| gzip.finish())
            .context("could not compress a layer")
            .map(|bytes| Self {
                diff: sha256(&archive),
                bytes,
            })
    }

    /// Returns the archive inside a layer.
    pub fn decompress(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        GzDecoder::new(bytes)
            .read_to_end(&mut archive)
            .context("the layer is damaged")?;
        Ok(archive)
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Layer, pack, unpack};

    fn entries() -> Vec<Entry> {
        vec![
            Entry::program("b", b"program".to_vec()),
            Entry::folder("a/"),
            Entry::file("a/text", Vec::new()),
        ]
    }

    #[test]
    fn what_was_packed_comes_back_in_order() {
        let archive = pack(entries(), 7).unwrap();
        let back = unpack(&archive).unwrap();
        let paths: Vec<&str> = back.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a/", "a/text", "b"]);
        for entry in entries() {
            assert_eq!(back[&entry.path], entry);
        }
    }

    #[test]
    fn equal_files_give_equal_layers_whatever_their_order() {
        let reversed: Vec<Entry> = entries().into_iter().rev().collect();
        let one = Layer::pack(entries(), 7).unwrap();
        let other = Layer::pack(reversed, 7).unwrap();
        assert_eq!(one.bytes, other.bytes);
        assert_ne!(one.bytes, Layer::pack(entries(), 8).unwrap().bytes);
        assert_eq!(
            Layer::decompress(&one.bytes).unwrap(),
            pack(entries(), 7).unwrap()
        );
    }

    #[test]
    fn damage_is_noticed() {
        let twice = vec![Entry::folder("a/"), Entry::folder("a/")];
        assert!(unpack(&pack(twice, 0).unwrap()).is_err());
        let archive = pack(entries(), 0).unwrap();
        assert!(unpack(&archive[..1100]).is_err());
        let layer = Layer::pack(entries(), 0).unwrap().bytes;
        assert!(Layer::decompress(&layer[..layer.len() - 9]).is_err());
    }
}
