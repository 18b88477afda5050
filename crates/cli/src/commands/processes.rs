//! `top` and `diff`.

use crate::context::Context;
use crate::flags::Given;
use crate::table::Outcome;

/// `top`.
pub(crate) async fn top(cx: &Context, given: &Given) -> Outcome {
    let arguments = given.arguments.get(1..).unwrap_or_default();
    let top = cx.client().container_top(given.argument(0), arguments).await?;
    // Wider apart than other tables: Docker uses other margins here.
    let lines: Vec<Vec<String>> = std::iter::once(top.titles).chain(top.processes).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .map(|widest| (widest + 3).max(20))
        .collect();
    for line in &lines {
        let mut text = String::new();
        for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if index + 1 < line.len() {
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        cx.line(text)?;
    }
    Ok(0)
}

/// `diff`.
pub(crate) async fn diff(cx: &Context, given: &Given) -> Outcome {
    let changes = cx.client().container_changes(given.argument(0)).await?.unwrap_or_default();
    for change in changes {
        let kind = match change.kind {
            0 => "C",
            1 => "A",
            2 => "D",
            _ => "",
        };
        cx.line(format_args!("{kind} {}", change.path))?;
    }
    Ok(0)
}
