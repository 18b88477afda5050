//! Encoder of nftables batches, after `linux/netfilter/nf_tables.h`.
//!
//! Everything here is pure: values in, bytes out. The kernel commits a batch as a whole or not at all.

use std::net::IpAddr;

use crate::cidr::{Ipv4Net, Ipv6Net};
use crate::endpoint::Protocol;
use crate::netlink::{ACK, APPEND, CREATE, DUMP, EXCL, REQUEST, Writer};
use crate::ports::HostPort;
use crate::rules::{Chain, Element, Family, Hook, Map, Rule, Statement, Table};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Tables of IPv4, and of IPv4 and IPv6 together.
pub(crate) const FAMILY_IP: u8 = 2;
pub(crate) const FAMILY_INET: u8 = 1;
/// Tables of IPv6.
pub(crate) const FAMILY_IP6: u8 = 10;

/// Type of a message of the nftables subsystem.
pub(crate) const fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}

const NEW_TABLE: u16 = kind(0);
const GET_TABLE: u16 = kind(1);
/// A table was deleted.
pub(crate) const DEL_TABLE: u16 = kind(2);
const NEW_CHAIN: u16 = kind(3);
const GET_CHAIN: u16 = kind(4);
const NEW_RULE: u16 = kind(6);
const GET_RULE: u16 = kind(7);
const NEW_SET: u16 = kind(9);
const NEW_ELEMENT: u16 = kind(12);
const GET_ELEMENT: u16 = kind(13);
const DEL_ELEMENT: u16 = kind(14);
/// Elements of a set that were listed or added.
pub(crate) const ELEMENTS: u16 = NEW_ELEMENT;

// First attribute of every object of a table.
pub(crate) const TABLE: u16 = 1;
pub(crate) const CHAIN_NAME: u16 = 3;
pub(crate) const CHAIN_HOOK: u16 = 4;
pub(crate) const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
pub(crate) const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_ID: u16 = 10;
const SET_FLAG_MAP: u32 = 8;
/// The elements in a message about elements.
pub(crate) const ELEMENT_LIST: u16 = 3;
/// The key of an element.
pub(crate) const ELEMENT_KEY: u16 = 1;
/// The value of an element.
pub(crate) const ELEMENT_DATA: u16 = 2;
/// The bytes of a key or value.
pub(crate) const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

// Numbers of nft's own data types, packed six bits each; only `nft list` reads them.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;

const REGISTER_VERDICT: u32 = 0;
/// 16 bytes wide, made of the four narrow ones that start at `REGISTER_NARROW`.
const REGISTER: u32 = 1;
const REGISTER_NARROW: u32 = 8;

/// Elements of one message; its list of 36 to 40 bytes each must stay below 64 KiB.
const ELEMENTS_A_MESSAGE: usize = 1000;

/// Starts a transaction.
pub(crate) fn begin(batch: &mut Writer) {
    batch.message(BATCH_BEGIN, REQUEST, &general(0, SUBSYSTEM), |_| {});
}

/// Ends it.
pub(crate) fn end(batch: &mut Writer) {
    batch.message(BATCH_END, REQUEST, &general(0, SUBSYSTEM), |_| {});
}

/// Adds what replaces the table, whether it exists or not, by a fresh one with those of the elements that are of
/// its family.
pub(crate) fn replace(batch: &mut Writer, table: &Table, elements: &[Element]) {
    // Deleting what may not exist is an error; making what may exist is none.
    new_table(batch, table);
    delete_table(batch, table);
    new_table(batch, table);
    for map in table.maps {
        new_map(batch, table, *map);
    }
    for chain in &table.chains {
        new_chain(batch, table, chain);
        chain.rules.iter().for_each(|rule| new_rule(batch, table, chain.name, rule));
    }
    let own = elements.iter().filter(|element| Family::of(element.ip) == table.family);
    add(batch, &table.name, &own.copied().collect::<Vec<_>>());
}

/// Adds what deletes the table, which must exist.
pub(crate) fn delete_table(batch: &mut Writer, table: &Table) {
    batch.message(DEL_TABLE, REQUEST | ACK, &of(table), |w| w.text(TABLE, &table.name));
}

/// Adds what publishes, each in the table of its family.
pub(crate) fn add(batch: &mut Writer, table: &str, elements: &[Element]) {
    change(batch, NEW_ELEMENT, REQUEST | CREATE | EXCL | ACK, table, elements);
}

