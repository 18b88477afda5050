//! Lists: one row an object, as a table, as JSON lines, or through a template.

use std::collections::BTreeMap;

use super::template::LABELS;
use super::{Json, Render, compile, tabulate};
use crate::context::Context;
use crate::failure::Failure;

/// The fields of a kind of list.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Every field with its heading.
    pub headings: &'static [(&'static str, &'static str)],
    /// The fields of the default table, in order.
    pub table: &'static [&'static str],
    /// The template that `raw` stands for; empty when it stands for nothing.
    pub raw: &'static str,
}

impl Layout {
    /// The fields that a format shows; `None` for any of them.
    pub(crate) fn wanted(&self, format: &str) -> Option<&'static [&'static str]> {
        matches!(format.trim_matches(' '), "" | "table").then_some(self.table)
    }
}

/// One object of a list.
#[derive(Debug, Default)]
pub(crate) struct Row {
    fields: Vec<(&'static str, Json)>,
    labels: BTreeMap<String, String>,
    wanted: Option<&'static [&'static str]>,
}

impl Row {
    /// A row without fields.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A row of which only these fields are shown.
    pub(crate) fn of(wanted: Option<&'static [&'static str]>) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Adds a field that costs something to make, where it is shown.
    #[must_use]
    pub(crate) fn lazily<T: Into<Json>>(self, name: &'static str, value: impl FnOnce() -> T) -> Self {
        if self.wanted.is_none_or(|wanted| wanted.contains(&name)) { self.with(name, value()) } else { self }
    }

    /// Adds a field.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Json>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Gives the labels that `.Label "name"` looks into.
    #[must_use]
    pub(crate) fn labelled(mut self, labels: &BTreeMap<String, String>) -> Self {
        if self.wanted.is_none() {
            self.labels.clone_from(labels);
        }
        self
    }

    fn text(&self, name: &str) -> &str {
        match self.fields.iter().find(|(known, _)| *known == name) {
            Some((_, Json::Text(text))) => text,
            _ => "",
        }
    }

    /// The row as a document, its members sorted as Go sorts the keys of a map.
    fn document(&self, with_labels: bool) -> Json {
        let mut members: Vec<(String, Json)> =
            self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        if with_labels {
            let labels = self.labels.iter().map(|(name, value)| (name.clone(), Json::Text(value.clone())));
            members.push((LABELS.to_owned(), Json::Object(labels.collect())));
        }
        Json::Object(members)
    }
}

/// Labels as `a=b,c=d`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Writes the rows as `format` says: nothing or `table` is the default table, `table …` a table through a
/// template, `json` one document a line, anything else a template.
///
/// # Errors
/// When the template cannot be read or does not fit, and when output fails.
pub(crate) fn write_list(
    cx: &Context,
    format: &str,
    layout: &Layout,
    rows: impl Iterator<Item = Row>,
) -> Result<(), Failure> {
    let format = match format.trim_matches(' ') {
        "raw" if !layout.raw.is_empty() => layout.raw,
        format => format,
    };
    if format.is_empty() || format == "table" {
        return default_table(cx, layout, rows);
    }
    if format == "json" {
        for row in rows {
            cx.line(row.document(false).compact_escaped())?;
        }
        return Ok(());
    }
    let (as_table, template) = match format.strip_prefix("table") {
        Some(rest) if rest.starts_with([' ', '\t']) || rest.starts_with("{{") || rest.starts_with('\\') => {
            (true, rest.trim_start_matches([' ', '\t']))
        }
        _ => (false, format),
    };
    let template = template.replace("\\t", "\t").replace("\\n", "\n");
    let parsed = compile(&template, false).map_err(|why| format!("failed to parse template: {why}"))?;
    let mut text = String::new();
    if as_table {
        text.push_str(&heading(layout, &template)?);
        text.push('\n');
    }
    for row in rows {
        text.push_str(&render(parsed.as_ref(), &row.document(true))?);
        text.push('\n');
    }
    cx.write(if as_table { tabulate(&text) } else { text })
}

fn render(template: &dyn Render, document: &Json) -> Result<String, Failure> {
    template.render(document).map_err(|why| Failure::new(format!("failed to execute template: {why}")))
}

fn heading(layout: &Layout, template: &str) -> Result<String, Failure> {
    let headings =
        layout.headings.iter().map(|(field, heading)| ((*field).to_owned(), Json::from(*heading))).collect();
    let template = compile(template, true).map_err(|why| format!("template parsing error: {why}"))?;
    render(template.as_ref(), &Json::Object(headings))
}

/// The default table, without the cost of a template.
fn default_table(cx: &Context, layout: &Layout, rows: impl Iterator<Item = Row>) -> Result<(), Failure> {
    let mut text = String::new();
    let headings = layout.table.iter().map(|field| {
        layout.headings.iter().find(|(known, _)| known == field).map_or(*field, |(_, heading)| *heading)
    });
    text.push_str(&headings.collect::<Vec<_>>().join("\t"));
    text.push('\n');
    for row in rows {
        for (index, field) in layout.table.iter().enumerate() {
            if index > 0 {
                text.push('\t');
            }
            text.push_str(row.text(field));
        }
        text.push('\n');
    }
    cx.write(tabulate(&text))
}
