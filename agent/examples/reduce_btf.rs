//! Cuts kernels' type information down to the types that the agent looks up.
//!
//! `cargo xtask lab --update-btf` runs it on the kernels of the lab. `agent/tests/btf_matrix.rs` checks the results.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, bail};
use stallscope::{host::btf::Btf, probe::Attach, probes};

const USAGE: &str = "usage: reduce_btf FROM TO [FROM TO]…
example: reduce_btf /sys/kernel/btf/vmlinux /tmp/vmlinux.btf";

fn main() -> anyhow::Result<()> {
    let files: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    if files.is_empty() || !files.len().is_multiple_of(2) {
        bail!("{} file names were given\n{USAGE}", files.len());
    }
    for pair in files.chunks(2) {
        let reduced =
            Btf::read(&pair[0])?.reduced(probes::attachments().filter_map(Attach::described));
        fs::write(&pair[1], &reduced)
            .with_context(|| format!("cannot write {}", pair[1].display()))?;
        println!("{}: {} bytes", pair[1].display(), reduced.len());
    }
    Ok(())
}
