//! The API version of a request: its prefix, its bounds, and Docker's texts for what is outside of them.

pub(crate) use yare_api::version::Version;

/// The newest version served, which is also what a request without a prefix gets.
pub(crate) const NEWEST: &str = "1.51";
/// Why a version is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Answered as JSON.
    TooNew(Version),
    /// Answered as plain text, because clients as old as that know no other form.
    TooOld(Version),
}

/// The version that a path prefix (`1.47`) asks for.
pub(crate) fn negotiate(prefix: Option<&str>) -> Result<Version, Refusal> {
    let Some(text) = prefix else { return Ok(Version::MAX) };
    match numbers(text) {
        version if version < Version::MIN => Err(Refusal::TooOld(version)),
        version if version > Version::MAX => Err(Refusal::TooNew(version)),
        version => Ok(version),
    }
}

/// The first two numbers; what is missing counts as 0, what is too large as the largest.
fn numbers(text: &str) -> Version {
    let mut parts = text.split('.').map(|part| match part.parse::<u64>() {
        Ok(number) => u16::try_from(number).unwrap_or(u16::MAX),
        Err(_) if part.is_empty() => 0,
        Err(_) => u16::MAX,
    });
    Version::new(parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_outside_the_bounds_are_refused() {
        let new = Version::new(1, 99);
        assert_eq!(negotiate(Some("1.99")), Err(Refusal::TooNew(new)));
        assert_eq!(negotiate(Some("2")), Err(Refusal::TooNew(Version::new(2, 0))));
        assert_eq!(negotiate(Some("1.20")), Err(Refusal::TooOld(Version::new(1, 20))));
        assert_eq!(negotiate(Some("1")), Err(Refusal::TooOld(Version::new(1, 0))));
        assert_eq!(negotiate(Some(".")), Err(Refusal::TooOld(Version::new(0, 0))));
        assert!(matches!(negotiate(Some("1.99999999999999999999999")), Err(Refusal::TooNew(_))));
    }

    #[test]
    fn served_versions_are_compared_as_numbers() {
        assert_eq!(negotiate(None), Ok(Version::MAX));
        assert_eq!(negotiate(Some("1.51")), Ok(Version::MAX));
        let old = negotiate(Some("1.24")).expect("the oldest");
        assert!(old < Version::MAX && !old.before(24) && old.before(25));
        assert_eq!(old.to_string(), "1.24");
        assert_eq!(Version::MAX.to_string(), NEWEST);
    }
}
