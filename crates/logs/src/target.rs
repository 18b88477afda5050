//! Where the drivers `syslog`, `journald`, `gelf` and `fluentd` send entries, as their options say it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use yare_errdefs::Error;

type Options = BTreeMap<String, String>;

/// Where entries are sent, and in which form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A syslog server.
    Syslog {
        /// `None` finds the host's.
        address: Option<Address>,
        /// Number of the facility.
        facility: u8,
        /// Form of a message.
        format: SyslogFormat,
    },
    /// systemd's journal.
    Journald,
    /// A server of Graylog's format.
    Gelf {
        /// UDP or TCP.
        address: Address,
        /// Of datagrams.
        compression: GelfCompression,
    },
    /// A server of Fluentd's forward protocol.
    Fluentd {
        /// TCP or a stream socket.
        address: Address,
        /// Whether a container starts without a connection.
        later: bool,
        /// Whether times have nanoseconds.
        precise: bool,
    },
}

/// Address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// `host:port`.
    Udp(String),
    /// `host:port`.
    Tcp(String),
    /// A stream socket.
    Unix(PathBuf),
    /// A datagram socket.
    UnixDatagram(PathBuf),
}

/// Form of a syslog message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogFormat {
    /// Of the C library: like RFC 3164, without a host name.
    Local,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
    /// RFC 5424 with microseconds.
    Rfc5424Micro,
}

/// How a GELF datagram is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GelfCompression {
    /// gzip, at this level.
    Gzip(u32),
    /// zlib, at this level.
    Zlib(u32),
    /// Not at all.
    None,
}

/// Options that pick attributes of the container; all drivers but `local` and `none` have them.
const PICKING: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

const FACILITIES: [&str; 20] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

impl Target {
    /// Reads the options of a driver; `None` for one that sends nothing.
    ///
    /// # Errors
    /// dockerd's texts, class invalid argument. What dockerd knows and this does not is unimplemented.
    pub fn parse(driver: &str, options: &Options) -> Result<Option<Self>, Error> {
        let target = match driver {
            "syslog" => syslog(options)?,
            "journald" => {
                check_names(driver, options, &[], &[])?;
                Self::Journald
            }
            "gelf" => gelf(options)?,
            "fluentd" => fluentd(options)?,
            _ => return Ok(None),
        };
        Ok(Some(target))
    }
}

/// Refuses options that the driver does not have, and says of those of Docker's which are not built.
fn check_names(driver: &str, options: &Options, own: &[&str], missing: &[&str]) -> Result<(), Error> {
    for name in options.keys().map(String::as_str) {
        if missing.contains(&name) {
            return Err(Error::unimplemented(format!("log opt '{name}' of {driver} is not built into Yare")));
        }
        if !own.contains(&name) && !PICKING.contains(&name) {
            return Err(Error::invalid(format!("unknown log opt '{name}' for {driver} log driver")));
        }
    }
    Ok(())
}

fn option<'a>(options: &'a Options, name: &str) -> &'a str {
    options.get(name).map(String::as_str).unwrap_or_default()
}

fn with_port(host: &str, port: u16) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

fn syslog(options: &Options) -> Result<Target, Error> {
    const TLS: [&str; 4] =
        ["syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"];
    check_names("syslog", options, &["syslog-address", "syslog-facility", "syslog-format"], &TLS)?;
    let address = match option(options, "syslog-address") {
        "" => None,
        text => Some(syslog_address(text)?),
    };
    let facility = match option(options, "syslog-facility") {
        "" => 3,
        text => facility(text).ok_or_else(|| Error::invalid("invalid syslog facility"))?,
    };
    let format = match option(options, "syslog-format") {
        "" => SyslogFormat::Local,
        "rfc3164" => SyslogFormat::Rfc3164,
        "rfc5424" => SyslogFormat::Rfc5424,
        "rfc5424micro" => SyslogFormat::Rfc5424Micro,
        _ => return Err(Error::invalid("Invalid syslog format")),
    };
    Ok(Target::Syslog { address, facility, format })
}

fn syslog_address(text: &str) -> Result<Address, Error> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    match scheme {
        "udp" => Ok(Address::Udp(with_port(rest, 514))),
        "tcp" => Ok(Address::Tcp(with_port(rest, 514))),
        "unix" => Ok(Address::Unix(PathBuf::from(rest))),
        "unixgram" => Ok(Address::UnixDatagram(PathBuf::from(rest))),
        "tcp+tls" => Err(Error::unimplemented("syslog over TLS (tcp+tls) is not built into Yare")
            .with_hint("send to a relay on this host, which forwards it")),
        other => Err(Error::invalid(format!("unsupported scheme: '{other}'"))),
    }
}

/// By name or by number.
fn facility(text: &str) -> Option<u8> {
    // Between ftp and local0 there are four that have no name here.
    let number = |index: usize| u8::try_from(if index < 12 { index } else { index + 4 }).ok();
    match FACILITIES.iter().position(|name| *name == text) {
        Some(index) => number(index),
        None => text.parse().ok().filter(|number| *number <= 23),
    }
}

