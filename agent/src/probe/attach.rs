//! Attaches the alternatives of a hook, and tells "unsupported" from "failed".

use std::{any::Any, error::Error as _, io, path::Path};

use anyhow::Context as _;
use aya::{
    Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError},
};

use super::{Alternative, Attach, Hook, Kernel, Running, State, missing_field};

/// `ENOTSUPP`, which the kernel returns though it has no place in user space (`include/linux/errno.h`).
const ENOTSUPP: i32 = 524;

/// Holds a program on its hook. Dropping it detaches the program.
type Link = Box<dyn Any + Send>;

/// A loaded program with its hook.
pub struct Linked {
    /// Program and hook.
    pub attach: Attach,
    /// The program's name in its object.
    pub program: &'static str,
    /// `None` while the program is detached.
    link: Option<Link>,
}

impl Running {
    /// Programs that were attached when the probe was started.
    pub fn programs(&self) -> impl Iterator<Item = &Linked> {
        self.links.iter()
    }

    /// Attaches the programs for which `wanted` holds and detaches the others, without loading anything
    /// anew. This serves to measure the cost of the programs: nothing is counted while they are off.
    ///
    /// # Errors
    /// When the kernel refuses a hook that it took before.
    pub fn set_attached(&mut self, wanted: impl Fn(Attach) -> bool) -> anyhow::Result<()> {
        for linked in &mut self.links {
            let wanted = wanted(linked.attach);
            if !wanted {
                linked.link = None;
            } else if linked.link.is_none() {
                let attach = linked.attach;
                let program = self
                    .ebpf
                    .program_mut(linked.program)
                    .with_context(|| format!("the program `{}` is gone", linked.program))?;
                let link = attach.link(program);
                linked.link = Some(link.with_context(|| format!("cannot attach {attach} again"))?);
            }
        }
        Ok(())
    }
}

impl Hook {
    pub(super) fn attach(
        &self,
        kernel: &Kernel,
        ebpf: &mut Ebpf,
    ) -> Result<(usize, Vec<String>, Vec<Linked>), State> {
        let mut reasons = Vec::new();
        let mut failure = None;
        for (i, alternative) in self.alternatives.iter().enumerate() {
            match alternative.attach(kernel, ebpf) {
                Ok((names, links)) => return Ok((i, names, links)),
                Err(State::Failed { error }) => failure = Some(error),
                Err(state) => {
                    let reason = state.detail();
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                }
            }
        }
        Err(match failure {
            Some(error) => State::Failed { error },
            None => State::Unsupported {
                reason: reasons.join("; "),
            },
        })
    }
}

impl Alternative {
    /// An alternative without needs of its own.
    #[must_use]
    pub const fn of(programs: &'static [Attach]) -> Self {
        Self {
            programs,
            fields: &[],
            unsupported: None,
        }
    }

    /// Returns the reason why it does not apply to this kernel, where that is known before trying.
    #[must_use]
    pub fn refusal(&self, kernel: &Kernel) -> Option<String> {
        kernel
            .missing(self.fields)
            .map(missing_field)
            .or_else(|| self.unsupported.and_then(|check| check(kernel)))
    }

    fn attach(
        &self,
        kernel: &Kernel,
        ebpf: &mut Ebpf,
    ) -> Result<(Vec<String>, Vec<Linked>), State> {
        let unsupported = |reason: String| Err(State::Unsupported { reason });
        if let Some(reason) = self.refusal(kernel) {
            return unsupported(reason);
        }
        let mut names = Vec::new();
        let mut links: Vec<Linked> = Vec::new();
        for &attach in self.programs {
            let name = attach.to_string();
            if kernel
                .disabled
                .iter()
                .any(|d| name == *d || name.starts_with(&format!("{d}/")))
            {
                return unsupported(format!("{name}: disabled by --disable-hook"));
            }
            if let Some(reason) = attach.impossible() {
                return unsupported(format!("{name}: {reason}"));
            }
            let Some(name_of_program) = attach.program() else {
                names.push(name);
                continue;
            };
            let program = ebpf
                .program_mut(name_of_program)
                .ok_or_else(|| State::Failed {
                    error: format!("the object has no program `{name_of_program}`"),
                })?;
            let loaded = attach.load(program, kernel);
            match loaded.and_then(|()| attach.link(program)) {
                Ok(link) => {
                    names.push(name);
                    links.push(Linked {
                        attach,
                        program: name_of_program,
                        link: Some(link),
                    });
                }
                Err(error) => {
                    drop(links);
                    for attached in &self.programs[..=names.len()] {
                        if let Some(program) = attached.program().and_then(|p| ebpf.program_mut(p))
                        {
                            unload(program);
                        }
                    }
                    return Err(attach.verdict(&error));
                }
            }
        }
        Ok((names, links))
    }
}

