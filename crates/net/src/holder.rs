//! Who on this host has a port, for error texts.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};

use crate::endpoint::Protocol;
use crate::netlink::{DUMP, REQUEST, Socket};
use crate::ports::HostPort;

const TIME_WAIT: u8 = 0x06;
const ESTABLISHED: u8 = 0x01;

/// A socket of `/proc/net/{tcp,udp}[6]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Local address.
    ip: IpAddr,
    port: u16,
    state: u8,
    inode: u64,
}

/// What is known about a port that could not be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Only connections that are being forgotten are left; the port can be bound with `SO_REUSEADDR`.
    pub(crate) only_waiting: bool,
    /// Name and number of the process, if it could be found.
    pub(crate) process: Option<(String, u32)>,
}

/// Looks for the holder in the namespace of the calling thread.
pub(crate) fn find(wanted: HostPort) -> Holder {
    let name = wanted.protocol.as_str();
    let entries: Vec<_> = [name.to_owned(), format!("{name}6")]
        .iter()
        .filter_map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok())
        .flat_map(|text| parse(&text))
        .filter(|entry| entry.port == wanted.port && clashes(entry.ip, wanted.ip))
        .collect();
    let waiting = |entry: &Entry| entry.state == TIME_WAIT && wanted.protocol == Protocol::Tcp;
    let alive = entries.iter().filter(|entry| !waiting(entry) && entry.inode != 0);
    // A listener rather than one of its connections.
    let inode = alive.min_by_key(|entry| entry.state == ESTABLISHED).map(|entry| entry.inode);
    let inode = inode.or_else(|| bound_inode(wanted));
    Holder {
        only_waiting: inode.is_none() && entries.iter().any(waiting),
        process: inode.and_then(process_with_socket),
    }
}

/// Whether a socket at `present` can keep us from `wanted`. One at `::` may have the ports of IPv4, too.
fn clashes(present: IpAddr, wanted: IpAddr) -> bool {
    match (present.to_canonical(), wanted) {
        (IpAddr::V6(present), IpAddr::V4(_)) => present.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
        (present, wanted) => present == wanted || present.is_unspecified() || wanted.is_unspecified(),
    }
}

fn parse(text: &str) -> Vec<Entry> {
    text.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    let inode = words.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Entry { ip: parse_address(address)?, port, state, inode })
}

/// Words are printed as numbers, which have the machine's order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}

/// The inode of a TCP socket that is bound and neither listens nor is connected; such sockets are not in
/// `/proc/net`. Kernels before 6.8 do not tell.
fn bound_inode(wanted: HostPort) -> Option<u64> {
    const BY_FAMILY: u16 = 20;
    const BOUND_INACTIVE: u32 = 1 << 13;
    const FAMILIES: [u8; 2] = [2, 10];
    if wanted.protocol != Protocol::Tcp {
        return None;
    }
    let mut socket = Socket::open(netlink_sys::protocols::NETLINK_SOCK_DIAG).ok()?;
    for family in FAMILIES {
        // struct inet_diag_req_v2: family, protocol, extensions, pad, states, then the id, which is ignored.
        let mut question = [0_u8; 56];
        question[0] = family;
        question[1] = wanted.protocol.number();
        question[4..8].copy_from_slice(&BOUND_INACTIVE.to_ne_bytes());
        let mut batch = socket.batch();
        batch.message(BY_FAMILY, REQUEST | DUMP, &question, |_| {});
        let mut found = None;
        let outcome = socket.dump(batch, |_, answer| {
            found = found.or_else(|| diag_inode(answer, family, wanted));
        });
        if outcome.is_ok() && found.is_some() {
            return found;
        }
    }
    None
}

/// Reads `struct inet_diag_msg`: ports and addresses are in network order, the inode at offset 68 is not.
fn diag_inode(answer: &[u8], family: u8, wanted: HostPort) -> Option<u64> {
    let port = u16::from_be_bytes(*answer.get(4..)?.first_chunk()?);
    let inode = u32::from_ne_bytes(*answer.get(68..)?.first_chunk()?);
    let source = answer.get(8..)?;
    let ip = match family {
        2 => IpAddr::from(*source.first_chunk::<4>()?),
        _ => IpAddr::from(*source.first_chunk::<16>()?),
    };
    (port == wanted.port && clashes(ip, wanted.ip)).then_some(u64::from(inode))
}

fn process_with_socket(inode: u64) -> Option<(String, u32)> {
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let has = |path: &std::path::Path| {
            fs::read_link(path).is_ok_and(|link| link.as_os_str() == wanted.as_str())
        };
        if descriptors.flatten().any(|entry| has(&entry.path())) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some((name.trim_end().to_owned(), pid));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0 100 0 0 10 0
   2: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1
   3: 00000000000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 78 1
   4: broken
";

    #[test]
    fn reads_the_kernels_table() {
        if cfg!(target_endian = "big") {
            return;
        }
        let entry = |ip: &str, port, state, inode| Entry { ip: ip.parse().unwrap(), port, state, inode };
        assert_eq!(
            parse(TABLE),
            [
                entry("127.0.0.1", 8080, 0x0a, 4242),
                entry("0.0.0.0", 22, TIME_WAIT, 0),
                entry("::", 80, 0x0a, 77),
                entry("::1", 443, 0x0a, 78),
            ]
        );
    }

    #[test]
    fn finds_ourselves() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (protocol, address) in
            [(Protocol::Tcp, tcp.local_addr().unwrap()), (Protocol::Udp, udp.local_addr().unwrap())]
        {
            let wanted = HostPort { protocol, port: address.port(), ip: Ipv4Addr::UNSPECIFIED.into() };
            let holder = find(wanted);
            assert_eq!(holder.process.map(|(_, pid)| pid), Some(std::process::id()), "{protocol}");
            assert!(!holder.only_waiting);
            assert_eq!(find(HostPort { ip: IpAddr::from([127, 0, 0, 9]), ..wanted }).process, None);
        }
    }
}
