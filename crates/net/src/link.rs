//! Interfaces, addresses and routes over rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::cidr::Ipv4Net;
use crate::endpoint::MacAddr;
use crate::netlink::{CREATE, DUMP, EXCL, REPLACE, REQUEST, Refused, Socket, Writer};

/// A link group that marks cables to be deleted in one stroke. Group 0 is everybody's default.
const DOOMED: u32 = 0x5941_5245;

/// An rtnetlink socket.
#[derive(Debug)]
pub(crate) struct Route(Socket);

/// What is known of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) controller: Option<u32>,
    pub(crate) kind: Option<Kind>,
}

/// The kinds of interface that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bridge,
    Veth,
    Other,
}

/// A veth pair to be: one end on the bridge, the other born in a namespace.
#[derive(Debug)]
pub(crate) struct Cable<'a> {
    pub(crate) name: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) peer: &'a str,
    pub(crate) peer_mac: MacAddr,
}

/// Several changes that are sent at once.
#[derive(Debug)]
pub(crate) struct Changes(Writer);

impl Changes {
    fn add(&mut self, flags: u16, payload: RouteNetlinkMessage) {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload.into());
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.finalize();
        self.0.foreign(message.buffer_len(), |buffer| message.serialize(buffer));
    }

    /// Makes a bridge, up, without spanning tree.
    pub(crate) fn new_bridge(&mut self, name: &str, mtu: u32, mac: MacAddr) {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        let data = vec![InfoBridge::StpState(BridgeStpState::Disabled), InfoBridge::ForwardDelay(0)];
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(data)),
            ]),
        ];
        self.add(CREATE | EXCL, RouteNetlinkMessage::NewLink(link));
    }

    /// Makes a cable whose host end is on the bridge but down.
    pub(crate) fn new_cable(&mut self, cable: &Cable<'_>) {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(cable.peer.to_owned()),
            LinkAttribute::Mtu(cable.mtu),
            LinkAttribute::Address(cable.peer_mac.0.to_vec()),
            LinkAttribute::NetNsFd(cable.netns.as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(cable.name.to_owned()),
            LinkAttribute::Mtu(cable.mtu),
            LinkAttribute::Controller(cable.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.add(CREATE | EXCL, RouteNetlinkMessage::NewLink(link));
    }

    /// Brings a bridge port up. Hairpin lets a container reach itself through the host where bridged packets
    /// pass the packet filter; isolated ports do not see each other.
    pub(crate) fn open_port(&mut self, name: &str, isolated: bool) {
        let mut link = up(0);
        let port = vec![InfoBridgePort::HairpinMode(true), InfoBridgePort::Isolated(isolated)];
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(port)),
            ]),
        ];
        self.add(0, RouteNetlinkMessage::NewLink(link));
    }

    /// Brings an interface up.
    pub(crate) fn up(&mut self, index: u32) {
        self.add(0, RouteNetlinkMessage::SetLink(up(index)));
    }

    /// Says what an interface is for; the kernel takes no such word when it makes one.
    pub(crate) fn alias(&mut self, index: u32, alias: &str) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
        self.add(0, RouteNetlinkMessage::SetLink(link));
    }

    /// Sets an interface's MTU, in bytes.
    pub(crate) fn mtu(&mut self, index: u32, mtu: u32) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::Mtu(mtu)];
        self.add(0, RouteNetlinkMessage::SetLink(link));
    }

    /// Gives an interface an address.
    pub(crate) fn address(&mut self, index: u32, address: Ipv4Net) {
        self.add(CREATE | EXCL, RouteNetlinkMessage::NewAddress(address_message(index, address)));
    }

    /// Takes an address from an interface.
    pub(crate) fn remove_address(&mut self, index: u32, address: Ipv4Net) {
        self.add(0, RouteNetlinkMessage::DelAddress(address_message(index, address)));
    }

    /// Gives an interface an IPv6 address, usable at once; one that it has already is no error.
    pub(crate) fn address6(&mut self, index: u32, address: Ipv6Addr, prefix: u8) {
        let mut message = address6_message(index, address, prefix);
        // Nobody else has it: addresses are handed out here.
        message.header.flags = AddressHeaderFlags::Nodad;
        self.add(CREATE | REPLACE, RouteNetlinkMessage::NewAddress(message));
    }

    /// Takes an IPv6 address from an interface.
    pub(crate) fn remove_address6(&mut self, index: u32, address: Ipv6Addr, prefix: u8) {
        self.add(0, RouteNetlinkMessage::DelAddress(address6_message(index, address, prefix)));
    }

    /// Sends everything without a better route to `gateway`.
    pub(crate) fn default_route(&mut self, gateway: IpAddr) {
        self.add(CREATE | EXCL, RouteNetlinkMessage::NewRoute(default_route(gateway, true)));
    }

    /// As [`Changes::default_route`], in place of another.
    pub(crate) fn replace_default_route(&mut self, gateway: IpAddr) {
        self.add(CREATE | REPLACE, RouteNetlinkMessage::NewRoute(default_route(gateway, true)));
    }

    /// Takes away the default route of the family of `any`.
    pub(crate) fn remove_default_route(&mut self, any: IpAddr) {
        self.add(0, RouteNetlinkMessage::DelRoute(default_route(any, false)));
    }

    /// Marks an interface for [`Changes::delete_doomed`].
    pub(crate) fn doom(&mut self, index: u32) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::Group(DOOMED)];
        self.add(0, RouteNetlinkMessage::SetLink(link));
    }

    /// Deletes all marked interfaces; one grace period of the kernel for all of them.
    pub(crate) fn delete_doomed(&mut self) {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::Group(DOOMED)];
        self.add(0, RouteNetlinkMessage::DelLink(link));
    }

    /// Deletes an interface; takes tens of milliseconds.
    pub(crate) fn delete(&mut self, index: u32) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.add(0, RouteNetlinkMessage::DelLink(link));
    }
}

