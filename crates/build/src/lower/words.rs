//! The words of a step's title, as the field's builder writes them.

/// The start of a heredoc, for the title of a `RUN` that is nothing else: `<<EOF (echo one...)`.
pub(super) fn heredoc_title(line: &str, content: &str) -> String {
    let mut lines = content.lines().map(str::trim_start);
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { "..." } else { "" };
    format!("{line} ({first}{more})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heredoc_is_shown_by_its_start() {
        assert_eq!(heredoc_title("RUN <<EOF", "echo one\necho two\n"), "RUN <<EOF (echo one...)");
        assert_eq!(heredoc_title("RUN <<-EOF", "\techo tabbed\n"), "RUN <<-EOF (echo tabbed)");
    }
}
