use super::*;

const HOST: &str = "/etc/resolv.conf";

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../tests/data/resolvconf/TestRC", $name, ".golden"))
    };
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn servers(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

const ORDINARY: &str = "nameserver 1.2.3.4\nsearch invalid\noptions ndots:0";

#[test]
fn without_overrides_the_file_says_the_same() {
    let conf = ResolvConf::parse(ORDINARY, "");
    assert_eq!(conf.render(), golden!("Modify_No_overrides"));
    let conf = ResolvConf::parse(&format!("{ORDINARY} attempts:3"), "");
    assert_eq!(conf.render(), golden!("Modify_Add_option_no_overrides"));
}

#[test]
fn overrides_replace_all_of_a_kind() {
    let mut conf = ResolvConf::parse(ORDINARY, "");
    conf.override_servers(&servers("2.3.4.5 fdba:acdd:587c::53"));
    conf.override_search(&words("com invalid example"));
    conf.override_options(&words("ndots:1 edns0 trust-ad"));
    assert_eq!(conf.render(), golden!("Modify_Overrides"));
}

#[test]
fn empty_overrides_empty_the_file() {
    for (text, expected) in
        [(ORDINARY, golden!("Modify_Empty_overrides")), ("", golden!("Modify_No_content_no_overrides"))]
    {
        let mut conf = ResolvConf::parse(text, "");
        conf.override_servers(&[]);
        conf.override_search(&[]);
        conf.override_options(&[]);
        assert_eq!(conf.render(), expected);
    }
}

#[test]
fn loopback_and_unusable_nameservers_are_replaced_on_the_bridge() {
    let cases = [
        ("10.0.0.1", false, golden!("TransformForLegacyNw_Routable_IPv4_only")),
        (
            "10.0.0.1 fdb6:b8fe:b528::1",
            true,
            golden!("TransformForLegacyNw_Routable_IPv4_and_IPv6+_ipv6_enabled"),
        ),
        (
            "10.0.0.1 fdb6:b8fe:b528::1",
            false,
            golden!("TransformForLegacyNw_Routable_IPv4_and_IPv6+_ipv6_disabled"),
        ),
        ("127.0.0.53", true, golden!("TransformForLegacyNw_IPv4_localhost+_ipv6_enabled")),
        ("127.0.0.53", false, golden!("TransformForLegacyNw_IPv4_localhost+_ipv6_disabled")),
        ("127.0.0.53 ::1", true, golden!("TransformForLegacyNw_IPv4_and_IPv6_localhost+_ipv6_enabled")),
        ("127.0.0.53 ::1", false, golden!("TransformForLegacyNw_IPv4_and_IPv6_localhost+_ipv6_disabled")),
        (
            "127.0.0.53 fd3e:2d1a:1f5a::1",
            true,
            golden!("TransformForLegacyNw_IPv4_localhost+_IPv6_routeable+_ipv6_enabled"),
        ),
        (
            "127.0.0.53 fd3e:2d1a:1f5a::1",
            false,
            golden!("TransformForLegacyNw_IPv4_localhost+_IPv6_routeable+_ipv6_disabled"),
        ),
    ];
    for (host, ipv6, expected) in cases {
        let lines: String = host.split(' ').map(|server| format!("nameserver {server}\n")).collect();
        let mut conf = ResolvConf::parse(&lines, HOST);
        conf.for_bridge(ipv6);
        assert_eq!(conf.render(), expected, "{host} {ipv6}");
    }
}

#[test]
fn nameservers_of_the_command_line_are_never_filtered() {
    let dns = DnsOptions { servers: servers("127.0.0.1 ::1"), ..DnsOptions::default() };
    let text = on_bridge("nameserver 10.0.0.1", HOST, &dns);
    assert_eq!(text, golden!("TransformForLegacyNw_Override_nameservers"));
}

#[test]
fn comments_unknown_lines_and_wrong_nameservers() {
    let conf = ResolvConf::parse("# This is a comment.\nnameserver 127.0.0.53\n", HOST);
    assert_eq!(conf.render(), golden!("SetHeader"));
    let text = "something unexpected\nnameserver 127.0.0.53\noptions ndots:1\nunrecognised thing\n";
    assert_eq!(ResolvConf::parse(text, HOST).render(), golden!("UnknownDirectives"));
    assert_eq!(ResolvConf::parse("nameserver 1.2.3.4.5", "").render(), golden!("InvalidNS"));
}

#[test]
fn a_single_dot_means_no_search() {
    let dns = DnsOptions { search: words("."), ..DnsOptions::default() };
    let text = on_host_network("nameserver 127.0.0.1\nsearch lan\n", HOST, &dns);
    assert!(text.starts_with("nameserver 127.0.0.1\n\n#"), "{text}");
}

#[test]
fn systemds_stub_points_at_its_own_list() {
    assert_eq!(host_path("nameserver 127.0.0.53\noptions edns0\n"), "/run/systemd/resolve/resolv.conf");
    assert_eq!(host_path("nameserver 127.0.0.53\nnameserver 1.1.1.1\n"), HOST);
    assert_eq!(host_path(""), HOST);
}

#[test]
fn the_resolver_stands_before_the_nameservers() {
    let cases: [(&str, &[&str], &str); 8] = [
        ("", &[], golden!("TransformForIntNS_No_config")),
        ("10.0.0.1", &[], golden!("TransformForIntNS_IPv4_only")),
        ("fd14:6e0e:f855::1", &[], golden!("TransformForIntNS_IPv6_only")),
        ("127.0.0.53", &[], golden!("TransformForIntNS_IPv4_localhost")),
        ("127.0.0.53 ::1", &[], golden!("TransformForIntNS_IPv4_and_IPv6_localhost")),
        ("127.0.0.53", &["ndots:0"], golden!("TransformForIntNS_ndots_missing_but_required")),
        ("10.0.0.1 fdb6:b8fe:b528::1", &[], golden!("TransformForIntNS_IPv4_and_IPv6+_ipv6_enabled")),
        (
            "127.0.0.53\noptions trust-ad",
            &["ndots:0", "attempts:3", "edns0", "trust-ad"],
            golden!("TransformForIntNS_Extra_required_options"),
        ),
    ];
    for (host, required, expected) in cases {
        let (servers_text, rest) = host.split_once('\n').unwrap_or((host, ""));
        let lines: String = servers_text
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(|ip| format!("nameserver {ip}\n"))
            .collect();
        let mut conf = ResolvConf::parse(&format!("{lines}{rest}"), HOST);
        assert_eq!(conf.for_resolver(required), servers(servers_text), "{host}");
        assert_eq!(conf.render(), expected, "{host}");
    }
    let dns = DnsOptions { servers: servers("127.0.0.53"), ..DnsOptions::default() };
    let mut conf = ResolvConf::parse("nameserver 10.0.0.1", HOST);
    conf.apply(&dns);
    conf.for_resolver(&[]);
    assert_eq!(conf.render(), golden!("TransformForIntNS_IPv4_localhost_override"));
}
