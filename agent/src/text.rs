//! Text for people: names that the host chose, and commands made of them.

pub mod printable;
pub mod shell_command;
