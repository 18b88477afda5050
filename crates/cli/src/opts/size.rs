//! Sizes and CPU counts.

/// A size in bytes, units of 1024.
pub(crate) fn ram_bytes(text: &str) -> Result<i64, String> {
    yare_api::units::ram_in_bytes(text).map_err(|error| error.to_string())
}

/// A number of CPUs, in billionths of one; decimals or a fraction such as `1/2`.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    let too_precise = || "value is too precise".to_owned();
    let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
    let denominator: i128 = denominator.parse().map_err(|_| bad())?;
    if denominator == 0 {
        return Err(bad());
    }
    let (negative, digits) = match numerator.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, numerator.strip_prefix('+').unwrap_or(numerator)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fine = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !fine(whole) || !fine(fraction) || whole.len() > 18 {
        return Err(bad());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err(too_precise());
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let nanos: i128 =
        if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().map_err(|_| bad())? };
    let value = whole * 1_000_000_000 + nanos;
    if value % denominator != 0 {
        return Err(too_precise());
    }
    let value = value / denominator;
    i64::try_from(if negative { -value } else { value }).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::nano_cpus;

    #[test]
    fn cpus_are_exact() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus("0.000000001"), Ok(1));
        assert_eq!(nano_cpus("1/2"), Ok(500_000_000));
        assert!(nano_cpus("0.0000000001").is_err());
        assert_eq!(nano_cpus("x").unwrap_err(), "failed to parse x as a rational number");
    }
}
