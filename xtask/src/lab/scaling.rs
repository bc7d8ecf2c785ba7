//! Extrapolation of the maps' memory to a machine larger than any that can be emulated, by a line through smaller ones.

use super::outcome::{Outcome, Verdict};

/// Number of CPUs for which the agent states a bound.
const CPUS: f64 = 128.0;
const MEASURED: &str = "bytes of all maps";
const STATED: &str = "bytes stated for 128 CPUs";

/// Checks each kernel that ran with different numbers of CPUs: the line through the measured memory of the maps must
/// stay below the stated bound.
pub fn of(outcomes: &[Outcome]) -> Vec<Outcome> {
    let mut kernels: Vec<&Outcome> = Vec::new();
    for outcome in outcomes {
        if !kernels.iter().any(|kernel| same(kernel, outcome)) {
            kernels.push(outcome);
        }
    }
    kernels
        .into_iter()
        .filter_map(|kernel| on_line(kernel, outcomes.iter().filter(|o| same(kernel, o))))
        .collect()
}

/// Returns whether both outcomes are of machines that differ in the number of CPUs only.
fn same(a: &Outcome, b: &Outcome) -> bool {
    (&a.kernel, &a.arch, &a.cgroup) == (&b.kernel, &b.arch, &b.cgroup)
}

fn on_line<'a>(of: &Outcome, outcomes: impl Iterator<Item = &'a Outcome>) -> Option<Outcome> {
    let (mut points, mut stated) = (Vec::new(), 0);
    for outcome in outcomes {
        let number = |what: &str| {
            let place = outcome.checks.iter().position(|c| c.starts_with(what))?;
            outcome.counted.get(place)?.parse::<u64>().ok()
        };
        stated = number(STATED).unwrap_or(stated);
        if let Some(bytes) = number(MEASURED) {
            points.push((f64::from(outcome.cpus), bytes as f64));
        }
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by(|a, b| a.0.total_cmp(&b.0).is_eq());
    let (&(x1, y1), &(x2, y2)) = (points.first()?, points.last()?);
    if x1 >= x2 {
        return None;
    }
    let slope = (y2 - y1) / (x2 - x1);
    let at = |x: f64| slope.mul_add(x - x1, y1);
    // Memory comes in whole pages, so a point may lie off the line by one page for each of some dozens of maps.
    let off = points
        .iter()
        .map(|(x, y)| (at(*x) - y).abs())
        .fold(0.0, f64::max);
    let straight = off <= 0.02 * y2;
    let extrapolated = at(CPUS);
    let agrees = straight && extrapolated <= stated as f64;
    Some(Outcome {
        test: "map_memory_on_128_cpus".to_owned(),
        verdict: if agrees {
            Verdict::Passed
        } else {
            Verdict::Failed
        },
        cpus: super::CPUS,
        checks: vec!["bytes on the line at 128 CPUs".to_owned()],
        expected: vec![format!("at most {stated}")],
        counted: vec![format!("{extrapolated:.0}")],
        detail: if agrees {
            String::new()
        } else {
            format!(
                "{extrapolated:.0} bytes on the line at 128 CPUs, {stated} stated; farthest point {off:.0} bytes off the line"
            )
        },
        seconds: 0.0,
        ..of.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Verdict, of};

    fn outcome(cpus: u32, bytes: u64) -> Outcome {
        let line = format!(
            r#"{{"kernel":"6.12.1","arch":"arm64","cgroup":"v2","cpus":{cpus},"test":"map_memory","verdict":"passed","expected":["",""],"counted":["60000000","{bytes}"],"checks":["bytes stated for 128 CPUs","bytes of all maps with 9 slots on {cpus} CPUs"],"detail":"","seconds":1}}"#
        );
        Outcome::parse(&line).unwrap()
    }

    #[test]
    fn the_line_ends_below_what_is_stated() {
        let few = [
            outcome(2, 3_000_000),
            outcome(8, 5_400_000),
            outcome(16, 8_600_000),
        ];
        let line = of(&few);
        assert_eq!(line[0].verdict, Verdict::Passed);
        assert_eq!(line[0].counted, ["53400000"]);
        assert!(of(&few[..1]).is_empty());
        let steep = [outcome(2, 3_000_000), outcome(16, 11_000_000)];
        assert_eq!(of(&steep)[0].verdict, Verdict::Failed);
        let bent = [
            outcome(2, 3_000_000),
            outcome(8, 8_000_000),
            outcome(16, 8_600_000),
        ];
        assert_eq!(of(&bent)[0].verdict, Verdict::Failed);
    }
}
