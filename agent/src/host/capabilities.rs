//! The agent's capabilities (capabilities(7)), and how it gives them up.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Gives up all capabilities of this thread, and so of all that it starts. Once they are off it calls `works`,
/// because the kernel decides whether the agent can go on without them. If `works` fails, all capabilities stay as
/// they were.
///
/// # Errors
/// When the kernel refuses, or what `works` says.
pub fn drop_all(works: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let before = capabilities(None)?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            ..before
        },
    )?;
    if let Err(error) = works() {
        set_capabilities(None, before)?;
        return Err(error);
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    Ok(())
}

/// The names of the capabilities in effect, as in `CAP_BPF`; empty without any.
#[must_use]
pub fn effective() -> Vec<String> {
    let sets = capabilities(None).ok();
    let names = sets.iter().flat_map(|sets| sets.effective.iter_names());
    names.map(|(name, _)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_stay_when_they_are_needed_and_are_gone_for_good_when_not() {
        let name = |sets: CapabilitySets| (sets.effective, sets.permitted);
        // Capabilities are a thread's own.
        let outcome = std::thread::spawn(move || {
            let before = capabilities(None)?;
            let needed = drop_all(|| anyhow::bail!("the kernel says no"));
            assert_eq!(
                needed.expect_err("needed").to_string(),
                "the kernel says no"
            );
            assert_eq!(name(capabilities(None)?), name(before));
            drop_all(|| {
                assert_eq!(effective(), Vec::<String>::new());
                Ok(())
            })?;
            let none = CapabilitySet::empty();
            assert_eq!(name(capabilities(None)?), (none, none));
            let again = set_capabilities(None, before);
            assert!(again.is_err() || before.permitted.is_empty());
            anyhow::Ok(())
        });
        outcome.join().expect("no panic").expect("capget works");
    }
}
