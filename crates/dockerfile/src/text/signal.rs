//! Signals of `STOPSIGNAL`.

/// Names and numbers of Linux, without `SIG`.
const SIGNALS: &[(&str, u8)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// First and last of the real-time signals as they are seen from outside of the C library.
const REAL_TIME: (u8, u8) = (34, 64);

/// The number of a signal given by name (`TERM`, `sigterm`, `RTMIN+3`) or number.
pub fn parse_signal(text: &str) -> Result<u8, String> {
    let invalid = || format!("invalid signal: {text}");
    if let Ok(number) = text.parse::<u8>() {
        return if (1..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let (base, distance) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => (REAL_TIME.0, Some(0)),
        (_, Some("")) => (REAL_TIME.1, Some(0)),
        (Some(above), _) => (REAL_TIME.0, above.strip_prefix('+').and_then(|text| text.parse::<i16>().ok())),
        (_, Some(below)) => {
            (REAL_TIME.1, below.strip_prefix('-').and_then(|text| text.parse::<i16>().ok()).map(|text| -text))
        }
        _ => return Err(invalid()),
    };
    let number = distance.map(|distance| i16::from(base).saturating_add(distance)).ok_or_else(invalid)?;
    let number = u8::try_from(number).map_err(|_| invalid())?;
    if (REAL_TIME.0..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("9", 9), ("SIGTERM", 15), ("term", 15), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax-1", 63)]
        {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for bad in ["NOPE", "0", "65", "", "RTMIN+31", "RTMIN+", "RTMAX-31", "-1"] {
            assert_eq!(parse_signal(bad), Err(format!("invalid signal: {bad}")));
        }
    }
}
