//! The image tables of the engine's database; their form is written down at the head of the crate.

use crate::Database;
use crate::image::ImageId;
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use yare_errdefs::{Class, Error, Result};
use yare_oci::{DiffId, Digest, Reference};

/// The format that this engine writes.
pub(crate) const FORMAT: u64 = 2;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("image_meta");
const IMAGES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("images");
const TAGS: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("image_tags");
const DIGESTS: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("image_digests");
const LAYERS: TableDefinition<'_, &[u8; 32], (u64, u64)> = TableDefinition::new("image_layers");
const LAST_USED: TableDefinition<'_, &[u8; 32], i64> = TableDefinition::new("image_last_used");
const INDEXES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("image_indexes");
const NAME_INDEXES: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("image_name_indexes");
const EMBEDDED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("image_embedded");

/// What is kept of an image beside its documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of the manifest document.
    pub(crate) manifest: Digest,
    /// Layers, bottom first.
    pub(crate) layers: Vec<DiffId>,
    /// The local image it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<ImageId>,
    /// When it was built here, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) built: Option<String>,
    /// When it last got a name, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tagged: Option<String>,
    /// Compressed layers that are kept as they came, because nothing else makes these bytes again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) kept: Vec<Digest>,
    /// Removed by force while containers used it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) detached: bool,
}

/// What is here of an index whose document is in the content store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexRecord {
    /// Its images by the digest of their manifest.
    pub(crate) present: BTreeMap<Digest, ImageId>,
    /// Documents of its attestations.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) kept: BTreeSet<Digest>,
}

impl IndexRecord {
    /// The documents that it keeps.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.present.keys().chain(&self.kept).copied()
    }
}

/// Sizes of a layer in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LayerRecord {
    /// Bytes of its files' content, as Docker counts sizes.
    pub(crate) content: u64,
    /// The length of its uncompressed tar.
    pub(crate) tar: u64,
}

/// What an embedded image was made from, and what came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EmbeddedRecord {
    /// Tells apart different sources.
    pub(crate) fingerprint: Digest,
    /// The image.
    pub(crate) image: ImageId,
}

/// All records, as read when the store opens.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) images: HashMap<ImageId, ImageRecord>,
    pub(crate) tags: Vec<(Reference, ImageId)>,
    pub(crate) digests: Vec<(Reference, ImageId)>,
    pub(crate) layers: HashMap<DiffId, LayerRecord>,
    pub(crate) last_used: HashMap<ImageId, i64>,
    pub(crate) indexes: HashMap<Digest, IndexRecord>,
    pub(crate) name_indexes: Vec<(Reference, Digest)>,
}

/// Edits of one transaction: `Some` puts, `None` removes.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) images: Vec<(ImageId, Option<ImageRecord>)>,
    pub(crate) names: Vec<(Reference, Option<ImageId>)>,
    pub(crate) layers: Vec<(DiffId, Option<LayerRecord>)>,
    pub(crate) last_used: Vec<(ImageId, Option<i64>)>,
    pub(crate) indexes: Vec<(Digest, Option<IndexRecord>)>,
    pub(crate) name_indexes: Vec<(Reference, Option<Digest>)>,
}

impl Edits {
    fn only_remove(&self) -> bool {
        self.images.iter().all(|(_, record)| record.is_none())
            && self.names.iter().all(|(_, image)| image.is_none())
            && self.layers.iter().all(|(_, record)| record.is_none())
            && self.last_used.iter().all(|(_, second)| second.is_none())
            && self.indexes.iter().all(|(_, record)| record.is_none())
            && self.name_indexes.iter().all(|(_, index)| index.is_none())
    }
}

fn failed(what: &'static str) -> impl Fn(redb::Error) -> Error {
    move |source| {
        let class = match &source {
            redb::Error::Io(io) => yare_errdefs::class_of_io(io),
            _ => Class::Internal,
        };
        Error::new(class, format!("cannot {what} the image records")).caused_by(source)
    }
}

/// Makes the tables, or checks that this engine understands those that are there.
pub(crate) fn initialise(database: &Database) -> Result<()> {
    let found = database.format(META).map_err(failed("read"))?;
    match found {
        Some(FORMAT) => Ok(()),
        Some(1) => database.transact(add_indexes).map_err(failed("migrate")),
        Some(newer) if newer > FORMAT => Err(Error::precondition(format!(
            "the image store has format {newer}, and this engine knows formats up to {FORMAT}"
        ))
        .with_hint("use the engine that wrote it or a newer one, or give this engine another data root")),
        Some(other) => Err(Error::internal(format!("the image store claims the unknown format {other}"))),
        None => database.transact(create_tables).map_err(failed("create")),
    }
}

