//! Packages of other Debian releases and architectures. apt runs with its own state, so that this machine gains
//! neither.
//!
//! apt checks signatures and hashes as usual, with Debian's keyring.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::apt;
use crate::shell;

/// Keys of Debian's releases, ended ones included, from the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Archive of Debian packages for machines whose own sources name no mirror.
const ARCHIVE: &str = "http://deb.debian.org/debian";
/// Archive of Debian's security updates for such machines.
const SECURITY: &str = "http://deb.debian.org/debian-security";

/// apt with only certain suites of one architecture, and all of its state in one folder.
#[derive(Debug)]
pub struct Foreign {
    folder: PathBuf,
    arch: &'static str,
    suites: &'static [&'static str],
}

/// A package, from apt's lists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Package {
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// Dependencies: package names, each with the exact version if one is required. Alternatives follow one another.
    pub depends: Vec<(String, Option<String>)>,
}

/// Result of a download.
#[derive(Debug, Eq, PartialEq)]
pub enum Download {
    /// The downloaded file.
    File(PathBuf),
    /// The lists name the package, but the mirror does not have it (any more).
    Gone,
}

impl Foreign {
    /// Creates or reopens the state in `folder`. `arch` is Debian's name of the architecture.
    ///
    /// # Errors
    /// Without apt or a keyring, or when the folder cannot be written.
    pub fn open(
        folder: &Path,
        arch: &'static str,
        suites: &'static [&'static str],
    ) -> Result<Self> {
        if !apt::exists() || shell::which("dpkg-deb").is_none() {
            bail!(
                "there is no apt here; packages of Debian can be fetched only on Debian and what derives from it"
            );
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is not there; install the package debian-archive-keyring");
        }
        let shown = folder.display().to_string();
        if shown.contains(['"', '\n']) {
            bail!("apt cannot work in {shown}: its path holds a quote or a line break");
        }
        let state = Self {
            folder: folder.to_owned(),
            arch,
            suites,
        };
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            let part = folder.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("could not make {}", part.display()))?;
        }
        let (archive, security) = mirrors();
        state.write("debian.sources", &sources(suites, &archive, &security))?;
        state.write("apt.conf", &configuration(&shown, arch))?;
        Ok(state)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
    }

    /// Returns a command of apt that uses this state.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.folder.join("apt.conf"))
            .env("LC_ALL", "C")
            .current_dir(self.folder.join("packages"));
        command
    }

    /// Fetches the package lists.
    ///
    /// # Errors
    /// When a list cannot be fetched. Old ones are not used in its place.
    pub fn update(&self) -> Result<()> {
        shell::stdout(self.apt("apt-get").args(["-qq", "update"]))
            .map(|_| ())
            .with_context(|| {
                format!(
                    "the package lists of {} for {} could not be fetched; is the mirror reachable, and does it carry them?",
                    self.suites.join(", "),
                    self.arch
                )
            })
    }

    /// Returns all packages whose names begin with `prefix`.
    ///
    /// # Errors
    /// When apt fails.
    pub fn packages(&self, prefix: &str) -> Result<Vec<Package>> {
        let names = shell::stdout(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let shown = shell::stdout(self.apt("apt-cache").arg("show").args(names.lines()))?;
        Ok(parse_packages(&shown))
    }

    /// Fetches one version of a package. An interrupted download continues where it stopped.
    ///
    /// # Errors
    /// When it fails, unless the reason is that the mirror lacks the package.
    pub fn download(&self, name: &str, version: &str) -> Result<Download> {
        let mut command = self.apt("apt-get");
        command.args(["-q", "download", &format!("{name}={version}")]);
        let (success, errors) = run_noting_errors(&mut command)?;
        if !success {
            if is_gone(&errors) {
                return Ok(Download::Gone);
            }
            bail!(
                "`{}` failed:\n{}\nrun this again: what is here already is not fetched again",
                shell::line(&command),
                errors.trim_end()
            );
        }
        let folder = self.folder.join("packages");
        let begins = format!("{name}_");
        fs::read_dir(&folder)
            .with_context(|| format!("could not list {}", folder.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&begins) && name.ends_with(".deb")
            })
            .map(Download::File)
            .with_context(|| format!("apt left no package {name} in {}", folder.display()))
    }
}

/// Unpacks a package's files without installing it.
///
/// # Errors
/// When the package is not complete, or the folder cannot be written.
pub fn unpack(package: &Path, folder: &Path) -> Result<()> {
    shell::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder))
}

/// Runs a command that prints for the user. Returns whether it succeeded, and its standard error.
fn run_noting_errors(command: &mut Command) -> Result<(bool, String)> {
    let start = || format!("could not start `{}`", shell::line(command));
    let context = start();
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(context)?;
    let mut errors = Vec::new();
    if let Some(mut stream) = child.stderr.take() {
        stream.read_to_end(&mut errors)?;
    }
    let status = child.wait()?;
    Ok((
        status.success(),
        String::from_utf8_lossy(&errors).into_owned(),
    ))
}

/// Returns whether apt's errors say that the mirror lacks the file: HTTP's 404 and 410, or a folder without it.
fn is_gone(errors: &str) -> bool {
    ["404  Not Found", "410  Gone", "File not found"]
        .iter()
        .any(|reason| errors.contains(reason))
}

