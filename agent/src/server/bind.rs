//! Listening, with errors that name the remedy.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::{TcpListener, TcpSocket};

/// Maximum number of connections that the kernel queues until they are accepted; `net.core.somaxconn` may allow fewer.
const BACKLOG: u32 = 1024;

/// Size of the kernel's send buffer for a client, in bytes; the kernel takes twice as much memory (socket(7),
/// `SO_SNDBUF`).
const SEND_BUFFER: u32 = 128 << 10;

/// Reason why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is malformed.
    #[error(
        "cannot listen on {given:?}: expected ADDR:PORT, such as 127.0.0.1:9090 or [::1]:9090{hint}"
    )]
    Syntax {
        /// The address as given.
        given: String,
        /// The address that was probably meant.
        hint: String,
    },
    /// Another process listens there.
    #[error(
        "cannot listen on {address}: the port is in use{}; choose another with --listen ADDR:PORT",
        holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
    )]
    InUse {
        /// The requested address.
        address: SocketAddr,
        /// The process that listens, if the agent can see it.
        holder: Option<Holder>,
    },
    /// The port is privileged and the agent is not.
    #[error(
        "cannot listen on {address}: ports below {first} need CAP_NET_BIND_SERVICE; choose a higher one with --listen \
         ADDR:PORT"
    )]
    Privileged {
        /// The requested address.
        address: SocketAddr,
        /// The first port that needs no privilege.
        first: u16,
    },
    /// No interface of this host has the address.
    #[error(
        "cannot listen on {address}: this host has no such address; 0.0.0.0 or [::] stands for all that it has"
    )]
    NotHere {
        /// The requested address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}")]
    Other {
        /// The requested address.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The process that listens on a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name, as `ps -o comm` shows it.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// Listens on `ADDR:PORT`. Must be called within a runtime that has I/O enabled.
///
/// # Errors
///
/// Fails if the address is malformed, in use, not this host's, or not permitted to this process.
pub fn bind(addr: &str) -> Result<TcpListener, BindError> {
    let address: SocketAddr = addr.parse().map_err(|_| BindError::Syntax {
        given: addr.to_owned(),
        hint: hint(addr),
    })?;
    let other = |source| BindError::Other { address, source };
    // The conversion would panic outside a runtime.
    tokio::runtime::Handle::try_current().map_err(|error| other(io::Error::other(error)))?;
    listen(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse {
            address,
            holder: holder(address.port()),
        },
        io::ErrorKind::PermissionDenied => BindError::Privileged {
            address,
            first: first_free_port(),
        },
        io::ErrorKind::AddrNotAvailable => BindError::NotHere { address },
        _ => other(error),
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Lets the next agent bind the port as soon as this one ends.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit the size. Otherwise the kernel takes up to 4 MiB for each client that does not read
    // (tcp(7), `tcp_wmem`).
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Returns a hint at the address that was probably meant.
fn hint(given: &str) -> String {
    let meant = match given.rsplit_once(':') {
        None if given.parse::<u16>().is_ok() => format!("0.0.0.0:{given}"),
        Some((_, port)) if port.parse::<u16>().is_err() => {
            return if given.parse::<std::net::IpAddr>().is_ok() {
                format!("; did you mean [{given}]:9090?")
            } else {
                "; the port is a number up to 65535".to_owned()
            };
        }
        Some(("", port)) => format!("0.0.0.0:{port} or [::]:{port}"),
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            format!("[{address}]:{port}")
        }
        Some(_) => return "; names are not looked up".to_owned(),
        None => return "; the port is missing".to_owned(),
    };
    format!("; did you mean {meant}?")
}

fn first_free_port() -> u16 {
    let limit = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    limit
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// Finds the process that listens on a port. Best effort: without privilege others' descriptors are hidden, and
/// processes of other PID namespaces always are.
fn holder(port: u16) -> Option<Holder> {
    let sockets: Vec<PathBuf> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]").into())
        .collect();
    if sockets.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let path = process.path();
        let mut descriptors = fs::read_dir(path.join("fd")).ok()?.flatten();
        let holds = descriptors
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| sockets.contains(&target)));
        let command = fs::read_to_string(path.join("comm"))
            .unwrap_or_default()
            .trim_end()
            .to_owned();
        holds.then_some(Holder { pid, command })
    })
}

/// Returns the inodes of the sockets that listen on a port, from the text of `/proc/net/tcp` or `tcp6`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (_, local_port) = fields.next()?.rsplit_once(':')?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        (state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port)).then_some(inode)
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_port_and_state() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 28541 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 18123 1 0 100 0 0 10 0
   2: 0100007F:2382 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000     0        0 99999 1 0 100 0 0 10 0
   3: torn
";
        assert_eq!(listening_inodes(table, 9090), [28541]);
        assert_eq!(listening_inodes(table, 9091), [0; 0]);
    }

    #[test]
    fn hints_say_what_was_meant() {
        for (given, expected) in [
            ("9090", "0.0.0.0:9090"),
            (":9090", "[::]:9090"),
            ("localhost:9090", "127.0.0.1:9090"),
            ("::1:9090", "[::1]:9090"),
            ("127.0.0.1", "port is missing"),
            ("127.0.0.1:http", "port is a number"),
            ("127.0.0.1:99999", "port is a number"),
            ("fe80::abcd", "[fe80::abcd]:9090"),
            ("node-1:9090", "not looked up"),
            ("", "port is missing"),
        ] {
            assert!(hint(given).contains(expected), "{given}: {}", hint(given));
        }
    }
}