/// Adds what withdraws; every element must exist.
pub(crate) fn remove(batch: &mut Writer, table: &str, elements: &[Element]) {
    change(batch, DEL_ELEMENT, REQUEST | ACK, table, elements);
}

/// A question for the table itself.
pub(crate) fn ask_table(batch: &mut Writer, table: &Table) {
    batch.message(GET_TABLE, REQUEST | ACK, &of(table), |w| w.text(TABLE, &table.name));
}

/// A question for all rules of the table.
pub(crate) fn ask_rules(batch: &mut Writer, table: &Table) {
    batch.message(GET_RULE, REQUEST | DUMP, &of(table), |w| w.text(TABLE, &table.name));
}

/// A question for all chains of all families.
pub(crate) fn ask_chains(batch: &mut Writer) {
    batch.message(GET_CHAIN, REQUEST | DUMP, &general(0, 0), |_| {});
}

/// A question for all rules of somebody's table.
pub(crate) fn ask_rules_of(batch: &mut Writer, family: u8, table: &str) {
    batch.message(GET_RULE, REQUEST | DUMP, &general(family, 0), |w| w.text(TABLE, table));
}

/// A question for all elements of a map.
pub(crate) fn ask_elements(batch: &mut Writer, table: &Table, map: Map) {
    batch.message(GET_ELEMENT, REQUEST | DUMP, &of(table), |w| {
        w.text(TABLE, &table.name);
        w.text(SET_NAME, map.name());
    });
}

/// The bytes that the kernel compares: each part in a word of four bytes, unused ones zero.
pub(crate) fn key(port: HostPort) -> Vec<u8> {
    let mut key = match Map::of(port) {
        Map::Any => Vec::with_capacity(8),
        Map::At => octets(port.ip),
    };
    key.extend_from_slice(&[port.protocol.number(), 0, 0, 0]);
    key.extend_from_slice(&service(port.port));
    key
}

