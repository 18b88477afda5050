//! `--ulimit`.

use yare_api::Ulimit;
use yare_oci::kernel::RLIMITS;

/// Reads `name=soft` or `name=soft:hard`.
///
/// # Errors
/// Docker's texts.
pub fn parse(text: &str) -> Result<Ulimit, String> {
    let (name, values) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !RLIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |value: &str| {
        value
            .parse::<i64>()
            .map_err(|_| format!("strconv.ParseInt: parsing {}: invalid syntax", super::quote(value)))
    };
    let parts: Vec<&str> = values.split(':').collect();
    let (soft, hard) = match parts.as_slice() {
        [soft] => {
            let soft = number(soft)?;
            (soft, soft)
        }
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(format!(
                "too many limit value arguments - {values}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    if hard != -1 && soft == -1 {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        ));
    }
    if hard != -1 && soft > hard {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), hard, soft })
}
