//! Which images a prune takes, and why each of them.

use super::{InUse, Removal, RemoveOptions, Remover};
use crate::filter::{ListFilters, parse_bools};
use crate::image::{Image, ImageId};
use crate::store::{Draft, Store};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use yare_errdefs::{Class, Classified, Error, Result};
use yare_oci::Reference;

/// An image that a prune takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedImage {
    /// The image.
    pub id: ImageId,
    /// The names that it had, in the short form.
    pub names: Vec<String>,
    /// Since when it was of no use, where known.
    pub unused_since: Option<Timestamp>,
    /// Bytes on disk that become free with it, after those that went before it.
    pub bytes: u64,
    /// Why it goes, for people.
    pub why: String,
}

/// What a prune is asked for, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PruneFilters {
    /// `dangling`, `until`, `unused-for`, `reference` and labels.
    list: ListFilters,
    /// So many of the newest images of each repository stay.
    keep: Option<usize>,
    /// The least recently used go until all take no more than so many bytes.
    keep_storage: Option<u64>,
    /// Nothing is removed.
    dry_run: bool,
}

const LISTED: [&str; 6] = ["dangling", "until", "unused-for", "reference", "label", "label!"];
const OWN: [&str; 3] = ["keep", "keep-storage", "dry-run"];

impl PruneFilters {
    fn parse(store: &Store, filters: &BTreeMap<String, Vec<String>>, now: Timestamp) -> Result<Self> {
        let known = |key: &&String| LISTED.contains(&key.as_str()) || OWN.contains(&key.as_str());
        if let Some(unknown) = filters.keys().find(|key| !known(key)) {
            return Err(Error::invalid(format!("invalid filter '{unknown}'")));
        }
        let mut listed = filters.clone();
        listed.retain(|key, _| LISTED.contains(&key.as_str()));
        let values = |key: &str| filters.get(key).map_or(&[][..], Vec::as_slice);
        Ok(Self {
            list: ListFilters::parse(store, &listed, now)?,
            keep: number("keep", values("keep"))?,
            keep_storage: number("keep-storage", values("keep-storage"))?,
            dry_run: parse_bools("dry-run", values("dry-run"))?.unwrap_or(false),
        })
    }
}

fn number<T: std::str::FromStr>(key: &str, values: &[String]) -> Result<Option<T>> {
    match values {
        [] => Ok(None),
        [value] => value.parse().map(Some).map_err(|_| {
            Error::invalid(format!("invalid filter '{key}={value}': write a number that is not negative"))
        }),
        _ => Err(Error::invalid(format!("more than one {key} filter specified"))),
    }
}

impl Store {
    /// Removes images that nothing needs: dangling ones, or with `dangling=false` all without a container.
    /// The filters are `dangling`, `until`, `unused-for`, `reference` (all names must fit), `label` and
    /// `label!`; `keep` (so many of each repository stay), `keep-storage` (in bytes), and `dry-run`, with
    /// which nothing changes and the same is told. `now` is what durations count from.
    pub fn prune(
        &self,
        filters: &BTreeMap<String, Vec<String>>,
        now: Timestamp,
        in_use: InUse<'_>,
    ) -> Result<Removal> {
        let filters = PruneFilters::parse(self, filters, now)?;
        match filters.dry_run {
            true => self.rehearse(in_use, |remover| remover.prune(&filters)),
            false => self.decide(in_use, |remover| remover.prune(&filters)),
        }
    }

    /// Removes an image that no container has and that was not used since that moment, with all its names.
    /// One that was used or got a name meanwhile stays.
    pub fn discard(&self, id: &ImageId, unused_since: Timestamp, in_use: InUse<'_>) -> Result<Removal> {
        self.decide(in_use, |remover| {
            let image = remover.draft.index.image(id).cloned();
            let still = |image: &Arc<Image>| image.unused_since() == Some(unused_since);
            match image.filter(still).filter(|image| remover.family_holders(&image.id).is_empty()) {
                Some(image) => remover.prune_image(&image),
                None => Ok(()),
            }
        })
    }

