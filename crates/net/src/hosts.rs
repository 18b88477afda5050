//! Texts of `/etc/hosts` and `/etc/hostname`, as Docker writes them.

use std::fmt::Write as _;
use std::net::IpAddr;

/// One `--add-host`: a name and the address it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
}

/// An entry of `ExtraHosts` that is not `name:address`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtraHostError {
    /// There is no colon, or nothing before it.
    #[error("bad format for add-host: {0:?}")]
    Format(String),
    /// What follows the colon is no address.
    #[error("invalid IP address in add-host: {0:?}")]
    Address(String),
    /// `host-gateway` was asked for, and there is none.
    #[error("unable to derive the IP value for host-gateway")]
    NoGateway,
}

impl yare_errdefs::Classified for ExtraHostError {
    fn class(&self) -> yare_errdefs::Class {
        yare_errdefs::Class::InvalidArgument
    }
}

impl ExtraHost {
    /// Reads `name:address` (also `name:[v6]`), where the address may be the word `host-gateway`.
    pub fn parse(text: &str, gateway: Option<IpAddr>) -> Result<Self, ExtraHostError> {
        let (name, address) = match text.split_once(':') {
            Some((name, address)) if !name.is_empty() => (name, address),
            _ => return Err(ExtraHostError::Format(text.to_owned())),
        };
        if address == "host-gateway" {
            let ip = gateway.ok_or(ExtraHostError::NoGateway)?;
            return Ok(Self { name: name.to_owned(), ip });
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        match bare.parse() {
            Ok(ip) => Ok(Self { name: name.to_owned(), ip }),
            Err(_) => Err(ExtraHostError::Address(address.to_owned())),
        }
    }
}

/// What the hosts file of a container with its own network should say.
#[derive(Debug, Clone, Copy)]
pub struct HostsFile<'a> {
    /// The container's host name.
    pub hostname: &'a str,
    /// Its domain, or nothing.
    pub domainname: &'a str,
    /// Its addresses, on each of its networks.
    pub ips: &'a [IpAddr],
    /// `--add-host`, in order.
    pub extra: &'a [ExtraHost],
    /// Whether the container's loopback has `::1`.
    pub ipv6_loopback: bool,
}

impl HostsFile<'_> {
    /// The text: loopback and multicast names, the extra hosts, then the container's own line.
    pub fn render(&self) -> String {
        let mut text = String::from("127.0.0.1\tlocalhost\n");
        if self.ipv6_loopback {
            text.push_str(
                "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
                 ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
            );
        }
        push_extra(&mut text, self.extra);
        text.push_str(&self.own_lines());
        text
    }

    /// `text` with the container's own lines at its end.
    pub fn added_to(&self, text: &str) -> String {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        format!("{text}{gap}{}", self.own_lines())
    }

    /// `text` without the container's own lines; what the user wrote stays.
    pub fn taken_from(&self, text: &str) -> String {
        let own = self.own_lines();
        let is_own = |line: &&str| own.lines().any(|own| own == *line);
        let mut left: String = String::with_capacity(text.len());
        for line in text.lines().filter(|line| !is_own(line)) {
            left.push_str(line);
            left.push('\n');
        }
        left
    }

    fn own_lines(&self) -> String {
        let names = if self.domainname.is_empty() {
            self.hostname.to_owned()
        } else {
            format!("{0}.{1} {0}", self.hostname, self.domainname)
        };
        let mut text = String::new();
        self.ips.iter().for_each(|ip| push_line(&mut text, *ip, &names));
        text
    }
}

/// `text` with another address of the family of `ip` in the lines whose first name is `name`.
pub fn moved(text: &str, name: &str, ip: IpAddr) -> String {
    let mut changed = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (address, names) = line.split_once('\t').unwrap_or((line, ""));
        let is_meant = names.split_whitespace().next() == Some(name)
            && address.parse::<IpAddr>().is_ok_and(|old| old.is_ipv4() == ip.is_ipv4());
        match is_meant {
            // Writing to a string cannot fail.
            true => drop(write!(changed, "{ip}\t{names}")),
            false => changed.push_str(line),
        }
    }
    changed
}

/// The hosts file of a container in the host's network: the host's own, then the extra hosts.
pub fn on_host_network(host_file: &str, extra: &[ExtraHost]) -> String {
    let mut text = host_file.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    push_extra(&mut text, extra);
    text
}

/// The text of `/etc/hostname`.
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

