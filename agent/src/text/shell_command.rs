//! Commands that the agent prints for people to paste into a shell, often as root.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::text::printable::is_printable;

/// Command for a POSIX shell, made of words. Each word is quoted as it is added, so the shell takes it for nothing
/// else.
///
/// A printed command can neither run what a name says nor steer a terminal: a word with control characters becomes
/// `"$(printf '…')"` with the characters as octal escapes, since not every `sh` (dash) knows `$'…'`.
///
/// ```
/// use stallscope::text::shell_command::ShellCommand;
///
/// let file = "/sys/fs/cgroup/q; touch PWNED $(id)/cpu.weight";
/// let command = ShellCommand::write(1000, file);
/// assert_eq!(command.to_string(), format!("echo 1000 > '{file}'"));
/// ```
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ShellCommand {
    /// The command in shell syntax.
    text: String,
}

impl ShellCommand {
    /// Starts a command that runs `program`, without arguments yet.
    #[must_use]
    #[track_caller]
    pub fn new(program: &'static str) -> Self {
        #[cfg(test)]
        made_at::here();
        Self {
            text: quoted(program),
        }
    }

    /// Makes a command of a whole line of shell. The line is a constant of the agent, so it holds nothing that a host
    /// named.
    #[must_use]
    #[track_caller]
    pub fn fixed(script: &'static str) -> Self {
        #[cfg(test)]
        made_at::here();
        Self {
            text: script.to_owned(),
        }
    }

    /// Makes a loop that runs `body` with `variable` set to each word in turn.
    ///
    /// `body` is a constant line of shell and must quote the variable.
    #[must_use]
    #[track_caller]
    pub fn each<W: AsRef<str>>(
        variable: &'static str,
        words: impl IntoIterator<Item = W>,
        body: &'static str,
    ) -> Self {
        let mut command = Self::new("for").args([variable, "in"]).args(words);
        // Writing to a String cannot fail.
        let _ = write!(command.text, "; do {body}; done");
        command
    }

    /// Makes a command that writes a value and a newline to an existing file.
    #[must_use]
    #[track_caller]
    pub fn write(value: impl fmt::Display, file: &str) -> Self {
        Self::said(&value.to_string()).redirected(">", file)
    }

    /// Makes a command that appends a line to a file.
    #[must_use]
    #[track_caller]
    pub fn append(line: &str, file: &str) -> Self {
        Self::said(line).redirected(">>", file)
    }

    /// Makes a command that prints a text and a newline. It uses `printf` for backslashes and leading dashes, since
    /// some shells' `echo` interprets them.
    #[track_caller]
    fn said(text: &str) -> Self {
        if text.contains('\\') || text.starts_with('-') {
            Self::new("printf").arg(r"%s\n").arg(text)
        } else {
            Self::new("echo").arg(text)
        }
    }

    /// Adds a word.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<str>) -> Self {
        self.text.push(' ');
        self.text += &quoted(word.as_ref());
        self
    }

    /// Adds words.
    #[must_use]
    pub fn args<W: AsRef<str>>(self, words: impl IntoIterator<Item = W>) -> Self {
        words.into_iter().fold(self, Self::arg)
    }

    /// Makes a command that runs `next` if this one succeeds.
    #[must_use]
    pub fn and(self, next: &Self) -> Self {
        self.joined("&&", next)
    }

    /// Makes a command that pipes this one's output into `next`.
    #[must_use]
    pub fn pipe(self, next: &Self) -> Self {
        self.joined("|", next)
    }

    fn joined(mut self, by: &str, next: &Self) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.text, " {by} {}", next.text);
        self
    }

    fn redirected(mut self, how: &str, file: &str) -> Self {
        let _ = write!(self.text, " {how} {}", quoted(file));
        self
    }

    /// Returns the command in shell syntax.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ShellCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Quotes a word so that a shell reads back exactly that word (POSIX.1, Shell Command Language 2.2).
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // A command substitution loses the newlines at its end, so they go between quotes of their own, where they do no
    // harm on a terminal.
    let body = word.trim_end_matches('\n');
    let newlines = &word[body.len()..];
    let mut text = if body.is_empty() && !newlines.is_empty() {
        String::new()
    } else if body.chars().all(is_printable) {
        single(body)
    } else {
        printed(body)
    };
    if !newlines.is_empty() {
        let _ = write!(text, "'{newlines}'");
    }
    text
}

fn single(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Writes a text with unprintable characters as a command substitution of `printf`, with an octal escape for each byte
/// of such a character (POSIX.1, printf).
fn printed(text: &str) -> String {
    let mut format = String::new();
    for c in text.chars() {
        match c {
            // The text stands between single quotes, and within a format.
            '\'' => format.push_str(r"\047"),
            '%' => format.push_str("%%"),
            '\\' => format.push_str(r"\\"),
            c if is_printable(c) => format.push(c),
            c => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(format, "\\{byte:03o}");
                }
            }
        }
    }
    // Without `--`, printf would take a leading dash for an option, and it has none.
    let dash = if format.starts_with('-') { "-- " } else { "" };
    format!("\"$(printf {dash}'{format}')\"")
}

/// Records the source lines that make commands, so that a test can tell which of them it has not seen.
#[cfg(test)]
pub(crate) mod made_at {
    use std::{cell::RefCell, collections::BTreeSet, panic::Location};

    thread_local! {
        static SEEN: RefCell<BTreeSet<(&'static str, u32)>> = RefCell::default();
    }

    #[track_caller]
    pub(super) fn here() {
        let at = Location::caller();
        SEEN.with_borrow_mut(|seen| seen.insert((at.file(), at.line())));
    }

    /// Returns the file and line of each place at which this thread has made a command.
    pub(crate) fn seen() -> BTreeSet<(&'static str, u32)> {
        SEEN.with_borrow(Clone::clone)
    }
}

#[cfg(test)]
pub(crate) mod tests;