/// Returns the mirrors of Debian's archive and of its security updates that this machine itself uses.
fn mirrors() -> (String, String) {
    let mut command = Command::new("apt-get");
    command
        .args(["indextargets", "Created-By: Packages", "--format"])
        .arg("$(ORIGIN)|$(LABEL)|$(REPO_URI)")
        .env("LC_ALL", "C");
    // Without package lists there is no answer, and Debian's own address is as good as any.
    choose_mirrors(&shell::stdout(&mut command).unwrap_or_default())
}

fn choose_mirrors(targets: &str) -> (String, String) {
    let of = |label: &str, otherwise: &str| {
        targets
            .lines()
            .filter_map(|line| line.strip_prefix("Debian|")?.split_once('|'))
            .find(|(l, uri)| *l == label && !uri.starts_with("cdrom:"))
            .map_or(otherwise, |(_, uri)| uri.trim_end_matches('/'))
            .to_owned()
    };
    (of("Debian", ARCHIVE), of("Debian-Security", SECURITY))
}

fn sources(suites: &[&str], archive: &str, security: &str) -> String {
    let mut text = String::new();
    for suite in suites {
        let uri = if suite.ends_with("-security") {
            security
        } else {
            archive
        };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nTargets: Packages\nSigned-By: {KEYRING}\n\n"
        );
    }
    text
}

/// Returns apt's configuration. The machine's own stays (it may hold a proxy) except for settings that would touch the
/// machine.
fn configuration(folder: &str, arch: &str) -> String {
    format!(
        r#"#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Update::Error-Mode "any";
// apt's own user may not write here.
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
// A release that has ended is not signed anew.
Acquire::Check-Valid-Until "false";
Dir::Etc::SourceList "{folder}/debian.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{folder}";
Dir::State::Lists "{folder}/lists";
Dir::State::Status "/dev/null";
Dir::Cache "{folder}/cache";
"#
    )
}

/// Reads the answer of `apt-cache show NAME…`.
fn parse_packages(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(parse_package).collect()
}

fn parse_package(stanza: &str) -> Option<Package> {
    let field = |name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let depends = field("Depends").unwrap_or_default();
    Some(Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        depends: depends.split([',', '|']).map(parse_dependency).collect(),
    })
}

fn parse_dependency(text: &str) -> (String, Option<String>) {
    let text = text.trim();
    let (name, version) = text.split_once(" (= ").unwrap_or((text, ""));
    let version = version.strip_suffix(')').map(str::to_owned);
    let name = name.split(' ').next().unwrap_or_default();
    (name.to_owned(), version)
}

#[cfg(test)]
mod tests {
    use super::{
        ARCHIVE, SECURITY, choose_mirrors, configuration, is_gone, parse_packages, sources,
    };

    #[test]
    fn the_machines_own_mirrors_are_used_and_only_for_debians_packages() {
        let targets = "\
Docker|Docker CE|https://docker.example/linux/debian/
Debian|Debian|cdrom:[Debian 12]/
Debian|Debian|http://mirror.example/debian/
Debian|Debian-Security|http://mirror.example/debian-security/
";
        let (archive, security) = choose_mirrors(targets);
        assert_eq!(archive, "http://mirror.example/debian");
        assert_eq!(security, "http://mirror.example/debian-security");
        assert_eq!(choose_mirrors(""), (ARCHIVE.into(), SECURITY.into()));
    }

    #[test]
    fn security_suites_come_from_the_security_archive() {
        let text = sources(&["trixie", "trixie-security"], "http://a", "http://s");
        assert!(text.contains("URIs: http://a\nSuites: trixie\n"), "{text}");
        assert!(
            text.contains("URIs: http://s\nSuites: trixie-security\n"),
            "{text}"
        );
        assert_eq!(text.matches("Signed-By: /").count(), 2);
    }

    #[test]
    fn nothing_of_the_machines_state_is_left_in_the_configuration() {
        let text = configuration("/cache dir", "arm64");
        for directory in ["State", "State::Lists", "Cache", "Etc::SourceList"] {
            let line = format!("Dir::{directory} \"/cache dir");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        assert!(text.contains("#clear APT::Update::Post-Invoke;"));
    }

    #[test]
    fn packages_are_read_with_their_exact_dependencies() {
        let text = "\
Package: linux-image-7.2.13+deb14-arm64-16k
Version: 7.2.13-1
Depends: dracut | initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool, linux-binary-7.2.13+deb14-arm64-16k (= 7.2.13-1)

Package: broken
";
        let packages = parse_packages(text);
        assert_eq!(packages.len(), 1, "{packages:?}");
        let depends = &packages[0].depends;
        assert_eq!(depends[1], ("initramfs-tools".into(), None));
        let exact = (
            "linux-binary-7.2.13+deb14-arm64-16k".into(),
            Some("7.2.13-1".into()),
        );
        assert_eq!(depends[3], exact);
    }

    #[test]
    fn a_file_that_is_gone_is_told_from_a_network_that_is_down() {
        assert!(is_gone(
            "E: Failed to fetch http://m/x.deb  404  Not Found [IP: 192.0.2.1 80]"
        ));
        assert!(!is_gone(
            "E: Failed to fetch http://m/x.deb  Could not connect to m:80"
        ));
    }
}
