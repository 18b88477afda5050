//! Who is called what on which network.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::orders::{Client, Member};

/// The networks with their members, and the containers that ask.
#[derive(Debug, Default)]
pub struct Directory {
    networks: HashMap<String, HashMap<String, Member>>,
    clients: HashMap<String, Client>,
}

impl Directory {
    /// Notes a container's place in a network, in place of what was known of it there.
    pub fn join(&mut self, mut member: Member) {
        for name in &mut member.names {
            name.make_ascii_lowercase();
        }
        self.networks.entry(member.network.clone()).or_default().insert(member.id.clone(), member);
    }

    /// Forgets it.
    pub fn leave(&mut self, network: &str, id: &str) {
        if let Some(members) = self.networks.get_mut(network) {
            members.remove(id);
            if members.is_empty() {
                self.networks.remove(network);
            }
        }
    }

    /// Notes who asks.
    pub fn admit(&mut self, client: Client) {
        self.clients.insert(client.id.clone(), client);
    }

    /// Forgets who asked.
    pub fn dismiss(&mut self, id: &str) {
        self.clients.remove(id);
    }

    /// Who asks.
    pub fn client(&self, id: &str) -> Option<&Client> {
        self.clients.get(id)
    }

    /// Whether nobody asks.
    pub fn is_idle(&self) -> bool {
        self.clients.is_empty()
    }

    /// The addresses of a name, in lower case and without a dot at its end, as a container knows it: also as
    /// `name.network`. `None` when nobody of its networks is called so.
    pub fn addresses(&self, client: &str, name: &str) -> Option<Vec<IpAddr>> {
        let client = self.clients.get(client)?;
        let link = client.links.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
        let name = link.map_or_else(|| name.to_owned(), |(_, target)| target.to_ascii_lowercase());
        let mut found: Option<Vec<IpAddr>> = None;
        for network in &client.networks {
            let qualified = network.to_ascii_lowercase();
            let short = name.strip_suffix(&qualified).and_then(|rest| rest.strip_suffix('.'));
            let members = self.networks.get(network).into_iter().flat_map(HashMap::values);
            let is_called = |member: &&Member| {
                member.names.iter().any(|called| *called == name || Some(called.as_str()) == short)
            };
            for member in members.filter(is_called) {
                found.get_or_insert_default().extend(&member.ips);
            }
        }
        // The order of a table is random from run to run; turns are taken elsewhere.
        found.map(|mut ips| {
            ips.sort_unstable();
            ips.dedup();
            ips
        })
    }

    /// The name of whoever has an address on a network of a container's, with the network's after it.
    pub fn name_of(&self, client: &str, ip: IpAddr) -> Option<String> {
        let client = self.clients.get(client)?;
        client.networks.iter().find_map(|network| {
            let member = self.networks.get(network)?.values().find(|member| member.ips.contains(&ip))?;
            Some(format!("{}.{network}", member.names.first()?))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn member(network: &str, id: &str, names: &[&str], ips: &[&str]) -> Member {
        Member {
            network: network.into(),
            id: id.into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    pub(crate) fn directory() -> Directory {
        let mut directory = Directory::default();
        directory.join(member("shop", "a", &["Web-1", "web"], &["10.0.0.2", "fd00::2"]));
        directory.join(member("shop", "b", &["web-2", "web"], &["10.0.0.3"]));
        directory.join(member("other", "c", &["db"], &["10.1.0.2"]));
        let links = vec![("store".to_owned(), "web-2".to_owned())];
        let networks = vec!["shop".to_owned()];
        let upstreams = vec!["192.0.2.53".parse().unwrap()];
        directory.admit(Client { id: "a".into(), networks, links, upstreams });
        directory
    }

    #[test]
    fn names_are_known_on_ones_own_networks_alone() {
        let mut directory = directory();
        let ips = |directory: &Directory, name: &str| {
            directory
                .addresses("a", name)
                .map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(ips(&directory, "web").as_deref(), Some("10.0.0.2 10.0.0.3 fd00::2"));
        assert_eq!(ips(&directory, "web-1").as_deref(), Some("10.0.0.2 fd00::2"));
        assert_eq!(ips(&directory, "web-2.shop").as_deref(), Some("10.0.0.3"));
        assert_eq!(ips(&directory, "store").as_deref(), Some("10.0.0.3"));
        assert_eq!(ips(&directory, "db"), None);
        assert_eq!(ips(&directory, "webshop"), None);
        assert_eq!(directory.name_of("a", "10.0.0.3".parse().unwrap()).as_deref(), Some("web-2.shop"));
        assert_eq!(directory.name_of("a", "10.1.0.2".parse().unwrap()), None);
        directory.leave("shop", "b");
        assert_eq!(ips(&directory, "web").as_deref(), Some("10.0.0.2 fd00::2"));
        directory.dismiss("a");
        assert!(directory.is_idle() && directory.addresses("a", "web").is_none());
    }
}
