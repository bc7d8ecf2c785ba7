//! A model of every order in which a reader can see a cell change hands.
//!
//! Memory is as on arm64: there is one order in which stores become visible to all others. Stores of one
//! CPU to one word keep program order, and stores to different words keep it only across a barrier; so do
//! loads. The steps are those that [`take_over`] and [`copy`] make.

use std::{cell::RefCell, collections::HashSet};

use super::{CLOSED, Source, Takeover, copy, take_over};

/// The words: serial, id and two counters of the cell, two of the retired cell.
const SERIAL: usize = 0;
const ID: usize = 1;
const COUNTS: [usize; 2] = [2, 3];
const RETIRED: [usize; 2] = [4, 5];
type Memory = [u64; 6];

/// Counts of each css, by serial: those of the first before the model begins, those of the others after
/// their takeover.
const COUNTED: [[u64; 2]; 4] = [[0, 0], [10, 20], [3, 4], [100, 200]];

/// kernfs id of the cgroup of a css.
const fn id(serial: u64) -> u64 {
    1000 + serial
}

const START: Memory = [1, id(1), COUNTED[1][0], COUNTED[1][1], 0, 0];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Close,
    Barrier,
    Retire,
    Clear,
    Open,
}

/// Records the steps that the programs take.
#[derive(Default)]
struct Steps(Vec<Step>);

impl Takeover for Steps {
    fn close(&mut self) {
        self.0.push(Step::Close);
    }
    fn barrier(&mut self) {
        self.0.push(Step::Barrier);
    }
    fn retire(&mut self) {
        self.0.push(Step::Retire);
    }
    fn clear(&mut self) {
        self.0.push(Step::Clear);
    }
    fn open(&mut self) {
        self.0.push(Step::Open);
    }
}

fn steps() -> Vec<Step> {
    let mut steps = Steps::default();
    take_over(&mut steps);
    steps.0
}

/// An access, with the set of accesses that must come before it.
#[derive(Clone, Copy, Debug)]
struct Access {
    word: usize,
    /// Value to store; unused for a load.
    value: u64,
    after: u32,
}

/// Accesses of one CPU in the order of its program.
#[derive(Default)]
struct Accesses {
    all: Vec<Access>,
    /// Set of the accesses before the last barrier.
    before: u32,
}

impl Accesses {
    fn push(&mut self, word: usize, value: u64) {
        let same = self.all.iter().enumerate().filter(|(_, a)| a.word == word);
        let same = same.fold(0, |set, (i, _)| set | 1 << i);
        let after = self.before | same;
        self.all.push(Access { word, value, after });
    }

    fn barrier(&mut self) {
        self.before = (1 << self.all.len()) - 1;
    }

    /// Accesses that may come next when those of `done` are done.
    fn next(&self, done: u32) -> impl Iterator<Item = usize> {
        let open = move |(i, a): &(usize, &Access)| done & 1 << i == 0 && a.after & !done == 0;
        self.all.iter().enumerate().filter(open).map(|(i, _)| i)
    }
}

/// Stores of two takeovers by `steps`, each followed by the counts of the new css.
fn writer(steps: &[Step]) -> Accesses {
    let mut stores = Accesses::default();
    let mut memory = START;
    for serial in [2, 3] {
        let mut store = |stores: &mut Accesses, word: usize, value: &dyn Fn(&Memory) -> u64| {
            memory[word] = value(&memory);
            stores.push(word, memory[word]);
        };
        for step in steps {
            match step {
                Step::Close => store(&mut stores, SERIAL, &|_| CLOSED),
                Step::Barrier => stores.barrier(),
                Step::Retire => {
                    for (from, to) in COUNTS.into_iter().zip(RETIRED) {
                        store(&mut stores, to, &|memory| memory[to] + memory[from]);
                    }
                }
                Step::Clear => {
                    store(&mut stores, ID, &|_| id(serial));
                    for word in COUNTS {
                        store(&mut stores, word, &|_| 0);
                    }
                }
                Step::Open => store(&mut stores, SERIAL, &|_| serial),
            }
        }
        for (word, counted) in COUNTS.into_iter().zip(COUNTED[serial as usize]) {
            store(&mut stores, word, &|memory| memory[word] + counted);
        }
    }
    stores
}

/// The memory when the stores of `done` are visible.
fn visible(stores: &Accesses, done: u32) -> Memory {
    let mut memory = START;
    for (i, store) in stores.all.iter().enumerate() {
        if done & 1 << i != 0 {
            memory[store.word] = store.value;
        }
    }
    memory
}

/// Words that a reader loads, in program order; barriers are `None`.
type Loads = Vec<Option<usize>>;

/// Records the loads of [`copy`].
struct Noted(RefCell<Loads>);

impl Source for Noted {
    type Copy = ();
    fn serial(&self) -> u64 {
        self.0.borrow_mut().push(Some(SERIAL));
        1
    }
    fn barrier(&self) {
        self.0.borrow_mut().push(None);
    }
    fn words(&self) {
        let words = [COUNTS[0], ID, COUNTS[1]].map(Some);
        self.0.borrow_mut().extend(words);
    }
}

/// Loads of a reader: the retired cell, then the cell.
fn loads() -> Loads {
    let noted = Noted(RefCell::new(RETIRED.map(Some).to_vec()));
    copy(&noted);
    noted.0.into_inner()
}

fn reader(loads: &Loads) -> Accesses {
    let mut accesses = Accesses::default();
    for load in loads {
        match load {
            Some(word) => accesses.push(*word, 0),
            None => accesses.barrier(),
        }
    }
    accesses
}

