//! Decompression of kernels. The first bytes tell the format.

use std::io::Read;

use anyhow::{Context as _, Result, bail};

/// Unpacks gzip, xz, zstd or LZ4. It ignores data after the packed data, such as the length that the kernel's build
/// appends.
///
/// # Errors
/// When the data has none of these formats, or is broken.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    match packed {
        [0x1f, 0x8b, ..] => read("gzip", flate2::read::GzDecoder::new(packed)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            read("xz", lzma_rust2::XzReader::new(packed, false))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let stream = ruzstd::decoding::StreamingDecoder::new(packed);
            read("zstd", stream.context("its zstd header is broken")?)
        }
        // The legacy format has no end mark: the decoder would take the appended length for a block.
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            let blocks = &packed[..packed.len() - 4];
            read("LZ4", lz4_flex::frame::FrameDecoder::new(blocks))
        }
        _ => bail!(
            "it is packed with something else than gzip, xz, zstd or LZ4: it begins with {:02x?}",
            &packed[..packed.len().min(4)]
        ),
    }
}

fn read(format: &str, mut stream: impl Read) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    stream
        .read_to_end(&mut unpacked)
        .with_context(|| format!("its {format} data is broken"))?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::unpack;
    use std::io::Write as _;

    /// Returns text long enough to compress and short enough for one block.
    fn text() -> Vec<u8> {
        b"stall ".repeat(1000)
    }

    /// Appends the length, as the kernel's build does.
    fn with_length(mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend((text().len() as u32).to_le_bytes());
        packed
    }

    #[test]
    fn every_format_is_unpacked_whatever_follows() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text()).unwrap();
        assert_eq!(unpack(&gzip.finish().unwrap()).unwrap(), text());

        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        xz.write_all(&text()).unwrap();
        assert_eq!(unpack(&with_length(xz.finish().unwrap())).unwrap(), text());

        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(&*text(), level);
        assert_eq!(unpack(&with_length(zstd)).unwrap(), text());

        let block = lz4_flex::block::compress(&text());
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        lz4.extend((block.len() as u32).to_le_bytes());
        lz4.extend(block);
        assert_eq!(unpack(&with_length(lz4)).unwrap(), text());
    }

    #[test]
    fn broken_and_unknown_data_is_named() {
        let error = |data: &[u8]| format!("{:#}", unpack(data).unwrap_err());
        assert!(error(b"MZ\x90\0").contains("[4d, 5a, 90, 00]"));
        assert!(error(b"").contains("begins with []"));
        assert!(error(&[0x1f, 0x8b, 8, 0]).contains("gzip"));
        assert!(error(b"\xfd7zXZ\0").contains("xz"));
        assert!(error(&[0x28, 0xb5, 0x2f, 0xfd]).contains("zstd"));
        assert!(error(&[0x02, 0x21, 0x4c, 0x18, 9, 0, 0, 0, 0, 0, 0, 0]).contains("LZ4"));
    }
}
