//! Tests that pass words through a real shell.

use std::{fs, process::Command};

use super::*;

#[path = "../../../tests/harmless/mod.rs"]
pub(crate) mod harmless;

use harmless::Harmless;

/// Names that a host may have, some of them hostile.
const WORDS: [&str; 22] = [
    "plain/1.2_a",
    "two words",
    "it's",
    "'",
    "$(touch PWNED)",
    "q; touch PWNED $(id)",
    "`touch PWNED`",
    "a\" > PWNED \"b",
    "a > PWNED",
    "a && touch PWNED",
    "-n",
    "--help",
    "*",
    "~",
    "#no",
    "",
    "é\nb",
    "a\n",
    "\n\n",
    "\x1b]0;it's 100%\\n \u{9b}31m\x07\ttouch PWNED",
    "-\x1b[2J",
    "\u{202e}abc\u{7f}",
];

#[test]
fn words_are_what_a_shell_reads_and_nothing_else_happens() {
    let dir = tempfile::tempdir().expect("a directory");
    for word in WORDS {
        let command = ShellCommand::new("printf")
            .arg(r"%s\n")
            .arg(word)
            .arg("end");
        let output = Command::new("sh")
            .args(["-c", command.as_str()])
            .current_dir(dir.path())
            .output()
            .expect("sh runs");
        let expected = format!("{word}\nend\n");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{command}"
        );
        let shown = command.as_str().trim_end_matches(['\n', '\'']);
        assert!(
            word.ends_with('\n') || command.as_str().chars().all(is_printable),
            "{command:?} steers a terminal"
        );
        assert!(!shown.contains('\x1b'), "{command:?}");
    }
    let made = fs::read_dir(dir.path()).expect("it is there").count();
    assert_eq!(made, 0, "a word made a file");
}

#[test]
fn files_of_any_name_are_written_to_and_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    for (at, word) in WORDS.iter().enumerate() {
        if word.is_empty() {
            continue;
        }
        let folder = dir.path().join(at.to_string());
        fs::create_dir(&folder).expect("a directory");
        let file = folder.join(word.replace('/', "_"));
        fs::write(&file, "").expect("a file of this name");
        let path = file.to_str().expect("text");
        for command in [
            ShellCommand::write("1", path),
            ShellCommand::append(word, path),
            ShellCommand::write("2", path).and(&ShellCommand::append(r"-a\c", path)),
        ] {
            let status = Command::new("sh")
                .args(["-c", command.as_str()])
                .current_dir(&folder)
                .status();
            assert!(status.expect("sh runs").success(), "{command}");
        }
        assert_eq!(fs::read_to_string(&file).expect("text"), "2\n-a\\c\n");
        let files = fs::read_dir(&folder).expect("it is there").count();
        assert_eq!(files, 1, "{word:?} made a file");
    }
}

#[test]
fn each_word_is_had_in_turn() {
    let output = Command::new("sh")
        .arg("-c")
        .arg(ShellCommand::each("word", WORDS, r#"printf '%s\n' "$word""#).as_str())
        .output()
        .expect("sh runs");
    let expected = WORDS.map(|word| format!("{word}\n")).concat();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn json_is_the_text() {
    let command = ShellCommand::new("sysctl").args(["-w", "vm.swappiness=60"]);
    let json = serde_json::to_string(&command).expect("json");
    assert_eq!(json, "\"sysctl -w vm.swappiness=60\"");
    let read: ShellCommand = serde_json::from_str(&json).expect("a command");
    assert_eq!(read, command);
    let piped = ShellCommand::new("ps").pipe(&ShellCommand::new("head").arg("-15"));
    assert_eq!(format!("{piped:>16}"), "   ps | head -15");
}

#[test]
fn the_shell_of_these_tests_notices_what_is_not_quoted() {
    let shell = Harmless::new();
    for word in WORDS.iter().filter(|word| word.contains("PWNED")) {
        if word.contains('\x1b') {
            continue;
        }
        let bare = format!("echo {word}; echo \"{word}\"");
        assert!(shell.run(&bare).is_err(), "{bare}");
        let quoted = ShellCommand::write(1, &format!("/nowhere/{word}/cpu.max"));
        assert_eq!(shell.run(quoted.as_str()), Ok(()));
    }
}
