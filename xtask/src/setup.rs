//! Set-up: finds missing tools, installs only those, and says what it installs, why and how long it takes.

pub mod apt;
pub mod browser;
pub mod compiler;
mod containerd;
pub mod foreign_packages;
mod linker;
mod promtool;
mod python;
mod stamp;
pub mod tools;

use std::env;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::shell;
use crate::workspace::Workspace;
use apt::Family;
use compiler::{Compiler, Route};

/// Permission of set-up to change this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Install {
    /// Install missing things.
    Allow,
    /// Only name missing things.
    Refuse,
}

/// A tool or package that this machine lacks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing {
    /// Name of the missing thing.
    pub what: String,
    /// Purpose of the missing thing.
    pub why: &'static str,
    /// Rough duration of its installation.
    pub takes: &'static str,
    /// Command that would install it.
    pub command: String,
}

/// One run of set-up: its permission, and everything it did not install.
#[derive(Debug)]
pub struct Setup {
    install: Install,
    missing: Vec<Missing>,
}

impl Setup {
    /// Creates a set-up that has found nothing missing yet.
    pub fn new(install: Install) -> Self {
        Self {
            install,
            missing: Vec::new(),
        }
    }

    /// Installs a missing thing and prints a line about it. If installing is refused, it notes the thing and returns
    /// false.
    pub fn need(&mut self, missing: Missing, act: impl FnOnce() -> Result<()>) -> Result<bool> {
        if self.install == Install::Refuse {
            self.missing.push(missing);
            return Ok(false);
        }
        println!(
            "set-up: {}: {} ({}): {}",
            missing.what, missing.why, missing.takes, missing.command
        );
        act().with_context(|| {
            format!("set-up could not install {}, {}", missing.what, missing.why)
        })?;
        Ok(true)
    }

    /// Fails when anything is missing, and names all of it at once.
    pub fn finish(self) -> Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        bail!("{}", describe(&self.missing));
    }
}

/// Returns the last line of an error: the last output of the program that failed.
fn last_words(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    last.unwrap_or("no reason was given").trim().to_owned()
}

fn describe(missing: &[Missing]) -> String {
    let mut text =
        String::from("this machine lacks the following, and --no-install forbids installing it:");
    for thing in missing {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n  {}\n    why:     {}\n    install: {} ({})",
            thing.what, thing.why, thing.command, thing.takes
        );
    }
    text
}

/// Tools of the BPF build.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Bpf {
    /// Compiler of the kernel side.
    pub compiler: Compiler,
    /// Path of bpf-linker.
    pub linker: std::path::PathBuf,
}

/// Sets up for the BPF build alone.
pub fn bpf(workspace: &Workspace, install: Install) -> Result<Bpf> {
    let mut setup = Setup::new(install);
    let bpf = setup.bpf(workspace)?;
    setup.finish()?;
    bpf.context(
        "set-up found nothing missing and yet no BPF compiler; this is a fault of `cargo xtask`",
    )
}

impl Setup {
    /// Finds or installs the BPF compiler and linker. None when something is missing and may not be installed.
    pub fn bpf(&mut self, workspace: &Workspace) -> Result<Option<Bpf>> {
        let forced = forced_route(env::var("STALLSCOPE_BPF_TOOLCHAIN").ok().as_deref())?;
        if let Some(known) = stamp::load(workspace, forced) {
            return Ok(Some(known));
        }
        let (compiler, llvm) = self.compiler(workspace, forced)?;
        let linker = self.linker(workspace, llvm)?;
        let (Some(compiler), Some(linker)) = (compiler, linker) else {
            return Ok(None);
        };
        let bpf = Bpf { compiler, linker };
        stamp::save(workspace, &bpf, forced)?;
        Ok(Some(bpf))
    }

