//! Removing images and names, as Docker decides it.
//!
//! The decision is made on a draft of the index and touches nothing; an error throws the draft away. The
//! conflict texts are Docker's, to the letter. What Docker does not say is in the hint: every container in
//! the way, its state and age, and the command that takes it out of the way.

mod prune;

pub use prune::PrunedImage;

use crate::image::ImageId;
use crate::store::{Draft, Store};
use std::cell::RefCell;
use yare_errdefs::{Error, Result};
use yare_oci::{Platform, Reference};

/// How to remove.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Also take away several names at once, and images that stopped containers use.
    pub force: bool,
    /// Leave nameless parents in place.
    pub no_prune: bool,
}

/// A container that uses an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its id, 64 hex digits.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// Docker's word for its state: `running`, `exited`, …
    pub state: String,
    /// Whether it counts as running, paused and restarting ones included: its image may not go even by force.
    pub running: bool,
    /// How long it has been so, for people: `2 hours`; may be empty.
    pub age: String,
}

/// One line of the answer to a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away, in the short form.
    Untagged(String),
    /// An image (its id) or a layer stack of it (its chain id) was deleted.
    Deleted(String),
}

/// Something to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEvent {
    /// Docker's word: `untag` or `delete`.
    pub action: &'static str,
    /// The image.
    pub id: ImageId,
    /// What Docker gives as its name: the id.
    pub name: String,
}

impl ImageEvent {
    fn new(action: &'static str, id: ImageId) -> Self {
        Self { action, id, name: id.to_string() }
    }
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// The answer, in Docker's order.
    pub removed: Vec<Removed>,
    /// What to publish, in order.
    pub events: Vec<ImageEvent>,
    /// Bytes on disk that became free.
    pub reclaimed: u64,
    /// What a prune took, image by image.
    pub pruned: Vec<PrunedImage>,
}

/// Tells which containers use an image. Called under the store's writer lock: it must not call the store.
pub type InUse<'a> = &'a dyn Fn(&ImageId) -> Vec<Holder>;

impl Store {
    /// Removes a name, or an image by name, id or start of an id.
    pub fn remove(&self, name: &str, options: RemoveOptions, in_use: InUse<'_>) -> Result<Removal> {
        self.decide(in_use, |remover| remover.remove(name, options))
    }

    /// Removes these platforms of what a name stands for; with the last of them the name goes too.
    pub fn remove_platforms(
        &self,
        name: &str,
        platforms: &[Platform],
        options: RemoveOptions,
        in_use: InUse<'_>,
    ) -> Result<Removal> {
        self.decide(in_use, |remover| {
            platforms.iter().try_for_each(|platform| remover.remove_platform(name, platform, options))
        })
    }

    fn decide(
        &self,
        in_use: InUse<'_>,
        decide: impl FnOnce(&mut Remover<'_>) -> Result<()>,
    ) -> Result<Removal> {
        let in_use = |id: &ImageId| self.users(id, in_use);
        let doomed = RefCell::new(Vec::new());
        let doom = |id: ImageId| {
            let free = self.inner.leased.lock().doom(id);
            doomed.borrow_mut().extend(free.then_some(id));
            free
        };
        let result = self.inner.edit(|draft| {
            let mut remover = Remover { draft, in_use: &in_use, doom: &doom, removal: Removal::default() };
            decide(&mut remover)?;
            let mut removal = remover.removal;
            removal.reclaimed = draft.reclaimed;
            Ok(removal)
        });
        self.inner.leased.lock().end_doom(&doomed.borrow());
        result
    }

    /// Lets go of images that were removed by force while containers used them, and have none any more.
    /// Returns the bytes that became free. Called after a container is removed and when the engine starts.
    pub fn reap(&self, in_use: &dyn Fn(&ImageId) -> bool) -> Result<u64> {
        if self.index().detached().next().is_none() {
            return Ok(0);
        }
        self.inner.edit(|draft| {
            let idle: Vec<_> =
                draft.index.detached().map(|image| image.id).filter(|id| !in_use(id)).collect();
            for id in idle {
                draft.delete_detached(&id);
            }
            Ok(draft.reclaimed)
        })
    }

    /// The containers of an image, those that are just being created included.
    fn users(&self, id: &ImageId, in_use: InUse<'_>) -> Vec<Holder> {
        let mut holders = in_use(id);
        for container in self.inner.leased.lock().holders(id) {
            if !holders.iter().any(|holder| holder.id == *container) {
                holders.push(Holder {
                    id: container.clone(),
                    state: "creating".into(),
                    running: true,
                    ..Holder::default()
                });
            }
        }
        holders
    }
}

impl Holder {
    fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The container and the way out, as one line.
    fn describe(&self) -> String {
        let name = if self.name.is_empty() { self.short_id() } else { &self.name };
        let age = if self.age.is_empty() { String::new() } else { format!(" for {}", self.age) };
        let way_out = match self.state.as_str() {
            "creating" => "wait until it is created, or remove it then".to_owned(),
            _ if self.running => format!("yare rm -f {name}"),
            _ => format!("yare rm {name}"),
        };
        format!("container {name} ({}, {}{age}): {way_out}", self.short_id(), self.state)
    }
}

/// What is looked at before an image is deleted.
#[derive(Clone, Copy)]
struct Checks {
    /// Several names, stopped containers.
    soft: bool,
    /// Whether names count.
    names: bool,
}

struct Conflict {
    error: Error,
    /// A container is in the way.
    used: bool,
}

struct Remover<'a> {
    draft: &'a mut Draft,
    in_use: InUse<'a>,
    /// Claims an image for removal; false when a container is being created from it.
    doom: &'a dyn Fn(ImageId) -> bool,
    removal: Removal,
}

