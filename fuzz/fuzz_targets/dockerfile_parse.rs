//! A Dockerfile from anywhere: it is taken or refused with a place in it, and everything that looks at what
//! was taken ends. The first lines up to a NUL are an ignore file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yare_dockerfile::expand::{Escape, expand, expand_content};
use yare_dockerfile::ignore::{Glob, Ignore, copy_source};
use yare_dockerfile::instruction::Instruction;
use yare_dockerfile::lint::lint;
use yare_dockerfile::outline::{outline, targets};
use yare_dockerfile::text::{Mode, parse_ports, parse_signal};
use yare_dockerfile::{Dockerfile, Span, parse, parse_trigger};
use yare_gotext::{format_duration, parse_duration};

fn inside(span: Span, source: &str) {
    assert!(span.line >= 1 && span.column >= 1 && span.end_line >= span.line);
    assert!(span.start <= span.end && span.end <= source.len());
}

fn lookup(name: &str) -> Option<String> {
    match name {
        "A" => Some("one two/three*".into()),
        "E" => Some(String::new()),
        _ => None,
    }
}

fn look_at(file: &Dockerfile) {
    for warning in lint(file, &file.directives.check) {
        inside(warning.span, &file.source);
        assert!(!warning.render(file, "Dockerfile").is_empty());
    }
    for target in targets(file).targets {
        let _ = outline(file, Some(&target.name));
    }
    for step in file.stages.iter().flat_map(|stage| &stage.steps) {
        inside(step.span, &file.source);
        let _ = expand(&step.text, &lookup, file.escape());
        let _ = expand_content(&step.text, &lookup, file.escape());
        match &step.instruction {
            Instruction::OnBuild(trigger) => drop(parse_trigger(&trigger.expression)),
            Instruction::Run(run) => {
                run.command.script();
                for mount in &run.mounts {
                    let _ = mount.resolve(|text| Ok(text.to_owned()));
                }
            }
            Instruction::Copy(copy) => {
                for source in &copy.paths.sources {
                    assert!(!copy_source(source, copy.parents).base.contains("/../"));
                }
                let _ =
                    copy.chmod.as_deref().map(|mode| Mode::parse(mode).map(|mode| mode.apply(0o644, false)));
            }
            Instruction::Expose(ports) => ports.0.iter().for_each(|port| drop(parse_ports(port))),
            Instruction::StopSignal(signal) => drop(parse_signal(&signal.0)),
            _ => {}
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let split = input.iter().position(|byte| *byte == 0);
    let (ignored, file) = split.map_or((&[][..], input), |at| (&input[..at], &input[at + 1..]));
    match parse(file) {
        Ok(file) => look_at(&file),
        Err(error) => {
            assert!(error.line() >= 1 && !error.message().is_empty());
            assert!(!error.render("Dockerfile").is_empty());
        }
    }
    let Ok(text) = std::str::from_utf8(ignored) else { return };
    let _ = expand(text, &lookup, Escape::Backquote);
    let _ = Glob::new(text).map(|glob| glob.matches("a/b"));
    if let Ok(time) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(time)), Ok(time));
    }
    if let Ok(ignore) = Ignore::parse(text) {
        let a = ignore.root().enter("a");
        assert_eq!(a.is_ignored("a/b"), ignore.is_ignored("a/b"));
        assert_eq!(a.enter("a/b").is_ignored("a/b/c"), ignore.is_ignored("a/b/c"));
        assert!(!a.prunable() || ignore.is_ignored("a/b"));
        assert!(!a.prunable() || ignore.is_ignored("a/b/c"));
    }
});
