//! Syslog messages, as dockerd's library writes them.

use super::{Message, Socket, open, open_datagram};
use crate::format::Stream;
use crate::target::{Address, SyslogFormat};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io;
use std::path::{Path, PathBuf};

/// Where hosts have it.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Severities `informational` and `error`.
const INFO: u8 = 6;
const ERROR: u8 = 3;

/// The host's own syslog.
pub(super) fn open_local() -> io::Result<Socket> {
    for path in LOCAL {
        let tried = open_datagram(Path::new(path)).or_else(|_| open(&Address::Unix(PathBuf::from(path))));
        if tried.is_ok() {
            return tried;
        }
    }
    let text = format!("no syslog of this host listens at any of {}", LOCAL.join(", "));
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

pub(super) fn encode(
    format: SyslogFormat,
    facility: u8,
    host: &str,
    tag: &str,
    message: &Message<'_>,
) -> Vec<u8> {
    encode_at(format, facility, (host, tag), message, &TimeZone::system())
}

fn encode_at(
    format: SyslogFormat,
    facility: u8,
    (host, tag): (&str, &str),
    message: &Message<'_>,
    zone: &TimeZone,
) -> Vec<u8> {
    let severity = match message.stream {
        Stream::Stdout => INFO,
        Stream::Stderr => ERROR,
    };
    let (priority, pid) = (facility * 8 + severity, std::process::id());
    let head = match format {
        SyslogFormat::Local => format!("<{priority}>{} {tag}[{pid}]: ", old_time(message.time, zone)),
        SyslogFormat::Rfc3164 => {
            format!("<{priority}>{} {host} {tag}[{pid}]: ", old_time(message.time, zone))
        }
        SyslogFormat::Rfc5424 | SyslogFormat::Rfc5424Micro => {
            let time = new_time(message.time, zone, format == SyslogFormat::Rfc5424Micro);
            format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
        }
    };
    let mut packet = head.into_bytes();
    packet.extend_from_slice(message.text);
    packet.push(b'\n');
    packet
}

/// `Nov  9 01:02:03`, in the host's time.
fn old_time(time: Timestamp, zone: &TimeZone) -> String {
    zone.to_datetime(time).strftime("%b %e %H:%M:%S").to_string()
}

/// RFC 3339, with `Z` where the host's time is UTC.
fn new_time(time: Timestamp, zone: &TimeZone, micro: bool) -> String {
    let digits = if micro { ".%6f" } else { "" };
    let local = zone.to_datetime(time).strftime(&format!("%Y-%m-%dT%H:%M:%S{digits}")).to_string();
    let minutes = zone.to_offset(time).seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    match minutes.abs() {
        0 => format!("{local}Z"),
        minutes => format!("{local}{sign}{:02}:{:02}", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(format: SyslogFormat, zone: &TimeZone) -> String {
        let time = "2026-11-09T11:14:16.785492143Z".parse().unwrap();
        let message = Message { stream: Stream::Stderr, time, text: b"err", part: None, number: 1 };
        let packet = encode_at(format, 3, ("vm", "tag"), &message, zone);
        String::from_utf8(packet).unwrap().replace(&std::process::id().to_string(), "PID")
    }

    #[test]
    fn forms_are_those_of_dockerd() {
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(encoded(SyslogFormat::Local, &east), "<27>Nov  9 13:14:16 tag[PID]: err\n");
        assert_eq!(encoded(SyslogFormat::Rfc3164, &TimeZone::UTC), "<27>Nov  9 11:14:16 vm tag[PID]: err\n");
        assert_eq!(
            encoded(SyslogFormat::Rfc5424, &TimeZone::UTC),
            "<27>1 2026-11-09T11:14:16Z vm tag PID tag - err\n"
        );
        assert_eq!(
            encoded(SyslogFormat::Rfc5424Micro, &east),
            "<27>1 2026-11-09T13:14:16.785492+02:00 vm tag PID tag - err\n"
        );
    }
}