/// Values that a reader has loaded, handed to [`copy`] again for its verdict.
struct Loaded<'a> {
    reader: &'a Accesses,
    values: &'a [u64],
    serials: RefCell<usize>,
}

impl Loaded<'_> {
    fn nth(&self, word: usize, nth: usize) -> u64 {
        let mut found = (self.reader.all.iter().zip(self.values)).filter(|(a, _)| a.word == word);
        *found.nth(nth).expect("it was loaded").1
    }
}

impl Source for Loaded<'_> {
    type Copy = [u64; 3];
    fn serial(&self) -> u64 {
        let nth = *self.serials.borrow();
        *self.serials.borrow_mut() += 1;
        self.nth(SERIAL, nth)
    }
    fn barrier(&self) {}
    fn words(&self) -> [u64; 3] {
        [
            self.nth(ID, 0),
            self.nth(COUNTS[0], 0),
            self.nth(COUNTS[1], 0),
        ]
    }
}

/// Returns the fault of a reading, if it has one, and adds the css that was read to `read`.
fn judge(reader: &Accesses, values: &[u64], read: &mut HashSet<u64>) -> Option<String> {
    let loaded = Loaded {
        reader,
        values,
        serials: RefCell::new(0),
    };
    let [cgroup, counts @ ..] = copy(&loaded)?;
    let serial = loaded.nth(SERIAL, 0);
    read.insert(serial);
    if cgroup != id(serial) {
        return Some(format!("css {serial} goes with cgroup {cgroup}"));
    }
    for (i, count) in counts.into_iter().enumerate() {
        let own = COUNTED[serial as usize][i];
        if count != own && !(serial > 1 && count == 0) {
            return Some(format!("css {serial} has {count}, and counted {own}"));
        }
        let retired = loaded.nth(RETIRED[i], 0);
        let before: u64 = COUNTED[1..serial as usize].iter().map(|c| c[i]).sum();
        if retired > before {
            return Some(format!("css {serial} counts twice: {retired} are retired"));
        }
    }
    None
}

/// Goes through every order. Returns the css that were read, or the first fault.
fn explore(steps: &[Step], loads: &Loads) -> Result<HashSet<u64>, String> {
    let (stores, reader) = (writer(steps), reader(loads));
    let end = visible(&stores, u32::MAX);
    if end[SERIAL] != 3 || end[ID] != id(3) {
        return Err(format!("the cell is not the last css's: {end:?}"));
    }
    for (i, (count, retired)) in COUNTS.into_iter().zip(RETIRED).enumerate() {
        let all: u64 = COUNTED.iter().map(|counted| counted[i]).sum();
        if end[count] + end[retired] != all {
            return Err(format!("{all} were counted: {end:?}"));
        }
    }
    let mut read = HashSet::new();
    let mut seen = HashSet::new();
    let mut open = vec![(0_u32, 0_u32, vec![0; reader.all.len()])];
    let all_loads = (1 << reader.all.len()) - 1;
    while let Some(state) = open.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let (stored, loaded, values) = state;
        if loaded == all_loads {
            if let Some(fault) = judge(&reader, &values, &mut read) {
                return Err(fault);
            }
            continue;
        }
        for next in stores.next(stored) {
            open.push((stored | 1 << next, loaded, values.clone()));
        }
        let memory = visible(&stores, stored);
        for next in reader.next(loaded) {
            let mut values = values.clone();
            values[next] = memory[reader.all[next].word];
            open.push((stored, loaded | 1 << next, values));
        }
    }
    Ok(read)
}

#[test]
fn whatever_order_stores_become_visible_in_a_copy_is_all_of_one_css_and_nothing_counts_twice() {
    let read = explore(&steps(), &loads()).expect("the protocol holds");
    assert_eq!(read, HashSet::from([1, 2, 3]), "each can be read");
}

#[test]
fn every_step_of_a_takeover_is_needed_where_it_is() {
    let right = steps();
    for left_out in 0..right.len() {
        let mut wrong = right.clone();
        wrong.remove(left_out);
        let fault = explore(&wrong, &loads()).expect_err(&format!("{wrong:?}"));
        println!("without {:?} ({left_out}): {fault}", right[left_out]);
    }
    for moved in 1..right.len() {
        let mut wrong = right.clone();
        wrong.swap(moved - 1, moved);
        let fault = explore(&wrong, &loads()).expect_err(&format!("{wrong:?}"));
        println!("{wrong:?}: {fault}");
    }
}

#[test]
fn every_barrier_and_the_second_look_of_a_reader_are_needed() {
    let right = loads();
    let barriers = (0..right.len()).filter(|i| right[*i].is_none());
    for barrier in barriers {
        let mut wrong = right.clone();
        wrong.remove(barrier);
        let fault = explore(&steps(), &wrong).expect_err(&format!("{wrong:?}"));
        println!("without the barrier at {barrier}: {fault}");
    }
    // The reader takes its second look with the first.
    let mut wrong = right.clone();
    let last = wrong.pop().expect("a load");
    let first = wrong.iter().position(|load| *load == last);
    wrong.insert(first.expect("the first look"), last);
    let fault = explore(&steps(), &wrong).expect_err("a look too early");
    println!("without a second look: {fault}");
}

#[test]
fn a_takeover_without_order_mixes_css() {
    let unordered = [Step::Retire, Step::Clear, Step::Open];
    let fault = explore(&unordered, &loads()).expect_err("it is the fault this is about");
    println!("{fault}");
}
