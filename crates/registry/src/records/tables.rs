//! The tables of a transaction, and what is changed in them as bytes: what replicas tell each other.
//!
//! # Format of changes, version 1
//!
//! ```text
//! set      table (1 byte)          key length (u32, little endian)  key  value length (u32)  value
//! remove   table (1 byte) + 0x80   key length (u32)                 key
//! ```
//!
//! A table's number is its place in the list at the end of this module; keys and values are as redb has them.
//! Changes are values, not deeds: to apply one twice is to apply it once.

use super::{
    BLOBS, CONDEMNED, DOCUMENTS, EVENTS, HOLDERS, LEASES, LINKED, LINKS, MANIFESTS, NAMED, NAMES, OBJECTS,
    REFERRERS, REPLICATIONS, REPOSITORIES, SUMS, TAGGED, TAGS, USES,
};
use crate::problem::Result;
use redb::{
    AccessGuard, Key, Range, ReadTransaction, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition, TableError, TableStats, Value, WriteTransaction,
};
use std::borrow::Borrow;
use std::cell::RefCell;
use std::ops::RangeBounds;

/// The most bytes of a key and of a value: far more than any record has.
const LONGEST_KEY: usize = 4 << 10;
const LONGEST_VALUE: usize = 16 << 20;
/// Marks the removal of a key.
const REMOVE: u8 = 0x80;

/// The tables of a transaction that is being filled.
pub(crate) struct Tables {
    transaction: WriteTransaction,
    /// What was changed, where somebody wants to know.
    noted: Option<RefCell<Vec<u8>>>,
}

impl Tables {
    /// Tables of `transaction`; with `noting`, changes are kept for [`Tables::changes`].
    pub(super) fn new(transaction: WriteTransaction, noting: bool) -> Self {
        Self { transaction, noted: noting.then(RefCell::default) }
    }

    /// Opens a table; it is open once at a time.
    pub(crate) fn open_table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<Writable<'_, K, V>, TableError> {
        let table = self.transaction.open_table(definition)?;
        let number = self.noted.is_some().then(|| number_of(redb::TableHandle::name(&definition))).flatten();
        Ok(Writable { table, noted: self.noted.as_ref().zip(number) })
    }

    /// The changes so far.
    pub(super) fn changes(&self) -> Vec<u8> {
        self.noted.as_ref().map(|noted| noted.borrow().clone()).unwrap_or_default()
    }

    /// The transaction, to end it.
    pub(super) fn into_transaction(self) -> WriteTransaction {
        self.transaction
    }
}

/// A key and its value.
type Row<'t, K, V> = (AccessGuard<'t, K>, AccessGuard<'t, V>);

/// A table that can be written to.
pub(crate) struct Writable<'t, K: Key + 'static, V: Value + 'static> {
    table: redb::Table<'t, K, V>,
    noted: Option<(&'t RefCell<Vec<u8>>, u8)>,
}

impl<K: Key + 'static, V: Value + 'static> ReadableTableMetadata for Writable<'_, K, V> {
    fn stats(&self) -> Result<TableStats, StorageError> {
        self.table.stats()
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.table.len()
    }
}

impl<K: Key + 'static, V: Value + 'static> ReadableTable<K, V> for Writable<'_, K, V> {
    fn get<'k>(&self, key: impl Borrow<K::SelfType<'k>>) -> Result<Option<AccessGuard<'_, V>>, StorageError> {
        self.table.get(key)
    }

    fn range<'k, R>(&self, range: impl RangeBounds<R> + 'k) -> Result<Range<'_, K, V>, StorageError>
    where
        R: Borrow<K::SelfType<'k>> + 'k,
    {
        self.table.range(range)
    }

    fn first(&self) -> Result<Option<Row<'_, K, V>>, StorageError> {
        self.table.first()
    }

    fn last(&self) -> Result<Option<Row<'_, K, V>>, StorageError> {
        self.table.last()
    }
}

impl<K: Key + 'static, V: Value + 'static> Writable<'_, K, V> {
    /// Sets the value at a key.
    pub(crate) fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<(), StorageError> {
        if let Some((noted, number)) = self.noted {
            let (key, value) = (K::as_bytes(key.borrow()), V::as_bytes(value.borrow()));
            note_set(&mut noted.borrow_mut(), number, key.as_ref(), value.as_ref());
        }
        self.table.insert(key, value).map(drop)
    }

    /// Removes a key, if it is there.
    pub(crate) fn remove<'k>(&mut self, key: impl Borrow<K::SelfType<'k>>) -> Result<(), StorageError> {
        if let Some((noted, number)) = self.noted {
            let mut noted = noted.borrow_mut();
            noted.push(number | REMOVE);
            note(&mut noted, K::as_bytes(key.borrow()).as_ref());
        }
        self.table.remove(key).map(drop)
    }
}

fn note_set(noted: &mut Vec<u8>, number: u8, key: &[u8], value: &[u8]) {
    noted.push(number);
    note(noted, key);
    note(noted, value);
}

fn note(noted: &mut Vec<u8>, bytes: &[u8]) {
    // What redb takes is shorter than 4 GiB; a longer one is refused by it right after this.
    noted.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    noted.extend_from_slice(bytes);
}

/// One change, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    number: u8,
    key: &'a [u8],
    /// `None` removes.
    value: Option<&'a [u8]>,
}

