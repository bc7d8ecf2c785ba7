//! Arguments of functions and tracepoints.

use super::{Btf, Type, kind};

/// Type of an argument, as far as programs depend on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Argument {
    /// A pointer to the structure of this name; empty for any other pointer.
    Pointer(String),
    /// A number, boolean or enumerator of this many bytes.
    Scalar(u32),
    /// A structure by value.
    Structure,
}

impl Btf {
    /// Returns the arguments of a function; none if the type information does not describe it. Old
    /// kernels leave static functions out, so absence proves nothing.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Vec<Argument>> {
        let function = self.find(name, &[kind::FUNC])?;
        self.arguments(self.type_by_id(function.size_or_id)?)
    }

    /// Returns the arguments of a tracepoint; none if the kernel has no such tracepoint.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<Vec<Argument>> {
        let typedef = self.find(&trace_type(name), &[kind::TYPEDEF])?;
        let pointer = self.resolve(typedef.size_or_id)?;
        let mut arguments = self.arguments(self.resolve(pointer.size_or_id)?)?;
        // The first argument is the tracepoint's own data, which the kernel does not pass to
        // programs.
        (!arguments.is_empty()).then(|| arguments.split_off(1))
    }

    fn arguments(&self, prototype: Type) -> Option<Vec<Argument>> {
        if prototype.kind != kind::FUNC_PROTO {
            return None;
        }
        (0..prototype.vlen)
            .map(|i| self.argument(self.word(prototype.at + 12 + i * 8 + 4)?))
            .collect()
    }

    fn argument(&self, id: u32) -> Option<Argument> {
        let argument = self.resolve(id)?;
        Some(match argument.kind {
            kind::PTR => {
                let target = self
                    .resolve(argument.size_or_id)
                    .filter(|target| matches!(target.kind, kind::STRUCT | kind::UNION | kind::FWD));
                let name = target.map(|target| self.name(target.name));
                Argument::Pointer(String::from_utf8_lossy(name.unwrap_or_default()).into_owned())
            }
            kind::STRUCT | kind::UNION => Argument::Structure,
            _ => Argument::Scalar(argument.size_or_id),
        })
    }
}

/// Returns the name of the typedef that the kernel makes for a tracepoint.
pub(super) fn trace_type(tracepoint: &str) -> String {
    format!("btf_trace_{tracepoint}")
}
