//! Open connections, and the choice of those to close when there is no room.
//!
//! A connection *waits* between its requests, and is *busy* from a request's head until its client has taken the whole
//! answer. Both numbers are bounded. For one more waiting connection, the server closes the one that has waited
//! longest, of the peer with most of them. It refuses one more request. Requests for health are never counted as busy,
//! so that clients, idle or busy and however many, cannot keep a probe out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use super::metrics::Own;

/// A client as limits see it: addresses that one party can use at will are one peer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Peer(IpAddr);

impl Peer {
    /// Returns the peer of a connection from `remote` to `local`.
    ///
    /// This host is one peer: all of 127.0.0.0/8 is its own, and it reaches each of its addresses from that address. An
    /// IPv6 network of 64 bits is one peer too, since that is the least that a site is given (RFC 6177).
    pub(super) fn new(remote: IpAddr, local: Option<IpAddr>) -> Self {
        let remote = remote.to_canonical();
        let own = local.is_some_and(|local| local.to_canonical() == remote);
        Self(match remote {
            remote if own || remote.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V4(_) => remote,
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
        })
    }
}

/// Reason why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// Its peer has the maximum number of requests under way.
    Peer,
    /// The maximum number of requests is under way.
    Full,
    /// Its connection was closed to make room.
    Closed,
}

/// The open connections.
pub(super) struct Peers {
    limits: Limits,
    own: Own,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// The number of the next connection.
    next: u64,
    all: Vec<Line>,
}

/// An open connection.
struct Line {
    number: u64,
    peer: Peer,
    /// Start of the present wait.
    since: Instant,
    /// True while a request is being answered.
    asked: bool,
    /// True if the present request, or else the last one, counts as busy.
    counts: bool,
    /// True while the client does not take what is written to it.
    blocked: bool,
    /// Time at which the client first did not take what was written of the present answer.
    blocked_first: Option<Instant>,
    close: Arc<Notify>,
}

impl Line {
    fn busy(&self) -> bool {
        self.counts && (self.asked || self.blocked)
    }

    fn waits(&self) -> bool {
        !self.busy()
    }
}

impl Open {
    fn line(&mut self, number: u64) -> Option<&mut Line> {
        self.all.iter_mut().find(|line| line.number == number)
    }

    /// Closes the connection with the earliest `since`, of the peer that has most connections for which `since` returns
    /// one.
    fn close_first(&mut self, since: impl Fn(&Line) -> Option<Instant>) -> bool {
        let mut of_peer: HashMap<Peer, usize> = HashMap::new();
        for line in &self.all {
            if since(line).is_some() {
                *of_peer.entry(line.peer).or_default() += 1;
            }
        }
        let candidates = self.all.iter().enumerate().filter_map(|(index, line)| {
            let rank = std::cmp::Reverse(of_peer.get(&line.peer).copied());
            Some((rank, since(line)?, index))
        });
        let Some((_, _, index)) = candidates.min() else {
            return false;
        };
        let line = self.all.swap_remove(index);
        line.close.notify_one();
        true
    }
}