fn create_tables(database: &redb::Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(META)?.insert("format", FORMAT)?;
    transaction.open_table(IMAGES)?;
    transaction.open_table(TAGS)?;
    transaction.open_table(DIGESTS)?;
    transaction.open_table(LAYERS)?;
    transaction.open_table(LAST_USED)?;
    transaction.open_table(EMBEDDED)?;
    transaction.open_table(INDEXES)?;
    transaction.open_table(NAME_INDEXES)?;
    Ok(transaction.commit()?)
}

/// From format 1, in which a name was one image and nothing else, to format 2.
fn add_indexes(database: &redb::Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(INDEXES)?;
    transaction.open_table(NAME_INDEXES)?;
    transaction.open_table(META)?.insert("format", FORMAT)?;
    Ok(transaction.commit()?)
}

/// Reads everything.
pub(crate) fn read_all(database: &Database) -> Result<Records> {
    database.transact(read_tables).map_err(failed("read"))
}

fn read_tables(database: &redb::Database) -> Result<Records, redb::Error> {
    let transaction = database.begin_read()?;
    let mut records = Records::default();
    for entry in transaction.open_table(IMAGES)?.iter()? {
        let (id, record) = entry?;
        let id = ImageId(Digest::from_bytes(*id.value()));
        match serde_json::from_slice(record.value()) {
            Ok(record) => drop(records.images.insert(id, record)),
            Err(error) => return Err(redb::Error::Corrupted(format!("record of image {id}: {error}"))),
        }
    }
    for (table, into) in [(TAGS, &mut records.tags), (DIGESTS, &mut records.digests)] {
        for entry in transaction.open_table(table)?.iter()? {
            let (name, id) = entry?;
            let id = ImageId(Digest::from_bytes(*id.value()));
            match Reference::parse(name.value()) {
                Ok(reference) => into.push((reference, id)),
                Err(error) => return Err(redb::Error::Corrupted(format!("name {}: {error}", name.value()))),
            }
        }
    }
    for entry in transaction.open_table(LAYERS)?.iter()? {
        let (layer, sizes) = entry?;
        let (content, tar) = sizes.value();
        records.layers.insert(DiffId(Digest::from_bytes(*layer.value())), LayerRecord { content, tar });
    }
    for entry in transaction.open_table(LAST_USED)?.iter()? {
        let (id, second) = entry?;
        records.last_used.insert(ImageId(Digest::from_bytes(*id.value())), second.value());
    }
    read_indexes(&transaction, &mut records)?;
    Ok(records)
}

fn read_indexes(transaction: &redb::ReadTransaction, records: &mut Records) -> Result<(), redb::Error> {
    for entry in transaction.open_table(INDEXES)?.iter()? {
        let (digest, record) = entry?;
        let digest = Digest::from_bytes(*digest.value());
        match serde_json::from_slice(record.value()) {
            Ok(record) => drop(records.indexes.insert(digest, record)),
            Err(error) => return Err(redb::Error::Corrupted(format!("record of index {digest}: {error}"))),
        }
    }
    for entry in transaction.open_table(NAME_INDEXES)?.iter()? {
        let (name, digest) = entry?;
        match Reference::parse(name.value()) {
            Ok(name) => records.name_indexes.push((name, Digest::from_bytes(*digest.value()))),
            Err(error) => return Err(redb::Error::Corrupted(format!("name {}: {error}", name.value()))),
        }
    }
    Ok(())
}

/// Writes edits in one durable transaction.
pub(crate) fn write(database: &Database, edits: &Edits) -> Result<()> {
    if edits.only_remove() {
        return database
            .transact_to_free(|database| write_edits(database, edits, Durability::Immediate))
            .map_err(failed("write"));
    }
    database.transact(|database| write_edits(database, edits, Durability::Immediate)).map_err(failed("write"))
}

/// Writes edits that may be lost when the power goes.
pub(crate) fn write_relaxed(database: &Database, edits: &Edits) -> Result<()> {
    database.transact(|database| write_edits(database, edits, Durability::None)).map_err(failed("write"))
}