/// The bytes that the kernel puts in place of the packet's destination.
pub(crate) fn value(ip: IpAddr, port: u16) -> Vec<u8> {
    [octets(ip), service(port).to_vec()].concat()
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn service(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// `struct nfgenmsg`: family, version, and a number in network order.
fn general(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// The header of messages about a table.
fn of(table: &Table) -> [u8; 4] {
    header(table.family)
}

/// `struct nfgenmsg` of a message about things of a family.
pub(crate) fn header(family: Family) -> [u8; 4] {
    general(number(family), 0)
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => FAMILY_IP,
        Family::V6 => FAMILY_IP6,
    }
}

fn new_table(batch: &mut Writer, table: &Table) {
    batch.message(NEW_TABLE, REQUEST | CREATE | ACK, &of(table), |w| w.text(TABLE, &table.name));
}

fn new_map(batch: &mut Writer, table: &Table, map: Map) {
    let (address, size) = match table.family {
        Family::V4 => (TYPE_IPV4, 4),
        Family::V6 => (TYPE_IPV6, 16),
    };
    let (types, length) = match map {
        Map::Any => (&[TYPE_PROTOCOL, TYPE_SERVICE][..], 8),
        Map::At => (&[address, TYPE_PROTOCOL, TYPE_SERVICE][..], size + 8),
    };
    batch.message(NEW_SET, REQUEST | CREATE | EXCL | ACK, &of(table), |w| {
        w.text(TABLE, &table.name);
        w.text(SET_NAME, map.name());
        w.number(SET_FLAGS, SET_FLAG_MAP);
        w.number(SET_KEY_TYPE, packed(types));
        w.number(SET_KEY_LENGTH, length);
        w.number(SET_DATA_TYPE, packed(&[address, TYPE_SERVICE]));
        w.number(SET_DATA_LENGTH, size + 4);
        w.number(SET_ID, 1 + map as u32);
    });
}

fn packed(types: &[u32]) -> u32 {
    types.iter().fold(0, |packed, kind| (packed << 6) | kind)
}

fn new_chain(batch: &mut Writer, table: &Table, chain: &Chain) {
    let hook = match chain.hook {
        Hook::Prerouting => 0,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    };
    batch.message(NEW_CHAIN, REQUEST | CREATE | EXCL | ACK, &of(table), |w| {
        w.text(TABLE, &table.name);
        w.text(CHAIN_NAME, chain.name);
        w.nest(CHAIN_HOOK, |w| {
            w.number(HOOK_NUMBER, hook);
            w.attribute(HOOK_PRIORITY, &chain.priority.to_be_bytes());
        });
        w.number(CHAIN_POLICY, ACCEPT);
        w.text(CHAIN_TYPE, if chain.nat { "nat" } else { "filter" });
    });
}

fn new_rule(batch: &mut Writer, table: &Table, chain: &str, rule: &Rule) {
    batch.message(NEW_RULE, REQUEST | CREATE | APPEND | ACK, &of(table), |w| {
        w.text(TABLE, &table.name);
        w.text(RULE_CHAIN, chain);
        w.nest(RULE_EXPRESSIONS, |w| rule.iter().for_each(|statement| encode(w, statement)));
    });
}

fn change(batch: &mut Writer, kind: u16, flags: u16, table: &str, elements: &[Element]) {
    let place = |element: &Element| (Family::of(element.ip), Map::of(element.from));
    for (family, map) in
        [Family::V4, Family::V6].into_iter().flat_map(|family| Map::ALL.map(|map| (family, map)))
    {
        let of_map: Vec<_> = elements.iter().filter(|element| place(element) == (family, map)).collect();
        for some in of_map.chunks(ELEMENTS_A_MESSAGE) {
            batch.message(kind, flags, &header(family), |w| {
                w.text(TABLE, table);
                w.text(SET_NAME, map.name());
                w.nest(ELEMENT_LIST, |w| some.iter().for_each(|element| one(w, element)));
            });
        }
    }
}

fn one(w: &mut Writer, element: &Element) {
    w.nest(LIST_ELEMENT, |w| {
        w.nest(ELEMENT_KEY, |w| w.attribute(DATA_VALUE, &key(element.from)));
        w.nest(ELEMENT_DATA, |w| w.attribute(DATA_VALUE, &value(element.ip, element.port)));
    });
}

const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const META_IN_NAME: u32 = 6;
const META_OUT_NAME: u32 = 7;
const META_PROTOCOL: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Of the byte with the flags in the header of TCP.
const TCP_FLAGS: u32 = 13;
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
const SOURCE6_OFFSET: u32 = 8;
const DESTINATION6_OFFSET: u32 = 24;
const TRACK_STATE: u32 = 0;
const TRACK_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED)`.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;
const ROUTE_LOCAL: u32 = 2;
const NAT_DESTINATION: u32 = 1;

fn encode(w: &mut Writer, statement: &Statement) {
    match statement {
        Statement::In(positive, name) => interface(w, META_IN_NAME, *positive, name),
        Statement::Out(positive, name) => interface(w, META_OUT_NAME, *positive, name),
        Statement::Source(positive, net) => network(w, SOURCE_OFFSET, *positive, *net),
        Statement::Source6(positive, net) => network6(w, SOURCE6_OFFSET, *positive, *net),
        Statement::Destination6(positive, net) => network6(w, DESTINATION6_OFFSET, *positive, *net),
        Statement::Destination(positive, net) => network(w, DESTINATION_OFFSET, *positive, *net),
        Statement::ToPort(protocol, port) => {
            meta(w, META_PROTOCOL, REGISTER);
            compare(w, true, &[protocol.number()]);
            payload(w, REGISTER, TRANSPORT_HEADER, 2, 2);
            compare(w, true, &port.to_be_bytes());
        }
        Statement::Flagless => {
            meta(w, META_PROTOCOL, REGISTER);
            compare(w, true, &[Protocol::Tcp.number()]);
            payload(w, REGISTER, TRANSPORT_HEADER, TCP_FLAGS, 1);
            compare(w, true, &[0]);
        }
        Statement::TranslateTo(ip, port) => {
            immediate(w, REGISTER_NARROW, &ip.octets());
            immediate(w, REGISTER_NARROW + 1, &port.to_be_bytes());
            translate_destination(w, Family::V4);
        }
        Statement::ToThisHost => {
            expression(w, "fib", |w| {
                w.number(1, REGISTER);
                w.number(2, FIB_ADDRESS_TYPE);
                w.number(3, FIB_OF_DESTINATION);
            });
            compare(w, true, &ROUTE_LOCAL.to_ne_bytes());
        }
        Statement::Established => tracked(w, TRACK_STATE, ESTABLISHED_OR_RELATED),
        Statement::Translated => tracked(w, TRACK_STATUS, DESTINATION_TRANSLATED),
        Statement::Translate(family, map) => translate(w, *family, *map),
        Statement::Masquerade => expression(w, "masq", |_| {}),
        Statement::Accept => verdict(w, ACCEPT),
        Statement::Drop => verdict(w, DROP),
    }
}

fn expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    w.nest(LIST_ELEMENT, |w| {
        w.text(EXPRESSION_NAME, name);
        w.nest(EXPRESSION_DATA, data);
    });
}

fn meta(w: &mut Writer, key: u32, register: u32) {
    expression(w, "meta", |w| {
        w.number(1, register);
        w.number(2, key);
    });
}

fn payload(w: &mut Writer, register: u32, base: u32, offset: u32, length: u32) {
    expression(w, "payload", |w| {
        w.number(1, register);
        w.number(2, base);
        w.number(3, offset);
        w.number(4, length);
    });
}

fn compare(w: &mut Writer, equal: bool, bytes: &[u8]) {
    expression(w, "cmp", |w| {
        w.number(1, REGISTER);
        w.number(2, u32::from(!equal));
        w.nest(3, |w| w.attribute(DATA_VALUE, bytes));
    });
}

fn mask<const N: usize>(w: &mut Writer, bytes: &[u8; N]) {
    expression(w, "bitwise", |w| {
        w.number(1, REGISTER);
        w.number(2, REGISTER);
        w.number(3, u32::try_from(N).unwrap_or(u32::MAX));
        w.nest(4, |w| w.attribute(DATA_VALUE, bytes));
        w.nest(5, |w| w.attribute(DATA_VALUE, &[0; N]));
    });
}

fn interface(w: &mut Writer, key: u32, positive: bool, name: &str) {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    meta(w, key, REGISTER);
    compare(w, positive, &bytes);
}

fn network(w: &mut Writer, offset: u32, positive: bool, net: Ipv4Net) {
    payload(w, REGISTER, NETWORK_HEADER, offset, 4);
    if net.prefix() < 32 {
        mask(w, &net.mask().octets());
    }
    compare(w, positive, &net.network().octets());
}

fn network6(w: &mut Writer, offset: u32, positive: bool, net: Ipv6Net) {
    payload(w, REGISTER, NETWORK_HEADER, offset, 16);
    if net.prefix() < 128 {
        mask(w, &net.mask().octets());
    }
    compare(w, positive, &net.network().octets());
}

fn tracked(w: &mut Writer, key: u32, bits: u32) {
    expression(w, "ct", |w| {
        w.number(1, REGISTER);
        w.number(2, key);
    });
    mask(w, &bits.to_ne_bytes());
    compare(w, false, &[0; 4]);
}

fn verdict(w: &mut Writer, code: u32) {
    expression(w, "immediate", |w| {
        w.number(1, REGISTER_VERDICT);
        w.nest(2, |w| w.nest(DATA_VERDICT, |w| w.number(VERDICT_CODE, code)));
    });
}

/// Puts the key together in neighbouring registers, looks it up, and translates to what was found there.
fn translate(w: &mut Writer, family: Family, map: Map) {
    let mut register = REGISTER_NARROW;
    if map == Map::At {
        let (offset, length) = match family {
            Family::V4 => (DESTINATION_OFFSET, 4),
            Family::V6 => (DESTINATION6_OFFSET, 16),
        };
        payload(w, register, NETWORK_HEADER, offset, length);
        register += length / 4;
    }
    meta(w, META_PROTOCOL, register);
    payload(w, register + 1, TRANSPORT_HEADER, 2, 2);
    expression(w, "lookup", |w| {
        w.text(1, map.name());
        w.number(2, REGISTER_NARROW);
        w.number(3, REGISTER_NARROW);
        w.number(4, 1 + map as u32);
    });
    translate_destination(w, family);
}

fn immediate(w: &mut Writer, register: u32, bytes: &[u8]) {
    expression(w, "immediate", |w| {
        w.number(1, register);
        w.nest(2, |w| w.attribute(DATA_VALUE, bytes));
    });
}

/// To the address in the first narrow registers and the port in the next.
fn translate_destination(w: &mut Writer, family: Family) {
    let words = match family {
        Family::V4 => 1,
        Family::V6 => 4,
    };
    expression(w, "nat", |w| {
        w.number(1, NAT_DESTINATION);
        w.number(2, u32::from(number(family)));
        w.number(3, REGISTER_NARROW);
        w.number(5, REGISTER_NARROW + words);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Protocol;
    use crate::netlink::{Attributes, Messages};

    fn element(ip: [u8; 4], port: u16) -> Element {
        let from = HostPort { protocol: Protocol::Tcp, port, ip: IpAddr::from(ip) };
        Element { from, ip: IpAddr::from([172, 17, 0, 2]), port: 80 }
    }

    #[test]
    fn keys_are_words_in_network_order() {
        assert_eq!(key(element([0, 0, 0, 0], 8080).from), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(key(element([127, 0, 0, 1], 80).from), [127, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(value(IpAddr::from([172, 17, 0, 2]), 80), [172, 17, 0, 2, 0, 80, 0, 0]);
        let six: IpAddr = "fd00::2".parse().unwrap();
        let at = HostPort { protocol: Protocol::Udp, port: 53, ip: six };
        assert_eq!(key(at), [&[0xfd, 0][..], &[0; 13], &[2, 17, 0, 0, 0, 0, 53, 0, 0]].concat());
        assert_eq!(value(six, 80), [&[0xfd, 0][..], &[0; 13], &[2, 0, 80, 0, 0]].concat());
    }

    #[test]
    fn one_published_port_is_one_small_message() {
        let mut batch = Writer::new(1);
        begin(&mut batch);
        add(&mut batch, "t", &[element([0, 0, 0, 0], 8080)]);
        end(&mut batch);
        let kinds: Vec<_> = Messages(batch.bytes()).map(|message| message.kind).collect();
        assert_eq!(kinds, [BATCH_BEGIN, NEW_ELEMENT, BATCH_END]);
        assert_eq!(batch.bytes().len(), 124);
        #[rustfmt::skip]
        let expected = [
            6, 0, 1, 0, b't', 0, 0, 0,
            14, 0, 2, 0, b'p', b'u', b'b', b'l', b'i', b's', b'h', b'e', b'd', 0, 0, 0,
            40, 0, 3, 0x80, 36, 0, 1, 0x80,
            16, 0, 1, 0x80, 12, 0, 1, 0, 6, 0, 0, 0, 0x1f, 0x90, 0, 0,
            16, 0, 2, 0x80, 12, 0, 1, 0, 172, 17, 0, 2, 0, 80, 0, 0,
        ];
        let message = Messages(batch.bytes()).nth(1).unwrap();
        assert_eq!(message.payload[..4], [2, 0, 0, 0]);
        if cfg!(target_endian = "little") {
            assert_eq!(message.payload[4..], expected);
        }
    }

    #[test]
    fn many_elements_are_split_below_the_limit_of_a_list() {
        let elements: Vec<_> =
            (1..=2500).flat_map(|port| [element([0, 0, 0, 0], port), element([10, 0, 0, 1], port)]).collect();
        let mut batch = Writer::new(1);
        add(&mut batch, "t", &elements);
        let lists: Vec<_> = Messages(batch.bytes())
            .map(|message| {
                Attributes(&message.payload[4..]).find(|(kind, _)| *kind == ELEMENT_LIST).unwrap().1
            })
            .map(|list| Attributes(list).count())
            .collect();
        assert_eq!(lists, [1000, 1000, 500, 1000, 1000, 500]);
    }

    #[test]
    fn a_replacement_is_one_transaction_of_known_steps() {
        let policy = crate::rules::Policy { icc: true, masquerade: true, internal: false };
        let table = crate::rules::for_bridge("t", "yare0", "10.0.0.0/24".parse().unwrap(), policy);
        let mut batch = Writer::new(1);
        replace(&mut batch, &table, &[element([0, 0, 0, 0], 80)]);
        let kinds: Vec<_> = Messages(batch.bytes()).map(|message| message.kind).collect();
        assert_eq!(kinds[..5], [NEW_TABLE, DEL_TABLE, NEW_TABLE, NEW_SET, NEW_SET]);
        let count = |kind| kinds.iter().filter(|&&each| each == kind).count();
        assert_eq!((count(NEW_CHAIN), count(NEW_RULE), count(NEW_ELEMENT)), (5, 13, 1));
    }
}
