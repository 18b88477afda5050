//! Whether somebody else's rules drop what containers send and get.
//!
//! A packet that is forwarded passes the chains of every table, and a drop in one of them is final: an accept
//! in our own table cannot help, and others' rules are left alone. What can be done is to find out and say so.

use std::collections::BTreeSet;
use std::fmt;

use crate::firewall::attribute;
use crate::netlink::{Refused, Socket};
use crate::nft;

/// The hook that forwarded packets pass (`NF_INET_FORWARD`).
const FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;

/// A chain of another table that drops forwarded packets unless one of its rules lets them pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropping {
    family: u8,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    bridge: String,
    /// dockerd keeps a chain there for rules of others, which it jumps to first.
    for_users: bool,
}

impl fmt::Display for Dropping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chain, bridge, .. } = self;
        let family = family_name(self.family);
        write!(
            f,
            "the chain {chain} of the packet filter's table {family} {table} drops forwarded packets and has no \
             rule for {bridge}: containers may reach nobody beyond this host, and published ports only from it; \
             let them pass with: "
        )?;
        let directions = [("-i", "iifname"), ("-o", "oifname")];
        let iptables = match self.family {
            nft::FAMILY_IP if table == "filter" => Some("iptables"),
            nft::FAMILY_IP6 if table == "filter" => Some("ip6tables"),
            _ => None,
        };
        let commands = directions.map(|(flag, name)| match iptables {
            Some(program) => {
                let chain = if self.for_users { USERS } else { chain };
                format!("{program} -I {chain} {flag} {bridge} -j ACCEPT")
            }
            None => format!("nft insert rule {family} {table} {chain} {name} {bridge} accept"),
        });
        f.write_str(&commands.join("; "))
    }
}

/// dockerd's chain for others.
const USERS: &str = "DOCKER-USER";

fn family_name(family: u8) -> &'static str {
    match family {
        nft::FAMILY_IP => "ip",
        nft::FAMILY_IP6 => "ip6",
        _ => "inet",
    }
}

/// Chains of tables other than `own` that drop forwarded packets by their policy, in tables that have no rule
/// which names the bridge. Tables that only IPv6 packets pass count where the bridge has `ipv6`.
pub(crate) fn dropping(
    socket: &mut Socket,
    own: &str,
    bridge: &str,
    ipv6: bool,
) -> Result<Vec<Dropping>, Refused> {
    let mut found = Vec::new();
    let mut users = BTreeSet::new();
    let mut batch = socket.batch();
    nft::ask_chains(&mut batch);
    socket.dump(batch, |_, payload| {
        let Some(chain) = read_chain(payload) else { return };
        if chain.name == USERS {
            users.insert((chain.family, chain.table.clone()));
        }
        let concerns = ipv6 || chain.family != nft::FAMILY_IP6;
        if chain.drops && concerns && chain.table != own {
            found.push(chain);
        }
    })?;
    let mut dropping = Vec::new();
    for chain in found {
        let mut batch = socket.batch();
        nft::ask_rules_of(&mut batch, chain.family, &chain.table);
        let mut knows_us = false;
        socket.dump(batch, |_, rule| {
            knows_us |= rule.windows(bridge.len()).any(|part| part == bridge.as_bytes());
        })?;
        if !knows_us {
            let for_users = users.contains(&(chain.family, chain.table.clone()));
            let Chain { family, table, name, .. } = chain;
            dropping.push(Dropping { family, table, chain: name, bridge: bridge.to_owned(), for_users });
        }
    }
    Ok(dropping)
}

struct Chain {
    family: u8,
    table: String,
    name: String,
    drops: bool,
}

/// A message about a chain of a family that IP packets pass.
fn read_chain(payload: &[u8]) -> Option<Chain> {
    let family = *payload.first()?;
    if ![nft::FAMILY_IP, nft::FAMILY_IP6, nft::FAMILY_INET].contains(&family) {
        return None;
    }
    let attributes = payload.get(4..)?;
    let text = |kind| {
        let bytes = attribute(attributes, kind)?;
        Some(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
    };
    let number = |bytes: &[u8], kind| Some(u32::from_be_bytes(attribute(bytes, kind)?.try_into().ok()?));
    let hook = attribute(attributes, nft::CHAIN_HOOK).and_then(|hook| number(hook, nft::HOOK_NUMBER));
    let drops = hook == Some(FORWARD) && number(attributes, nft::CHAIN_POLICY) == Some(POLICY_DROP);
    Some(Chain { family, table: text(nft::TABLE)?, name: text(nft::CHAIN_NAME)?, drops })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_do() {
        let dropping = |family, table: &str, for_users| {
            let (table, chain, bridge) = (table.to_owned(), "FORWARD".to_owned(), "yare0".to_owned());
            Dropping { family, table, chain, bridge, for_users }.to_string()
        };
        let said = dropping(nft::FAMILY_IP, "filter", true);
        assert!(
            said.ends_with(
                "iptables -I DOCKER-USER -i yare0 -j ACCEPT; iptables -I DOCKER-USER -o yare0 -j ACCEPT"
            ),
            "{said}"
        );
        let said = dropping(nft::FAMILY_IP6, "filter", false);
        assert!(said.contains("the packet filter's table ip6 filter drops forwarded packets"), "{said}");
        assert!(said.ends_with("ip6tables -I FORWARD -o yare0 -j ACCEPT"), "{said}");
        let said = dropping(nft::FAMILY_INET, "fw", false);
        assert!(
            said.contains("nft insert rule inet fw FORWARD iifname yare0 accept; nft insert rule"),
            "{said}"
        );
    }
}
