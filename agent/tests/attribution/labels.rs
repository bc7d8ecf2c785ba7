//! Labels, and properties that hold for paths of any bytes.

use std::collections::HashSet;
use std::ffi::OsStr;

use proptest::prelude::*;
use stallscope::attribution::OwnerKind;
use stallscope::attribution::pods::PodIdentity;
use stallscope::host::cgroup::CgroupPath;

use super::paths::{ID, UID, attribute};

#[test]
fn labels() {
    let label = |bytes: &[u8]| CgroupPath::new(bytes).label().into_owned();
    for same in [
        "/",
        "/a b/\"c\"",
        "/käse/日本",
        r"/dev-disk-by\x2duuid.swap",
        r"/a\b\x",
        r"/\xFF",
        r"/\x41",
    ] {
        assert_eq!(label(same.as_bytes()), same);
    }
    assert_eq!(label(b"/a\nb\x1b[31m\x7f"), r"/a\x0ab\x1b[31m\x7f");
    assert_eq!(label("/\u{9b}31m".as_bytes()), r"/\xc2\x9b31m");
    assert_eq!(label(b"/\xff\xc3"), r"/\xff\xc3");
    assert_eq!(label(br"/\xff"), r"/\x5cxff");
    assert_eq!(label(br"/\x5cxff"), r"/\x5cx5cxff");
    assert_eq!(label(b"//a//b/"), "/a/b");
}

/// Reverses the escapes of a label, independently of the code under test.
fn unescape(label: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), label.as_bytes());
    while let [byte, tail @ ..] = rest {
        let code = rest
            .strip_prefix(br"\x")
            .and_then(|text| str::from_utf8(text.get(..2)?).ok())
            .filter(|hex| {
                hex.bytes()
                    .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
            });
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(code) if code == b'\\' || !(b' '..=b'~').contains(&code) => {
                out.push(code);
                rest = &rest[4..];
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}

/// Generates bytes among which escapes, and text that looks like them, are frequent.
fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        Just(b"\\".to_vec()),
        Just(b"\\x".to_vec()),
        any::<u8>().prop_map(|byte| format!("\\x{byte:02x}").into_bytes()),
        any::<u8>().prop_map(|byte| format!("x{byte:02x}").into_bytes()),
        any::<char>().prop_map(|c| c.to_string().into_bytes()),
        Just(b"/pod".to_vec()),
        Just(b"kubepods-".to_vec()),
        Just(UID.into()),
        Just(ID.into()),
        Just(b".slice".to_vec()),
        Just(b".scope".to_vec()),
        Just(b":".to_vec()),
        Just(b"/lxc.payload.".to_vec()),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_have_an_owner(bytes in tricky_bytes()) {
        let path = CgroupPath::new(&bytes);
        let owner = attribute(&path);
        prop_assert!(owner.cgroup.starts_with('/'));
        prop_assert!(path.label().starts_with(&owner.cgroup));
        prop_assert!(!owner.short_name().is_empty());
        prop_assert_eq!(PodIdentity::parse(&path).is_some(), matches!(owner.kind, OwnerKind::Pod(_)));
        prop_assert_eq!(&attribute(&CgroupPath::new(&unescape(&owner.cgroup))), &owner, "the owning cgroup owns itself");
    }

    #[test]
    fn labels_are_injective(bytes in tricky_bytes()) {
        let path = CgroupPath::new(&bytes);
        let label = path.label();
        prop_assert!(!label.contains(char::is_control));
        prop_assert_eq!(unescape(&label), path.as_bytes());
    }

    #[test]
    fn different_siblings_have_different_labels(names in prop::collection::hash_set("[\\\\x5cf\u{ff}\n]{1,6}", 2..40)) {
        let labels: HashSet<String> =
            names.iter().map(|name| CgroupPath::root().join(OsStr::new(name)).label().into_owned()).collect();
        prop_assert_eq!(labels.len(), names.len());
    }
}
