//! Where the time and the bytes of a build went: the last lines of a display.

use std::fmt::Write as _;
use std::time::Duration;

use yare_api::build::{BuildResult, BuildStep};

use super::graph::bytes;

/// How many steps are listed.
const LISTED: usize = 5;
/// A step that took less is not listed, in microseconds.
const SHORT: u64 = 50_000;

/// The account; empty when the engine gave none. With `explain` it has every step that ran, and why.
pub(super) fn account(result: &BuildResult, spent: Duration, explain: bool) -> String {
    if result.steps.is_empty() {
        return String::new();
    }
    let cached = result.steps.iter().filter(|step| step.cached).count();
    let mut ran: Vec<&BuildStep> = result.steps.iter().filter(|step| !step.cached).collect();
    let added: u64 = ran.iter().map(|step| step.size).fold(0, u64::saturating_add);
    let steps = if result.steps.len() == 1 { "step" } else { "steps" };
    let mut text = format!(
        "Built in {:.1}s: {} {steps}, {cached} from the cache, {} added\n",
        spent.as_secs_f64(),
        result.steps.len(),
        bytes(i64::try_from(added).unwrap_or(i64::MAX)),
    );
    ran.sort_by_key(|step| std::cmp::Reverse(step.duration));
    if !explain {
        ran.retain(|step| step.duration >= SHORT);
        ran.truncate(LISTED);
    }
    for step in ran {
        let time = format!("{:.1}s", Duration::from_micros(step.duration).as_secs_f64());
        let size = match step.size {
            0 => String::new(),
            size => bytes(i64::try_from(size).unwrap_or(i64::MAX)),
        };
        let _ = writeln!(text, "{time:>8} {size:>10}  {}", step.name);
        if explain {
            let reason = if step.reason.is_empty() { "no reason was given" } else { step.reason.as_str() };
            for line in reason.lines() {
                let _ = writeln!(text, "{:>19}  because {line}", "");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, cached: bool, duration: u64, size: u64, reason: &str) -> BuildStep {
        BuildStep { name: name.to_owned(), cached, duration, size, reason: reason.to_owned() }
    }

    #[test]
    fn the_longest_come_first() {
        let result = BuildResult {
            steps: vec![
                step("[1/4] FROM busybox", true, 0, 0, ""),
                step("[2/4] COPY . .", false, 150_000, 120_000, "the file src/main.rs changed"),
                step("[3/4] RUN make", false, 7_120_000, 45_000_000, "its input [2/4] COPY . . changed"),
                step("[4/4] WORKDIR /x", false, 900, 0, "its input [3/4] RUN make changed"),
            ],
            ..BuildResult::default()
        };
        let spent = Duration::from_millis(7312);
        assert_eq!(
            account(&result, spent, false),
            "Built in 7.3s: 4 steps, 1 from the cache, 45.12MB added\n\
             \u{20}   7.1s    45.00MB  [3/4] RUN make\n\
             \u{20}   0.1s   120.00kB  [2/4] COPY . .\n"
        );
        assert_eq!(
            account(&result, spent, true),
            "Built in 7.3s: 4 steps, 1 from the cache, 45.12MB added\n\
             \u{20}   7.1s    45.00MB  [3/4] RUN make\n\
             \u{20}                    because its input [2/4] COPY . . changed\n\
             \u{20}   0.1s   120.00kB  [2/4] COPY . .\n\
             \u{20}                    because the file src/main.rs changed\n\
             \u{20}   0.0s             [4/4] WORKDIR /x\n\
             \u{20}                    because its input [3/4] RUN make changed\n"
        );
        assert_eq!(account(&BuildResult::default(), spent, true), "");
    }
}
