//! Damaged Dockerfiles: whatever is done to one, it is taken or refused with a place in it.

use yare_damage::Random;
use yare_dockerfile::expand::expand;
use yare_dockerfile::lint::lint;
use yare_dockerfile::outline::{outline, targets};
use yare_dockerfile::{Span, parse, parse_trigger};

/// Pieces that mean something somewhere.
const PIECES: &[&str] = &[
    "FROM a AS b\n",
    "RUN <<E\n",
    "\nE\n",
    "\\\n",
    "`",
    "\"",
    "'",
    "$",
    "${",
    "}",
    ":-",
    "//",
    "[\"",
    "\"]",
    "--mount=",
    "type=cache,",
    "--",
    "=",
    "# escape=`\n",
    "# check=skip=all\n",
    "ONBUILD ",
    "COPY << X /a\n",
    "\r\n",
    "\u{feff}",
    "é",
    "\0",
    "HEALTHCHECK --interval=1s CMD ",
    "ENV a",
    "LABEL ",
    " ",
    "\t",
    "#",
    "<<-'E'",
    "EXPOSE 1-2/udp",
    "ARG x=$x\n",
];

const ROUNDS: usize = 6000;

fn seeds() -> Vec<Vec<u8>> {
    let folder = format!("{}/tests/data/parser-testfiles", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&folder).expect(&folder);
    let mut seeds: Vec<Vec<u8>> = entries
        .map(|entry| std::fs::read(entry.expect("entry").path().join("Dockerfile")).expect("file"))
        .collect();
    let measured = include_str!("data/dockerfile-build-vectors.json");
    let measured: serde_json::Value = serde_json::from_str(measured).expect("JSON");
    let cases = measured["cases"].as_array().expect("cases");
    seeds.extend(cases.iter().filter_map(|case| Some(case["dockerfile"].as_str()?.as_bytes().to_vec())));
    seeds.sort();
    seeds
}

fn inside(span: Span, source: &str) {
    assert!(span.line >= 1 && span.column >= 1 && span.end_line >= span.line, "{span:?}");
    assert!(span.start <= span.end && span.end <= source.len(), "{span:?}");
}

fn exercise(input: &[u8]) -> bool {
    let file = match parse(input) {
        Ok(file) => file,
        Err(error) => {
            let lines = input.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&(error.line() as usize)), "{error:?}");
            assert!(error.render("Dockerfile").starts_with("Dockerfile:"));
            return false;
        }
    };
    for warning in lint(&file, &file.directives.check) {
        inside(warning.span, &file.source);
        assert!(!warning.render(&file, "Dockerfile").is_empty());
    }
    for target in targets(&file).targets {
        let _ = outline(&file, Some(&target.name));
    }
    for step in file.stages.iter().flat_map(|stage| &stage.steps) {
        inside(step.span, &file.source);
        let _ = expand(&step.text, &|name| Some(name.repeat(2)), file.escape());
        let _ = parse_trigger(&step.text);
    }
    true
}

#[test]
fn damaged_files_are_taken_or_refused() {
    let seeds = seeds();
    let mut random = Random::default();
    let mut taken = 0;
    for _ in 0..ROUNDS {
        let mut input = random.one(&seeds).clone();
        input.truncate(600);
        for _ in 0..=random.below(5) {
            let at = random.below(input.len() + 1);
            match random.below(4) {
                0 => {
                    let end = (at + random.below(20)).min(input.len());
                    input.drain(at..end);
                }
                1 => {
                    let other = random.one(&seeds);
                    let from = random.below(other.len());
                    let to = (from + random.below(80)).min(other.len());
                    input.splice(at..at, other[from..to].iter().copied());
                }
                2 if at < input.len() => input[at] ^= 1 << random.below(8),
                _ => {
                    let piece = random.one(PIECES);
                    input.splice(at..at, piece.bytes());
                }
            }
        }
        taken += usize::from(exercise(&input));
    }
    assert!((ROUNDS / 10..ROUNDS * 9 / 10).contains(&taken), "{taken}: both must happen");
}
