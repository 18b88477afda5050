//! What a terminal shows of layers on their way: one row for each that is under way, and beneath them one line
//! for all. Layers that are done have no row. Nothing here writes: a frame is a list of lines.

use std::collections::VecDeque;
use std::time::Duration;

use yare_api::progress::JSONMessage;
use yare_api::units::human_size;

/// The rate is that of so much time.
const WINDOW: Duration = Duration::from_secs(5);
/// Bytes are noted at most this often.
const STEP: Duration = Duration::from_millis(200);
/// The widest bar, and the narrowest that says anything.
const BAR: std::ops::RangeInclusive<usize> = 10..=50;

/// The layers of one transfer.
#[derive(Debug, Default)]
pub(super) struct Board {
    rows: Vec<Row>,
    began: Duration,
    /// When so many bytes were there, the oldest first.
    samples: VecDeque<(Duration, u64)>,
}

/// One layer.
#[derive(Debug, Default)]
struct Row {
    id: String,
    status: String,
    /// How far the step under way is: bytes done, and in all (0: it has no bar).
    step: (u64, u64),
    /// Bytes that came or went, and in all (0: not known).
    sent: (u64, u64),
    is_done: bool,
}

impl Row {
    fn tell(&mut self, message: &JSONMessage) {
        let detail = message.progress_detail.as_ref();
        let bytes = |count: i64| u64::try_from(count).unwrap_or_default();
        self.step = detail.map(|detail| (bytes(detail.current), bytes(detail.total))).unwrap_or_default();
        self.status.clone_from(&message.status);
        self.is_done = is_done(&self.status);
        match (self.status.as_str(), self.step.1) {
            ("Verifying Checksum" | "Download complete" | "Extracting", _) => self.sent.0 = self.sent.1,
            (_, 0) if self.is_done => self.sent.0 = self.sent.1,
            (_, 0) => {}
            _ => self.sent = self.step,
        }
    }

    /// Its line, with a bar where there is room.
    fn line(&self, width: usize) -> String {
        let text = format!("{}: {}", self.id, self.status);
        let (done, all) = self.step;
        if all == 0 {
            return cut(&text, width);
        }
        let numbers = format!("{}/{}", size(done), size(all));
        let room = width.saturating_sub(text.chars().count() + numbers.len() + 5);
        if room < *BAR.start() {
            return cut(&format!("{text} {numbers}"), width);
        }
        let room = room.min(*BAR.end());
        let filled =
            usize::try_from(u128::from(done.min(all)) * room as u128 / u128::from(all)).unwrap_or(room);
        let head = if filled < room { ">" } else { "" };
        let bar = format!("{}{head}", "=".repeat(filled));
        cut(&format!("{text} [{bar:<room$}] {numbers}"), width)
    }
}

/// Whether nothing more comes of a layer.
fn is_done(status: &str) -> bool {
    matches!(status, "Pull complete" | "Already exists" | "Pushed" | "Layer already exists")
        || status.starts_with("Mounted from ")
}