/// Unloads a program of an alternative that did not attach as a whole.
fn unload(program: &mut Program) {
    // A program that was not loaded returns an error: there is nothing to undo.
    let result = match program {
        Program::BtfTracePoint(p) => p.unload(),
        Program::FEntry(p) => p.unload(),
        Program::FExit(p) => p.unload(),
        Program::KProbe(p) => p.unload(),
        _ => Ok(()),
    };
    if let Err(error) = result {
        tracing::trace!(%error, "nothing to unload");
    }
}

impl Attach {
    fn load(self, program: &mut Program, kernel: &Kernel) -> Result<(), ProgramError> {
        match self {
            Self::TpBtf(_, tracepoint) => {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.load(tracepoint, &kernel.program_btf)
            }
            Self::Fentry(_, function) => {
                let program: &mut FEntry = program.try_into()?;
                program.load(function, &kernel.program_btf)
            }
            Self::Fexit(_, function) => {
                let program: &mut FExit = program.try_into()?;
                program.load(function, &kernel.program_btf)
            }
            Self::Kprobe(..) | Self::Kretprobe(..) => {
                let program: &mut KProbe = program.try_into()?;
                program.load()
            }
            Self::File(_) => Ok(()),
        }
    }

    /// Attaches a loaded program to its hook.
    fn link(self, program: &mut Program) -> Result<Link, ProgramError> {
        Ok(match self {
            Self::TpBtf(..) => {
                let program: &mut BtfTracePoint = program.try_into()?;
                let id = program.attach()?;
                Box::new(program.take_link(id)?)
            }
            Self::Fentry(..) => {
                let program: &mut FEntry = program.try_into()?;
                let id = program.attach()?;
                Box::new(program.take_link(id)?)
            }
            Self::Fexit(..) => {
                let program: &mut FExit = program.try_into()?;
                let id = program.attach()?;
                Box::new(program.take_link(id)?)
            }
            Self::Kprobe(_, function) | Self::Kretprobe(_, function) => {
                let program: &mut KProbe = program.try_into()?;
                let id = program.attach(function, 0)?;
                Box::new(program.take_link(id)?)
            }
            Self::File(_) => Box::new(()),
        })
    }

    /// Returns the reason why it cannot work on this kernel, where that is known before trying.
    fn impossible(self) -> Option<&'static str> {
        let kprobes = Path::new("/sys/bus/event_source/devices/kprobe");
        match self {
            Self::Kprobe(..) | Self::Kretprobe(..) if !kprobes.exists() => {
                Some("this kernel is built without kprobes (CONFIG_KPROBES)")
            }
            _ => None,
        }
    }

    /// Classifies an error: unsupported where this kernel cannot attach the program, failed where it
    /// should.
    fn verdict(self, error: &ProgramError) -> State {
        let reason = match (self, errno(error)) {
            (_, None) if matches!(error, ProgramError::Btf(_)) => {
                "this kernel's type information has no such symbol"
            }
            (Self::Fentry(..) | Self::Fexit(..), Some(ENOTSUPP | libc::EOPNOTSUPP)) => {
                "this kernel cannot attach BPF trampolines (on arm64 they came with 6.4)"
            }
            (Self::Fentry(..) | Self::Fexit(..), Some(libc::EPERM)) if !has_log(error) => {
                "this kernel refuses BPF trampolines"
            }
            (Self::Kprobe(..) | Self::Kretprobe(..), Some(libc::ENOENT)) => {
                "this kernel has no such function"
            }
            (_, Some(libc::EINVAL)) if lacks_helper(error) => {
                "this kernel has not all BPF helpers that it needs"
            }
            _ => {
                return State::Failed {
                    error: format!("{self}: {}", describe(error)),
                };
            }
        };
        State::Unsupported {
            reason: format!("{self}: {reason}"),
        }
    }
}

/// Returns the error number at the root of an error.
fn errno(error: &ProgramError) -> Option<i32> {
    let mut source = Some(error as &dyn std::error::Error);
    while let Some(error) = source {
        if let Some(code) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(code);
        }
        source = error.source();
    }
    None
}

/// Returns whether the verifier wrote anything to its log.
fn has_log(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { verifier_log, .. }
        if !verifier_log.to_string().trim().is_empty())
}

/// Returns whether the verifier did not know a helper (`check_helper_call`, kernel/bpf/verifier.c).
fn lacks_helper(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { verifier_log, .. } if {
        let log = verifier_log.to_string();
        log.contains("unknown func") || log.contains("invalid func")
    })
}

/// Writes the error with its causes; of a verifier's log only the end, where the reason stands.
fn describe(error: &ProgramError) -> String {
    const SHOWN: usize = 1500;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    match text.char_indices().rev().nth(SHOWN) {
        Some((start, _)) => format!("… {}", &text[start..]),
        None => text,
    }
}
