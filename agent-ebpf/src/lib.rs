//! The contract between the kernel side and the agent: every type that crosses the boundary.
#![no_std]
