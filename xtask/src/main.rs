//! Repository checks: what must hold for the whole workspace and no compiler looks at.
//!
//! `cargo xtask check` runs all of them and prints one line for each thing that is wrong.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command line program")]

mod budget;
mod edges;
mod rules;
mod source;
mod tree;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask check";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => check(root()),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The root of the repository this was built in.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

fn check(root: &Path) -> ExitCode {
    let files = match tree::sources(root) {
        Ok(files) => files,
        Err(error) => return cannot(&error),
    };
    let graph = match edges::Graph::read(root) {
        Ok(graph) => graph,
        Err(error) => return cannot(&error),
    };
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    let mut problems = edges::check(&graph);
    problems.extend(budget::check(&lock));
    problems.extend(files.iter().flat_map(rules::check));
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() {
        println!("xtask check: {} files, {} crates, nothing wrong", files.len(), graph.crates());
        ExitCode::SUCCESS
    } else {
        println!("xtask check: {} problems", problems.len());
        ExitCode::FAILURE
    }
}

fn cannot(error: &str) -> ExitCode {
    eprintln!("xtask check: {error}");
    ExitCode::from(2)
}
