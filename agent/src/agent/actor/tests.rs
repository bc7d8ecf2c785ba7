//! Tests of the thread with a double in place of the agent.

use std::sync::mpsc;

use super::*;

/// Longer than anything in these tests takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

/// A double that does at each look what it is ordered to, and counts the looks.
struct Double {
    orders: mpsc::Receiver<Order>,
    looks: mpsc::Sender<()>,
    ready: Result<(), String>,
    counted: u64,
    ended: Option<String>,
}

enum Order {
    Wait(mpsc::Receiver<()>),
    Panic,
    Count,
    End,
}

impl Looks for Double {
    fn look(&mut self) {
        match self.orders.try_recv() {
            Ok(Order::Wait(gate)) => {
                at(|| "reading a file that hangs");
                let _ = self.looks.send(());
                let _ = gate.recv();
            }
            Ok(Order::Panic) => panic!("out of range"),
            Ok(Order::Count) => self.counted += 1,
            Ok(Order::End) => self.ended = Some("its source is gone".to_owned()),
            Err(_) => {}
        }
        let _ = self.looks.send(());
    }

    fn next(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn changes(&self) -> Option<AsyncFd<OwnedFd>> {
        None
    }

    fn follows_changes(&self) -> bool {
        false
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.clone()
    }

    fn version(&self) -> String {
        self.counted.to_string()
    }

    fn status(&self) -> Value {
        serde_json::json!({"counted": self.counted})
    }

    fn ended(&self) -> Option<String> {
        self.ended.clone()
    }
}

struct Started {
    handle: Handle<Double>,
    ended: oneshot::Receiver<String>,
    order: mpsc::Sender<Order>,
    looks: mpsc::Receiver<()>,
}

impl Started {
    fn new() -> Self {
        let (order, orders) = mpsc::channel();
        let (look, looks) = mpsc::channel();
        let double = Double {
            orders,
            looks: look,
            ready: Err("not yet".to_owned()),
            counted: 0,
            ended: None,
        };
        let (handle, ended) = start(double).expect("a thread");
        Self {
            handle,
            ended,
            order,
            looks,
        }
    }

    /// Waits until a look has begun to hang. Dropping the returned sender lets the look go on.
    fn hang(&self) -> mpsc::Sender<()> {
        let (go, gate) = mpsc::channel();
        self.order.send(Order::Wait(gate)).expect("it looks");
        let deadline = Instant::now() + LONG;
        while !self.is_at("reading a file that hangs") {
            assert!(Instant::now() < deadline, "it never hangs");
            let _ = self.looks.recv_timeout(Duration::from_millis(10));
        }
        go
    }

    fn is_at(&self, what: &str) -> bool {
        let at = self.handle.copy.place.get();
        at.is_some_and(|at| at.what == what)
    }
}

#[test]
fn it_answers_between_looks_and_leaves_a_copy_behind() {
    let started = Started::new();
    let handle = &started.handle;
    assert_eq!(handle.ready(), Err("not yet".to_owned()));
    let answer = handle.ask("changing", LONG, |double| {
        double.ready = Ok(());
        double.counted = 7;
        double.counted
    });
    assert_eq!(answer, Ok(7));
    // A second question is answered only after the copy was published again.
    assert_eq!(handle.ask("waiting", LONG, |_| ()), Ok(()));
    assert_eq!((handle.health(), handle.ready()), (Ok(()), Ok(())));
    let status = handle.status();
    assert_eq!(status["counted"], 7);
    assert!(status["last_look_age_seconds"].is_number(), "{status}");
}

#[test]
fn while_it_hangs_nobody_waits_for_long_and_the_copy_says_why() {
    let started = Started::new();
    let handle = &started.handle;
    let go = started.hang();
    // Meanwhile questions time out, and are refused at once when the queue is full.
    for _ in 0..WAITING + 3 {
        let answer = handle.ask("asking", Duration::from_millis(1), |_| ());
        let Err(NoAnswer::Late(why)) = answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains("it is reading a file that hangs for"), "{why}");
    }
    assert_eq!(handle.status()["counted"], 0);
    let now = Instant::now();
    let why = handle.health_at(now + STALE).expect_err("stale");
    assert!(
        why.contains("its last look at the host was") && why.contains("a file that hangs"),
        "{why}"
    );
    // The thread recovers by itself, and skips the jobs whose callers have given up.
    drop(go);
    let deadline = Instant::now() + LONG;
    while handle.ask("asking", LONG, |double| double.counted) != Ok(0) {
        assert!(Instant::now() < deadline, "there is room again");
    }
    assert_eq!(handle.health(), Ok(()));
}

#[test]
fn an_answer_that_panics_is_one_and_the_thread_goes_on() {
    let started = Started::new();
    let handle = &started.handle;
    let answer = handle.ask("answering", LONG, |_| panic!("no such place"));
    let expected = "answering failed: no such place".to_owned();
    assert_eq!(answer, Err::<(), _>(NoAnswer::Failed(expected)));
    assert_eq!(handle.ask("counting", LONG, |double| double.counted), Ok(0));
}

#[test]
fn a_look_that_panics_ends_the_thread_and_says_so() {
    let Started {
        handle,
        ended,
        order,
        looks: _looks,
    } = Started::new();
    order.send(Order::Panic).expect("it looks");
    let why = ended.blocking_recv().expect("a reason");
    assert_eq!(why, "it panicked: out of range");
    let answer = handle.ask("asking", LONG, |_| ());
    assert!(matches!(answer, Err(NoAnswer::Failed(_))), "{answer:?}");
}

#[test]
fn it_ends_with_a_part_without_which_it_is_of_no_use() {
    let started = Started::new();
    started.order.send(Order::Count).expect("it looks");
    started.order.send(Order::End).expect("it looks");
    let why = started.ended.blocking_recv();
    assert_eq!(why.as_deref(), Ok("its source is gone"));
    assert_eq!(started.handle.status()["counted"], 1);
}