    /// Decides as for a removal, on a draft that is thrown away.
    fn rehearse(
        &self,
        in_use: InUse<'_>,
        decide: impl FnOnce(&mut Remover<'_>) -> Result<()>,
    ) -> Result<Removal> {
        let in_use = |id: &ImageId| self.users(id, in_use);
        let mut draft = Draft::new((*self.index()).clone());
        let mut remover =
            Remover { draft: &mut draft, in_use: &in_use, doom: &|_| true, removal: Removal::default() };
        decide(&mut remover)?;
        let mut removal = remover.removal;
        removal.reclaimed = draft.reclaimed;
        Ok(removal)
    }
}

impl Remover<'_> {
    fn prune(&mut self, filters: &PruneFilters) -> Result<()> {
        let mut unwanted = self.unwanted(&filters.list);
        if let Some(keep) = filters.keep {
            let kept = newest(self.draft.index.images(), keep);
            unwanted.retain(|image| !kept.contains(&image.id));
        }
        if filters.keep_storage.is_some() {
            unwanted.sort_by_key(|image| (image.unused_since(), image.id));
        }
        let total: u64 = self.draft.index.layers().map(|(_, bytes, _)| bytes).sum();
        for image in unwanted {
            let before = self.draft.reclaimed;
            if filters.keep_storage.is_some_and(|most| total.saturating_sub(before) <= most) {
                break;
            }
            self.prune_image(&image)?;
            if self.draft.index.image(&image.id).is_none() {
                self.removal.pruned.push(PrunedImage {
                    id: image.id,
                    names: image.tags().into_iter().chain(image.repo_digests()).collect(),
                    unused_since: image.unused_since(),
                    bytes: self.draft.reclaimed - before,
                    why: why(&image, filters),
                });
            }
        }
        Ok(())
    }

    fn unwanted(&self, filters: &ListFilters) -> Vec<Arc<Image>> {
        let dangling_only = filters.dangling.unwrap_or(true);
        let index = &self.draft.index;
        index
            .images()
            .filter(|image| !(dangling_only && index.has_children(&image.id)))
            .filter(|image| !dangling_only || image.references.is_empty())
            .filter(|image| !(image.is_unreferenced() && index.has_children(&image.id)))
            .filter(|image| !index.is_hidden(image))
            .filter(|image| filters.fits_prune(image) && self.family_holders(&image.id).is_empty())
            .cloned()
            .collect()
    }

    fn prune_image(&mut self, image: &Image) -> Result<()> {
        if image.is_unreferenced() {
            return self.prune_one(&image.id.hex());
        }
        let mut names = image.references.iter().chain(&image.digests);
        names.try_for_each(|name| self.prune_one(&name.to_string()))
    }

    /// Removes one; that it is in use, or went with another one, is no failure of the whole.
    fn prune_one(&mut self, name: &str) -> Result<()> {
        match self.remove(name, RemoveOptions::default()) {
            Err(error) if !matches!(error.class(), Class::Conflict | Class::NotFound) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The images that are among so many of the newest of a repository; those in use count.
fn newest<'a>(images: impl Iterator<Item = &'a Arc<Image>>, keep: usize) -> HashSet<ImageId> {
    let mut repositories: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for image in images {
        for name in &image.references {
            let place = (Reverse(image.dated()), Reverse(image.tagged), image.id);
            repositories.entry(name.trimmed().to_string()).or_default().insert(place);
        }
    }
    repositories.values().flat_map(|images| images.iter().take(keep).map(|place| place.2)).collect()
}

fn why(image: &Image, filters: &PruneFilters) -> String {
    let mut why = match image.references.is_empty() {
        true => "it has no tag, and no container".to_owned(),
        false => "it has no container".to_owned(),
    };
    if let Some(since) = filters.list.unused_since {
        why.push_str(&format!(", was not used since {}", since.strftime("%Y-%m-%d %H:%M:%S UTC")));
    }
    if let (Some(keep), false) = (filters.keep, image.references.is_empty()) {
        let mut names: Vec<String> = image.references.iter().map(Reference::familiar_name).collect();
        names.dedup();
        why.push_str(&format!(", is not among the {keep} newest of {}", names.join(" or ")));
    }
    if let Some(most) = filters.keep_storage {
        why.push_str(&format!(", and all images together take more than {most} bytes"));
    }
    why
}
