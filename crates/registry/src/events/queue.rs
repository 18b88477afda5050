//! Events that wait for their webhooks, in the records: the table `events`.
//!
//! The key is (webhook, number), the value the event as JSON. The numbers of one webhook follow each other
//! without a gap: a new event goes behind the last one, and only the first ones are crossed out.

use super::{Event, Hook};
use crate::problem::Result;
use crate::records::{EVENTS, Writing};
use redb::{ReadTransaction, ReadableTable};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An event that waits: its number, and its JSON.
pub(super) type Row = (u64, Vec<u8>);

/// Notes an event for all webhooks that want to hear of it. What does not fit a queue is lost, and counted:
/// twice, perhaps, where another process was faster and the change is made again.
pub(crate) fn note(writing: &Writing, hooks: &[Arc<Hook>], event: &Event) -> Result<()> {
    let mut json = None;
    for hook in hooks.iter().filter(|hook| hook.wants(event)) {
        let json = json.get_or_insert_with(|| event.to_json());
        let mut table = writing.tables.open_table(EVENTS)?;
        let (next, waiting) = match ends(&table, &hook.key)? {
            Some((first, last)) => (last + 1, last + 1 - first),
            None => (1, 0),
        };
        let is_full = waiting >= hook.limit;
        hook.note_full(is_full);
        if is_full {
            hook.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            table.insert((hook.key.as_str(), next), json.as_slice())?;
        }
    }
    Ok(())
}

/// The first and the last number that waits for a webhook.
fn ends(
    table: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    hook: &str,
) -> Result<Option<(u64, u64)>> {
    let mut rows = table.range((hook, 0)..=(hook, u64::MAX))?;
    let Some(first) = rows.next().transpose()? else { return Ok(None) };
    let first = first.0.value().1;
    let last = rows.next_back().transpose()?.map_or(first, |last| last.0.value().1);
    Ok(Some((first, last)))
}

/// How many events wait for a webhook.
pub(super) fn length(view: &ReadTransaction, hook: &str) -> Result<u64> {
    Ok(ends(&view.open_table(EVENTS)?, hook)?.map_or(0, |(first, last)| last + 1 - first))
}

/// The events that a webhook gets next, up to `most`.
pub(super) fn first(view: &ReadTransaction, hook: &str, most: usize) -> Result<Vec<Row>> {
    let table = view.open_table(EVENTS)?;
    let rows = table.range((hook, 0)..=(hook, u64::MAX))?.take(most);
    rows.map(|row| row.map(|(key, json)| (key.value().1, json.value().to_vec())).map_err(Into::into))
        .collect()
}

/// Crosses events out. One whose number another event has by now stays: another process was faster.
pub(super) fn cross_out(writing: &Writing, hook: &str, done: &[Row]) -> Result<()> {
    let mut table = writing.tables.open_table(EVENTS)?;
    for (number, json) in done {
        let is_same = table.get((hook, *number))?.is_some_and(|found| found.value() == json.as_slice());
        if is_same {
            table.remove((hook, *number))?;
        }
    }
    Ok(())
}

/// Forgets what waits for webhooks that are no more.
pub(super) fn forget_others(writing: &Writing, hooks: &[Arc<Hook>]) -> Result<()> {
    let mut table = writing.tables.open_table(EVENTS)?;
    let mut gone = Vec::new();
    for row in table.iter()? {
        let row = row?;
        let (hook, number) = row.0.value();
        if !hooks.iter().any(|known| known.key == hook) {
            gone.push((hook.to_owned(), number));
        }
    }
    gone.iter().try_for_each(|(hook, number)| table.remove((hook.as_str(), *number)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Hooks, Kind, Origin};
    use crate::records::Records;

    async fn note_one(records: &Records, hooks: &Arc<[Arc<Hook>]>, repository: &'static str) {
        let hooks = Arc::clone(hooks);
        let event = Event::new(Kind::Push, repository, &Origin::default());
        records.write(move |writing| note(writing, &hooks, &event)).await.unwrap();
    }

    #[tokio::test]
    async fn only_what_was_told_is_crossed_out() {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(yare_content::Store::open(root.path()).unwrap());
        let records = Records::open(root.path(), store).unwrap();
        let hooks =
            Hooks::new(&[toml::from_str("url = 'http://x'\nqueue = 2\nrepositories = 'a/**'").unwrap()])
                .hooks;
        let key = hooks[0].key.clone();
        let waiting = || first(&records.view().unwrap(), &key, 10).unwrap();
        for repository in ["a/1", "b/2", "a/3", "a/4"] {
            note_one(&records, &hooks, repository).await;
        }
        let told = waiting();
        assert_eq!(told.iter().map(|row| row.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(hooks[0].lost.load(Ordering::Relaxed), 1, "the queue takes two");
        let cross_out = |done: Vec<Row>| {
            let key = key.clone();
            records.write(move |writing| cross_out(writing, &key, &done))
        };
        cross_out(told.clone()).await.unwrap();
        assert_eq!(length(&records.view().unwrap(), &key).unwrap(), 0);
        // Somebody who told them, too, and is late, does not take what has their numbers now.
        note_one(&records, &hooks, "a/5").await;
        cross_out(told).await.unwrap();
        let left = waiting();
        assert_eq!(left.len(), 1);
        assert!(String::from_utf8_lossy(&left[0].1).contains("a/5"));
    }
}
