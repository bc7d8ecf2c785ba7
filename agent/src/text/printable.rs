//! Escaping of text from the host before the agent prints it on a terminal.
//!
//! Cgroups, pods, threads, devices and files get their names from whoever made them. A name with ESC in it would move
//! the cursor, change the window's title (OSC) or hide what follows; one with a newline would forge a line. All such
//! text is printed through this module.

use std::{borrow::Cow, fmt::Write as _};

use unicode_width::UnicodeWidthChar as _;

/// Escapes text for one line of a terminal, so that it neither moves the cursor nor hides anything.
///
/// Control characters (C0, DEL, C1; newline and tab too) and characters of no width (bidirectional overrides, joiners,
/// marks) become `\xNN` for each of their bytes, as in [`CgroupPath::label`].
///
/// [`CgroupPath::label`]: crate::host::cgroup::CgroupPath::label
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_printable)
}

/// Escapes text of several lines like [`line()`] but keeps its newlines: for messages of the agent, not for names.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n' || is_printable(c))
}

/// Returns whether a character takes at least one column of a terminal and does nothing else.
pub(crate) fn is_printable(c: char) -> bool {
    c.width().is_some_and(|width| width > 0)
}

fn escaped(text: &str, plain: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if plain(c) {
            out.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cgroup::CgroupPath;

    #[test]
    fn nothing_that_moves_a_cursor_or_hides_gets_through() {
        let hostile =
            "a\x1b[2Jb\rc\nd\te\u{9b}f\u{202e}g\u{200b}h\u{feff}i\u{7f}j\0\x1b]0;title\x07";
        let shown = line(hostile);
        assert_eq!(
            shown,
            "a\\x1b[2Jb\\x0dc\\x0ad\\x09e\\xc2\\x9bf\\xe2\\x80\\xaeg\\xe2\\x80\\x8bh\\xef\\xbb\\xbfi\\x7fj\\x00\\x1b]0;title\\x07"
        );
        assert_eq!(line(&shown), shown, "what is printable stays");
        assert_eq!(line("größe 漢字 🦀 it's \\x2d"), "größe 漢字 🦀 it's \\x2d");
        assert_eq!(lines("a\nb\x1b[m\n"), "a\nb\\x1b[m\n");
    }

    #[test]
    fn control_characters_look_as_in_labels() {
        for name in ["/a\x1b]0;x\x07", "/b\u{9b}31m", "/c\n"] {
            assert_eq!(CgroupPath::new(name.as_bytes()).label(), line(name));
        }
    }
}
