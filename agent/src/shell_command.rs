//! Commands that are printed for people to paste into a shell, often as root.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::printable::is_printable;

/// A command for a POSIX shell, made of words: each is quoted as it is added, so no word can be taken for anything else.
///
/// Printing one can neither run what a name says nor steer a terminal: a word with control characters is written as
/// `"$(printf '…')"` with them as octal escapes, since `$'…'` is not known to every `sh` (dash).
///
/// ```
/// use stallscope::ShellCommand;
///
/// let file = "/sys/fs/cgroup/q; touch PWNED $(id)/cpu.weight";
/// let command = ShellCommand::write(1000, file);
/// assert_eq!(command.to_string(), format!("echo 1000 > '{file}'"));
/// ```
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ShellCommand {
    /// As a shell takes it.
    text: String,
}

impl ShellCommand {
    /// The command that runs `program`, so far without arguments.
    #[must_use]
    #[track_caller]
    pub fn new(program: &'static str) -> Self {
        #[cfg(test)]
        made_at::here();
        Self {
            text: quoted(program),
        }
    }

    /// A whole line of shell, known when the agent was built: it can hold nothing that a host named.
    #[must_use]
    #[track_caller]
    pub fn fixed(script: &'static str) -> Self {
        #[cfg(test)]
        made_at::here();
        Self {
            text: script.to_owned(),
        }
    }

    /// Runs `body`, a line of shell known when the agent was built, with each word in turn in `variable`.
    ///
    /// `body` has to quote the variable.
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

    /// The command that writes a value and a newline to a file that is there.
    #[must_use]
    #[track_caller]
    pub fn write(value: impl fmt::Display, file: &str) -> Self {
        Self::said(&value.to_string()).redirected(">", file)
    }

    /// The command that adds a line to a file.
    #[must_use]
    #[track_caller]
    pub fn append(line: &str, file: &str) -> Self {
        Self::said(line).redirected(">>", file)
    }

    /// Prints a text and a newline. Some shells' `echo` takes backslashes and dashes for its own.
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

    /// Runs `next` if this one succeeds.
    #[must_use]
    pub fn and(self, next: &Self) -> Self {
        self.joined("&&", next)
    }

    /// Gives this one's output to `next`.
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

    /// The command as a shell takes it.
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

/// A word as a shell takes it for itself (POSIX.1, Shell Command Language 2.2).
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // A substitution loses the newlines at its end; alone between quotes they do no harm.
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

/// A substitution that yields a text with characters that are not to be printed, by an octal escape for each of their
/// bytes (POSIX.1, printf).
fn printed(text: &str) -> String {
    let mut format = String::new();
    for c in text.chars() {
        match c {
            // Between single quotes, and within a format.
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
    // Without `--` a leading dash would be an option, which printf has none of.
    let dash = if format.starts_with('-') { "-- " } else { "" };
    format!("\"$(printf {dash}'{format}')\"")
}

/// Where commands are made in the source, so that a test can tell which of them it has not seen.
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

    /// File and line of each command that this thread has made.
    pub(crate) fn seen() -> BTreeSet<(&'static str, u32)> {
        SEEN.with_borrow(Clone::clone)
    }
}

#[cfg(test)]
pub(crate) mod tests;