fn push_extra(text: &mut String, extra: &[ExtraHost]) {
    for host in extra {
        push_line(text, host.ip, &host.name);
    }
}

fn push_line(text: &mut String, ip: IpAddr, names: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{ip}\t{names}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));

    #[test]
    fn the_file_is_dockers() {
        let extra = [
            ExtraHost::parse("db:10.0.0.7", None).unwrap(),
            ExtraHost::parse("host.docker.internal:host-gateway", Some(GATEWAY)).unwrap(),
        ];
        let file = HostsFile {
            hostname: "web",
            domainname: "",
            ips: &[IpAddr::V4(Ipv4Addr::new(172, 17, 0, 2))],
            extra: &extra,
            ipv6_loopback: true,
        };
        assert_eq!(
            file.render(),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n10.0.0.7\tdb\n\
             172.17.0.1\thost.docker.internal\n172.17.0.2\tweb\n"
        );
    }

    #[test]
    fn a_domain_puts_the_full_name_first() {
        let ips = [IpAddr::from([172, 17, 0, 2])];
        let file = HostsFile {
            hostname: "web",
            domainname: "example.org",
            ips: &ips,
            extra: &[],
            ipv6_loopback: false,
        };
        assert_eq!(file.render(), "127.0.0.1\tlocalhost\n172.17.0.2\tweb.example.org web\n");
    }

    #[test]
    fn own_lines_come_and_go_and_others_stay() {
        let ips = [IpAddr::from([172, 18, 0, 2])];
        let file = HostsFile { hostname: "web", domainname: "", ips: &ips, extra: &[], ipv6_loopback: false };
        let text = file.added_to("127.0.0.1\tlocalhost\n10.0.0.1 mine");
        assert_eq!(text, "127.0.0.1\tlocalhost\n10.0.0.1 mine\n172.18.0.2\tweb\n");
        assert_eq!(file.taken_from(&text), "127.0.0.1\tlocalhost\n10.0.0.1 mine\n");
    }

    #[test]
    fn without_a_network_there_is_no_own_line() {
        let file = HostsFile { hostname: "web", domainname: "", ips: &[], extra: &[], ipv6_loopback: false };
        assert_eq!(file.render(), "127.0.0.1\tlocalhost\n");
    }

    #[test]
    fn a_name_moves_and_others_stay() {
        let text = "127.0.0.1\tlocalhost\n172.17.0.2\tdb 0123 store\nfd00::2\tdb 0123 store\n172.17.0.2\tstore db\n172.17.0.3\tdbs";
        assert_eq!(
            moved(text, "db", IpAddr::from([172, 17, 0, 9])),
            text.replacen("172.17.0.2", "172.17.0.9", 1),
        );
        assert_eq!(moved(text, "db", "fd00::9".parse().unwrap()), text.replace("fd00::2", "fd00::9"));
        assert_eq!(moved(text, "dbs", IpAddr::from([10, 0, 0, 1])), text.replace("172.17.0.3", "10.0.0.1"));
        assert_eq!(moved(text, "web", IpAddr::from([10, 0, 0, 1])), text);
    }

    #[test]
    fn extra_hosts_take_ipv6_and_refuse_the_rest() {
        for text in ["v6:::1", "v6:[::1]"] {
            let host = ExtraHost::parse(text, None).unwrap();
            assert_eq!((host.name.as_str(), host.ip), ("v6", "::1".parse().unwrap()), "{text}");
        }
        assert_eq!(ExtraHost::parse("nohost", None), Err(ExtraHostError::Format("nohost".into())));
        assert_eq!(ExtraHost::parse(":1.2.3.4", None), Err(ExtraHostError::Format(":1.2.3.4".into())));
        assert_eq!(ExtraHost::parse("x:1.2.3", None), Err(ExtraHostError::Address("1.2.3".into())));
        assert_eq!(ExtraHost::parse("x:host-gateway", None), Err(ExtraHostError::NoGateway));
        assert!(ExtraHost::parse("x:1.2.3.4\n6.6.6.6 evil", None).is_err());
    }

    #[test]
    fn the_hosts_file_of_the_host_is_kept_and_extended() {
        let extra = [ExtraHost::parse("db:10.0.0.7", None).unwrap()];
        assert_eq!(on_host_network("127.0.0.1 localhost", &extra), "127.0.0.1 localhost\n10.0.0.7\tdb\n");
        assert_eq!(hostname_file("web"), "web\n");
    }
}
