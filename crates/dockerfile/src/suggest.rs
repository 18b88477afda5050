//! "Did you mean": the known word that is nearest to a wrong one.

/// Words further away than this many edits are no help.
const FARTHEST: usize = 2;

/// Longer words are not compared: the comparison takes time by the product of their lengths.
const LONGEST: usize = 64;

/// The nearest of `known`, whatever the case. The first of several equally near ones.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let word: Vec<char> = word.to_lowercase().chars().collect();
    let scored = known.into_iter().filter(|known| known.len() <= LONGEST);
    let scored =
        scored.map(|known| (distance(&word, &known.to_lowercase().chars().collect::<Vec<_>>()), known));
    scored
        .filter(|(edits, _)| (1..=FARTHEST).contains(edits))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, known)| known)
}

/// ` (did you mean …?)`, or nothing.
pub(crate) fn parenthesis(nearest: Option<&str>) -> String {
    nearest.map(|word| format!(" (did you mean {word}?)")).unwrap_or_default()
}

/// Insertions, deletions and replacements from one word to another (Levenshtein).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("FOO", ["ADD", "FROM", "RUN"]), Some("FROM"));
        assert_eq!(nearest("entrypont", ["ENV", "ENTRYPOINT"]), Some("ENTRYPOINT"));
        assert_eq!(nearest("bogus", ["bind", "cache", "tmpfs"]), None);
        assert_eq!(nearest("from", ["FROM"]), None, "it is the word itself");
        assert_eq!(nearest(&"x".repeat(1000), ["x"]), None);
    }
}
