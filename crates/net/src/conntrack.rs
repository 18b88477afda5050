//! Forgetting tracked UDP flows.
//!
//! A flow that keeps coming keeps its entry, and with it the decision where its packets go: to nowhere, if it
//! began before the port was published, or to a container that has gone. TCP mends itself.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;

use crate::netlink::{ACK, Attributes, DUMP, REQUEST, Refused, Socket, Writer};
use crate::nft::{self, octets};
use crate::rules::Family;

const NEW: u16 = 1 << 8;
const GET: u16 = NEW | 1;
const DELETE: u16 = NEW | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V6_SOURCE: u16 = 3;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

// `enum ctattr_filter flags` of the kernel's nf_internals.h.
const BY_SOURCE: u32 = 1 << 0;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

const UDP: u8 = 17;

/// Which flows to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flows {
    /// To this UDP port of the host, or of somebody beyond it.
    ToPort(Family, u16),
    /// UDP that this container answers.
    AnsweredBy(IpAddr),
}

/// Forgets the flows, in the namespace of the calling thread. An error means that the kernel cannot list
/// them, and forgets them by itself after three minutes of silence.
pub(crate) fn forget(flows: Flows) -> io::Result<()> {
    let mut socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
    let header = flows.header();
    let mut doomed = Vec::new();
    let mut batch = socket.batch();
    ask(&mut batch, flows);
    socket.dump(batch, |kind, payload| {
        let attributes = payload.get(4..).unwrap_or_default();
        if kind == NEW && flows.include(attributes) {
            doomed.extend(find(attributes, TUPLE_ORIGINAL).map(<[u8]>::to_vec));
        }
    })?;
    for tuple in doomed {
        let mut batch = socket.batch();
        batch.message(DELETE, REQUEST | ACK, &header, |w| w.nest(TUPLE_ORIGINAL, |w| w.raw(&tuple)));
        match socket.request(batch) {
            // It has gone by itself.
            Err(Refused { errno: Errno::NOENT, .. }) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The filter is for kernels since 5.8, which then send only what matches; older ones ignore it.
fn ask(batch: &mut Writer, flows: Flows) {
    batch.message(GET, REQUEST | DUMP, &flows.header(), |w| match flows {
        Flows::ToPort(_, port) => {
            w.nest(TUPLE_ORIGINAL, |w| {
                w.nest(TUPLE_PROTOCOL, |w| {
                    w.attribute(PROTOCOL_NUMBER, &[UDP]);
                    w.attribute(PROTOCOL_DESTINATION_PORT, &port.to_be_bytes());
                });
            });
            filter(w, FILTER_ORIGINAL, BY_PROTOCOL | BY_DESTINATION_PORT);
        }
        Flows::AnsweredBy(ip) => {
            w.nest(TUPLE_REPLY, |w| {
                w.nest(TUPLE_IP, |w| w.attribute(source_of(ip), &octets(ip)));
                w.nest(TUPLE_PROTOCOL, |w| w.attribute(PROTOCOL_NUMBER, &[UDP]));
            });
            filter(w, FILTER_REPLY, BY_SOURCE | BY_PROTOCOL);
        }
    });
}

/// Flags are in the order of this machine, unlike everything else in netfilter.
fn filter(w: &mut Writer, direction: u16, flags: u32) {
    w.nest(FILTER, |w| w.attribute(direction, &flags.to_ne_bytes()));
}

fn source_of(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { IP_V4_SOURCE } else { IP_V6_SOURCE }
}

impl Flows {
    /// `struct nfgenmsg`.
    fn header(self) -> [u8; 4] {
        let family = match self {
            Self::ToPort(family, _) => family,
            Self::AnsweredBy(ip) => Family::of(ip),
        };
        nft::header(family)
    }

    fn include(self, attributes: &[u8]) -> bool {
        let (tuple, group, kind, wanted) = match self {
            Self::ToPort(_, port) => {
                (TUPLE_ORIGINAL, TUPLE_PROTOCOL, PROTOCOL_DESTINATION_PORT, port.to_be_bytes().to_vec())
            }
            Self::AnsweredBy(ip) => (TUPLE_REPLY, TUPLE_IP, source_of(ip), octets(ip)),
        };
        let part = |group, kind| find(find(find(attributes, tuple)?, group)?, kind);
        part(group, kind) == Some(&wanted) && part(TUPLE_PROTOCOL, PROTOCOL_NUMBER) == Some(&[UDP])
    }
}

fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Messages;

    #[test]
    fn only_the_wanted_flows_are_chosen() {
        let flow = |protocol: u8, port: u16, answers: [u8; 4]| {
            let mut batch = Writer::new(1);
            batch.message(NEW, 0, &[2, 0, 0, 0], |w| {
                for (tuple, source) in [(TUPLE_ORIGINAL, [192, 0, 2, 2]), (TUPLE_REPLY, answers)] {
                    w.nest(tuple, |w| {
                        w.nest(TUPLE_IP, |w| w.attribute(IP_V4_SOURCE, &source));
                        w.nest(TUPLE_PROTOCOL, |w| {
                            w.attribute(PROTOCOL_NUMBER, &[protocol]);
                            w.attribute(PROTOCOL_DESTINATION_PORT, &port.to_be_bytes());
                        });
                    });
                }
            });
            Messages(batch.bytes()).next().unwrap().payload[4..].to_vec()
        };
        let container = std::net::Ipv4Addr::new(172, 17, 0, 2);
        let dns = flow(UDP, 53, container.octets());
        assert!(
            Flows::ToPort(Family::V4, 53).include(&dns) && Flows::AnsweredBy(container.into()).include(&dns)
        );
        assert!(!Flows::ToPort(Family::V4, 54).include(&dns));
        assert!(!Flows::AnsweredBy(IpAddr::from([172, 17, 0, 3])).include(&dns));
        assert!(!Flows::ToPort(Family::V4, 53).include(&flow(6, 53, container.octets())));
        assert!(!Flows::ToPort(Family::V4, 53).include(&[]));
    }
}
