use super::*;
use crate::exposition::{Encoder, Format};

/// Longer than anything here takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

fn reads() -> (Registry, Reads) {
    let registry = Registry::new();
    let reads = Reads::register(&registry).unwrap();
    (registry, reads)
}

fn exports(registry: &Registry, line: &str) -> bool {
    let mut encoder = Encoder::new(Format::Text, bytes::BytesMut::new());
    encoder.registry(registry);
    let text = String::from_utf8(encoder.finish().to_vec()).unwrap();
    text.lines().any(|exported| exported == line)
}

#[test]
fn what_answers_is_waited_for() {
    let (_, reads) = reads();
    let reader = reads.reader("test", LONG);
    assert_eq!(reader.ask("/a".to_owned(), || 1), Ok(1));
    let name = reader.ask("/b".to_owned(), || {
        thread::current().name().map(str::to_owned)
    });
    assert_eq!(name, Ok(Some("read-test".to_owned())));
}

#[test]
fn what_hangs_is_given_up_once_named_and_asked_again_when_it_answers() {
    let (registry, reads) = reads();
    let reader = reads.reader("test", Duration::from_millis(20));
    let (go, gate) = channel::<()>();
    let (thread, gone) = channel();
    let hung = reader.ask("/mnt".to_owned(), move || {
        at(|| "/mnt/hung/file");
        let _ = thread.send(thread::current().id());
        let _ = gate.recv();
    });
    let why = hung.unwrap_err().to_string();
    assert!(
        why.starts_with("/mnt/hung/file has not answered for"),
        "{why}"
    );
    // Nobody waits for it any more, and no thread is started in its place.
    for _ in 0..100 {
        let refused = reader.ask("/mnt".to_owned(), || ()).unwrap_err();
        assert!(refused.to_string().contains("/mnt/hung/file"), "{refused}");
    }
    assert!(exports(
        &registry,
        "stallscope_read_timeouts_total{what=\"test\"} 1"
    ));
    assert!(exports(
        &registry,
        "stallscope_reads_hanging{what=\"test\"} 1"
    ));
    drop(go);
    let deadline = Instant::now() + LONG;
    while reader.late().is_some() {
        assert!(Instant::now() < deadline, "it goes on by itself");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(exports(
        &registry,
        "stallscope_reads_hanging{what=\"test\"} 0"
    ));
    let again = reader.begin("/mnt".to_owned(), || thread::current().id());
    let again = again.unwrap().recv_timeout(LONG);
    assert_eq!(again, Ok(gone.recv().unwrap()), "the same thread");
}

#[test]
fn work_that_nobody_waits_for_is_found_to_hang() {
    let (registry, reads) = reads();
    let watched = reads.watch("audit", LONG);
    let (go, gate) = channel::<()>();
    let (begun, begins) = channel();
    let work = thread::spawn({
        let watched = Arc::clone(&watched);
        move || {
            watched.work("/host".to_owned(), || {
                at(|| "/host/proc/version");
                begun.send(()).unwrap();
                let _ = gate.recv();
            })
        }
    });
    begins.recv().unwrap();
    reads.check(Instant::now());
    assert_eq!(watched.late(), None);
    let later = Instant::now() + LONG;
    for _ in 0..3 {
        reads.check(later);
    }
    let late = watched.late().expect("it hangs").to_string();
    assert!(late.starts_with("/host/proc/version has not"), "{late}");
    assert!(exports(
        &registry,
        "stallscope_read_timeouts_total{what=\"audit\"} 1"
    ));
    drop(go);
    assert_eq!(work.join().unwrap(), Some(()));
    assert_eq!(watched.late(), None);
}

#[test]
fn what_panics_is_no_answer_and_the_thread_goes_on() {
    let (_, reads) = reads();
    let reader = reads.reader("test", LONG);
    let failed = reader.ask("/a".to_owned(), || panic!("out of range"));
    assert!(
        failed
            .unwrap_err()
            .to_string()
            .contains("see the agent's log")
    );
    assert_eq!(reader.ask("/a".to_owned(), || 2), Ok(2));
}

#[test]
fn a_single_thing_is_left_behind() {
    let (_go, gate) = channel::<()>();
    let hung = once("/a".to_owned(), Duration::from_millis(20), move || {
        at(|| "/a/b");
        let _ = gate.recv();
    });
    assert!(hung.unwrap_err().to_string().starts_with("/a/b has not"));
    assert_eq!(once("/a".to_owned(), LONG, || 3), Ok(3));
}
