//! Figures computed from those of a container.

use super::text::safe;
use crate::api::{self, Container};

/// Returns a container's name, marked if the container is gone.
pub(super) fn name(container: &Container) -> String {
    let cgroup = container.labels.get("cgroup").map_or("", String::as_str);
    // Sums such as (other) have no cgroup, and so are never gone.
    let gone = !container.live && !cgroup.starts_with('(');
    safe(&api::name(&container.labels)).into_owned() + if gone { " (gone)" } else { "" }
}

/// Returns the share of remote page faults in all that placed or mapped a page; none where there were none or they are
/// not counted.
pub(super) fn remote_share(container: &Container) -> Option<f64> {
    let all = container.faults.filter(|all| *all > 0)?;
    Some(container.remote_faults? as f64 / all as f64)
}

/// Returns causes with their seconds, in descending order.
pub(super) fn causes_by_size(container: &Container) -> Vec<(&str, f64)> {
    let causes = container.causes.iter();
    let mut causes: Vec<_> = causes.map(|(cause, s)| (cause.as_str(), *s)).collect();
    causes.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    causes
}

/// Splits a bar into parts by cause, in the order of the metrics; each part has a number of cells.
///
/// The container that lost `most` seconds has a bar of `width` cells; each one that lost anything has at least one
/// cell.
pub(super) fn split(container: &Container, most: f64, width: usize) -> Vec<(&str, usize)> {
    let known = super::sort::causes().filter_map(|cause| container.causes.get_key_value(cause));
    let unknown = container
        .causes
        .iter()
        .filter(|(cause, _)| !super::sort::causes().any(|known| known == cause.as_str()));
    let lost: f64 = container.causes.values().sum();
    if lost <= 0.0 || most <= 0.0 {
        return Vec::new();
    }
    let cells = whole(lost / most * width as f64).clamp(1, width.max(1));
    let (mut sum, mut drawn) = (0.0, 0);
    let mut parts = Vec::new();
    for (cause, seconds) in known.chain(unknown) {
        sum += seconds;
        let end = whole(sum / lost * cells as f64).clamp(drawn, cells);
        parts.push((cause.as_str(), end - drawn));
        drawn = end;
    }
    parts.retain(|(_, cells)| *cells > 0);
    parts
}

/// Rounds to a number of cells; negative values and NaN give 0.
#[expect(clippy::cast_sign_loss, reason = "a cast saturates")]
fn whole(value: f64) -> usize {
    value.round() as usize
}

/// Divides a series into `width` stretches and returns the mean of the known values in each; none where no value is
/// known.
pub(super) fn stretches(series: &[Option<f64>], width: usize) -> Vec<Option<f64>> {
    let length = series.len();
    let mean = |cell: usize| {
        let (from, to) = (cell * length / width, ((cell + 1) * length).div_ceil(width));
        let known: Vec<f64> = series[from..to].iter().copied().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    (0..width).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::top::fixture;

    fn container(causes: &[(&str, f64)]) -> Container {
        let mut container = fixture::busy().containers.swap_remove(0);
        let owned = |(cause, seconds): &(&str, f64)| ((*cause).to_owned(), *seconds);
        container.causes = causes.iter().map(owned).collect();
        container
    }

    #[test]
    fn a_bar_is_as_long_as_its_part_of_the_most_and_cut_by_cause() {
        let half = container(&[("throttled", 3.0), ("own", 1.0), ("new_cause", 1.0)]);
        let parts = split(&half, 10.0, 20);
        assert_eq!(parts, [("own", 2), ("throttled", 6), ("new_cause", 2)]);
        let all = split(&half, 5.0, 7);
        assert_eq!(all.iter().map(|part| part.1).sum::<usize>(), 7);
        assert_eq!(split(&container(&[("own", 1e-9)]), 10.0, 20), [("own", 1)]);
        assert_eq!(split(&container(&[]), 10.0, 20), []);
        assert_eq!(split(&half, 10.0, 0).len(), 1);
        let strange = container(&[("own", f64::MAX), ("host", f64::MAX), ("idle", -1.0)]);
        let _ = split(&strange, 1.0, 10);
    }

    #[test]
    fn only_what_was_somewhere_is_gone() {
        let names: Vec<_> = fixture::busy().containers.iter().map(name).collect();
        assert_eq!(names[0], "shop/cart-0 server");
        assert!(names[5].ends_with(".scope (gone)"), "{}", names[5]);
        assert_eq!(names[6], "(removed)");
    }

    #[test]
    fn a_share_of_nothing_is_none() {
        let mut container = container(&[]);
        (container.faults, container.remote_faults) = (Some(200), Some(3));
        assert_eq!(remote_share(&container), Some(0.015));
        container.faults = Some(0);
        assert_eq!(remote_share(&container), None);
        container.faults = None;
        assert_eq!(remote_share(&container), None);
    }

    #[test]
    fn stretches_keep_what_is_unknown_apart_from_zero() {
        let series = [None, None, Some(0.0), None, Some(1.0), Some(3.0)];
        assert_eq!(stretches(&series, 3), [None, Some(0.0), Some(2.0)]);
        assert_eq!(stretches(&series, 6), series);
        let wide = [None, None, Some(1.0), Some(1.0), Some(3.0), Some(3.0)];
        assert_eq!(stretches(&[None, Some(1.0), Some(3.0)], 6), wide);
        assert_eq!(stretches(&series, 0), []);
        assert_eq!(stretches(&[], 2), [None, None]);
    }
}
