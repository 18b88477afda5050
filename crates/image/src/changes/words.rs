//! Words of a Dockerfile line: quotes, escapes and variables.

use yare_errdefs::{Error, Result};

/// Splits into words and expands each.
pub(super) fn split(text: &str, env: &[String]) -> Result<Vec<String>> {
    raw_words(text).iter().map(|word| expand(word, env)).collect()
}

/// `key=value …`, or `key rest of the line` when the first word has no `=`.
pub(super) fn pairs(instruction: &str, text: &str, env: &[String]) -> Result<Vec<(String, String)>> {
    let words = raw_words(text);
    let first = words.first().map(String::as_str).unwrap_or_default();
    if raw_equals(first).is_none() {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(expand(key, env)?, expand(value.trim_start(), env)?)]);
    }
    let mut found = Vec::with_capacity(words.len());
    for word in &words {
        let place = raw_equals(word).ok_or_else(|| {
            Error::invalid(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))
        })?;
        let (key, value) = (expand(&word[..place], env)?, expand(&word[place + 1..], env)?);
        if key.is_empty() {
            return Err(Error::invalid(format!("{instruction} names can not be blank")));
        }
        found.push((key, value));
    }
    Ok(found)
}

/// The first `=` that is not quoted.
fn raw_equals(word: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (place, character) in word.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quote != Some('\'') => escaped = true,
            '"' | '\'' if quote.is_none() => quote = Some(character),
            _ if quote == Some(character) => quote = None,
            '=' if quote.is_none() => return Some(place),
            _ => {}
        }
    }
    None
}

/// Words with their quotes and escapes still in them.
fn raw_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut escaped = false;
    for character in text.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quote != Some('\'') => escaped = true,
            '"' | '\'' if quote.is_none() => quote = Some(character),
            _ if quote == Some(character) => quote = None,
            space if space.is_whitespace() && quote.is_none() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(character);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Takes quotes and escapes away and puts the values of variables in.
pub(super) fn expand(text: &str, env: &[String]) -> Result<String> {
    let mut result = String::new();
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quote != Some('\'') => match characters.next() {
                Some(next) if quote == Some('"') && !matches!(next, '"' | '\\' | '$') => {
                    result.extend(['\\', next])
                }
                Some(next) => result.push(next),
                None => result.push('\\'),
            },
            '"' | '\'' if quote.is_none() => quote = Some(character),
            _ if quote == Some(character) => quote = None,
            '$' if quote != Some('\'') => result.push_str(&variable(&mut characters, env)?),
            other => result.push(other),
        }
    }
    match quote {
        Some(quote) => Err(Error::invalid(format!(
            "unexpected end of statement while looking for matching {quote} in {text:?}"
        ))),
        None => Ok(result),
    }
}

/// What follows a dollar sign: `name`, `{name}`, `{name:-default}`, `{name:+other}`.
fn variable(characters: &mut std::iter::Peekable<std::str::Chars<'_>>, env: &[String]) -> Result<String> {
    let word = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
    let braced = characters.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(character) = characters.next_if(word) {
        name.push(character);
    }
    let value = lookup(&name, env);
    if !braced {
        return Ok(if name.is_empty() { "$".into() } else { value.unwrap_or_default().into() });
    }
    let mut modifier = String::new();
    let mut depth = 1;
    loop {
        match characters.next() {
            Some('}') if depth == 1 => break,
            Some(character) => {
                depth += i32::from(character == '{') - i32::from(character == '}');
                modifier.push(character);
            }
            None => return Err(Error::invalid(format!("syntax error: missing '}}' after ${{{name}"))),
        }
    }
    let (colon, rest) = modifier.strip_prefix(':').map_or((false, modifier.as_str()), |rest| (true, rest));
    let set = value.is_some_and(|value| !(colon && value.is_empty()));
    let (action, other) = rest.split_at_checked(1).unwrap_or(("", ""));
    match (action, set) {
        ("", _) if !colon => Ok(value.unwrap_or_default().into()),
        ("-", true) => Ok(value.unwrap_or_default().into()),
        ("-", false) | ("+", true) => expand(other, env),
        ("+", false) => Ok(String::new()),
        _ => Err(Error::invalid(format!("unsupported modifier ({modifier}) in substitution"))),
    }
}

fn lookup<'a>(name: &str, env: &'a [String]) -> Option<&'a str> {
    env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}
