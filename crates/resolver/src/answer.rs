//! What a packet is answered with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::{A, AAAA, OPT, PTR, RData};
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};

use crate::names::Directory;

/// How long an answer may be kept, in seconds; Docker's.
const TTL: u32 = 600;

/// Bytes of a header, and where it has its numbers of records.
const HEADER: usize = 12;

/// The largest answer over UDP for one who does not say what he takes, and for whoever says that he takes more.
const PLAIN: u16 = 512;
const LARGE: u16 = 4096;

/// What to do with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Send this back.
    Reply(Vec<u8>),
    /// Ask others.
    Forward,
    /// It is no question.
    Ignore,
}

/// How a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In one piece, and so must the answer go.
    Udp,
    /// Over a connection.
    Tcp,
}

/// Decides about a packet of a container's. `turn` says which of several addresses goes first.
pub fn decide(
    directory: &Directory,
    client: &str,
    packet: &[u8],
    transport: Transport,
    turn: usize,
) -> Decision {
    let Some(counts) = counts(packet) else { return Decision::Ignore };
    // Before the library makes room for what a header promises.
    if counts[0] != 1 || counts[1] != 0 || counts[2] != 0 || counts[3] > 2 {
        return Decision::Reply(refusal(packet, RCODE::FormatError));
    }
    let Ok(query) = Packet::parse(packet) else {
        return Decision::Reply(refusal(packet, RCODE::FormatError));
    };
    if query.opcode() != OPCODE::StandardQuery {
        return Decision::Reply(refusal(packet, RCODE::NotImplemented));
    }
    let question = &query.questions[0];
    if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN)) {
        return Decision::Forward;
    }
    match records(directory, client, question, turn) {
        Some(records) => reply(&query, records, transport)
            .map_or_else(|| Decision::Reply(refusal(packet, RCODE::ServerFailure)), Decision::Reply),
        None => Decision::Forward,
    }
}

/// The numbers of records of a question; `None` for what is none.
fn counts(packet: &[u8]) -> Option<[u16; 4]> {
    let header: &[u8; HEADER] = packet.first_chunk()?;
    let is_answer = header[2] & 0x80 != 0;
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    (!is_answer).then(|| [count(4), count(6), count(8), count(10)])
}

/// A header that refuses a question; with the question, when that can be read.
pub(crate) fn refusal(packet: &[u8], code: RCODE) -> Vec<u8> {
    let id = packet.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    let mut reply = Packet::new_reply(id);
    let counted =
        counts(packet).is_some_and(|counts| counts[0] == 1 && counts[1..3] == [0, 0] && counts[3] <= 2);
    let query = if counted { Packet::parse(packet).ok() } else { None };
    if let Some(query) = &query {
        reply.questions.clone_from(&query.questions);
        if query.has_flags(PacketFlag::RECURSION_DESIRED) {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        *reply.opcode_mut() = query.opcode();
    }
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    *reply.rcode_mut() = code;
    // A header alone cannot fail.
    reply.build_bytes_vec_compressed().unwrap_or_default()
}

/// The records that answer a question; none for a name that has no such record, `None` for one of others.
fn records<'a>(
    directory: &Directory,
    client: &str,
    question: &Question<'a>,
    turn: usize,
) -> Option<Vec<ResourceRecord<'a>>> {
    let name = text(&question.qname);
    let record = |rdata| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, rdata);
    if let Some(ip) = reversed(&name) {
        let found = directory.name_of(client, ip)?;
        let is_wanted = matches!(question.qtype, QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY);
        let target = Name::new(&found).ok()?.into_owned();
        return Some(if is_wanted { vec![record(RData::PTR(PTR(target)))] } else { Vec::new() });
    }
    let ips = directory.addresses(client, &name)?;
    let wants = |kind| question.qtype == QTYPE::TYPE(kind) || question.qtype == QTYPE::ANY;
    let mut records: Vec<_> = ips
        .iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) if wants(TYPE::A) => Some(record(RData::A(A { address: ip.to_bits() }))),
            IpAddr::V6(ip) if wants(TYPE::AAAA) => Some(record(RData::AAAA(AAAA { address: ip.to_bits() }))),
            _ => None,
        })
        .collect();
    if !records.is_empty() {
        let first = turn % records.len();
        records.rotate_left(first);
    }
    Some(records)
}

/// A name in lower case, without a dot at its end. Bytes that are no text cannot be a container's name.
fn text(name: &Name<'_>) -> String {
    let labels: Vec<_> =
        name.as_bytes().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    labels.join(".")
}

