//! The resolvers that an engine without root asks.

use std::net::IpAddr;

/// The host's file.
pub(super) const FILE: &str = "/etc/resolv.conf";

/// The address from which the uplink leads questions on to the host's own resolver.
pub(super) const FORWARDER: &str = "169.254.1.1";

/// The file's text as it has to be in another network namespace; none where it can stay. Resolvers of the loopback
/// interface are the host's alone.
pub(super) fn reachable(text: &str) -> Option<String> {
    if !is_local(text) {
        return None;
    }
    let is_resolver = |line: &&str| line.split_whitespace().next() == Some("nameserver");
    let mut kept: Vec<String> = text.lines().filter(|line| !is_resolver(line)).map(str::to_owned).collect();
    kept.push(format!("nameserver {FORWARDER}\n"));
    Some(kept.join("\n"))
}

/// Whether it names a resolver of the loopback interface, or none, which means the same (resolv.conf(5)).
pub(super) fn is_local(text: &str) -> bool {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.split('%').next()?.parse::<IpAddr>().ok())?
    };
    let mut resolvers = text.lines().filter_map(address).peekable();
    resolvers.peek().is_none() || resolvers.any(|resolver| resolver.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_of_the_loopback_interface_are_led_to() {
        let stub = "# stub\nnameserver 127.0.0.53\noptions edns0\nsearch example.org\n";
        assert_eq!(
            reachable(stub).unwrap(),
            "# stub\noptions edns0\nsearch example.org\nnameserver 169.254.1.1\n"
        );
        assert_eq!(reachable("").unwrap(), "nameserver 169.254.1.1\n");
        assert!(reachable("nameserver ::1\n").is_some());
        assert_eq!(reachable("nameserver 192.0.2.53\nnameserver fe80::1%eth0\n"), None);
    }
}
