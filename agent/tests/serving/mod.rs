//! Programs that serve something on this machine, and what they answer.
#![allow(dead_code, reason = "each test uses a part")]

pub mod http;
mod program;

use std::process::Command;

pub use program::Program;

/// `stallscope run` as a process of its own.
pub struct Serving {
    pub address: String,
    program: Program,
}

impl Serving {
    /// One with these arguments beside its address, which is a free one, once it is ready.
    pub fn start(arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Self {
        Self::on(&http::free_address(), arguments)
    }

    /// The same at an address.
    pub fn on(
        address: &str,
        arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stallscope"));
        command.args(["run", "--listen", address]).args(arguments);
        let program = Program::start(&mut command).expect("the agent starts");
        http::wait(address, "/readyz", || program.said());
        Self {
            address: address.to_owned(),
            program,
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Status and body of an answer.
    pub fn get(&self, path: &str) -> (u16, String) {
        http::get(&self.address, path)
            .unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.program.said()))
    }
}