impl Peers {
    pub(super) fn new(limits: Limits, own: Own) -> Self {
        Self {
            limits,
            own,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; if there is no room, another one is closed for it.
    pub(super) fn arrive(self: &Arc<Self>, peer: Peer) -> Guest {
        let mut open = self.open();
        let waiting = open.all.iter().filter(|line| line.waits()).count();
        for _ in self.limits.waiting..=waiting {
            if open.close_first(|line| line.waits().then_some(line.since)) {
                self.own.evicted("waiting");
            }
        }
        let number = open.next;
        open.next += 1;
        let close = Arc::new(Notify::new());
        open.all.push(Line {
            number,
            peer,
            since: Instant::now(),
            asked: false,
            counts: false,
            blocked: false,
            blocked_first: None,
            close: Arc::clone(&close),
        });
        Guest {
            number,
            peers: Arc::clone(self),
            close,
        }
    }

    /// Closes the connection whose client has been reading its answer longest, if that exceeds [`Limits::slow_time`].
    pub(super) fn close_slowest(&self) -> bool {
        let Some(late) = Instant::now().checked_sub(self.limits.slow_time) else {
            return false;
        };
        let slow = |line: &Line| {
            line.blocked_first
                .filter(|first| line.blocked && *first <= late)
        };
        let closed = self.open().close_first(slow);
        if closed {
            self.own.evicted("slow");
        }
        closed
    }
}

/// An open connection; dropping this removes it from the peers.
pub(super) struct Guest {
    number: u64,
    peers: Arc<Peers>,
    close: Arc<Notify>,
}

impl Guest {
    /// Completes when the connection has to be closed.
    pub(super) async fn evicted(&self) {
        self.close.notified().await;
    }

    /// Begins a request. One for health is never refused for a limit.
    pub(super) fn begin(self: &Arc<Self>, health: bool) -> Result<Turn, Refused> {
        let limits = &self.peers.limits;
        let mut open = self.peers.open();
        let peer = open.line(self.number).ok_or(Refused::Closed)?.peer;
        if !health {
            let others = || {
                let busy = open.all.iter().filter(|line| line.busy());
                busy.filter(|line| line.number != self.number)
            };
            let refused =
                if others().filter(|line| line.peer == peer).count() >= limits.requests_by_peer {
                    Some((Refused::Peer, "peer"))
                } else {
                    (others().count() >= limits.requests).then_some((Refused::Full, "all"))
                };
            if let Some((refused, reason)) = refused {
                self.peers.own.refused(reason);
                return Err(refused);
            }
        }
        let line = open.line(self.number).ok_or(Refused::Closed)?;
        line.asked = true;
        // The client may still be reading the answer to an earlier request that counts.
        line.counts = !health || (line.counts && line.blocked);
        line.blocked_first = None;
        Ok(Turn(Arc::clone(self)))
    }

    /// Notes that the client does not take what is written to it. Returns when that first happened with this answer.
    pub(super) fn blocks(&self) -> Instant {
        let now = Instant::now();
        let mut open = self.peers.open();
        let Some(line) = open.line(self.number) else {
            return now;
        };
        line.blocked = true;
        *line.blocked_first.get_or_insert(now)
    }

    /// Notes that the client takes what is written to it again.
    pub(super) fn flows(&self) {
        if let Some(line) = self.peers.open().line(self.number) {
            line.blocked = false;
            line.since = Instant::now();
        }
    }

    fn end(&self) {
        if let Some(line) = self.peers.open().line(self.number) {
            line.asked = false;
            line.since = Instant::now();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut open = self.peers.open();
        open.all.retain(|line| line.number != self.number);
    }
}

/// A request under way, until its answer has been handed to the connection.
pub(super) struct Turn(Arc<Guest>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peers(limits: Limits) -> Arc<Peers> {
        let own = Own::register(&prometheus::Registry::new()).unwrap();
        Arc::new(Peers::new(limits, own))
    }

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().unwrap(), None)
    }

    fn closed(guest: &Guest) -> bool {
        guest.peers.open().line(guest.number).is_none()
    }

    fn closed_of(guests: &[Arc<Guest>]) -> Vec<bool> {
        guests.iter().map(|guest| closed(guest)).collect()
    }

    /// Makes connections of these peers, in this order, to a server that allows three to wait and two requests, one of
    /// a peer.
    fn three(addresses: [&str; 3]) -> (Arc<Peers>, Vec<Arc<Guest>>) {
        let peers = peers(Limits {
            waiting: 3,
            requests: 2,
            requests_by_peer: 1,
            slow_time: Duration::ZERO,
            ..Limits::default()
        });
        let arrive = |address| Arc::new(peers.arrive(peer(address)));
        let guests = addresses.map(arrive).into();
        (peers, guests)
    }

    #[test]
    fn who_can_have_each_others_addresses_is_one_peer() {
        for (one, other) in [
            ("127.0.0.1", "127.9.9.9"),
            ("127.0.0.1", "::1"),
            ("127.0.0.1", "::ffff:127.0.0.1"),
            ("10.0.0.1", "::ffff:10.0.0.1"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::"),
        ] {
            assert_eq!(peer(one), peer(other), "{one} {other}");
        }
        for (one, other) in [
            ("10.0.0.1", "10.0.0.2"),
            ("127.0.0.1", "10.0.0.1"),
            ("2001:db8:0:1::1", "2001:db8:0:2::1"),
        ] {
            assert_ne!(peer(one), peer(other), "{one} {other}");
        }
        let own = "10.0.0.1".parse().unwrap();
        assert_eq!(Peer::new(own, Some(own)), peer("127.0.0.1"));
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(Peer::new(mapped, Some(own)), peer("127.0.0.1"));
    }

    #[test]
    fn the_longest_idle_is_closed_for_one_more() {
        let (peers, guests) = three(["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        // The first sends a request, so that the second has waited longest.
        drop(guests[0].begin(true));
        let fourth = peers.arrive(peer("10.0.0.4"));
        assert_eq!(closed_of(&guests), [false, true, false]);
        let _fifth = peers.arrive(peer("10.0.0.4"));
        assert_eq!(closed_of(&guests), [false, true, true]);
        assert!(!closed(&fourth));
        assert_eq!(guests[1].begin(true).err(), Some(Refused::Closed));
    }

    #[test]
    fn whoever_has_most_makes_room_first() {
        let (peers, guests) = three(["10.0.0.1", "10.0.0.2", "10.0.0.2"]);
        let _fourth = peers.arrive(peer("10.0.0.3"));
        assert_eq!(closed_of(&guests), [false, true, false]);
    }

    #[test]
    fn the_busy_are_not_closed_for_those_that_wait() {
        let (peers, guests) = three(["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let turn = guests[0].begin(false).ok();
        guests[1].blocks();
        let _more = [4, 5, 6].map(|last| peers.arrive(peer(&format!("10.0.0.{last}"))));
        // A connection that blocks counts as waiting if its request was for health.
        assert_eq!(closed_of(&guests), [false, true, true]);
        drop(turn);
        let _more = [7, 8, 9].map(|last| peers.arrive(peer(&format!("10.0.0.{last}"))));
        assert_eq!(closed_of(&guests), [true, true, true]);
    }

    #[test]
    fn requests_are_limited_until_their_answers_are_taken_and_health_is_not() {
        let (_peers, guests) = three(["10.0.0.1", "10.0.0.1", "10.0.0.3"]);
        let first = guests[0].begin(false);
        assert_eq!(guests[1].begin(false).err(), Some(Refused::Peer));
        let second = guests[2].begin(false);
        assert!(first.is_ok() && second.is_ok());
        assert!(guests[1].begin(true).is_ok());
        guests[0].blocks();
        drop(first);
        assert_eq!(guests[1].begin(false).err(), Some(Refused::Peer));
        // A request for health on the same connection does not hide an answer that is not taken.
        drop(guests[0].begin(true));
        assert_eq!(guests[1].begin(false).err(), Some(Refused::Peer));
        guests[0].flows();
        let third = guests[1].begin(false);
        assert!(third.is_ok());
        let peers = Arc::clone(&guests[0].peers);
        let fourth = Arc::new(peers.arrive(peer("10.0.0.4")));
        assert_eq!(fourth.begin(false).err(), Some(Refused::Full));
        drop(second);
        assert!(fourth.begin(false).is_ok());
    }

    #[test]
    fn the_slowest_is_closed_and_nobody_who_reads() {
        let (peers, guests) = three(["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert!(!peers.close_slowest());
        let turn = guests[1].begin(false);
        assert!(!peers.close_slowest());
        guests[1].blocks();
        guests[1].flows();
        assert!(!peers.close_slowest());
        guests[1].blocks();
        assert!(peers.close_slowest());
        assert_eq!(closed_of(&guests), [false, true, false]);
        drop(turn);
        assert!(!peers.close_slowest());
    }
}
