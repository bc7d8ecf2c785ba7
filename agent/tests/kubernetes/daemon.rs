//! A containerd for the tests: configuration, data, state and socket are in a temporary folder.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    cri::{Cri, Empty, FindImage, FoundImage, Image, Version},
    image,
};

/// Image of a pod's sandbox.
const PAUSE: &str = "localhost/stallscope-test/pause:1";
/// Image of a workload: a shell.
pub const SHELL: &str = "localhost/stallscope-test/shell:1";

/// A running containerd. Dropping it ends the daemon and everything it left behind. Remove pods before.
pub struct Containerd {
    child: Child,
    folder: PathBuf,
    programs: PathBuf,
}

/// Returns the reason why tests with a container runtime cannot run here. `cargo xtask test` sets it.
pub fn unavailable() -> Option<String> {
    env::var("STALLSCOPE_TEST_NO_RUNTIME").ok()
}

fn given(variable: &str) -> PathBuf {
    let value = env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} is not set: start this test with `cargo xtask test pods`")
    });
    PathBuf::from(value)
}

impl Containerd {
    /// Starts containerd in a folder and waits until it answers.
    pub fn start(folder: &Path) -> Self {
        let programs = given("STALLSCOPE_TEST_RUNTIME");
        let config = folder.join("containerd.toml");
        fs::write(&config, configuration(folder, &programs)).expect("the folder takes files");
        let log = fs::File::create(folder.join("containerd.log")).expect("a log");
        let mut command = Command::new(programs.join("containerd"));
        command
            .arg("--config")
            .arg(config)
            .env("PATH", path(&programs))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        // SAFETY: between fork and exec it only makes a system call.
        unsafe {
            command.pre_exec(|| {
                // The signal keeps it from outliving a killed test.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let mut daemon = Self {
            child: command.spawn().expect("containerd starts"),
            folder: folder.to_owned(),
            programs,
        };
        daemon.wait();
        daemon
    }

    /// Returns the path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// Connects to it.
    pub fn connect(&self) -> Cri {
        Cri::connect(&self.socket()).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("containerd.log")).unwrap_or_default()
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = Cri::connect(&self.socket()).and_then(|cri| {
                cri.call::<Version>("RuntimeService/Version", Empty {})
                    .map_err(|error| error.to_string())
            });
            match answer {
                Ok(version) => {
                    println!("{} {}", version.runtime_name, version.runtime_version);
                    return;
                }
                Err(error) => {
                    let ended = self.child.try_wait().ok().flatten();
                    assert!(
                        ended.is_none() && Instant::now() < deadline,
                        "containerd does not answer ({error}, {ended:?}):\n{}",
                        self.log()
                    );
                }
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Makes the images of the sandbox and the workloads.
    pub fn make_images(&self) {
        let busybox = self.programs.join("busybox");
        for (name, command) in [
            (PAUSE, &["/bin/sleep", "100000"][..]),
            (SHELL, &["/bin/sh", "-c"]),
        ] {
            let archive = self.folder.join("image.tar");
            image::write(&archive, name, &busybox, command).expect("an image can be written");
            self.import(&archive, name);
        }
    }

    /// Imports the agent's image and returns its name.
    pub fn import_agent(&self) -> String {
        let name = concat!("localhost/stallscope:", env!("CARGO_PKG_VERSION"));
        self.import(&given("STALLSCOPE_TEST_IMAGE"), name);
        name.to_owned()
    }

    fn import(&self, archive: &Path, name: &str) {
        let import = Command::new(self.programs.join("ctr"))
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(archive)
            .output()
            .expect("ctr starts");
        assert!(
            import.status.success(),
            "{} is not imported: {}",
            archive.display(),
            String::from_utf8_lossy(&import.stderr)
        );
        let cri = self.connect();
        let deadline = Instant::now() + Duration::from_secs(20);
        // The runtime learns of the image through an event.
        loop {
            let image = Some(Image {
                image: name.to_owned(),
            });
            let found: FoundImage = cri
                .call("ImageService/ImageStatus", FindImage { image })
                .expect("the runtime can be asked for images");
            if found.image.is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is not found");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        signal(self.child.id(), libc::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            sleep(Duration::from_millis(20));
        }
        // Pods that could not be removed leave shims, which are killed first, then the containers.
        for pid in shims(&self.folder) {
            signal(pid, libc::SIGKILL);
        }
        for mount in mounts_below(&self.folder) {
            unmount(&mount);
        }
    }
}

fn path(programs: &Path) -> std::ffi::OsString {
    let others = env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(programs.to_owned()).chain(env::split_paths(&others));
    env::join_paths(all).expect("PATH can be lengthened")
}

fn configuration(folder: &Path, programs: &Path) -> String {
    let (folder, programs) = (folder.display(), programs.display());
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  # This process may lack CAP_SYS_RESOURCE, and this machine AppArmor.
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{programs}/runc"
      # Others' runtimes keep what they know of containers in one folder of the host.
      Root = "{folder}/runc"
      SystemdCgroup = false
"#
    )
}

fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a pid fits");
    // SAFETY: kill(2) has no preconditions.
    unsafe { libc::kill(pid, signal) };
}

/// Returns the shims of the runtime in this folder, which watch over its containers.
fn shims(folder: &Path) -> Vec<u32> {
    let socket = folder.join("containerd.sock").display().to_string();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split('\0');
            words.next().is_some_and(|name| name.contains("shim"))
                && words.any(|word| word == socket)
        })
        .collect()
}

/// Returns the mount points below a folder, innermost first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    let below: BTreeSet<PathBuf> = points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect();
    below.into_iter().rev().collect()
}

fn unmount(mount: &Path) {
    if let Err(error) = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH) {
        println!("{} stays mounted: {error}", mount.display());
    }
}
