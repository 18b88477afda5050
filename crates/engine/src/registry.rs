//! All containers by id and name. Readers take a lock for the length of a look-up and never wait for I/O.

use crate::container::Container;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use yare_errdefs::{Error, Result};

/// The containers of an engine.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    index: RwLock<Index>,
}

#[derive(Debug, Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Container>>,
    /// Names without a slash, to ids. A name is here from its claim on.
    by_name: HashMap<String, String>,
    /// Who has links to a container, by its id.
    holders: HashMap<String, BTreeSet<String>>,
}

impl Index {
    fn link(&mut self, container: &Container) {
        for link in &container.record().links {
            self.holders.entry(link.id.clone()).or_default().insert(container.id.clone());
        }
    }

    fn unlink(&mut self, container: &Container) {
        for link in &container.record().links {
            if let Some(holders) = self.holders.get_mut(&link.id) {
                holders.remove(&container.id);
                if holders.is_empty() {
                    self.holders.remove(&link.id);
                }
            }
        }
    }
}

/// A claimed name. Dropped before it is kept, it is free again.
#[derive(Debug)]
#[must_use = "a claim that is dropped frees the name"]
pub(crate) struct NameClaim<'a> {
    registry: &'a Registry,
    name: Option<String>,
}

impl NameClaim<'_> {
    /// Keeps the name.
    pub(crate) fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for NameClaim<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.registry.release_name(&name);
        }
    }
}

impl Registry {
    /// Claims a name for an id.
    pub(crate) fn claim(&self, name: &str, id: &str) -> Result<NameClaim<'_>> {
        let mut index = self.index.write();
        if let Some(holder) = index.by_name.get(name) {
            let state = index.by_id.get(holder).map(|container| container.record().state.status);
            let hint = match state {
                Some(state) => format!(
                    "container {} is {state}; remove it with: yare rm {}{name}",
                    &holder[..12],
                    if state.has_process() { "-f " } else { "" }
                ),
                None => "it is being created".to_owned(),
            };
            return Err(Error::conflict(yare_api::texts::name_in_use(name, holder)).with_hint(hint));
        }
        index.by_name.insert(name.to_owned(), id.to_owned());
        Ok(NameClaim { registry: self, name: Some(name.to_owned()) })
    }

    /// Frees a name.
    pub(crate) fn release_name(&self, name: &str) {
        self.index.write().by_name.remove(name);
    }

    /// Whether a name is taken.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.index.read().by_name.contains_key(name)
    }

    /// Adds a container whose name is claimed.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        let mut index = self.index.write();
        index.link(&container);
        index.by_id.insert(container.id.clone(), container);
    }

    /// Adds a container found on disk, and its name if nobody has it.
    pub(crate) fn adopt(&self, container: Arc<Container>) {
        let mut index = self.index.write();
        let name = container.record().name.clone();
        index.by_name.entry(name).or_insert_with(|| container.id.clone());
        index.link(&container);
        index.by_id.insert(container.id.clone(), container);
    }

    /// Takes a container out and frees its name.
    pub(crate) fn remove(&self, id: &str) {
        let mut index = self.index.write();
        if let Some(container) = index.by_id.remove(id) {
            index.unlink(&container);
            index.holders.remove(id);
            let name = container.record().name.clone();
            if index.by_name.get(&name).is_some_and(|holder| holder == id) {
                index.by_name.remove(&name);
            }
        }
    }

    /// The containers that have links to one.
    pub(crate) fn holders_of(&self, id: &str) -> Vec<Arc<Container>> {
        let index = self.index.read();
        let holders = index.holders.get(id).into_iter().flatten();
        holders.filter_map(|holder| index.by_id.get(holder).cloned()).collect()
    }

    /// Gives a container other links.
    pub(crate) fn relink(&self, container: &Container, links: Vec<crate::links::Link>) {
        let mut index = self.index.write();
        index.unlink(container);
        container.update(|record| record.links = links);
        index.link(container);
    }

    /// The container with this exact id.
    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Container>> {
        self.index.read().by_id.get(id).cloned()
    }

    /// The container that a user means: full id, name with or without `/`, unique start of an id, or the name that
    /// another one has for it (`holder/alias`).
    pub(crate) fn find(&self, wanted: &str) -> Result<Arc<Container>> {
        let index = self.index.read();
        let name = wanted.trim_start_matches('/');
        if let Some(found) = index.by_id.get(wanted) {
            return Ok(Arc::clone(found));
        }
        if let Some(found) = index.by_name.get(name).and_then(|id| index.by_id.get(id)) {
            return Ok(Arc::clone(found));
        }
        let linked = name.split_once('/').and_then(|(holder, alias)| {
            let holder = index.by_name.get(holder).and_then(|id| index.by_id.get(id))?.record();
            let link = holder.links.iter().find(|link| link.alias == alias)?;
            index.by_id.get(&link.id).cloned()
        });
        if let Some(found) = linked {
            return Ok(found);
        }
        let missing = || Error::not_found(yare_api::texts::no_such_container(wanted));
        if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut starting =
            index.by_id.range(wanted.to_owned()..).take_while(|(id, _)| id.starts_with(wanted));
        match (starting.next(), starting.next()) {
            (Some((_, found)), None) => Ok(Arc::clone(found)),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("multiple IDs found with provided prefix: {wanted}")))
            }
            (None, _) => Err(missing()),
        }
    }

    /// All of them, in no order that means anything.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.index.read().by_id.values().cloned().collect()
    }
}
