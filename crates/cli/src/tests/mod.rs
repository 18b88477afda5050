//! Tests of the whole command line.

mod artifacts;
mod build;
mod copies;
mod credentials;
mod goldens;
mod imagetools;
mod requests;
mod server;
mod streams;
mod terminal;
mod vectors;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use yare_client::Address;

use crate::context::{Context, Environment};
use crate::flags::Given;
use crate::session::Stdio;
use crate::table::{self, Command};

/// A file that the test keeps open to its end; its descriptor lives as long as the program.
pub(super) fn leaked(fd: impl Into<OwnedFd>) -> BorrowedFd<'static> {
    let fd: &'static OwnedFd = Box::leak(Box::new(fd.into()));
    fd.as_fd()
}

/// A pipe's two ends.
pub(super) fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    std::io::pipe().unwrap()
}

/// A context of `docker` without streams.
pub(super) fn context() -> Context {
    let null = || leaked(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap());
    with_streams(Stdio { input: null(), output: null(), errors: null() })
}

pub(super) fn with_streams(stdio: Stdio) -> Context {
    let mut cx = Context::new("docker", Address::Unix("/src/fake.sock".into()), stdio);
    cx.environment = Environment::new(|name| (name == "HOME").then(|| "/root".into()));
    cx
}

/// Splits a line as a shell does, without expansions.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Reads a command line.
pub(super) fn parse(cx: &mut Context, line: &str) -> Result<(&'static Command, Given), String> {
    let words = words(line);
    let named = table::named(&words, table::find);
    let (command, used) = named.unwrap_or_else(|| panic!("no command in {line}"));
    cx.command = words[..used].join(" ");
    match crate::parse_command(cx, command, &words[used..]) {
        Ok(Some(given)) => Ok((command, given)),
        Ok(None) => Err("help".to_owned()),
        Err(failure) => Err(failure.text),
    }
}
