//! Programs that serve on this machine, and their answers.
#![allow(dead_code, reason = "each test uses a part")]

pub mod http;
mod program;

use std::process::Command;

pub use program::Program;

/// `stallscope run` as its own process.
pub struct Serving {
    pub address: String,
    program: Program,
}

impl Serving {
    /// Starts an agent with these arguments on a free address, and waits until it is ready.
    pub fn start(arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Self {
        Self::on(&http::free_address(), arguments)
    }

    /// Starts an agent at an address.
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

    /// Returns its process ID.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Returns status and body of an answer.
    pub fn get(&self, path: &str) -> (u16, String) {
        http::get(&self.address, path)
            .unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.program.said()))
    }
}
