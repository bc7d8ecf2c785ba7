//! A service that is stalled on purpose: `stallscope explain` names each cause first, and none where nothing is done.

use anyhow::Result;
use clap::ValueEnum as _;

use super::Truth;
use crate::{
    Report, World,
    demo::{Cause, Outcome, Series, accepted, possible},
    group::PREFIX,
};

pub(super) const TRUTHS: &[Truth] = &[Truth {
    name: "explain",
    about: "a service stalled by one cause after the other: each is named first, and nothing where nothing is done",
    both_hierarchies: true,
    run,
}];

fn run(world: &mut World, report: &mut Report) -> Result<()> {
    let name = format!("{PREFIX}{}-explain", std::process::id());
    let mut series = Series::start(world, &name)?;
    // Causes that no machine can have are left out.
    for cause in Cause::value_variants()
        .iter()
        .filter(|cause| possible(**cause))
    {
        let name = cause.name();
        match series.bring(*cause, &|text| println!("    {name}: {text}"))? {
            Outcome::Skipped(why) => report.leave_out(format!("{name}: {why}")),
            Outcome::Answered(answer, _) => {
                answer
                    .lines()
                    .iter()
                    .for_each(|line| println!("      {line}"));
                let expected = accepted(*cause);
                let first = answer.first();
                let agrees = expected.iter().any(|each| each == first);
                report.check(
                    format!("{name} was done"),
                    expected.join(" or "),
                    first,
                    agrees,
                );
            }
        }
    }
    Ok(())
}
