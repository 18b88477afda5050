//! The container's `resolv.conf`, made from the host's.
//!
//! Rules of Docker's default bridge: the host's nameservers are copied unless they are loopback addresses,
//! which mean something else inside; when none is left, Google's are used. `--dns`, `--dns-search` and
//! `--dns-opt` each replace what the host said.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const DEFAULT_V4: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4))];
const DEFAULT_V6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844)),
];

/// A nameserver: an address, for IPv6 perhaps with a zone as in `fe80::1%eth0`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Server {
    ip: IpAddr,
    zone: Option<String>,
}

/// A parsed `resolv.conf`; `resolv.conf(5)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    path: String,
    comments: Vec<String>,
    servers: Vec<Server>,
    invalid: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    other: Vec<String>,
    overridden: Vec<&'static str>,
    ndots_from: Option<&'static str>,
    bridge: bool,
    defaults: bool,
    /// Whom the resolver asks, as the trailer shows them.
    behind: Option<Vec<String>>,
}

/// What the command line or the daemon said about name resolution. Empty means: as the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// `--dns`.
    pub servers: Vec<IpAddr>,
    /// `--dns-search`; a single `.` means none.
    pub search: Vec<String>,
    /// `--dns-opt`.
    pub options: Vec<String>,
}

/// The text for a container on the bridge, from the host's text that was read from `path`.
pub fn on_bridge(host_text: &str, path: &str, dns: &DnsOptions) -> String {
    let mut conf = ResolvConf::parse(host_text, path);
    conf.apply(dns);
    conf.for_bridge(false);
    conf.render()
}

/// What a container of a user-defined network gets: a file that names the resolver, and whom the resolver asks
/// about names that it does not know.
pub fn with_resolver(host_text: &str, path: &str, dns: &DnsOptions) -> (String, Vec<IpAddr>) {
    let mut conf = ResolvConf::parse(host_text, path);
    conf.apply(dns);
    let upstreams = conf.for_resolver(&["ndots:0"]);
    (conf.render(), upstreams)
}

/// The text for a container in the host's network, or without one: loopback nameservers stay.
pub fn on_host_network(host_text: &str, path: &str, dns: &DnsOptions) -> String {
    let mut conf = ResolvConf::parse(host_text, path);
    conf.apply(dns);
    conf.render()
}

/// Which of its two files of resolvers the host should be asked for: systemd's own list when
/// `/etc/resolv.conf` names only systemd's stub, 127.0.0.53.
pub fn host_path(etc_resolv_conf: &str) -> &'static str {
    let conf = ResolvConf::parse(etc_resolv_conf, "");
    let stub = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
    match conf.servers.as_slice() {
        [server] if server.ip == stub => "/run/systemd/resolve/resolv.conf",
        _ => "/etc/resolv.conf",
    }
}

impl ResolvConf {
    /// Reads the lines it knows; nameservers that are no address are listed and left out, other lines kept.
    pub fn parse(text: &str, path: &str) -> Self {
        let mut conf = Self { path: path.to_owned(), ..Self::default() };
        text.lines().for_each(|line| conf.parse_line(line));
        if conf.has_ndots() {
            conf.ndots_from = Some("host");
        }
        conf
    }

    fn parse_line(&mut self, line: &str) {
        if line.starts_with(['#', ';']) {
            self.comments.push(line.to_owned());
            return;
        }
        let mut words = line.split_whitespace();
        match words.next() {
            None => {}
            Some("nameserver") => self.parse_server(words.next()),
            // The last search or domain line wins.
            Some("domain" | "search") => self.search = words.map(str::to_owned).collect(),
            Some("options") => self.options.extend(words.map(str::to_owned)),
            Some(_) => self.other.push(line.to_owned()),
        }
    }

    fn parse_server(&mut self, word: Option<&str>) {
        let Some(word) = word else { return };
        let (address, zone) = match word.split_once('%') {
            Some((address, zone)) => (address, Some(zone.to_owned())),
            None => (word, None),
        };
        match address.parse() {
            Ok(ip) => self.servers.push(Server { ip, zone }),
            Err(_) => self.invalid.push(word.to_owned()),
        }
    }

    fn has_ndots(&self) -> bool {
        self.options.iter().any(|option| option.starts_with("ndots:"))
    }

    fn apply(&mut self, dns: &DnsOptions) {
        if !dns.servers.is_empty() {
            self.override_servers(&dns.servers);
        }
        if !dns.search.is_empty() {
            self.override_search(&dns.search);
        }
        if !dns.options.is_empty() {
            self.override_options(&dns.options);
        }
    }