impl Remover<'_> {
    fn remove(&mut self, name: &str, options: RemoveOptions) -> Result<()> {
        let image = self.draft.index.resolve(name, None)?;
        let id = image.id;
        let by_name = !is_id_prefix(&id, name);
        let single = is_single(&image.references, &image.digests);
        if by_name {
            if single && !options.force {
                self.check_last_name(name, &id)?;
            }
            let reference =
                Reference::parse(name).map_err(|error| Error::invalid(error.to_string()))?.or_latest();
            self.untag(&id, &reference);
            if reference.digest().is_none() {
                self.untag_digests(&id, &reference);
            }
            if self.is_claimed(&id) {
                return self.delete_orphans(options);
            }
        } else if single {
            self.check(&id, Checks { soft: !options.force, names: false })
                .map_err(|conflict| conflict.error)?;
            self.untag_all(&id);
        }
        self.delete(&id, options.force, !options.no_prune, by_name)?;
        self.delete_orphans(options)
    }

    fn remove_platform(&mut self, name: &str, platform: &Platform, options: RemoveOptions) -> Result<()> {
        let image = self.draft.index.resolve(name, Some(platform))?;
        let (_, index) = self.draft.index.find(name)?;
        if index.is_none_or(|index| index.present.len() == 1) {
            return self.remove(name, options);
        }
        self.check(&image.id, Checks { soft: !options.force, names: false })
            .map_err(|conflict| conflict.error)?;
        self.draft.leave_indexes(&image.id);
        // It may have a name of its own beside.
        if self.is_claimed(&image.id) {
            return Ok(());
        }
        self.delete(&image.id, options.force, !options.no_prune, false)
    }

    /// Whether a name or an index keeps an image.
    fn is_claimed(&self, id: &ImageId) -> bool {
        let index = &self.draft.index;
        index.image(id).is_some_and(|image| !image.is_unreferenced() || index.is_member(id))
    }

    /// Deletes the images of indexes that went with their last name. One in use stays, nameless.
    fn delete_orphans(&mut self, options: RemoveOptions) -> Result<()> {
        while let Some(id) = self.draft.orphans.pop() {
            if self.draft.index.image(&id).is_some() && !self.is_claimed(&id) {
                self.delete(&id, options.force, !options.no_prune, true)?;
            }
        }
        Ok(())
    }

    /// The containers of an image and of the other platforms that its names stand for.
    fn family_holders(&self, id: &ImageId) -> Vec<Holder> {
        let Some(image) = self.draft.index.image(id) else { return Vec::new() };
        self.draft.index.family(image).iter().flat_map(|member| (self.in_use)(&member.id)).collect()
    }

    /// The last name of an image in use would leave it nameless: that must be wanted.
    fn check_last_name(&self, name: &str, id: &ImageId) -> Result<()> {
        let holders = self.family_holders(id);
        let Some(first) = holders.first() else { return Ok(()) };
        let text = format!(
            "conflict: unable to remove repository reference {name:?} (must force) - container {} is using its \
             referenced image {}",
            first.short_id(),
            id.short()
        );
        Err(Error::conflict(text).with_hint(in_the_way(&holders, Some(&format!("yare rmi -f {name}")))))
    }

    fn untag(&mut self, id: &ImageId, reference: &Reference) {
        let exact = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.clone(),
        };
        if self.draft.untag(&exact) {
            self.removal.removed.push(Removed::Untagged(exact.familiar()));
            self.removal.events.push(ImageEvent::new("untag", *id));
        }
    }

    /// With the last tag of a repository its registry digests go too.
    fn untag_digests(&mut self, id: &ImageId, reference: &Reference) {
        let Some(image) = self.draft.index.image(id).cloned() else { return };
        let same = |other: &&Reference| other.trimmed() == reference.trimmed();
        if image.references.iter().any(|other| same(&other)) {
            return;
        }
        for digest in image.digests.iter().filter(same) {
            self.untag(id, digest);
        }
    }

    fn untag_all(&mut self, id: &ImageId) {
        let Some(image) = self.draft.index.image(id).cloned() else { return };
        for reference in image.references.iter().chain(&image.digests) {
            self.untag(id, reference);
        }
    }

    /// Deletes an image, and with `prune` its nameless, unused parents. `quiet` means that a name was
    /// removed already: a conflict then only ends the work.
    fn delete(&mut self, id: &ImageId, force: bool, prune: bool, quiet: bool) -> Result<()> {
        let mut next = Some((*id, force, quiet));
        while let Some((id, force, quiet)) = next.take() {
            if let Err(conflict) = self.check(&id, Checks { soft: !force, names: true }) {
                if quiet && (conflict.used || !self.is_dangling(&id)) {
                    return Ok(());
                }
                return Err(conflict.error);
            }
            if !(self.doom)(id) {
                let why = "image is being used by a container that is being created";
                return if quiet { Ok(()) } else { Err(conflict(&id, "cannot be forced", why)) };
            }
            let parent = self.draft.index.image(&id).and_then(|image| image.parent);
            self.untag_all(&id);
            let detach = !(self.in_use)(&id).is_empty();
            let chains = self.draft.delete(&id, detach);
            self.removal.removed.push(Removed::Deleted(id.to_string()));
            self.removal.removed.extend(chains.iter().map(|chain| Removed::Deleted(chain.to_string())));
            self.removal.events.push(ImageEvent::new("delete", id));
            let parent = parent.filter(|parent| prune && !self.draft.index.is_member(parent));
            next = parent.map(|parent| (parent, false, true));
        }
        Ok(())
    }

    fn is_dangling(&self, id: &ImageId) -> bool {
        !self.is_claimed(id) && !self.draft.index.has_children(id)
    }

    fn check(&self, id: &ImageId, checks: Checks) -> Result<(), Conflict> {
        let children: Vec<_> = self.draft.index.children(id).copied().collect();
        if !children.is_empty() {
            return Err(Conflict { error: children_conflict(self.draft, id, &children), used: false });
        }
        let holders = (self.in_use)(id);
        if let Some(running) = holders.iter().find(|holder| holder.running) {
            let why = format!("image is being used by running container {}", running.short_id());
            let error = conflict(id, "cannot be forced", &why).with_hint(in_the_way(&holders, None));
            return Err(Conflict { error, used: true });
        }
        let named = self.draft.index.image(id).filter(|image| !image.is_unreferenced());
        if let Some(image) = named.filter(|_| checks.soft && checks.names) {
            let names: Vec<_> = image.tags().into_iter().chain(image.repo_digests()).collect();
            let error = conflict(id, "must be forced", "image is referenced in multiple repositories")
                .with_hint(format!(
                    "its names are {}: remove those you mean with yare rmi {}, or all with yare rmi -f {}",
                    names.join(", "),
                    names.join(" "),
                    id.short()
                ));
            return Err(Conflict { error, used: false });
        }
        if let Some(stopped) = holders.first().filter(|_| checks.soft) {
            let why = format!("image is being used by stopped container {}", stopped.short_id());
            let force = format!("yare rmi -f {}", id.short());
            let error = conflict(id, "must be forced", &why).with_hint(in_the_way(&holders, Some(&force)));
            return Err(Conflict { error, used: true });
        }
        Ok(())
    }
}

