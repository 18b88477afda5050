//! `COPY` and `ADD`.

use super::parse::Context;
use super::{Add, Content, Copy, Paths};
use crate::error::ParseError;
use crate::flags::Kind;
use crate::syntax::{Word, parse_heredoc};
use std::collections::HashMap;
use std::sync::Arc;

const COPY: &[(&str, Kind)] = &[
    ("from", Kind::Text),
    ("chown", Kind::Text),
    ("chmod", Kind::Text),
    ("link", Kind::Bool),
    ("parents", Kind::Bool),
    ("exclude", Kind::Texts),
];

const ADD: &[(&str, Kind)] = &[
    ("chown", Kind::Text),
    ("chmod", Kind::Text),
    ("link", Kind::Bool),
    ("exclude", Kind::Texts),
    ("checksum", Kind::Text),
    ("keep-git-dir", Kind::Bool),
    ("unpack", Kind::Bool),
];

pub(super) fn copy(context: &Context<'_>) -> Result<Copy, ParseError> {
    let words = words(context, "COPY")?;
    let flags = context.flags(COPY)?;
    Ok(Copy {
        paths: paths(context, "COPY", &words)?,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link"),
        parents: flags.bool("parents"),
        exclude: flags.texts("exclude").map(|(pattern, _)| pattern.to_owned()).collect(),
    })
}

pub(super) fn add(context: &Context<'_>) -> Result<Add, ParseError> {
    let words = words(context, "ADD")?;
    let flags = context.flags(ADD)?;
    Ok(Add {
        paths: paths(context, "ADD", &words)?,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link"),
        exclude: flags.texts("exclude").map(|(pattern, _)| pattern.to_owned()).collect(),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.optional_bool("keep-git-dir"),
        unpack: flags.optional_bool("unpack"),
    })
}

/// Sources and destination: at least one of each.
fn words(context: &Context<'_>, keyword: &str) -> Result<Vec<Word>, ParseError> {
    let words = joined(context.list()?);
    if words.len() < 2 {
        return Err(context.error(format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be \
             determined"
        )));
    }
    Ok(words)
}

/// `<< NAME` is one word.
fn joined(words: Vec<Word>) -> Vec<Word> {
    let mut joined: Vec<Word> = Vec::with_capacity(words.len());
    for word in words {
        match joined.last_mut().filter(|last| matches!(last.text.as_str(), "<<" | "<<-")) {
            Some(open) => {
                open.text.push(' ');
                open.text.push_str(&word.text);
            }
            None => joined.push(word),
        }
    }
    joined
}

fn paths(context: &Context<'_>, keyword: &str, words: &[Word]) -> Result<Paths, ParseError> {
    let mut paths = Paths::default();
    let Some((destination, sources)) = words.split_last() else { return Ok(paths) };
    let json = context.is_json();
    let heredoc = |word: &Word| {
        let parsed = if json { Ok(None) } else { parse_heredoc(&word.text) };
        parsed.map_err(|message| context.error_at(message, word.at, word.text.len()))
    };
    if heredoc(destination)?.is_some() {
        let message = format!("{keyword} cannot accept a heredoc as a destination");
        return Err(context.error_at(message, destination.at, destination.text.len()));
    }
    paths.destination.clone_from(&destination.text);
    // Of several heredocs with one name all have the content of the last one, as the field's builders do it.
    let heredocs = context.statement.heredocs.iter();
    let contents: HashMap<&str, Arc<str>> =
        heredocs.map(|heredoc| (heredoc.name.as_str(), heredoc.text().into())).collect();
    for source in sources {
        match heredoc(source)? {
            None => paths.sources.push(source.text.clone()),
            Some(heredoc) => {
                let data = contents.get(heredoc.name.as_str()).cloned().unwrap_or_else(|| Arc::from(""));
                paths.contents.push(Content { path: heredoc.name, data, expand: heredoc.expand });
            }
        }
    }
    Ok(paths)
}