    fn override_servers(&mut self, servers: &[IpAddr]) {
        self.servers = servers.iter().map(|&ip| Server { ip, zone: None }).collect();
        self.overridden.push("nameservers");
    }

    fn override_search(&mut self, search: &[String]) {
        let none = matches!(search, [only] if only == ".");
        self.search = search.iter().filter(|name| !none && !name.is_empty()).cloned().collect();
        self.overridden.push("search");
    }

    fn override_options(&mut self, options: &[String]) {
        self.options = options.iter().filter(|option| !option.is_empty()).cloned().collect();
        self.ndots_from = self.has_ndots().then_some("override");
        self.overridden.push("options");
    }

    /// Drops what a container on the bridge could not reach. What `--dns` said is left alone.
    fn for_bridge(&mut self, ipv6: bool) {
        self.bridge = true;
        if self.overridden.contains(&"nameservers") {
            return;
        }
        self.servers.retain(|server| !server.ip.is_loopback() && (ipv6 || server.ip.is_ipv4()));
        if self.servers.is_empty() {
            self.defaults = true;
            let v6 = if ipv6 { DEFAULT_V6.as_slice() } else { &[] };
            let all = DEFAULT_V4.iter().chain(v6);
            self.servers = all.map(|&ip| Server { ip, zone: None }).collect();
        }
    }

    /// Puts the resolver in the place of the nameservers, which it will ask; `required` options are set unless
    /// they are already.
    fn for_resolver(&mut self, required: &[&str]) -> Vec<IpAddr> {
        let own = self.overridden.contains(&"nameservers");
        // A zone belongs to an interface of the host, where the resolver is.
        let servers = std::mem::replace(
            &mut self.servers,
            vec![Server { ip: IpAddr::V4(crate::listen::RESOLVER), zone: None }],
        );
        let shown = |server: &Server| {
            let zone = server.zone.as_ref().map(|zone| format!("%{zone}")).unwrap_or_default();
            if own { format!("{}{zone}", server.ip) } else { format!("host({}{zone})", server.ip) }
        };
        self.behind = Some(servers.iter().map(shown).collect());
        for option in required {
            let name = option.split_once(':').map_or(*option, |(name, _)| name);
            let is_set = |set: &String| set.split_once(':').map_or(set.as_str(), |(name, _)| name) == name;
            if !self.options.iter().any(is_set) {
                self.options.push((*option).to_owned());
                if name == "ndots" {
                    self.ndots_from = Some("internal");
                }
            }
        }
        servers.into_iter().map(|server| server.ip).collect()
    }

    /// The text, with a trailer of comments that says where it comes from.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for comment in &self.comments {
            let _ = writeln!(text, "{comment}");
        }
        if !self.comments.is_empty() {
            text.push('\n');
        }
        for server in &self.servers {
            let zone = server.zone.as_ref().map(|zone| format!("%{zone}")).unwrap_or_default();
            let _ = writeln!(text, "nameserver {}{zone}", server.ip);
        }
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{keyword} {}", words.join(" "));
            }
        }
        for line in &self.other {
            let _ = writeln!(text, "{line}");
        }
        self.render_trailer(&mut text);
        text
    }

    fn render_trailer(&self, text: &mut String) {
        let kind = match (&self.behind, self.bridge) {
            (Some(_), _) => " (internal resolver)",
            (None, true) => " (legacy)",
            (None, false) => "",
        };
        let _ = writeln!(text, "\n# Based on host file: '{}'{kind}", self.path);
        match self.behind.as_deref() {
            None => {}
            Some([]) => text.push_str("# NO EXTERNAL NAMESERVERS DEFINED\n"),
            Some(servers) => {
                let _ = writeln!(text, "# ExtServers: [{}]", servers.join(" "));
            }
        }
        if self.defaults {
            text.push_str("# Used default nameservers.\n");
        }
        if !self.invalid.is_empty() {
            let _ = writeln!(text, "# Invalid nameservers: [{}]", self.invalid.join(" "));
        }
        let _ = writeln!(text, "# Overrides: [{}]", self.overridden.join(" "));
        if let Some(from) = self.ndots_from {
            let _ = writeln!(text, "# Option ndots from: {from}");
        }
    }
}

#[cfg(test)]
#[path = "resolv_tests.rs"]
mod tests;