fn up(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

fn default_route(gateway: IpAddr, named: bool) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    let (family, gateway) = match gateway {
        IpAddr::V4(ip) => (AddressFamily::Inet, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, RouteAddress::Inet6(ip)),
    };
    route.header.address_family = family;
    if named {
        route.attributes = vec![RouteAttribute::Gateway(gateway)];
    }
    route
}

fn address_message(index: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address.address())),
        AddressAttribute::Address(IpAddr::V4(address.address())),
        AddressAttribute::Broadcast(address.broadcast()),
    ];
    message
}

fn address6_message(index: u32, address: Ipv6Addr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(IpAddr::V6(address)), AddressAttribute::Address(IpAddr::V6(address))];
    message
}

impl Route {
    /// Opens a socket for the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Socket::open(netlink_sys::protocols::NETLINK_ROUTE).map(Self)
    }

    /// Carries out the changes in order. All are tried; the first refusal is the error.
    pub(crate) fn change(&mut self, fill: impl FnOnce(&mut Changes)) -> Result<(), Refused> {
        let mut changes = Changes(self.0.batch());
        fill(&mut changes);
        self.0.request(changes.0)
    }

    /// The interface of that name, if there is one.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Refused> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let mut found = None;
        // One answer and its acknowledgement: read as a dump of one.
        let outcome = self.ask(NLM_F_ACK, RouteNetlinkMessage::GetLink(message), |message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                found = Some(Link::read(&link));
            }
        });
        match outcome {
            Err(refused) if refused.errno == rustix::io::Errno::NODEV => Ok(None),
            other => other.map(|()| found),
        }
    }

    /// All interfaces.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Refused> {
        let mut links = Vec::new();
        self.ask(DUMP, RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                links.push(Link::read(&link));
            }
        })?;
        Ok(links)
    }

    /// The IPv4 addresses of all interfaces, with the interface's index.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Net)>, Refused> {
        let mut question = AddressMessage::default();
        question.header.family = AddressFamily::Inet;
        let mut addresses = Vec::new();
        self.ask(DUMP, RouteNetlinkMessage::GetAddress(question), |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                let local = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                    _ => None,
                });
                let prefix = message.header.prefix_len;
                addresses.extend(local.map(|local| (message.header.index, Ipv4Net::new(local, prefix))));
            }
        })?;
        Ok(addresses)
    }

    /// The IPv6 addresses of an interface with the lengths of their prefixes, but for link-local ones.
    pub(crate) fn addresses6(&mut self, index: u32) -> Result<Vec<(Ipv6Addr, u8)>, Refused> {
        let mut question = AddressMessage::default();
        question.header.family = AddressFamily::Inet6;
        let mut addresses = Vec::new();
        self.ask(DUMP, RouteNetlinkMessage::GetAddress(question), |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && message.header.index == index
            {
                addresses.extend(message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(IpAddr::V6(ip)) if !ip.is_unicast_link_local() => {
                        Some((*ip, message.header.prefix_len))
                    }
                    _ => None,
                }));
            }
        })?;
        Ok(addresses)
    }

    /// The destinations of all IPv4 routes but default ones, with the index of the interface if there is one.
    pub(crate) fn routes(&mut self) -> Result<Vec<(Option<u32>, Ipv4Net)>, Refused> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet;
        let mut routes = Vec::new();
        self.ask(DUMP, RouteNetlinkMessage::GetRoute(question), |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                routes.extend(destination(&route));
            }
        })?;
        Ok(routes)
    }

    fn ask(
        &mut self,
        flags: u16,
        question: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), Refused> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), question.into());
        message.header.flags = REQUEST | flags;
        message.finalize();
        let mut batch = self.0.batch();
        batch.foreign(message.buffer_len(), |buffer| message.serialize(buffer));
        self.0.dump(batch, |kind, payload| {
            let mut header = NetlinkHeader::default();
            header.message_type = kind;
            // What the library cannot read is none of the things asked for.
            if let Ok(message) = RouteNetlinkMessage::deserialize(&header, payload) {
                each(message);
            }
        })
    }
}

impl Link {
    fn read(message: &LinkMessage) -> Self {
        let mut link =
            Self { index: message.header.index, name: String::new(), mtu: 0, controller: None, kind: None };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind),
                _ => {}
            }
        }
        link
    }
}

fn kind(info: &LinkInfo) -> Option<Kind> {
    match info {
        LinkInfo::Kind(InfoKind::Bridge) => Some(Kind::Bridge),
        LinkInfo::Kind(InfoKind::Veth) => Some(Kind::Veth),
        LinkInfo::Kind(_) => Some(Kind::Other),
        _ => None,
    }
}

fn destination(route: &RouteMessage) -> Option<(Option<u32>, Ipv4Net)> {
    let wanted =
        matches!(route.header.kind, RouteType::Unicast | RouteType::BlackHole | RouteType::Unreachable);
    if !wanted || route.header.destination_prefix_length == 0 {
        return None;
    }
    let mut index = None;
    let mut address = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => address = Some(*destination),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    Some((index, Ipv4Net::new(address?, route.header.destination_prefix_length)))
}