impl Board {
    /// Takes a message about a layer, which came at this time.
    pub(super) fn tell(&mut self, message: &JSONMessage, now: Duration) {
        if self.rows.is_empty() {
            self.began = now;
        }
        let at = self.rows.iter().position(|row| row.id == message.id).unwrap_or_else(|| {
            self.rows.push(Row { id: message.id.clone(), ..Row::default() });
            self.rows.len() - 1
        });
        self.rows[at].tell(message);
        let sent = self.sent().0;
        if self.samples.back().is_none_or(|(last, _)| now.saturating_sub(*last) >= STEP) {
            self.samples.push_back((now, sent));
        }
        // One that is older than the window stays, for the rate to have a beginning.
        while self.samples.get(1).is_some_and(|(second, _)| now.saturating_sub(*second) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Whether there is nothing to show.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether nothing more comes of any layer.
    pub(super) fn is_done(&self) -> bool {
        self.rows.iter().all(|row| row.is_done)
    }

    /// Bytes that came or went, and those of all layers whose size is known.
    fn sent(&self) -> (u64, u64) {
        self.rows.iter().fold((0, 0), |(sent, all), row| (sent + row.sent.0, all + row.sent.1))
    }

    /// Bytes a second of the last moments.
    fn rate(&self, now: Duration) -> u64 {
        let Some((since, before)) = self.samples.front() else { return 0 };
        let bytes = self.sent().0.saturating_sub(*before);
        per_second(bytes, now.saturating_sub(*since))
    }

    /// What a terminal of this size shows: fewer lines than it has, none wider.
    pub(super) fn frame(&self, (height, width): (usize, usize), now: Duration) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        // The cursor is on a line of its own below the last, and the line for all is always there.
        let room = height.saturating_sub(2);
        let (moving, waiting): (Vec<&Row>, Vec<&Row>) =
            self.rows.iter().filter(|row| !row.is_done).partition(|row| row.step.1 > 0);
        let open = moving.len() + waiting.len();
        let mut lines: Vec<String> = if open <= room {
            self.rows.iter().filter(|row| !row.is_done).map(|row| row.line(width)).collect()
        } else {
            let shown = room.saturating_sub(1);
            moving.iter().chain(&waiting).take(shown).map(|row| row.line(width)).collect()
        };
        if lines.len() < open && room > 0 {
            lines.push(cut(&format!("… and {} more", open - lines.len()), width));
        }
        lines.push(cut(&self.total(now), width));
        lines
    }

    /// The line for all.
    fn total(&self, now: Duration) -> String {
        let done = self.rows.iter().filter(|row| row.is_done).count();
        let mut parts = vec![format!("{done} of {}", layers(self.rows.len()))];
        let ((sent, all), rate) = (self.sent(), self.rate(now));
        // As long as one has not told its size, the sum of the others is no total.
        let is_known = all > 0 && self.rows.iter().all(|row| row.is_done || row.sent.1 > 0);
        match is_known {
            true => parts.push(format!(
                "{} of {} ({}%)",
                size(sent),
                size(all),
                u128::from(sent.min(all)) * 100 / u128::from(all)
            )),
            false if sent > 0 => parts.push(size(sent)),
            false => {}
        }
        if rate > 0 && !self.is_done() {
            parts.push(format!("{}/s", size(rate)));
            if is_known && sent < all {
                parts.push(format!("{} left", time(Duration::from_secs((all - sent).div_ceil(rate)))));
            }
        }
        parts.join("  ")
    }

    /// What stays of it when all is done.
    pub(super) fn summary(&self, now: Duration) -> String {
        let (sent, took) = (self.sent().0, now.saturating_sub(self.began));
        let mut text = layers(self.rows.len());
        if sent > 0 {
            text.push_str(&format!(", {} in {}", size(sent), time(took)));
            if took >= Duration::from_secs(1) {
                text.push_str(&format!(" ({}/s)", size(per_second(sent, took))));
            }
        }
        text
    }
}

fn layers(count: usize) -> String {
    format!("{count} layer{}", if count == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    human_size(bytes as f64)
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// A time as people say it: `0.4s`, `12s`, `3m05s`, `2h07m`.
fn time(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{:.1}s", time.as_secs_f64()),
        seconds @ 1..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// At most this many characters; one that is cut says so.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: i64 = 1_000_000;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn tell(board: &mut Board, millis: u64, id: &str, status: &str, bytes: (i64, i64)) {
        board.tell(&JSONMessage::progress(id, status, bytes.0, bytes.1), at(millis));
    }

    /// Three layers: one is there, one comes, one waits.
    fn board() -> Board {
        let mut board = Board::default();
        tell(&mut board, 0, "aaa", "Already exists", (0, 0));
        tell(&mut board, 0, "bbb", "Pulling fs layer", (0, 0));
        tell(&mut board, 0, "ccc", "Waiting", (0, 0));
        for (millis, bytes) in [(1000, 10), (2000, 20), (3000, 30)] {
            tell(&mut board, millis, "bbb", "Downloading", (bytes * MB, 100 * MB));
        }
        board
    }

    #[test]
    fn rows_are_of_what_is_under_way_and_one_line_of_all() {
        let mut board = board();
        assert_eq!(
            board.frame((24, 100), at(3000)),
            [
                "bbb: Downloading [===============>                                  ] 30MB/100MB",
                "ccc: Waiting",
                // The size of the third is not known yet: no total, no remaining time.
                "1 of 3 layers  30MB  10MB/s",
            ]
        );
        tell(&mut board, 3000, "ccc", "Downloading", (0, 20 * MB));
        assert_eq!(
            board.frame((24, 80), at(3000)).pop().unwrap(),
            "1 of 3 layers  30MB of 120MB (25%)  10MB/s  9s left"
        );
        tell(&mut board, 3500, "bbb", "Extracting", (1, 100 * MB));
        tell(&mut board, 3500, "ccc", "Pull complete", (0, 0));
        let frame = board.frame((24, 80), at(3500));
        assert_eq!(frame.len(), 2);
        assert!(frame[0].starts_with("bbb: Extracting [>"), "{frame:?}");
        assert!(frame[1].starts_with("2 of 3 layers  120MB of 120MB (100%)"), "{frame:?}");
        assert!(!board.is_done());
        tell(&mut board, 4000, "bbb", "Pull complete", (0, 0));
        assert!(board.is_done());
        assert_eq!(board.frame((24, 80), at(4000)), ["3 of 3 layers  120MB of 120MB (100%)"]);
        assert_eq!(board.summary(at(4000)), "3 layers, 120MB in 4s (30MB/s)");
    }

    #[test]
    fn no_frame_is_taller_or_wider_than_the_terminal() {
        let mut board = board();
        for number in 0..30 {
            tell(&mut board, 3000, &format!("layer{number}"), "Waiting", (0, 0));
        }
        tell(&mut board, 3000, "late", "Downloading", (1, 2));
        for height in 0..40 {
            for width in [0, 1, 7, 20, 33, 80, 300] {
                let frame = board.frame((height, width), at(3000));
                assert!(frame.len() < height.max(2), "{height}: {}", frame.len());
                assert!(frame.iter().all(|line| line.chars().count() <= width), "{width}: {frame:?}");
            }
        }
        // What moves is shown before what waits, and the rest is counted.
        let frame = board.frame((6, 60), at(3000));
        assert_eq!(frame.len(), 5);
        assert!(frame[0].starts_with("bbb: Downloading ") && frame[1].starts_with("late: "), "{frame:?}");
        assert_eq!(frame[2..4], ["ccc: Waiting", "… and 30 more"]);
        assert_eq!(board.frame((6, 30), at(3000))[0], "bbb: Downloading 30MB/100MB");
    }

    #[test]
    fn the_rate_is_that_of_the_last_moments() {
        let mut board = Board::default();
        for second in 0..60 {
            tell(&mut board, second * 1000, "a", "Pushing", (MB, 1000 * MB));
        }
        for second in 60..70 {
            let bytes = i64::try_from(second - 59).unwrap() * 4 * MB;
            tell(&mut board, second * 1000, "a", "Pushing", (bytes, 1000 * MB));
        }
        assert_eq!(board.total(at(69_000)), "0 of 1 layer  40MB of 1GB (4%)  4MB/s  4m00s left");
        // Nothing comes any more.
        assert!(board.rate(at(120_000)) < 500_000);
        assert!(board.samples.len() < 40);
    }

    #[test]
    fn what_was_there_needs_no_bytes() {
        let mut board = Board::default();
        tell(&mut board, 0, "a", "Layer already exists", (0, 0));
        tell(&mut board, 0, "b", "Mounted from team/base", (0, 0));
        assert_eq!(board.frame((24, 80), at(0)), ["2 of 2 layers"]);
        assert_eq!((board.is_done(), board.summary(at(0)).as_str()), (true, "2 layers"));
        assert_eq!(
            [400, 12_300, 185_000, 7_620_000].map(|millis| time(at(millis))),
            ["0.4s", "12s", "3m05s", "2h07m"]
        );
    }
}