    /// Returns the compiler, and the LLVM it has or would have if it could be installed.
    fn compiler(
        &mut self,
        workspace: &Workspace,
        forced: Option<Route>,
    ) -> Result<(Option<Compiler>, Option<u32>)> {
        let mut found = Found::look(workspace, forced);
        if self.install == Install::Allow && found.may_gain_from_new_lists() {
            apt::refresh_lists()?;
            found = Found::look(workspace, forced);
        }
        match choose(&found, forced) {
            Choice::Use(compiler) => {
                let llvm = compiler.llvm;
                Ok((Some(compiler), Some(llvm)))
            }
            Choice::Packages(family) => {
                let packages = [family.rustc.to_owned(), family.core.to_owned()];
                let missing = Missing {
                    what: packages.join(" and "),
                    why: "a Rust compiler with a core library for BPF, which builds the kernel side",
                    takes: "about a minute",
                    command: apt::install_line(&packages),
                };
                if !self.need(missing, || apt::install(&packages))? {
                    return Ok((None, apt::recommended_llvm(family)));
                }
                let compiler = compiler::packaged().with_context(|| {
                    format!(
                        "{} is installed, but no rustc in PATH or /usr/bin has a core library for {}; is another rustc in its place?",
                        family.rustc,
                        compiler::BPF_TARGET
                    )
                })?;
                let llvm = compiler.llvm;
                Ok((Some(compiler), Some(llvm)))
            }
            Choice::Rustup => {
                let missing = Missing {
                    what: "rustup's nightly with rust-src".to_owned(),
                    why: "a Rust compiler that can build core for BPF, which builds the kernel side",
                    takes: "about two minutes",
                    command:
                        "rustup toolchain install nightly --profile minimal --component rust-src"
                            .to_owned(),
                };
                if !self.need(missing, install_nightly)? {
                    return Ok((None, None));
                }
                let compiler = compiler::rustup_nightly().context(
                    "rustup reported success, but its nightly has no rust-src; see `rustup +nightly component list`",
                )?;
                let llvm = compiler.llvm;
                Ok((Some(compiler), Some(llvm)))
            }
            Choice::Nothing => bail!(NO_ROUTE),
        }
    }
}

const NO_ROUTE: &str = "\
there is no Rust compiler for BPF here and no way to install one was found. Either of these will do:
  packages: Debian 12 or later with its security updates, then
            apt-get install rustc-web libstd-rust-web-dev-bpf
  rustup:   https://rustup.rs, then
            rustup toolchain install nightly --profile minimal --component rust-src";

fn install_nightly() -> Result<()> {
    let mut install = Command::new("rustup");
    install
        .args(["toolchain", "install", "nightly", "--no-self-update"])
        .args(["--profile", "minimal", "--component", "rust-src"]);
    shell::run(&mut install).context(
        "rustup could not fetch the nightly toolchain or its rust-src; on a closed network \
         use the packages route (rustc-web and libstd-rust-web-dev-bpf of Debian) instead",
    )
}

fn forced_route(value: Option<&str>) -> Result<Option<Route>> {
    match value {
        None | Some("") => Ok(None),
        Some("packages") => Ok(Some(Route::Packages)),
        Some("rustup") => Ok(Some(Route::Rustup)),
        Some(other) => bail!(
            "STALLSCOPE_BPF_TOOLCHAIN is `{other}`; it may be `packages` or `rustup`, or unset to choose by what is here"
        ),
    }
}

/// Sources of compilers found on this machine.
#[derive(Debug, Default)]
struct Found {
    packaged: Option<Compiler>,
    nightly: Option<Compiler>,
    family: Option<Family>,
    apt: bool,
    rustup: bool,
}

impl Found {
    fn look(workspace: &Workspace, forced: Option<Route>) -> Self {
        let mut found = Self::default();
        if forced != Some(Route::Rustup) {
            found.packaged = compiler::packaged();
        }
        if found.packaged.is_none() && forced != Some(Route::Packages) {
            // A nightly may be ahead of every LLVM available here. Only users who ask for it see that error.
            found.nightly = compiler::rustup_nightly()
                .filter(|nightly| forced.is_some() || linker::obtainable(workspace, nightly.llvm));
        }
        if found.packaged.is_none() && found.nightly.is_none() {
            let names: Vec<&str> = apt::FAMILIES
                .iter()
                .flat_map(|f| [f.rustc, f.core])
                .collect();
            found.apt = apt::exists();
            if found.apt {
                found.family = apt::policy(&names)
                    .ok()
                    .and_then(|policies| apt::installable_family(&policies));
            }
            found.rustup = shell::which("rustup").is_some();
        }
        found
    }

