//! `--device` and the block-device limits.

use yare_api::{DeviceMapping, ThrottleDevice, WeightDevice};

/// Whether this names a device of the Container Device Interface: `vendor.com/class=name`.
pub(crate) fn is_cdi(value: &str) -> bool {
    let Some((kind, name)) = value.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    let word = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter))
    };
    word(vendor) && word(class) && !name.is_empty()
}

/// Reads `source[:destination[:mode]]`; the second part may be the mode.
pub(crate) fn parse(value: &str) -> Result<DeviceMapping, String> {
    let parts: Vec<&str> = value.split(':').collect();
    let source = parts[0];
    if parts.len() > 3 || source.is_empty() {
        return Err(format!("bad format for path: {value}"));
    }
    let (destination, mode) = match parts.as_slice() {
        [_, mode] if is_mode(mode) => (source, *mode),
        [_, destination] => (*destination, "rwm"),
        [_, _, mode] if !is_mode(mode) => return Err(format!("bad mode specified: {mode}")),
        [_, destination, mode] => (*destination, *mode),
        _ => (source, "rwm"),
    };
    if !destination.starts_with('/') {
        return Err(format!("{destination} is not an absolute path"));
    }
    Ok(DeviceMapping {
        path_on_host: source.to_owned(),
        path_in_container: destination.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

fn is_mode(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|letter| "rwm".contains(letter))
        && ['r', 'w', 'm'].iter().all(|letter| text.matches(*letter).count() < 2)
}

/// Checks `c 1:3 rwm`.
pub(crate) fn cgroup_rule(value: &str) -> Result<(), String> {
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let mut parts = value.split(' ');
    let fine = matches!(parts.next(), Some("a" | "b" | "c"))
        && parts
            .next()
            .and_then(|numbers| numbers.split_once(':'))
            .is_some_and(|(major, minor)| number(major) && number(minor))
        && parts.next().is_some_and(|mode| {
            (1..=3).contains(&mode.len()) && mode.chars().all(|letter| "rwm".contains(letter))
        })
        && parts.next().is_none();
    if fine { Ok(()) } else { Err(format!("invalid device cgroup format '{value}'")) }
}

fn split(value: &str) -> Result<(&str, &str), String> {
    let (path, number) = value.split_once(':').ok_or_else(|| format!("bad format: {value}"))?;
    if number.contains(':') || path.is_empty() {
        return Err(format!("bad format: {value}"));
    }
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {value}"));
    }
    Ok((path, number))
}

/// Reads `/dev/x:weight`.
pub(crate) fn weight(value: &str) -> Result<WeightDevice, String> {
    let (path, number) = split(value)?;
    let weight = number.parse::<u16>().map_err(|_| format!("invalid weight for device: {value}"))?;
    if weight > 0 && !(10..=1000).contains(&weight) {
        return Err(format!("invalid weight for device: {value}"));
    }
    Ok(WeightDevice { path: path.to_owned(), weight })
}

/// Reads `/dev/x:bytes` a second, with units.
pub(crate) fn rate(value: &str) -> Result<ThrottleDevice, String> {
    let (path, number) = split(value)?;
    let rate = super::size::ram_bytes(number).ok().and_then(|rate| u64::try_from(rate).ok());
    let rate = rate.ok_or_else(|| {
        format!("invalid rate for device: {value}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb")
    })?;
    Ok(ThrottleDevice { path: path.to_owned(), rate })
}

/// Reads `/dev/x:operations` a second.
pub(crate) fn count(value: &str) -> Result<ThrottleDevice, String> {
    let (path, number) = split(value)?;
    let rate = number.parse().map_err(|_| {
        format!("invalid rate for device: {value}. The correct format is <device-path>:<number>. Number must be a positive integer")
    })?;
    Ok(ThrottleDevice { path: path.to_owned(), rate })
}
