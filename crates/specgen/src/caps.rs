//! Capabilities.

use crate::HostFacts;
use yare_errdefs::Error;
use yare_oci::kernel::CAPABILITIES;

/// What a container has when its request says nothing, in Docker's order.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const EVERY: &str = "ALL";

/// Which capabilities can be given on this host, one bit each.
pub fn available_mask(facts: &HostFacts) -> u64 {
    let known = u64::MAX.checked_shr(63_u32.saturating_sub(facts.last_capability)).unwrap_or(0);
    facts.capabilities & known
}

/// The names of the capabilities whose bits are set.
pub fn names(mask: u64) -> Vec<String> {
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| mask >> number & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// Adds to and drops from the default ones.
///
/// # Errors
/// Docker's text for a name nobody knows or that this host cannot give, class invalid argument.
pub fn choose(
    add: &[String],
    drop: &[String],
    privileged: bool,
    facts: &HostFacts,
) -> Result<Vec<String>, Error> {
    let available = names(available_mask(facts));
    let drop =
        normalize(drop, &available).map_err(|text| Error::invalid(format!("invalid CapDrop: {text}")))?;
    let add = normalize(add, &available).map_err(|text| Error::invalid(format!("invalid CapAdd: {text}")))?;
    if privileged {
        return Ok(available);
    }
    let has = |list: &[String], name: &str| list.iter().any(|have| have == name);
    let mut chosen: Vec<String> = if has(&add, EVERY) {
        available.into_iter().filter(|name| !has(&drop, name)).collect()
    } else if has(&drop, EVERY) {
        add
    } else {
        let defaults = DEFAULT.iter().filter(|name| has(&available, name) && !has(&drop, name));
        defaults.map(|name| (*name).to_owned()).chain(add).collect()
    };
    let mut seen = std::collections::BTreeSet::new();
    chosen.retain(|name| seen.insert(name.clone()));
    Ok(chosen)
}

fn normalize(names: &[String], available: &[String]) -> Result<Vec<String>, String> {
    let one = |name: &String| {
        let mut name = name.to_uppercase();
        if name == EVERY {
            return Ok(name);
        }
        if !name.starts_with("CAP_") {
            name.insert_str(0, "CAP_");
        }
        if !CAPABILITIES.contains(&name.as_str()) {
            return Err(format!("unknown capability: {name:?}"));
        }
        if !available.contains(&name) {
            return Err(format!(
                "capability not supported by your kernel or not available in the current environment: {name:?}"
            ));
        }
        Ok(name)
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(add: &[&str], drop: &[&str]) -> Result<Vec<String>, String> {
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        choose(&owned(add), &owned(drop), false, &HostFacts::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn adds_and_drops() {
        assert_eq!(chosen(&[], &[]).unwrap(), DEFAULT);
        assert_eq!(chosen(&["net_bind_service"], &["ALL"]).unwrap(), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(chosen(&["all"], &["MKNOD"]).unwrap().len(), CAPABILITIES.len() - 1);
        let plus = chosen(&["SYS_TIME", "CAP_KILL"], &["cap_chown"]).unwrap();
        assert_eq!(plus.len(), DEFAULT.len());
        assert_eq!(plus.last().unwrap(), "CAP_SYS_TIME");
        assert!(!plus.contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(chosen(&["ALL"], &["ALL"]).unwrap().len(), CAPABILITIES.len());
    }

    #[test]
    fn refuses_what_nobody_knows_or_has() {
        assert_eq!(
            chosen(&["CAP_BOGUS"], &[]).unwrap_err(),
            "invalid CapAdd: unknown capability: \"CAP_BOGUS\""
        );
        assert_eq!(
            chosen(&[], &["bogus"]).unwrap_err(),
            "invalid CapDrop: unknown capability: \"CAP_BOGUS\""
        );
        let old = HostFacts { last_capability: 37, ..HostFacts::default() };
        assert!(choose(&["BPF".to_owned()], &[], false, &old).is_err());
        let limited = HostFacts { capabilities: !(1 << 24), ..HostFacts::default() };
        assert!(!choose(&[], &[], true, &limited).unwrap().contains(&"CAP_SYS_RESOURCE".to_owned()));
    }
}
