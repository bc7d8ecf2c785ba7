//! The first process of a virtual machine of the lab. It makes a usable system of a bare kernel,
//! does what the kernel's command line asks for, and switches the machine off.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io::Write as _,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
    system::{RebootCommand, finit_module, reboot},
};

use crate::{agent_process::Served, task::system};

/// Folder that xtask packs into the machine.
const FOLDER: &str = "/lab";
/// Begins each line that is for xtask and not for the reader.
const MARK: &str = "@lab";
/// Address of the agent in the modes `shell` and `exec`.
const LISTEN: &str = "0.0.0.0:9750";

/// Runs as process 1; does not return.
pub fn run() -> ! {
    let done = serve();
    if let Err(error) = &done {
        println!("{MARK} error {error:#}");
    }
    println!("{MARK} exit {}", done.unwrap_or(125));
    let _ = std::io::stdout().flush();
    // With the power the console would lose what it still has to send.
    // SAFETY: waits for a descriptor of our own.
    unsafe { libc::tcdrain(1) };
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

/// Order on the kernel's command line.
#[derive(Debug, Default, Eq, PartialEq)]
struct Order {
    mode: String,
    v1: bool,
    tests: Vec<String>,
}

impl Order {
    fn parse(cmdline: &str) -> Self {
        let mut order = Self::default();
        for word in cmdline.split_whitespace() {
            if let Some(mode) = word.strip_prefix("lab.mode=") {
                mode.clone_into(&mut order.mode);
            } else if let Some(version) = word.strip_prefix("lab.cgroup=") {
                order.v1 = version == "v1";
            } else if let Some(tests) = word.strip_prefix("lab.tests=") {
                order.tests = tests.split(',').map(str::to_owned).collect();
            }
        }
        order
    }
}

fn serve() -> Result<i32> {
    mounts()?;
    let cmdline = fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    let order = Order::parse(&cmdline);
    // From here on the console is for the lab's own messages.
    let _ = fs::write("/proc/sys/kernel/printk", "1 4 1 7");
    if order.v1 {
        cgroup_v1()?;
    } else {
        cgroup_v2()?;
    }
    modules()?;
    network()?;
    println!("{MARK} booted");
    match order.mode.as_str() {
        "shell" => shell(),
        "exec" => exec(),
        _ => truths(&order.tests),
    }
}

fn mounts() -> Result<()> {
    for (folder, kind) in [
        ("/proc", c"proc"),
        ("/sys", c"sysfs"),
        ("/dev", c"devtmpfs"),
        ("/tmp", c"tmpfs"),
        ("/run", c"tmpfs"),
    ] {
        put(folder, kind, c"")?;
    }
    for (folder, kind) in [
        ("/sys/kernel/debug", c"debugfs"),
        ("/sys/kernel/tracing", c"tracefs"),
        ("/sys/fs/bpf", c"bpf"),
    ] {
        // Kernels differ in which of these they have.
        let _ = put(folder, kind, c"");
    }
    Ok(())
}

fn put(folder: &str, kind: &CStr, options: &CStr) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
    let said = kind.to_string_lossy().into_owned();
    mount(kind, folder, kind, MountFlags::empty(), options)
        .with_context(|| format!("cannot mount {said} on {folder}"))
}

fn cgroup_v2() -> Result<()> {
    let root = "/sys/fs/cgroup";
    put(root, c"cgroup2", c"")?;
    // Not cpuset: up to 6.1 a task that enters a cgroup of it loses its affinity.
    for controller in ["cpu", "memory", "io"] {
        let file = format!("{root}/cgroup.subtree_control");
        fs::write(&file, format!("+{controller}"))
            .with_context(|| format!("cannot enable {controller} in {file}"))?;
    }
    Ok(())
}

fn cgroup_v1() -> Result<()> {
    let root = "/sys/fs/cgroup";
    put(root, c"tmpfs", c"")?;
    for (name, controllers) in [
        ("cpu,cpuacct", c"cpu,cpuacct"),
        ("memory", c"memory"),
        ("cpuset", c"cpuset"),
    ] {
        let folder = format!("{root}/{name}");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
        let flags = MountFlags::empty();
        let mounted = mount(c"cgroup", &folder, c"cgroup", flags, controllers);
        if mounted == Err(Errno::INVAL) && name != "cpu,cpuacct" {
            println!("this kernel has no {name} controller for cgroup v1");
            fs::remove_dir(&folder).with_context(|| format!("cannot remove {folder}"))?;
            continue;
        }
        mounted.with_context(|| format!("cannot mount the cgroup v1 hierarchy {name}"))?;
    }
    Ok(())
}

