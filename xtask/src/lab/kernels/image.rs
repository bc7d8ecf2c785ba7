//! Kernel images: the unpacked kernel, and the type information inside.

use anyhow::{Context as _, Result, bail};

use super::packed;

/// Start of BTF: magic number, version 1, no flags (`include/uapi/linux/btf.h`).
const BTF_MAGIC: [u8; 4] = [0x9f, 0xeb, 1, 0];

/// Returns the type information inside a bootable image of either architecture.
///
/// # Errors
/// When the image has an unknown format or was built without `CONFIG_DEBUG_INFO_BTF`.
pub fn btf(image: &[u8]) -> Result<Vec<u8>> {
    let kernel = match x86_payload(image) {
        Some(payload) => packed::unpack(payload?)?,
        None => image.to_vec(),
    };
    locate(&kernel)
        .map(<[u8]>::to_vec)
        .context("the kernel holds no type information; was it built with CONFIG_DEBUG_INFO_BTF=y?")
}

/// Returns the compressed kernel of an x86 image; none if it is no x86 image (`Documentation/arch/x86/boot.rst`).
fn x86_payload(image: &[u8]) -> Option<Result<&[u8]>> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    Some(x86_payload_of(image).context("its setup header is cut short or points beyond its end"))
}

fn x86_payload_of(image: &[u8]) -> Option<&[u8]> {
    let sectors = match image.get(0x1f1)? {
        0 => 4,
        &sectors => usize::from(sectors),
    };
    let offset = (sectors + 1) * 512 + word(image, 0x248)?;
    image.get(offset..)?.get(..word(image, 0x24c)?)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
}

/// Returns the largest valid BTF in the kernel.
fn locate(kernel: &[u8]) -> Option<&[u8]> {
    memchr::memmem::find_iter(kernel, &BTF_MAGIC)
        .filter_map(|at| whole_btf(&kernel[at..]))
        .max_by_key(|btf| btf.len())
}

/// Returns the BTF that begins here, if its header, types and strings agree with one another.
fn whole_btf(bytes: &[u8]) -> Option<&[u8]> {
    let header = word(bytes, 4)?;
    // Future kernels may have longer headers.
    if !(24..=64).contains(&header) {
        return None;
    }
    let section = |at: usize| {
        let start = header.checked_add(word(bytes, at)?)?;
        Some((start, start.checked_add(word(bytes, at + 4)?)?))
    };
    let (types, strings) = (section(8)?, section(16)?);
    // Since Linux 7.1 a header may name a third section.
    let third = match header {
        32.. => section(24)?.1,
        _ => 0,
    };
    let text = bytes.get(strings.0..strings.1)?;
    let ends_well = text.first() == Some(&0) && text.last() == Some(&0);
    if !ends_well || count_types(bytes.get(types.0..types.1)?)? == 0 {
        return None;
    }
    bytes.get(..types.1.max(strings.1).max(third))
}

/// Returns the number of types, if they fill the section exactly.
fn count_types(types: &[u8]) -> Option<usize> {
    let (mut at, mut count) = (0, 0);
    while at < types.len() {
        let info = word(types, at + 4)?;
        let members = info & 0xffff;
        at += 12 + bytes_after(info >> 24 & 0x1f, members)?;
        count += 1;
    }
    (at == types.len()).then_some(count)
}

/// Returns the number of bytes after a type's common part, by its kind (`Documentation/bpf/btf.rst`).
fn bytes_after(kind: usize, members: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,
        3 => 12,
        4 | 5 | 15 | 19 => 12 * members,
        6 | 13 => 8 * members,
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

/// Checks an image's architecture, because QEMU boots a wrong one without any message.
///
/// # Errors
/// When the architecture is wrong.
pub fn check(image: &[u8], x86: bool) -> Result<()> {
    let arm64 = image.get(0x38..0x3c) == Some(b"ARM\x64");
    if arm64 == x86 || x86_payload(image).is_some() != x86 {
        bail!(
            "it is no image of that architecture: neither an ARM64 Image nor an x86 bzImage is what its header says"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{BTF_MAGIC, btf, check, locate};
    use std::io::Write as _;

    /// Returns BTF with `integers` types called `int`.
    fn sample(integers: usize) -> Vec<u8> {
        let mut blob = BTF_MAGIC.to_vec();
        let length = integers as u32 * 16;
        for word in [24, 0, length, length, 5] {
            blob.extend(u32::to_le_bytes(word));
        }
        for _ in 0..integers {
            for word in [1, 1 << 24, 4, 32] {
                blob.extend(u32::to_le_bytes(word));
            }
        }
        blob.extend(b"\0int\0");
        blob
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image.extend([0xcc; 100]);
        image
    }

    #[test]
    fn the_largest_whole_blob_is_the_kernels() {
        let mut kernel = vec![7; 100];
        kernel.extend(sample(1));
        kernel.extend(BTF_MAGIC);
        kernel.extend(sample(3));
        kernel.extend([9; 50]);
        assert_eq!(locate(&kernel), Some(&*sample(3)));
        assert_eq!(btf(&kernel).unwrap(), sample(3));
    }

    #[test]
    fn broken_blobs_are_passed_over() {
        let whole = sample(2);
        for (at, value) in [(4, 200), (12, 31), (20, 4), (20, 0xff), (28 + 3, 31)] {
            let mut broken = whole.clone();
            broken[at] = value;
            assert_eq!(locate(&broken), None, "byte {at} set to {value}");
        }
        for length in 0..whole.len() {
            assert_eq!(locate(&whole[..length]), None, "cut to {length}");
        }
    }

    #[test]
    fn a_kernel_without_types_is_refused_with_the_option_it_lacks() {
        let error = btf(&[0; 4096]).unwrap_err().to_string();
        assert!(error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }

    #[test]
    fn an_x86_image_is_unpacked_first() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&sample(4)).unwrap();
        let image = bzimage(&gzip.finish().unwrap());
        assert_eq!(btf(&image).unwrap(), sample(4));
        check(&image, true).unwrap();
        check(&image, false).unwrap_err();
        let mut cut = image;
        cut.truncate(0x420);
        assert!(format!("{:#}", btf(&cut).unwrap_err()).contains("cut short"));
    }

    #[test]
    fn an_arm64_image_is_known_by_its_header() {
        let mut image = vec![0; 0x1000];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        check(&image, false).unwrap();
        check(&image, true).unwrap_err();
    }
}