/// The address whose name is asked for: `4.3.2.1.in-addr.arpa` and its like.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(parts) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = parts.rsplit('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        let octets: [u8; 4] = octets.try_into().ok()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?.rsplit('.');
    let mut bits: u128 = 0;
    let mut count = 0;
    for digit in digits {
        let value = u128::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
        bits = bits.checked_shl(4)? | value;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

fn reply(query: &Packet<'_>, records: Vec<ResourceRecord<'_>>, transport: Transport) -> Option<Vec<u8>> {
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    reply.questions.clone_from(&query.questions);
    reply.answers = records;
    let mut room = PLAIN;
    if let Some(opt) = query.opt() {
        room = opt.udp_packet_size.clamp(PLAIN, LARGE);
        *reply.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: LARGE, version: 0 });
    }
    let bytes = reply.build_bytes_vec_compressed().ok()?;
    if transport == Transport::Tcp || bytes.len() <= usize::from(room) {
        return Some(bytes);
    }
    reply.answers.clear();
    reply.set_flags(PacketFlag::TRUNCATION);
    reply.build_bytes_vec_compressed().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::tests::{directory, member};

    fn query(name: &str, kind: TYPE) -> Packet<'_> {
        let mut packet = Packet::new_query(7);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        packet
    }

    fn ask(directory: &Directory, query: &Packet<'_>, transport: Transport, turn: usize) -> Decision {
        decide(directory, "a", &query.build_bytes_vec().unwrap(), transport, turn)
    }

    fn said(decision: &Decision) -> String {
        let Decision::Reply(bytes) = decision else { return format!("{decision:?}") };
        let packet = Packet::parse(bytes).unwrap();
        assert_eq!(packet.id(), 7);
        let answers = packet.answers.iter().map(|record| match &record.rdata {
            RData::A(a) => Ipv4Addr::from_bits(a.address).to_string(),
            RData::AAAA(a) => Ipv6Addr::from_bits(a.address).to_string(),
            RData::PTR(ptr) => ptr.0.to_string(),
            other => format!("{other:?}"),
        });
        format!("{:?} {}", packet.rcode(), answers.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn names_of_the_network_are_answered_in_turn() {
        let directory = directory();
        let ask = |name: &str, kind, turn| said(&ask(&directory, &query(name, kind), Transport::Udp, turn));
        assert_eq!(ask("web", TYPE::A, 0), "NoError 10.0.0.2 10.0.0.3");
        assert_eq!(ask("WEB", TYPE::A, 1), "NoError 10.0.0.3 10.0.0.2");
        assert_eq!(ask("web-1.shop", TYPE::AAAA, 0), "NoError fd00::2");
        // It is known, but has none of these: nobody else is asked.
        assert_eq!(ask("web-2", TYPE::AAAA, 0), "NoError ");
        assert_eq!(ask("web-2", TYPE::MX, 0), "NoError ");
        assert_eq!(ask("2.0.0.10.in-addr.arpa", TYPE::PTR, 0), "NoError web-1.shop");
        let six = format!("2.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(ask(&six, TYPE::PTR, 0), "NoError web-1.shop");
        for unknown in ["db", "example.org", "9.0.0.10.in-addr.arpa", "x.in-addr.arpa"] {
            assert_eq!(ask(unknown, TYPE::A, 0), "Forward", "{unknown}");
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_is_cut_off_unless_over_tcp() {
        let mut directory = directory();
        for last in 0..60 {
            let (id, ip) = (format!("x{last}"), format!("10.0.1.{last}"));
            directory.join(member("shop", &id, &["many"], &[&ip]));
        }
        let cut = |query: &Packet<'_>, transport| {
            let Decision::Reply(bytes) = ask(&directory, query, transport, 0) else { panic!() };
            let packet = Packet::parse(&bytes).unwrap();
            (packet.has_flags(PacketFlag::TRUNCATION), packet.answers.len(), packet.opt().is_some())
        };
        let mut query = query("many", TYPE::A);
        assert_eq!(cut(&query, Transport::Udp), (true, 0, false));
        assert_eq!(cut(&query, Transport::Tcp), (false, 60, false));
        *query.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: 1232, version: 0 });
        assert_eq!(cut(&query, Transport::Udp), (false, 60, true));
    }

    #[test]
    fn what_is_no_proper_question_is_refused_or_ignored() {
        let directory = directory();
        let decide = |packet: &[u8]| decide(&directory, "a", packet, Transport::Udp, 0);
        assert_eq!(decide(&[]), Decision::Ignore);
        assert_eq!(decide(&[0; 11]), Decision::Ignore);
        let reply = Packet::new_reply(7).build_bytes_vec().unwrap();
        assert_eq!(decide(&reply), Decision::Ignore);
        assert_eq!(said(&decide(&[0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])), "FormatError ");
        // A header that promises 65535 records.
        let mut many = query("web", TYPE::A).build_bytes_vec().unwrap();
        many[6..8].fill(0xff);
        assert_eq!(said(&decide(&many)), "FormatError ");
        let mut update = query("web", TYPE::A);
        *update.opcode_mut() = OPCODE::Update;
        assert_eq!(said(&decide(&update.build_bytes_vec().unwrap())), "NotImplemented ");
    }

    /// Whatever a container sends: no panic, no endless loop, and an answer has the question's number.
    #[test]
    fn mangled_packets_do_no_harm() {
        let directory = directory();
        let mut random = yare_damage::Random::default();
        let seeds = [
            query("web", TYPE::A).build_bytes_vec().unwrap(),
            query("2.0.0.10.in-addr.arpa", TYPE::PTR).build_bytes_vec().unwrap(),
            {
                let mut query = query("web.shop", TYPE::AAAA);
                *query.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: 1232, version: 0 });
                query.build_bytes_vec().unwrap()
            },
        ];
        for round in 0..60_000 {
            let mut packet = seeds[round % seeds.len()].clone();
            for _ in 0..=random.below(6) {
                let at = random.below(packet.len());
                packet[at] = u8::try_from(random.below(256)).unwrap();
            }
            packet.truncate(packet.len() - random.below(4));
            let transport = if round % 2 == 0 { Transport::Udp } else { Transport::Tcp };
            if let Decision::Reply(reply) = decide(&directory, "a", &packet, transport, round) {
                assert_eq!(reply.get(..2), packet.get(..2), "{packet:x?}");
                assert!(transport == Transport::Tcp || reply.len() <= usize::from(LARGE));
            }
        }
    }
}
