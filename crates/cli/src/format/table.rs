//! Columns, as Go's `text/tabwriter` makes them.

/// How wide columns are.
#[derive(Clone, Copy)]
struct Spacing {
    /// The least width of a column.
    least: usize,
    /// Space after the widest cell.
    padding: usize,
}

/// Aligns cells that end with a tab, in columns of at least 10 with three spaces between. A column reaches over
/// neighbouring lines that have it; the last cell of a line belongs to none.
pub(crate) fn tabulate(text: &str) -> String {
    aligned(text, Spacing { least: 10, padding: 3 })
}

/// The same with one space between columns.
pub(crate) fn tabulate_closely(text: &str) -> String {
    aligned(text, Spacing { least: 0, padding: 1 })
}

fn aligned(text: &str, spacing: Spacing) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut aligned = String::with_capacity(text.len() * 2);
    block(&lines, spacing, &mut Vec::new(), &mut aligned);
    if !text.ends_with('\n') {
        aligned.pop();
    }
    aligned
}

fn block(lines: &[Vec<&str>], spacing: Spacing, widths: &mut Vec<usize>, out: &mut String) {
    let column = widths.len();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].len() <= column + 1 {
            line(&lines[at], widths, out);
            at += 1;
            continue;
        }
        let count = lines[at..].iter().take_while(|cells| cells.len() > column + 1).count();
        let group = &lines[at..at + count];
        let widest = group.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        widths.push((widest + spacing.padding).max(spacing.least));
        block(group, spacing, widths, out);
        widths.pop();
        at += count;
    }
}

fn line(cells: &[&str], widths: &[usize], out: &mut String) {
    for (index, cell) in cells.iter().enumerate() {
        out.push_str(cell);
        if index + 1 < cells.len() {
            let width = widths.get(index).copied().unwrap_or_default();
            let missing = width.saturating_sub(cell.chars().count());
            out.extend(std::iter::repeat_n(' ', missing));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::{tabulate, tabulate_closely};

    #[test]
    fn columns_are_tabwriters() {
        assert_eq!(
            tabulate("DRIVER\tVOLUME NAME\nlocal\tbaz\nbar\tfoo\n"),
            "DRIVER    VOLUME NAME\nlocal     baz\nbar       foo\n"
        );
        assert_eq!(tabulate("a\tb\nx\n"), "a         b\nx\n");
        assert_eq!(tabulate("a\t\n"), "a         \n");
        assert_eq!(tabulate(""), "");
        assert_eq!(
            tabulate_closely("a:\tb\n\t\nlong:\tc\nx\ny:\tz\n"),
            "a:    b\n      \nlong: c\nx\ny: z\n"
        );
    }
}
