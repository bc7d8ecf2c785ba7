//! The history: recorded data comes out unchanged, within its bounds of length and memory.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use stallscope::{
    attribution::owners::OwnerIndex,
    exposition::OwnerLabels,
    ledger::history::{CONTAINER_BYTES, History, Limits, MOST_ENDED, Quantity, Stretch, Subject},
};
use stallscope_ebpf::Cause;

const CPU: Quantity = Quantity::Cpu(Some(0));
const THROTTLED: Quantity = Quantity::wait(Cause::Throttled);
const MOVES: Quantity = Quantity::Migrations;
const MS: u64 = 1_000_000;

fn subject(index: u32) -> Subject {
    Subject::Owner(OwnerIndex(index))
}

fn history(length: u64, bytes: usize) -> History {
    let length = Duration::from_secs(length);
    History::new(Limits { length, bytes }, Instant::now())
}

/// Records totals of one owner: time on CPUs and time throttled in nanoseconds, and moves.
fn record(history: &mut History, index: u32, totals: [u64; 3]) {
    let labels = OwnerLabels::new("", "", "", &format!("/c{index}"));
    let quantities = [CPU, THROTTLED, MOVES].into_iter().zip(totals);
    history.record(subject(index), Some(&labels), quantities);
}

#[test]
fn seconds_are_due_once_each_when_they_are_over() {
    let start = Instant::now();
    let limits = Limits::default();
    let mut history = History::new(limits, start);
    let at = |ms| start + Duration::from_millis(ms);
    let first = history.second(start);
    assert_eq!(history.due(at(999)), None);
    assert_eq!(history.due(at(1000)), Some(first));
    assert_eq!(history.begin(first), start);
    history.begin_second(first);
    assert_eq!(history.due(at(1900)), None);
    assert_eq!(history.next(at(1900)), Duration::from_millis(100));
    // A late tick records the last second only.
    assert_eq!(history.due(at(5300)), Some(first + 4));
    history.begin_second(first + 4);
    assert_eq!(history.recorded(), Some((first, first + 5)));
    assert_eq!(history.due(at(5900)), None);
}

