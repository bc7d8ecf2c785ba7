//! A FUSE file system that hangs on command. It speaks the protocol over `/dev/fuse` (`include/uapi/linux/fuse.h`,
//! version 7.31), without a library.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use tempfile::TempDir;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Directories in the root (node 1), with their node numbers.
const FOLDERS: [(&[u8], u64); 2] = [(b"pods", 2), (b"containers", 3)];

/// Behaviour of the file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It answers: the root has two empty directories.
    Answers,
    /// It takes requests and answers none. A task that waits for one of these cannot be killed.
    Mute,
    /// It takes no requests. A waiting task can be killed.
    Deaf,
}

/// A mounted file system. Dropping it fails all waiting requests and unmounts it.
pub struct Fuse {
    folder: TempDir,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ends: AtomicBool,
}

/// Returns the reason why FUSE does not work here; none if it does.
pub fn unavailable() -> Option<String> {
    // SAFETY: `geteuid` has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match device {
        _ if !root => Some("mounting takes root".to_owned()),
        Ok(_) => None,
        Err(error) => Some(format!("/dev/fuse: {error}")),
    }
}

impl Fuse {
    pub fn mount(state: State) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("the FUSE device");
        mount(folder.path(), &device);
        let shared = Arc::new(Shared {
            // Mounting needs answers, whatever state comes later.
            state: Mutex::new(State::Answers),
            changed: Condvar::new(),
            ends: AtomicBool::new(false),
        });
        let request = receive(&mut device).expect("the first request");
        assert_eq!(request.opcode, INIT);
        let mut body = Vec::new();
        for word in [7_u32, 31, 0, 0] {
            body.extend(word.to_ne_bytes());
        }
        body.resize(64, 0);
        reply(&mut device, request.unique, 0, &body);
        *shared.state.lock().unwrap() = state;
        let its = Arc::clone(&shared);
        let server = thread::spawn(move || its.serve(device));
        Self {
            folder,
            shared,
            server: Some(server),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn set(&self, state: State) {
        *self.shared.state.lock().unwrap() = state;
        self.shared.changed.notify_all();
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        let path = CString::new(self.folder.path().as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: the path is a C string.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        // The thread closes the device at its end, and the kernel fails the open requests (`fuse_dev_release`).
        let _ = self.server.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn serve(&self, mut device: File) {
        let mut held = Vec::new();
        while !self.ends.load(Ordering::Acquire) {
            let state = *self.state.lock().unwrap();
            if state == State::Deaf {
                let state = self.state.lock().unwrap();
                if *state == State::Deaf && !self.ends.load(Ordering::Acquire) {
                    let moment = std::time::Duration::from_millis(100);
                    drop(self.changed.wait_timeout(state, moment));
                }
                continue;
            }
            if state == State::Answers {
                for request in held.drain(..) {
                    answer(&mut device, &request);
                }
            }
            if !readable(&device) {
                continue;
            }
            match receive(&mut device) {
                Some(request) if state == State::Answers => answer(&mut device, &request),
                Some(request) => held.push(request),
                None => return,
            }
        }
    }
}

fn mount(path: &Path, device: &File) {
    let text = |text: &str| CString::new(text).expect("no zero byte");
    let target = CString::new(path.as_os_str().as_encoded_bytes()).expect("no zero byte");
    let options = text(&format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    ));
    let (source, kind) = (text("stallscope-test"), text("fuse"));
    // SAFETY: all texts end with a zero byte and live until the call is over.
    let mounted = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    };
    assert_eq!(mounted, 0, "mount: {}", std::io::Error::last_os_error());
}

/// Returns whether a request comes within 50 ms.
fn readable(device: &File) -> bool {
    let mut poll = libc::pollfd {
        fd: device.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which lives until the call is over.
    unsafe { libc::poll(&raw mut poll, 1, 50) > 0 }
}

struct Request {
    opcode: u32,
    unique: u64,
    node: u64,
    body: Vec<u8>,
}

/// Reads a request; none once the file system is unmounted.
fn receive(device: &mut File) -> Option<Request> {
    let mut bytes = vec![0; 1 << 17];
    let length = device.read(&mut bytes).ok()?;
    let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    Some(Request {
        opcode: u32_at(4),
        unique: u64_at(8),
        node: u64_at(16),
        body: bytes[40..length].to_vec(),
    })
}

fn reply(device: &mut File, unique: u64, error: i32, body: &[u8]) {
    let mut bytes = Vec::new();
    bytes.extend((16 + body.len() as u32).to_ne_bytes());
    bytes.extend((-error).to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(body);
    // The task that asked may have been killed.
    let _ = device.write(&bytes);
}

fn answer(device: &mut File, request: &Request) {
    let (error, body) = match request.opcode {
        FORGET | BATCH_FORGET | INTERRUPT => return,
        GETATTR => {
            // The answer is valid for no time, so that the next look asks again.
            let mut body = vec![0; 16];
            body.extend(attributes(request.node));
            (0, body)
        }
        LOOKUP => {
            let name = request.body.split(|byte| *byte == 0).next();
            let found = FOLDERS.iter().find(|(folder, _)| Some(*folder) == name);
            match found {
                Some((_, node)) => {
                    let mut body = node.to_ne_bytes().to_vec();
                    body.resize(40, 0);
                    body.extend(attributes(*node));
                    (0, body)
                }
                None => (libc::ENOENT, Vec::new()),
            }
        }
        OPENDIR => (0, vec![0; 16]),
        READDIR | RELEASEDIR => (0, Vec::new()),
        _ => (libc::ENOSYS, Vec::new()),
    };
    reply(device, request.unique, error, &body);
}

/// Returns the attributes of a directory (`struct fuse_attr`).
fn attributes(node: u64) -> Vec<u8> {
    let mut bytes = node.to_ne_bytes().to_vec();
    bytes.resize(60, 0);
    bytes.extend((libc::S_IFDIR | 0o755).to_ne_bytes());
    bytes.extend(2_u32.to_ne_bytes());
    bytes.resize(88, 0);
    bytes
}

/// Runs a test in its own mount namespace, so that others do not see its mounts, which go with it.
pub fn apart(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let own = scope.spawn(|| {
            // SAFETY: only this thread's view of the mounts changes.
            let outcome = unsafe { libc::unshare(libc::CLONE_NEWNS) };
            assert_eq!(outcome, 0, "unshare: {}", std::io::Error::last_os_error());
            let none = c"none".as_ptr();
            let flags = libc::MS_REC | libc::MS_PRIVATE;
            // SAFETY: the texts are constants, and there is no data.
            let outcome = unsafe {
                libc::mount(
                    none,
                    c"/".as_ptr(),
                    std::ptr::null(),
                    flags,
                    std::ptr::null(),
                )
            };
            assert_eq!(outcome, 0, "mount: {}", std::io::Error::last_os_error());
            test();
        });
        if let Err(panic) = own.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
