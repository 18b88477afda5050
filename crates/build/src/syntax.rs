//! Which frontend a file is for: this builder, or a program that its first lines name.

use yare_dockerfile::detect_syntax;

/// A frontend that is a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its image.
    pub source: String,
    /// All that the file says of it, the image first.
    pub cmdline: String,
    /// The line that says so, from 1; 0 when it is elsewhere.
    pub line: u32,
}

impl Foreign {
    /// What a `syntax` directive asks for; `None` when that is the stock family, which is this builder.
    pub fn of(cmdline: &str) -> Option<Self> {
        let cmdline = cmdline.trim();
        let source = cmdline.split(' ').next().unwrap_or_default();
        (!source.is_empty() && !is_stock(source)).then(|| Self {
            source: source.to_owned(),
            cmdline: cmdline.to_owned(),
            line: 0,
        })
    }

    /// What a file asks for in its first lines.
    pub fn of_file(file: &[u8]) -> Option<Self> {
        let cmdline = detect_syntax(file)?;
        let text = String::from_utf8_lossy(file);
        let line = text.lines().position(|line| line.contains("syntax") && line.contains(&cmdline));
        let line = line.and_then(|line| u32::try_from(line + 1).ok()).unwrap_or_default();
        Self::of(&cmdline).map(|foreign| Self { line, ..foreign })
    }
}

/// Whether an image is of the family whose work this builder does.
pub fn is_stock(source: &str) -> bool {
    let name = source.trim_start_matches("docker.io/").split(['@', ':']).next().unwrap_or_default();
    matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_others_name_their_frontend() {
        let foreign = Foreign::of_file(b"#!/x\n# syntax = local/frontend:1 --mode=a\nanything: [\n");
        assert_eq!(
            foreign,
            Some(Foreign {
                source: "local/frontend:1".to_owned(),
                cmdline: "local/frontend:1 --mode=a".to_owned(),
                line: 2
            })
        );
        assert_eq!(Foreign::of_file(br#"{"syntax": "a/b", "x": 1}"#).map(|foreign| foreign.line), Some(1));
        for own in [
            "# syntax=docker/dockerfile:1\nFROM x",
            "FROM x",
            "# syntax=docker.io/docker/dockerfile-upstream@sha256:a",
        ] {
            assert_eq!(Foreign::of_file(own.as_bytes()), None, "{own}");
        }
    }
}
