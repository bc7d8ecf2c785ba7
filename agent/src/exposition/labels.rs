//! Label text and its escaping.

use std::fmt;

use bytes::BufMut;

use super::Format;

/// Labels of an owner, formatted and escaped once.
///
/// An owner exists for hours and is written in every series of every scrape; formatting it each time takes six times as
/// long as copying it.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OwnerLabels(Box<str>);

impl OwnerLabels {
    /// Names of the default labels, in the order in which they are written.
    pub const NAMES: [&'static str; 4] = ["namespace", "pod", "container", "cgroup"];

    /// Formats the default labels of one owner. Off Kubernetes the first three are empty, but present.
    #[must_use]
    pub fn new(namespace: &str, pod: &str, container: &str, cgroup: &str) -> Self {
        let values = [namespace, pod, container, cgroup];
        Self::of(Self::NAMES.into_iter().zip(values))
    }

    /// Formats labels of any names, in this order.
    #[must_use]
    pub fn of<'a, V: AsRef<str>>(labels: impl IntoIterator<Item = (&'a str, V)>) -> Self {
        let mut text = Vec::new();
        for (name, value) in labels {
            put_label(&mut text, name, value.as_ref());
        }
        // Escaping inserts ASCII into UTF-8, so this loses nothing; `from_utf8` would need a panic for the impossible
        // case.
        Self(String::from_utf8_lossy(&text).into())
    }

    /// Returns the names and the unescaped values.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut rest = &*self.0;
        while let Some((name, quoted)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut chars = quoted.chars();
            while let Some(char) = chars.next().filter(|char| *char != '"') {
                value.push(match char {
                    '\\' => match chars.next() {
                        Some('n') => '\n',
                        Some(plain) => plain,
                        None => break,
                    },
                    plain => plain,
                });
            }
            pairs.push((name.trim_start_matches(',').to_owned(), value));
            rest = chars.as_str();
        }
        pairs
    }

    /// Returns the text between a series' braces.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for OwnerLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.0)
    }
}

/// Appends `name="value"`, after a comma unless it is the first label.
pub(super) fn put_label(out: &mut Vec<u8>, name: &str, value: &str) {
    if !matches!(out.last(), None | Some(b'{')) {
        out.push(b',');
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    escape(out, value, true);
    out.push(b'"');
}

/// Escapes a label value; both formats have the same rule.
pub(super) fn escape_value(out: &mut impl BufMut, value: &str) {
    escape(out, value, true);
}

/// Escapes help text; only OpenMetrics escapes quotes in it.
pub(super) fn escape_help(out: &mut impl BufMut, help: &str, format: Format) {
    escape(out, help, format == Format::OpenMetrics);
}

fn escape(out: &mut impl BufMut, text: &str, quotes: bool) {
    let special = |byte: &u8| matches!(byte, b'\\' | b'\n') || (quotes && *byte == b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(special) {
        out.put_slice(&rest[..at]);
        out.put_u8(b'\\');
        out.put_u8(if rest[at] == b'\n' { b'n' } else { rest[at] });
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pairs_are_what_was_rendered(values in prop::collection::vec("[a\\\\\",=n\n{}é]{0,12}", 0..6)) {
            let names = ["a", "b", "label_c", "d", "e", "f"];
            let pairs: Vec<_> = names.into_iter().zip(&values).collect();
            let expected: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).clone())).collect();
            prop_assert_eq!(OwnerLabels::of(pairs).pairs(), expected);
        }
    }
}