    fn may_gain_from_new_lists(&self) -> bool {
        self.packaged.is_none() && self.nightly.is_none() && self.family.is_none() && self.apt
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Choice {
    Use(Compiler),
    Packages(Family),
    Rustup,
    Nothing,
}

/// Chooses a compiler: first one that is complete already, then packages, which need no compiling of `core`, then
/// rustup.
fn choose(found: &Found, forced: Option<Route>) -> Choice {
    let allowed = |route| forced.is_none_or(|forced| forced == route);
    if let Some(packaged) = found.packaged.as_ref().filter(|_| allowed(Route::Packages)) {
        return Choice::Use(packaged.clone());
    }
    if let Some(nightly) = found.nightly.as_ref().filter(|_| allowed(Route::Rustup)) {
        return Choice::Use(nightly.clone());
    }
    match found.family.filter(|_| allowed(Route::Packages)) {
        Some(family) => Choice::Packages(family),
        None if found.rustup && allowed(Route::Rustup) => Choice::Rustup,
        None => Choice::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::apt::FAMILIES;
    use super::{Choice, Compiler, Found, Install, Missing, Route, Setup, choose, forced_route};

    fn compiler(route: Route) -> Compiler {
        Compiler {
            route,
            rustc: "/bin/rustc".into(),
            core: "/lib".into(),
            llvm: 22,
        }
    }

    #[test]
    fn a_complete_route_wins_over_installing_the_other() {
        let mut found = Found {
            nightly: Some(compiler(Route::Rustup)),
            family: Some(FAMILIES[0]),
            rustup: true,
            ..Found::default()
        };
        assert_eq!(choose(&found, None), Choice::Use(compiler(Route::Rustup)));
        found.packaged = Some(compiler(Route::Packages));
        assert_eq!(choose(&found, None), Choice::Use(compiler(Route::Packages)));
        let forced = choose(&found, Some(Route::Rustup));
        assert_eq!(forced, Choice::Use(compiler(Route::Rustup)));
    }

    #[test]
    fn packages_are_installed_before_rustups_nightly() {
        let mut found = Found {
            family: Some(FAMILIES[0]),
            rustup: true,
            ..Found::default()
        };
        assert_eq!(choose(&found, None), Choice::Packages(FAMILIES[0]));
        assert_eq!(choose(&found, Some(Route::Rustup)), Choice::Rustup);
        found.family = None;
        assert_eq!(choose(&found, None), Choice::Rustup);
        assert_eq!(choose(&found, Some(Route::Packages)), Choice::Nothing);
        assert_eq!(choose(&Found::default(), None), Choice::Nothing);
    }

    #[test]
    fn a_forced_route_is_one_of_two() {
        assert_eq!(
            forced_route(Some("packages")).unwrap(),
            Some(Route::Packages)
        );
        assert_eq!(forced_route(None).unwrap(), None);
        let error = forced_route(Some("docker")).unwrap_err().to_string();
        assert!(error.contains("`docker`"), "{error}");
    }

    #[test]
    fn refusing_to_install_names_every_missing_thing() {
        let mut setup = Setup::new(Install::Refuse);
        for what in ["one", "two"] {
            let missing = Missing {
                what: what.into(),
                why: "because",
                takes: "seconds",
                command: format!("get {what}"),
            };
            assert!(!setup.need(missing, || panic!("installed")).unwrap());
        }
        let error = setup.finish().unwrap_err().to_string();
        assert!(
            error.contains("get one") && error.contains("get two"),
            "{error}"
        );
        assert!(Setup::new(Install::Refuse).finish().is_ok());
    }
}
