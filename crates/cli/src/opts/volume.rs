//! `--volume`, as far as the client reads it; the rest is the engine's to judge.

/// A volume flag, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Volume {
    /// `/path`: a new volume of no name.
    Anonymous(String),
    /// `source:target[:options]`, with a relative source made absolute.
    Bind(String),
}

/// Reads one `--volume`. `cwd` is what `./x` is relative to.
///
/// A single letter before a colon is a Windows drive, here as in Docker's client: `v:/b` is one path.
pub(crate) fn parse(spec: &str, cwd: &str) -> Result<Volume, String> {
    if spec.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    if spec.chars().count() < 2 {
        return Ok(Volume::Anonymous(spec.to_owned()));
    }
    let sections = sections(spec);
    for (index, section) in sections.iter().enumerate() {
        if section.is_empty() {
            return Err(format!("invalid spec: {spec}: empty section between colons"));
        }
        if index >= 2 && index + 1 < sections.len() {
            return Err(format!("invalid spec: {spec}: too many colons"));
        }
    }
    let [source, _, ..] = sections.as_slice() else { return Ok(Volume::Anonymous(spec.to_owned())) };
    if *source == "." || *source == ".." || source.starts_with("./") || source.starts_with("../") {
        let rest = &spec[source.len()..];
        return Ok(Volume::Bind(format!("{}{rest}", absolute(source, cwd))));
    }
    Ok(Volume::Bind(spec.to_owned()))
}

/// What stands between the colons, drives kept whole.
fn sections(spec: &str) -> Vec<&str> {
    let mut sections = Vec::new();
    let mut start = 0;
    for (at, _) in spec.match_indices(':') {
        let section = &spec[start..at];
        let mut letters = section.chars();
        if matches!((letters.next(), letters.next()), (Some(letter), None) if letter.is_alphabetic()) {
            continue;
        }
        sections.push(section);
        start = at + 1;
    }
    sections.push(&spec[start..]);
    sections
}

/// `path` joined to `cwd`, with `.` and `..` taken out by text alone, as Go's `filepath.Abs`.
pub(crate) fn absolute(path: &str, cwd: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("{cwd}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_sources_become_absolute() {
        assert_eq!(parse("./rel:/b", "/src/ctx").unwrap(), Volume::Bind("/src/ctx/rel:/b".to_owned()));
        assert_eq!(parse("../rel:/b:ro", "/src/ctx").unwrap(), Volume::Bind("/src/rel:/b:ro".to_owned()));
        assert_eq!(parse("rel:/b", "/src/ctx").unwrap(), Volume::Bind("rel:/b".to_owned()));
        assert_eq!(parse("/anon", "/").unwrap(), Volume::Anonymous("/anon".to_owned()));
        assert_eq!(absolute(".", "/"), "/");
    }
}
