//! At which addresses ranks listen: no wider than the other ranks need.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::thread;
use std::time::Duration;

use crate::control::joining::ATTEMPT;
use crate::{ControlError, ControlListener};

/// Listens as rank 0, at the address that all ranks were given. `within` is how long its name may be unknown.
pub(super) fn listen_first(
    host: &str,
    port: u16,
    is_on_one_host: bool,
    within: Duration,
) -> Result<ControlListener, ControlError> {
    let found = look_up(host, port, within);
    let found = found.map_err(|source| ControlError::Bind { address: format!("{host}:{port}"), source })?;
    let mut last = None;
    for ip in of_first(host, &found, is_on_one_host) {
        match ControlListener::bind(SocketAddr::new(ip, port)) {
            // The name's address is not this host's own, as that of a service in front of it, or is of a kind that this
            // host does not have: try the next one.
            Err(ControlError::Bind { address, source }) if is_of_address(&source) => {
                last = Some(ControlError::Bind { address, source });
            }
            bound => return bound,
        }
    }
    Err(last.unwrap_or_else(|| ControlError::Bind {
        address: format!("{host}:{port}"),
        source: ErrorKind::AddrNotAvailable.into(),
    }))
}

/// The addresses of a name. A cluster may start this process before it makes its name known.
fn look_up(host: &str, port: u16, within: Duration) -> io::Result<Vec<IpAddr>> {
    let mut left = within;
    loop {
        match (host, port).to_socket_addrs() {
            Ok(found) => return Ok(found.map(|address| address.ip()).collect()),
            Err(source) => left = left.checked_sub(ATTEMPT).ok_or(source)?,
        }
        thread::sleep(ATTEMPT);
    }
}

/// Whether listening at another address may succeed where this error came.
fn is_of_address(error: &io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied)
}

/// The addresses at which rank 0 may listen, the narrowest first. `found` are those of its name.
fn of_first(host: &str, found: &[IpAddr], is_on_one_host: bool) -> Vec<IpAddr> {
    if is_on_one_host || names_this_host(host) {
        return found.to_vec();
    }
    // Some systems give their own name a loopback address, which other hosts cannot reach.
    let reachable = found.iter().copied().filter(|ip| !ip.is_loopback());
    let any = match found {
        [first, ..] => any_of_family(*first),
        [] => Ipv4Addr::UNSPECIFIED.into(),
    };
    reachable.chain([any]).collect()
}

/// The address at which another rank than 0 listens for links. `own` is its own address on the connection with rank 0,
/// whose name is `host`.
pub(super) fn of_other(host: &str, own: IpAddr, is_on_one_host: bool) -> IpAddr {
    let is_narrow = !own.is_loopback() || is_on_one_host || names_this_host(host);
    if is_narrow { own } else { any_of_family(own) }
}

/// The address of a rank that waits for links at `seen`, as rank 0 sees it, for a rank that reaches rank 0 at `first`.
/// A loopback address is one of rank 0's own host.
pub(super) fn as_seen_from(first: IpAddr, seen: SocketAddr) -> SocketAddr {
    if seen.ip().is_loopback() { SocketAddr::new(first, seen.port()) } else { seen }
}

/// Whether every process that uses this name means its own host, so that all ranks are on one.
fn names_this_host(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn any_of_family(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &str) -> Vec<IpAddr> {
        texts.split_whitespace().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn rank_0_listens_no_wider_than_needed() {
        for (host, found, is_on_one_host, expected) in [
            ("127.0.0.1", "127.0.0.1", false, "127.0.0.1"),
            ("localhost", "::1 127.0.0.1", false, "::1 127.0.0.1"),
            ("node-a", "127.0.1.1", true, "127.0.1.1"),
            ("node-a", "127.0.1.1", false, "0.0.0.0"),
            ("node-a", "127.0.1.1 10.0.0.7", false, "10.0.0.7 0.0.0.0"),
            ("10.0.0.7", "10.0.0.7", false, "10.0.0.7 0.0.0.0"),
            ("fd00::7", "fd00::7", false, "fd00::7 ::"),
        ] {
            assert_eq!(of_first(host, &ips(found), is_on_one_host), ips(expected), "{host} {is_on_one_host}");
        }
    }

    #[test]
    fn other_ranks_listen_where_they_reach_rank_0() {
        for (host, own, is_on_one_host, expected) in [
            ("127.0.0.1", "127.0.0.1", false, "127.0.0.1"),
            ("node-a", "10.0.0.8", false, "10.0.0.8"),
            // On rank 0's own host, whose name means the loopback there alone.
            ("node-a", "127.0.0.1", false, "0.0.0.0"),
            ("node-a", "127.0.0.1", true, "127.0.0.1"),
        ] {
            let found = of_other(host, own.parse().unwrap(), is_on_one_host);
            assert_eq!(found.to_string(), expected, "{host} {own} {is_on_one_host}");
        }
    }

    #[test]
    fn ranks_beside_rank_0_are_reached_where_rank_0_is() {
        let seen =
            |first: &str, seen: &str| as_seen_from(first.parse().unwrap(), seen.parse().unwrap()).to_string();
        assert_eq!(seen("10.0.0.7", "127.0.0.1:4000"), "10.0.0.7:4000");
        assert_eq!(seen("127.0.0.1", "127.0.0.1:4000"), "127.0.0.1:4000");
        assert_eq!(seen("10.0.0.7", "10.0.0.9:4000"), "10.0.0.9:4000");
    }
}