fn write_edits(database: &redb::Database, edits: &Edits, durability: Durability) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    if matches!(durability, Durability::Immediate) {
        transaction.set_quick_repair(true);
    }
    apply_edits(&transaction, edits)?;
    Ok(transaction.commit()?)
}

fn apply_edits(transaction: &WriteTransaction, edits: &Edits) -> Result<(), redb::Error> {
    let mut images = transaction.open_table(IMAGES)?;
    for (id, record) in &edits.images {
        match record {
            Some(record) => {
                let bytes =
                    serde_json::to_vec(record).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
                images.insert(id.0.as_bytes(), bytes.as_slice())?;
            }
            None => drop(images.remove(id.0.as_bytes())?),
        }
    }
    let (mut tags, mut digests) = (transaction.open_table(TAGS)?, transaction.open_table(DIGESTS)?);
    for (name, id) in &edits.names {
        let table = if name.digest().is_some() { &mut digests } else { &mut tags };
        match id {
            Some(id) => drop(table.insert(name.to_string().as_str(), id.0.as_bytes())?),
            None => drop(table.remove(name.to_string().as_str())?),
        }
    }
    let mut layers = transaction.open_table(LAYERS)?;
    for (layer, record) in &edits.layers {
        match record {
            Some(record) => drop(layers.insert(layer.0.as_bytes(), (record.content, record.tar))?),
            None => drop(layers.remove(layer.0.as_bytes())?),
        }
    }
    let mut last_used = transaction.open_table(LAST_USED)?;
    for (id, second) in &edits.last_used {
        match second {
            Some(second) => drop(last_used.insert(id.0.as_bytes(), second)?),
            None => drop(last_used.remove(id.0.as_bytes())?),
        }
    }
    apply_indexes(transaction, edits)
}

fn apply_indexes(transaction: &WriteTransaction, edits: &Edits) -> Result<(), redb::Error> {
    let mut indexes = transaction.open_table(INDEXES)?;
    for (digest, record) in &edits.indexes {
        match record {
            Some(record) => {
                let bytes =
                    serde_json::to_vec(record).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
                indexes.insert(digest.as_bytes(), bytes.as_slice())?;
            }
            None => drop(indexes.remove(digest.as_bytes())?),
        }
    }
    let mut names = transaction.open_table(NAME_INDEXES)?;
    for (name, digest) in &edits.name_indexes {
        match digest {
            Some(digest) => drop(names.insert(name.to_string().as_str(), digest.as_bytes())?),
            None => drop(names.remove(name.to_string().as_str())?),
        }
    }
    Ok(())
}

/// What is known of an embedded image.
pub(crate) fn embedded(database: &Database, reference: &Reference) -> Result<Option<EmbeddedRecord>> {
    let read = |database: &redb::Database| -> Result<Option<EmbeddedRecord>, redb::Error> {
        let table = database.begin_read()?.open_table(EMBEDDED)?;
        let found = table.get(reference.to_string().as_str())?;
        // An unreadable record only means that the image is made again.
        Ok(found.and_then(|bytes| serde_json::from_slice(bytes.value()).ok()))
    };
    database.transact(read).map_err(failed("read"))
}

/// Keeps what an embedded image was made from.
pub(crate) fn put_embedded(
    database: &Database,
    reference: &Reference,
    record: &EmbeddedRecord,
) -> Result<()> {
    let put = |database: &redb::Database| -> Result<(), redb::Error> {
        let bytes = serde_json::to_vec(record).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        transaction.open_table(EMBEDDED)?.insert(reference.to_string().as_str(), bytes.as_slice())?;
        Ok(transaction.commit()?)
    };
    database.transact(put).map_err(failed("write"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_errdefs::Classified;

    #[test]
    fn an_older_engine_refuses_a_newer_store() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("db"), 1 << 20).unwrap();
        initialise(&database).unwrap();
        initialise(&database).unwrap();
        let newer = |database: &redb::Database| {
            let transaction = database.begin_write()?;
            transaction.open_table(META)?.insert("format", FORMAT + 1)?;
            Ok(transaction.commit()?)
        };
        database.transact(newer).unwrap();
        let error = initialise(&database).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert_eq!(error.to_string(), "the image store has format 3, and this engine knows formats up to 2");
        assert!(error.hint().unwrap().contains("data root"));
    }
}