/// Loads the modules that xtask packed, in the order of their names.
fn modules() -> Result<()> {
    let folder = Path::new(FOLDER).join("modules");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for path in files {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        finit_module(file.as_fd(), c"", 0)
            .with_context(|| format!("cannot load {}", path.display()))?;
    }
    Ok(())
}

/// Brings the loopback device up, and a network card if there is one.
fn network() -> Result<()> {
    busybox(&["ifconfig", "lo", "127.0.0.1", "up"])?;
    if Path::new("/sys/class/net/eth0").exists() {
        // Address that QEMU's user network gives its only guest.
        busybox(&[
            "ifconfig",
            "eth0",
            "10.0.2.15",
            "netmask",
            "255.255.255.0",
            "up",
        ])?;
    }
    Ok(())
}

fn busybox(words: &[&str]) -> Result<()> {
    let status = Command::new("/bin/busybox")
        .args(words)
        .stdin(Stdio::null())
        .status()
        .context("cannot start busybox")?;
    anyhow::ensure!(status.success(), "busybox {} failed: {status}", words[0]);
    Ok(())
}

fn agent() -> PathBuf {
    Path::new(FOLDER).join("stallscope")
}

fn truths(tests: &[String]) -> Result<i32> {
    let mut command = Command::new("/init");
    command.args(["truths", "--guest", "--json", "--agent"]);
    command.arg(agent());
    for test in tests {
        command.args(["--test", test]);
    }
    waited(&mut command)
}

fn exec() -> Result<i32> {
    let folder = Path::new(FOLDER).join("exec");
    let name = fs::read_to_string(Path::new(FOLDER).join("exec-first"))
        .context("nothing was packed to be run")?;
    let _agent = Served::start(&agent(), LISTEN, Path::new("/tmp/stallscope.log"), &[])?;
    println!("{MARK} output");
    let status = waited(
        Command::new(folder.join(name.trim()))
            .current_dir(&folder)
            .env("STALLSCOPE_URL", "http://127.0.0.1:9750"),
    );
    println!("\n{MARK} output-end");
    status
}

fn shell() -> Result<i32> {
    let log = "/tmp/stallscope.log";
    println!("the agent attaches its probes ...");
    let _agent = Served::start(&agent(), LISTEN, Path::new(log), &[])?;
    println!(
        "Stallscope runs: try `stallscope status`, `stallscope topology`,\n\
         `wget -qO- 127.0.0.1:9750/metrics | grep stall_seconds`. Its log is {log}.\n\
         `stallscope-lab truths --list` names what can be made to happen; `exit` switches off."
    );
    let terminal = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let terminal = terminal.split_whitespace().last().unwrap_or("console");
    let path = CString::new(format!("/dev/{terminal}"))?;
    let mut command = Command::new("/bin/sh");
    command
        .arg("-l")
        .current_dir("/root")
        .env("HOME", "/root")
        .env("TERM", "vt100")
        .env("PS1", "lab# ");
    // SAFETY: between fork and exec it only makes system calls.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            let fd = libc::open(path.as_ptr(), libc::O_RDWR);
            (0..3).for_each(|to| {
                libc::dup2(fd, to);
            });
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    waited(&mut command)
}

/// Waits for a child, and for every orphan that becomes process 1's meanwhile.
fn waited(command: &mut Command) -> Result<i32> {
    command.env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin:/lab");
    let child = command.spawn().with_context(|| {
        let program = command.get_program().to_string_lossy().into_owned();
        format!("cannot start {program}; a program has to be static, or a script for /bin/sh")
    })?;
    let child = libc::pid_t::try_from(child.id()).context("a pid fits")?;
    loop {
        let mut status = 0;
        // SAFETY: room for the status of any child.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        system(pid).context("cannot wait for children")?;
        if pid == child {
            let status = <ExitStatus as std::os::unix::process::ExitStatusExt>::from_raw(status);
            return Ok(exit_code(status));
        }
    }
}

/// Exit code as shells have it: 128 and the signal.
fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn the_order_is_read_from_among_the_kernels_own_words() {
        let order = Order::parse("console=ttyAMA0 lab.mode=truths lab.tests=a,b lab.cgroup=v1");
        let expected = Order {
            mode: "truths".to_owned(),
            v1: true,
            tests: vec!["a".to_owned(), "b".to_owned()],
        };
        assert_eq!(order, expected);
        assert_eq!(Order::parse("quiet"), Order::default());
    }
}