fn gelf(options: &Options) -> Result<Target, Error> {
    let address = option(options, "gelf-address");
    if address.is_empty() {
        return Err(Error::invalid("gelf-address is a required parameter"));
    }
    check_names(
        "gelf",
        options,
        &["gelf-address", "gelf-compression-level", "gelf-compression-type"],
        &["gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"],
    )?;
    let (scheme, place) = address.split_once("://").unwrap_or(("", address));
    let address = match scheme {
        "udp" => Address::Udp(place.to_owned()),
        "tcp" => Address::Tcp(place.to_owned()),
        _ => return Err(Error::invalid("gelf: endpoint needs to be TCP or UDP")),
    };
    if with_port(place, 0) != place {
        return Err(Error::invalid("gelf: please provide gelf-address as proto://host:port"));
    }
    let level = match option(options, "gelf-compression-level") {
        "" | "-1" => 1,
        text => text.parse().ok().filter(|level| *level <= 9).ok_or_else(|| {
            Error::invalid(format!(
                "unknown value {text:?} for log opt \"gelf-compression-level\" for gelf log driver"
            ))
        })?,
    };
    let compression = match option(options, "gelf-compression-type") {
        "" | "gzip" => GelfCompression::Gzip(level),
        "zlib" => GelfCompression::Zlib(level),
        "none" => GelfCompression::None,
        text => {
            return Err(Error::invalid(format!(
                "unknown value {text:?} for log opt \"gelf-compression-type\" for gelf log driver"
            )));
        }
    };
    Ok(Target::Gelf { address, compression })
}

fn fluentd(options: &Options) -> Result<Target, Error> {
    check_names(
        "fluentd",
        options,
        &["fluentd-address", "fluentd-async", "fluentd-sub-second-precision"],
        &[
            "fluentd-async-connect",
            "fluentd-async-reconnect-interval",
            "fluentd-buffer-limit",
            "fluentd-request-ack",
            "fluentd-retry-wait",
            "fluentd-max-retries",
            "fluentd-write-timeout",
        ],
    )?;
    let switch = |name: &str| match option(options, name) {
        "" | "false" | "0" => Ok(false),
        "true" | "1" => Ok(true),
        text => Err(Error::invalid(format!("invalid value {text:?} for log opt '{name}'"))),
    };
    let address = option(options, "fluentd-address");
    let address = match address.split_once("://").unwrap_or(("tcp", address)) {
        ("tcp", "") => Address::Tcp("127.0.0.1:24224".to_owned()),
        ("tcp", place) => Address::Tcp(with_port(place, 24224)),
        ("unix", path) => Address::Unix(PathBuf::from(path)),
        ("tls", _) => {
            return Err(Error::unimplemented("fluentd over TLS is not built into Yare"));
        }
        (scheme, _) => return Err(Error::invalid(format!("unsupported scheme: '{scheme}'"))),
    };
    Ok(Target::Fluentd {
        address,
        later: switch("fluentd-async")?,
        precise: switch("fluentd-sub-second-precision")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: &str, pairs: &[(&str, &str)]) -> Result<Target, String> {
        let options = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Target::parse(driver, &options).map(Option::unwrap).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_have_defaults() {
        let syslog = |address: &str| match parse("syslog", &[("syslog-address", address)]).unwrap() {
            Target::Syslog { address, .. } => address,
            other => panic!("{other:?}"),
        };
        assert_eq!(syslog(""), None);
        assert_eq!(syslog("udp://h"), Some(Address::Udp("h:514".into())));
        assert_eq!(syslog("tcp://[::1]:6514"), Some(Address::Tcp("[::1]:6514".into())));
        assert_eq!(syslog("unixgram:///dev/log"), Some(Address::UnixDatagram("/dev/log".into())));
        let fluentd = parse("fluentd", &[("fluentd-async", "true")]).unwrap();
        let address = Address::Tcp("127.0.0.1:24224".into());
        assert_eq!(fluentd, Target::Fluentd { address, later: true, precise: false });
    }

    #[test]
    fn facilities_have_names_and_numbers() {
        assert_eq!([facility("kern"), facility("ftp"), facility("local3")], [Some(0), Some(11), Some(19)]);
        assert_eq!([facility("23"), facility("24"), facility("x")], [Some(23), None, None]);
    }

    #[test]
    fn refuses_with_the_texts_of_docker() {
        for (driver, pairs, text) in [
            ("syslog", &[("foo", "")][..], "unknown log opt 'foo' for syslog log driver"),
            ("syslog", &[("syslog-address", "bogus")], "unsupported scheme: ''"),
            ("syslog", &[("syslog-address", "foo://x")], "unsupported scheme: 'foo'"),
            ("syslog", &[("syslog-facility", "bad")], "invalid syslog facility"),
            ("syslog", &[("syslog-format", "bad")], "Invalid syslog format"),
            (
                "syslog",
                &[("syslog-tls-key", "k")],
                "log opt 'syslog-tls-key' of syslog is not built into Yare",
            ),
            ("journald", &[("foo", "")], "unknown log opt 'foo' for journald log driver"),
            ("gelf", &[("foo", "")], "gelf-address is a required parameter"),
            (
                "gelf",
                &[("gelf-address", "udp://h")],
                "gelf: please provide gelf-address as proto://host:port",
            ),
            ("fluentd", &[("foo", "")], "unknown log opt 'foo' for fluentd log driver"),
        ] {
            assert_eq!(parse(driver, pairs).unwrap_err(), text);
        }
    }
}