#[test]
fn what_is_too_little_for_a_second_is_added_to_the_next() {
    let mut history = history(3600, 1 << 20);
    for second in 0..10_u32 {
        history.begin_second(second);
        let total = u64::from(second + 1) * 300_000;
        record(&mut history, 1, [total, 0, u64::from(second) + 1]);
    }
    let mut seen = Vec::new();
    history.visit(subject(1), 0, 10, |stretch, quantity, value| {
        assert!(stretch.seen && stretch.first == stretch.last);
        seen.push((stretch.last, quantity, value));
    });
    let expected = [(3, 1200), (7, 1200)];
    let expected: Vec<_> = expected
        .into_iter()
        .flat_map(|(second, us)| [(second, CPU, us), (second, MOVES, 4)])
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn the_oldest_leaves_first_by_age() {
    let mut history = history(60, 1 << 20);
    for second in 0..1000_u32 {
        history.begin_second(second);
        record(&mut history, 1, [u64::from(second + 1) * 10 * MS, 0, 0]);
    }
    assert_eq!(history.recorded(), Some((940, 1000)));
    let sums = history.sums(subject(1), 940, 1000);
    assert_eq!(sums[&CPU], 60 * 10_000);
    // The history drops a block when all of it is too old. One block holds some hundred seconds of five bytes each.
    assert!(history.bytes() <= 3 * 1100, "{}", history.bytes());
    // Without new activity the record empties. The history drops it when the container ends.
    for second in 1000..2000 {
        history.begin_second(second);
    }
    assert!(history.bytes() < 600, "{}", history.bytes());
    history.fold(OwnerIndex(1), OwnerIndex(0));
    assert_eq!(
        history.subjects().map(|(s, _)| s).collect::<Vec<_>>(),
        [subject(0)]
    );
}

#[test]
fn no_container_takes_more_than_its_bytes_and_all_no_more_than_theirs() {
    let all = 200 << 10;
    let mut history = history(3600 * 24, all);
    for second in 0..30_000_u32 {
        history.begin_second(second);
        let total = u64::from(second + 1) * 987_654_321;
        record(&mut history, 1, [total, total, u64::from(second) * 1000]);
        if second % 2 == 0 {
            record(&mut history, 2 + second / 1000, [total, total / 3, 0]);
        }
        assert!(history.bytes() <= all, "{} at {second}", history.bytes());
    }
    // The owner with the longest record lost its oldest part, and the history reports that.
    let from = history.incomplete_before(subject(1));
    let mut first = None;
    history.visit(subject(1), 0, u32::MAX, |stretch, _, _| {
        first = first.or(Some(stretch.first));
    });
    assert_eq!(first, Some(from));
    let kept = history.sums(subject(1), from, 30_000);
    let us = |second: u64| second * 987_654_321 / 1000;
    assert_eq!(kept[&CPU], us(30_000) - us(u64::from(from)));
    let bytes_a_second = CONTAINER_BYTES as f64 / f64::from(30_000 - from);
    assert!(bytes_a_second < 20.0, "{bytes_a_second}");
    // The history dropped the owners with the oldest data first.
    assert!(history.sums(subject(2), 0, 30_000).is_empty());
    assert!(!history.sums(subject(31), 0, 30_000).is_empty());
}

#[test]
fn what_an_owner_counted_is_not_counted_again_for_the_one_it_is_folded_into() {
    let (mut history, removed) = (history(3600, 1 << 20), 1);
    history.begin_second(0);
    record(&mut history, 7, [500 * MS, 20 * MS, 3]);
    history.begin_second(1);
    // At the end of the owner, 0.4 ms are still unrecorded.
    record(&mut history, 7, [500 * MS + 400_000, 20 * MS, 3]);
    history.fold(OwnerIndex(7), OwnerIndex(removed));
    history.begin_second(2);
    record(&mut history, removed, [502 * MS, 20 * MS, 4]);
    let sums = history.sums(subject(removed), 0, 3);
    assert_eq!(sums.get(&CPU), Some(&2000));
    assert_eq!(sums.get(&MOVES), Some(&1));
    assert_eq!(sums.get(&THROTTLED), None);
    // The record of the folded owner remains.
    assert_eq!(history.sums(subject(7), 0, 3)[&CPU], 500_000);
}

#[test]
fn the_record_of_one_that_ended_takes_no_more_room_than_what_is_in_it() {
    let mut history = history(3600, 1 << 20);
    for index in 3..1003 {
        let second = history.recorded().map_or(1 << 20, |(_, end)| end);
        history.begin_second(second);
        record(&mut history, index, [5_000_000, 0, 0]);
        history.fold(OwnerIndex(index), OwnerIndex(1));
    }
    assert!(history.bytes() < 1000 * 350, "{}", history.bytes());
    let (first, end) = history.recorded().unwrap();
    let kept = (3..1003).filter(|index| !history.sums(subject(*index), first, end).is_empty());
    assert_eq!(kept.count(), 1000);
}

/// Containers that come and go in each second of a flood.
const A_SECOND: u32 = 64;

/// Records a container that works for some milliseconds and ends, in a second of its own or, in a flood, of many.
fn come_and_go(history: &mut History, index: u32, labels: &OwnerLabels, ms: u64) {
    if index < 4 || index.is_multiple_of(A_SECOND) {
        history.begin_second(history.recorded().map_or(1 << 20, |(_, end)| end));
    }
    history.record(subject(index), Some(labels), [(CPU, ms * MS)].into_iter());
    history.fold(OwnerIndex(index), OwnerIndex(1));
}

#[test]
fn pods_that_ended_outlast_a_flood_of_other_cgroups() {
    let mut history = history(24 * 3600, 4 << 20);
    let pod = OwnerLabels::new("shop", "cart-0", "server", "/kubepods/pod1/2");
    come_and_go(&mut history, 3, &pod, 500);
    assert_eq!(history.forgotten_before(), 0);
    let flood = 10 * MOST_ENDED as u32;
    for index in 4..4 + flood {
        let labels = OwnerLabels::new("", "", "", &format!("/user.slice/{index}"));
        come_and_go(&mut history, index, &labels, 5);
        assert!(history.ended() <= MOST_ENDED);
    }
    assert_eq!(history.ended(), MOST_ENDED);
    let (first, end) = history.recorded().unwrap();
    assert_eq!(history.sums(subject(3), first, end)[&CPU], 500_000);
    // Of the other cgroups, the last ones that ended remain, and the history reports since when they are complete.
    let left = flood - (MOST_ENDED as u32 - 1);
    let kept = |index| !history.sums(subject(index), first, end).is_empty();
    assert_eq!((4..4 + flood).find(|index| kept(*index)), Some(4 + left));
    assert!((4 + left..4 + flood).all(kept));
    assert_eq!(
        history.forgotten_before(),
        first + (4 + left - 1) / A_SECOND + 1
    );
}

#[test]
fn of_pods_that_ended_the_longest_ended_leave_first() {
    let mut history = history(24 * 3600, 16 << 20);
    let pods = MOST_ENDED as u32 + 10;
    for index in 3..3 + pods {
        let labels = OwnerLabels::new("shop", &format!("job-{index}"), "", "");
        come_and_go(&mut history, index, &labels, 5);
    }
    let known: Vec<_> = history.subjects().map(|(subject, _)| subject).collect();
    let gone = (3..3 + pods).filter(|index| !known.contains(&subject(*index)));
    assert_eq!(gone.collect::<Vec<_>>(), (3..13).collect::<Vec<_>>());
}

#[test]
fn a_container_that_counts_again_after_its_end_is_live_again() {
    let mut history = history(3600, 1 << 20);
    let labels = OwnerLabels::new("", "", "", "/again");
    come_and_go(&mut history, 3, &labels, 5);
    assert_eq!(history.ended(), 1);
    // Its totals start at zero again after the fold.
    come_and_go(&mut history, 3, &labels, 7);
    assert_eq!(history.ended(), 1);
    let (first, end) = history.recorded().unwrap();
    assert_eq!(history.sums(subject(3), first, end)[&CPU], 12_000);
    for second in end..end + 4000 {
        history.begin_second(second);
    }
    assert_eq!(history.ended(), 0);
}

#[test]
fn without_room_for_any_block_the_history_reports_incomplete_records() {
    let mut history = history(3600, 20_000);
    for second in 0..100 {
        history.begin_second(second);
        for index in 3..203 {
            record(&mut history, index, [u64::from(second + 1) * 10 * MS, 0, 0]);
        }
    }
    // The fixed part of a live container's record remains.
    assert!(history.bytes() < 200 * 700, "{}", history.bytes());
    for index in 3..203 {
        assert!(history.sums(subject(index), 0, 100).is_empty());
        assert_eq!(history.incomplete_before(subject(index)), 100);
    }
    // After most containers have ended there is room again, and nothing is counted twice.
    for index in 4..203 {
        history.fold(OwnerIndex(index), OwnerIndex(1));
    }
    assert_eq!((history.ended(), history.forgotten_before()), (0, 100));
    history.begin_second(100);
    record(&mut history, 3, [1007 * MS, 0, 0]);
    assert_eq!(history.sums(subject(3), 0, 101)[&CPU], 7000);
}

#[test]
fn of_seconds_that_were_not_seen_only_the_sum_is_known_and_windows_share_it() {
    let mut history = history(3600, 1 << 20);
    for second in 0..10 {
        history.begin_second(second);
        record(&mut history, 1, [u64::from(second + 1) * 100 * MS, 0, 1]);
    }
    // The recording stops for 40 seconds, in which the container runs all the time.
    history.begin_second(50);
    record(&mut history, 1, [1000 * MS + 41_000 * MS, 7 * MS, 1]);
    history.begin_second(51);
    record(&mut history, 1, [42_100 * MS, 7 * MS, 1]);
    let gap = Stretch {
        first: 10,
        last: 50,
        seen: false,
    };
    assert_eq!(history.gaps(0, 100).collect::<Vec<_>>(), [gap]);
    let mut seconds = Vec::new();
    history.visit(subject(1), 0, 52, |stretch, quantity, us| {
        if quantity == CPU {
            seconds.push((stretch, us));
        }
    });
    assert_eq!(seconds.len(), 12);
    assert_eq!(seconds[10], (gap, 41_000_000));
    // The gap's time is neither in a single second nor lost: the sums of any two windows that cut it add up to the
    // counter.
    for cut in 0..=52 {
        let parts = [(0, cut), (cut, 52)].map(|(from, to)| history.sums(subject(1), from, to));
        let sum = |quantity| -> u64 { parts.iter().filter_map(|sums| sums.get(&quantity)).sum() };
        assert_eq!((sum(CPU), sum(THROTTLED)), (42_100_000, 7000), "{cut}");
    }
    let sums = history.sums(subject(1), 20, 30);
    assert_eq!(sums[&CPU], 10_000_000);
    // The history drops the gap when it is too old.
    history.begin_second(5000);
    assert_eq!(history.gaps(0, 52).next(), None);
}

proptest! {
    /// For any activity of containers, the seconds of the whole record sum to their totals, to the microsecond of each,
    /// except for amounts that are still too small to record.
    #[test]
    fn seconds_sum_to_totals(
        seconds in prop::collection::vec(prop::collection::vec((0_u64..3_000_000_000, 0_u64..50_000_000, 0_u64..100), 3), 1..60),
        gaps in prop::collection::vec(1_u32..4, 60),
    ) {
        let mut history = history(3600, 1 << 20);
        let mut totals = [[0_u64; 3]; 3];
        let mut second = 0;
        for (all, gap) in seconds.iter().zip(gaps) {
            history.begin_second(second);
            for (index, (cpu, throttled, moves)) in all.iter().enumerate() {
                for (total, part) in totals[index].iter_mut().zip([cpu, throttled, moves]) {
                    *total += part;
                }
                record(&mut history, index as u32, totals[index]);
            }
            second += gap;
        }
        for (index, [cpu, throttled, _]) in totals.into_iter().enumerate() {
            let sums = history.sums(subject(index as u32), 0, second);
            let recorded: u64 = [CPU, THROTTLED].iter().filter_map(|q| sums.get(q)).sum();
            let counted = cpu / 1000 + throttled / 1000;
            prop_assert!(recorded <= counted && counted - recorded < 1000, "{recorded} of {counted}");
        }
    }
}
