//! Names and ids of containers: generated, checked, shortened.

use yare_errdefs::Error;

mod words;

/// A name such as `brave_hopper` picked by a random number; from the second try on, a digit follows.
pub fn generate(random: u64, tries: u32) -> String {
    let (adjectives, surnames) = (words::ADJECTIVES, words::SURNAMES);
    // Both lists are far shorter than `usize` goes.
    let adjective = adjectives[(random % adjectives.len() as u64) as usize];
    let rest = random / adjectives.len() as u64;
    let surname = surnames[(rest % surnames.len() as u64) as usize];
    match tries {
        0 => format!("{adjective}_{surname}"),
        _ => format!("{adjective}_{surname}{}", rest / surnames.len() as u64 % 10),
    }
}

/// Takes the leading slash off a container name and checks the rest: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
///
/// # Errors
/// Docker's text, class invalid argument.
pub fn check(name: &str) -> Result<&str, Error> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    if is_valid(bare) { Ok(bare) } else { Err(Error::invalid(crate::texts::invalid_container_name(name))) }
}

/// Whether a text is a name of a container, volume or network: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn is_valid(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() >= 2 && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(rest)
}

/// Whether a text is a whole id: 64 lower-case hex digits.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first 12 digits of an id, without the algorithm of a digest.
pub fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn generated_names_are_valid_and_many() {
        let names: BTreeSet<_> = (0..20_000).map(|random| generate(random, 0)).collect();
        assert!(names.len() >= 9_000, "{} names", names.len());
        assert!(names.iter().all(|name| is_valid(name)));
        assert!(generate(u64::MAX, 3).ends_with(|char: char| char.is_ascii_digit()));
    }

    #[test]
    fn words_are_words() {
        for list in [words::ADJECTIVES, words::SURNAMES] {
            let distinct: BTreeSet<_> = list.iter().collect();
            assert_eq!(distinct.len(), list.len());
            assert!(list.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
        }
    }

    #[test]
    fn names_and_ids() {
        assert_eq!(check("/web-1").unwrap(), "web-1");
        for bad in ["@bad", "a", "", "/", "-a", "a/b", "a b", "é1", "//a1"] {
            assert_eq!(check(bad).unwrap_err().to_string(), crate::texts::invalid_container_name(bad));
        }
        assert_eq!(short_id("sha256:24f2d04b02d44407e544427a3e0486ff0940e8f7"), "24f2d04b02d4");
        assert_eq!(short_id("abc"), "abc");
        assert!(is_id(&"0a".repeat(32)) && !is_id(&"0A".repeat(32)) && !is_id("0a"));
    }
}
