//! Rust source with everything that is not code taken out, so that words can be looked for.

/// Blanks comments and the insides of strings and characters; lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut after_word = false;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' | 'c' if !after_word => literal_with_prefix(rest),
            '\'' => character(rest),
            _ => 0,
        };
        after_word = first.is_alphanumeric() || first == '_';
        let taken = if length == 0 { first.len_utf8() } else { length };
        let (part, left) = rest.split_at(taken);
        if length == 0 {
            out.push_str(part);
        } else {
            out.extend(part.chars().filter(|letter| *letter == '\n'));
        }
        rest = left;
    }
    out
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a string that begins with its quote.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"`; 0 when this is a word instead.
fn literal_with_prefix(text: &str) -> usize {
    let letters = text.find(|letter: char| !matches!(letter, 'r' | 'b' | 'c')).unwrap_or(text.len());
    let (prefix, rest) = text.split_at(letters);
    if !matches!(prefix, "r" | "b" | "c" | "br" | "cr") {
        return 0;
    }
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let Some(quoted) = rest.get(hashes..).filter(|quoted| quoted.starts_with('"')) else { return 0 };
    if !prefix.ends_with('r') {
        return if hashes == 0 { letters + string(quoted) } else { 0 };
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = quoted[1..].find(&end).map_or(quoted.len() - 1, |at| at + end.len());
    letters + hashes + 1 + body
}

/// The length of a character such as `'a'` or `'\n'`; 0 when this is a lifetime.
fn character(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match (letters.next(), letters.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            text[from..].find('\'').map_or(0, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

/// The lines of the product, numbered from 1: without the modules that are only compiled for tests.
pub(crate) fn product_lines(code: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut numbered = code.lines().enumerate().map(|(index, line)| (index + 1, line)).peekable();
    while let Some((number, line)) = numbered.next() {
        if line.trim() != "#[cfg(test)]" {
            lines.push((number, line));
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        let head = numbered.by_ref().find(|(_, line)| !line.trim_start().starts_with("#["));
        if head.is_some_and(|(_, line)| line.trim_end().ends_with('{')) {
            numbered.by_ref().find(|(_, line)| line.trim_end() == closing);
        }
    }
    lines
}

/// Whether `word` stands in the line and is no part of a longer one.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part);
        let after = line[at + word.len()..].chars().next().is_some_and(part);
        !(before || after && word.ends_with(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        let cases = [
            ("a // unsafe\nb", "a \nb"),
            ("a /* x /* y */ \n z */ b", "a \n b"),
            ("f(\"un\\\"safe\") g", "f() g"),
            ("f(r#\"a \" b\"#) g", "f() g"),
            ("f(r\"\\\") g", "f() g"),
            ("f(b\"x\", c\"y\", br\"z\") g", "f(, , ) g"),
            ("let r = bar; var\"x\"", "let r = bar; var"),
            ("'a' '\\'' '\\u{1}' '\"' x", "    x"),
            ("fn f<'a>(x: &'a str) -> &'static str {}", "fn f<'a>(x: &'a str) -> &'static str {}"),
            ("r#type", "r#type"),
        ];
        for (text, wanted) in cases {
            assert_eq!(code(text), wanted, "{text}");
        }
    }

    #[test]
    fn test_modules_are_no_product() {
        let text = "a\n#[cfg(test)]\nmod tests {\n    b\n}\nc\n#[cfg(test)]\nmod more;\nd\n";
        let lines: Vec<&str> = product_lines(text).into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, ["a", "c", "d"]);
        assert_eq!(product_lines(text)[1], (6, "c"));
        let attributed = "#[cfg(test)]\n#[expect(x)]\nmod tests {\n  b\n}\nc";
        assert_eq!(product_lines(attributed), [(6, "c")]);
    }

    #[test]
    fn words_have_ends() {
        assert!(has_word("unsafe { x }", "unsafe"));
        assert!(!has_word("#![deny(unsafe_code)]", "unsafe"));
        assert!(!has_word("eprintln!(x)", "println!"));
        assert!(has_word("println!(x)", "println!"));
        assert!(has_word("std::env::var(x)", "std::env"));
    }
}