impl<'a> Change<'a> {
    /// Reads a change from the beginning of `bytes` and returns what follows it; `None` when more bytes are
    /// needed.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, Malformed> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let number = first & !REMOVE;
        if usize::from(number) >= COUNT {
            return Err(Malformed("a change is of no table that is known"));
        }
        let Some((key, rest)) = field(rest, LONGEST_KEY)? else { return Ok(None) };
        if first & REMOVE != 0 {
            return Ok(Some((Self { number, key, value: None }, rest)));
        }
        let Some((value, rest)) = field(rest, LONGEST_VALUE)? else { return Ok(None) };
        Ok(Some((Self { number, key, value: Some(value) }, rest)))
    }
}

/// Why bytes are no changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A field and what follows it; `None` when it is cut off.
type Field<'a> = Option<(&'a [u8], &'a [u8])>;

fn field(bytes: &[u8], longest: usize) -> Result<Field<'_>, Malformed> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > longest {
        return Err(Malformed("a key or a value is too long"));
    }
    Ok(rest.split_at_checked(length))
}

/// Applies a whole list of changes.
pub(super) fn apply(transaction: &WriteTransaction, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let parsed = Change::parse(bytes).map_err(super::replica::damaged)?;
        let Some((change, rest)) = parsed else {
            return Err(super::replica::damaged(Malformed("a change is cut off")));
        };
        apply_one(transaction, &change)?;
        bytes = rest;
    }
    Ok(())
}

fn put<K: Key + 'static, V: Value + 'static>(
    transaction: &WriteTransaction,
    definition: TableDefinition<'static, K, V>,
    change: &Change<'_>,
) -> Result<()> {
    let mut table = transaction.open_table(definition)?;
    match change.value {
        Some(value) => table.insert(K::from_bytes(change.key), V::from_bytes(value))?,
        None => table.remove(K::from_bytes(change.key))?,
    };
    Ok(())
}

/// Gathers all rows of a table as changes.
fn dump<K: Key + 'static, V: Value + 'static>(
    view: &ReadTransaction,
    definition: TableDefinition<'static, K, V>,
    (piece, sink): (&mut Vec<u8>, &mut impl FnMut(&mut Vec<u8>) -> Result<()>),
) -> Result<()> {
    let Some(number) = number_of(redb::TableHandle::name(&definition)) else { return Ok(()) };
    for row in view.open_table(definition)?.iter()? {
        let (key, value) = row?;
        let (key, value) = (key.value(), value.value());
        note_set(piece, number, K::as_bytes(&key).as_ref(), V::as_bytes(&value).as_ref());
        sink(piece)?;
    }
    Ok(())
}

/// Names the tables that replicas share, each by its place.
macro_rules! shared {
    ($($number:literal $table:ident),+ $(,)?) => {
        const COUNT: usize = [$($number),+].len();

        fn number_of(name: &str) -> Option<u8> {
            $(if name == redb::TableHandle::name(&$table) { return Some($number); })+
            None
        }

        /// Applies one change.
        pub(super) fn apply_one(transaction: &WriteTransaction, change: &Change<'_>) -> Result<()> {
            match change.number {
                $($number => put(transaction, $table, change),)+
                _ => Err(super::replica::damaged(Malformed("a change is of no table that is known"))),
            }
        }

        /// Gathers all rows of all tables as changes; after each, `sink` may take what was gathered.
        /// Returns what it left.
        pub(super) fn dump_all(
            view: &ReadTransaction,
            sink: &mut impl FnMut(&mut Vec<u8>) -> Result<()>,
        ) -> Result<Vec<u8>> {
            let mut piece = Vec::new();
            $(dump(view, $table, (&mut piece, sink))?;)+
            Ok(piece)
        }

        /// Makes the tables that are missing.
        pub(super) fn make_all(transaction: &WriteTransaction) -> Result<(), redb::Error> {
            $(transaction.open_table($table)?;)+
            Ok(())
        }

        /// Empties all tables.
        pub(super) fn clear_all(transaction: &WriteTransaction) -> Result<(), redb::Error> {
            $(transaction.delete_table($table)?;)+
            make_all(transaction)
        }
    };
}

// The numbers are part of the format: append, never reorder.
shared! {
    0 REPOSITORIES, 1 TAGS, 2 TAGGED, 3 MANIFESTS, 4 DOCUMENTS, 5 HOLDERS, 6 BLOBS, 7 LINKS, 8 LINKED, 9 USES,
    10 REFERRERS, 11 OBJECTS, 12 CONDEMNED, 13 LEASES, 14 REPLICATIONS, 15 EVENTS, 16 SUMS, 17 NAMES, 18 NAMED,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        note_set(&mut bytes, 3, b"key", b"value");
        bytes.push(5 | REMOVE);
        note(&mut bytes, b"gone");
        let (first, rest) = Change::parse(&bytes).unwrap().unwrap();
        assert_eq!(first, Change { number: 3, key: b"key", value: Some(b"value") });
        let (second, rest) = Change::parse(rest).unwrap().unwrap();
        assert_eq!(second, Change { number: 5, key: b"gone", value: None });
        assert_eq!((rest, Change::parse(rest).unwrap()), (&[][..], None));
        for cut in 1..bytes.len() {
            let parsed = Change::parse(&bytes[..cut]).unwrap();
            assert_eq!(parsed.is_some(), cut >= 17, "{cut}");
        }
    }

    #[test]
    fn what_is_no_change_is_refused() {
        assert!(Change::parse(&[19, 0, 0, 0, 0]).is_err());
        assert!(Change::parse(&[0x93, 0, 0, 0, 0]).is_err());
        assert!(Change::parse(&[0, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
