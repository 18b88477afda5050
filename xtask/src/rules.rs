//! Rules about single files: where words may stand, how long files are, what they are called.

use std::path::Path;

use crate::source::{code, has_word, product_lines};
use crate::tree::SourceFile;

/// The most lines of a file.
const LINES: usize = 1000;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// Words that only some crates may use in what they ship.
struct Rule {
    words: &'static [&'static str],
    /// What may follow the word and makes it harmless.
    except: &'static [&'static str],
    crates: &'static [&'static str],
    /// Single files of other crates that may, too.
    files: &'static [&'static str],
    /// Whether tests may use them.
    in_tests: bool,
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        words: &["async fn", "async move", "async {", "async |", "async move |"],
        except: &[],
        crates: &[
            "engine",
            "server",
            "client",
            "cli",
            "main",
            "distribution",
            "registry",
            "buildkit",
            "carrier",
        ],
        files: &[],
        in_tests: true,
        why: "async is for the edges: what forks or handles files is not asynchronous",
    },
    Rule {
        words: &["unsafe"],
        except: &[],
        crates: &["sys"],
        files: &[],
        in_tests: false,
        why: "unsafe code is in crates/sys only",
    },
    Rule {
        words: &["println!", "print!"],
        except: &[],
        crates: &["cli", "xtask"],
        files: &[],
        in_tests: true,
        why: "only the command line writes to standard output",
    },
    Rule {
        words: &["process::exit"],
        except: &[],
        crates: &["main"],
        files: &[],
        in_tests: true,
        why: "only main ends the process",
    },
    Rule {
        words: &["std::env"],
        except: &["::consts", "::current_exe"],
        crates: &["main", "cli", "testkit", "xtask"],
        // It executes itself again with the environment it was given.
        files: &["crates/runtime/src/selfexec.rs"],
        in_tests: true,
        why: "the environment is read at the edge and passed on as values",
    },
];

/// What is wrong with a file.
pub(crate) fn check(file: &SourceFile) -> Vec<String> {
    let code = code(&file.text);
    let mut problems: Vec<String> = RULES.iter().flat_map(|rule| rule.check(file, &code)).collect();
    problems.extend(too_long(file));
    problems.extend(empty_name(&file.path).map(|name| {
        format!(
            "{}: {name} says nothing about what is inside; name it after the concept",
            file.path.display()
        )
    }));
    problems
}

impl Rule {
    fn check(&self, file: &SourceFile, code: &str) -> Vec<String> {
        let excused = self.files.iter().any(|path| file.path == Path::new(path));
        if excused || self.crates.contains(&file.owner.as_str()) || (file.is_test && self.in_tests) {
            return Vec::new();
        }
        let lines = if self.in_tests { product_lines(code) } else { all_lines(code) };
        let broken = lines.into_iter().filter_map(|(number, line)| {
            let word = self.words.iter().find(|word| self.breaks(line, word))?;
            Some(format!("{}:{number}: `{word}`: {}", file.path.display(), self.why))
        });
        broken.collect()
    }

    fn breaks(&self, line: &str, word: &str) -> bool {
        let harmless = |line: &str| {
            self.except
                .iter()
                .fold(line.to_owned(), |line, except| line.replace(&format!("{word}{except}"), ""))
        };
        has_word(&harmless(line), word)
    }
}

fn all_lines(code: &str) -> Vec<(usize, &str)> {
    code.lines().enumerate().map(|(index, line)| (index + 1, line)).collect()
}

fn too_long(file: &SourceFile) -> Option<String> {
    let lines = file.text.lines().count();
    (lines >= LINES).then(|| {
        format!("{}: {lines} lines, and {LINES} are too many; split it by concept", file.path.display())
    })
}

/// The part of a path that is an empty name.
fn empty_name(path: &Path) -> Option<String> {
    let parts = path.iter().map(|part| part.to_string_lossy());
    let names = parts.map(|part| part.trim_end_matches(".rs").to_owned());
    names.into_iter().find(|name| EMPTY_NAMES.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        check(&SourceFile::new(Path::new(path), text.to_owned()))
    }

    #[test]
    fn words_are_allowed_where_they_belong() {
        let cases = [
            ("crates/net/src/a.rs", "async fn f() {}", "crates/engine/src/a.rs"),
            ("crates/net/src/a.rs", "let x = async move { 1 };", "crates/server/src/a.rs"),
            ("crates/net/src/a.rs", "unsafe { f() }", "crates/sys/src/a.rs"),
            ("crates/engine/src/a.rs", "println!(\"x\");", "crates/cli/src/a.rs"),
            ("crates/cli/src/a.rs", "std::process::exit(1);", "crates/main/src/main.rs"),
            ("crates/engine/src/a.rs", "use std::env;", "crates/main/src/a.rs"),
        ];
        for (wrong, text, right) in cases {
            assert_eq!(problems(wrong, text).len(), 1, "{text} in {wrong}");
            assert!(problems(right, text).is_empty(), "{text} in {right}");
        }
    }

    #[test]
    fn tests_may_print_and_read_the_environment() {
        let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { println!(\"{:?}\", std::env::var(\"X\")); }\n}\n";
        assert!(problems("crates/net/src/a.rs", text).is_empty());
        assert!(problems("crates/net/tests/a.rs", "println!(\"x\")").is_empty());
        assert_eq!(problems("crates/net/tests/a.rs", "unsafe { f() }").len(), 1);
    }

    #[test]
    fn harmless_forms_are_told_apart() {
        assert!(problems("crates/oci/src/a.rs", "let a = std::env::consts::ARCH;").is_empty());
        assert!(problems("crates/oci/src/a.rs", "// unsafe, println!\nlet a = \"std::env\";").is_empty());
        assert!(problems("crates/oci/src/a.rs", "#![deny(unsafe_code)]").is_empty());
    }

    #[test]
    fn files_are_short_and_named() {
        assert_eq!(problems("crates/oci/src/a.rs", &"x\n".repeat(1000)).len(), 1);
        assert!(problems("crates/oci/src/a.rs", &"x\n".repeat(999)).is_empty());
        for bad in ["crates/oci/src/util.rs", "crates/oci/src/helpers/a.rs", "crates/common/src/lib.rs"] {
            assert_eq!(problems(bad, "").len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_problem_names_its_line() {
        let found = problems("crates/net/src/a.rs", "fn a() {}\n\nasync fn f() {}");
        assert!(found[0].starts_with("crates/net/src/a.rs:3: `async fn`: "), "{found:?}");
    }
}