fn conflict(id: &ImageId, force: &str, why: &str) -> Error {
    Error::conflict(format!("conflict: unable to delete {} ({force}) - {why}", id.short()))
}

fn children_conflict(draft: &Draft, id: &ImageId, children: &[ImageId]) -> Error {
    let name = |id: &ImageId| {
        let image = draft.index.image(id);
        image.and_then(|image| image.tags().into_iter().next()).unwrap_or_else(|| id.short())
    };
    let names: Vec<_> = children.iter().map(name).collect();
    let hint =
        format!("made from it: {}; remove these first: yare rmi {}", names.join(", "), names.join(" "));
    conflict(id, "cannot be forced", "image has dependent child images").with_hint(hint)
}

/// Every container in the way with the command that removes it, and how to do without where that is possible.
fn in_the_way(holders: &[Holder], force: Option<&str>) -> String {
    let mut lines: Vec<_> = holders.iter().map(Holder::describe).collect();
    if let Some(force) = force {
        lines.push(format!("or keep the containers and take the image's name away: {force}"));
    }
    lines.join("\n")
}

/// Docker's rule for "an id was given": what was typed is a start of it.
fn is_id_prefix(id: &ImageId, typed: &str) -> bool {
    id.to_string().starts_with(typed) || id.hex().starts_with(typed)
}

/// Whether all names are one: a single name, or one tag and the digests of the same repository.
fn is_single(tags: &[Reference], digests: &[Reference]) -> bool {
    if tags.len() + digests.len() <= 1 {
        return true;
    }
    let Some(first) = tags.first().or_else(|| digests.first()) else { return true };
    tags.len() <= 1 && !digests.is_empty() && digests.iter().all(|other| other.trimmed() == first.trimmed())
}
