//! The `stallscope` command.
fn main() {}
