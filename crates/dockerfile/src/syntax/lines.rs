//! Source lines with their places.

/// A line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// Without its end.
    pub(super) text: &'a str,
    /// With its end.
    pub(super) raw: &'a str,
    /// Offset of `text` in the source.
    pub(super) offset: usize,
    /// From 1.
    pub(super) number: u32,
}

impl<'a> Line<'a> {
    /// Without blanks at its start.
    pub(super) fn trimmed(&self) -> &'a str {
        self.text.trim_start()
    }
}

/// The lines of a source, in order. A byte order mark at its start belongs to none.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    source: &'a str,
    at: usize,
    number: u32,
    end_of_last: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        let at = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { source, at, number: 0, end_of_last: at }
    }

    /// Number of the line that was read last.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Offset behind the text of the line that was read last.
    pub(super) fn end_of_last(&self) -> usize {
        self.end_of_last
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = &self.source[self.at..];
        if rest.is_empty() {
            return None;
        }
        let raw = &rest[..rest.find('\n').map_or(rest.len(), |at| at + 1)];
        let text = raw.trim_end_matches(['\n', '\r']);
        let offset = self.at;
        self.at += raw.len();
        self.number = self.number.saturating_add(1);
        self.end_of_last = offset + text.len();
        Some(Line { text, raw, offset, number: self.number })
    }
}
