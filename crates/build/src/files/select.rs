//! Which files of a tree an instruction takes.

use super::resolve::{Located, lexical, locate, look};
use super::{Ignore, Stamp, Tree, Verdict, as_path, changed, failed, is_dir, join, kind_of, shown, split};
use super::{has_wildcard, matches};
use crate::Cancel;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use yare_errdefs::{Class, Error, Result};
use yare_layer::{Found, Walk};
use yare_oci::Digest;
use yare_sys::fs as files;

/// The operands of a `COPY` or `ADD`, variables expanded.
#[derive(Clone, Copy)]
pub struct CopySpec<'a> {
    /// Paths and wildcards below the tree's root; a leading `/` and `..` mean no more than that.
    pub sources: &'a [String],
    /// Where to, absolute or relative to the image's root. With a slash at the end it is a directory.
    pub dest: &'a str,
    /// `--parents`: the directories of a source are made too, those before `/./` excepted. Wildcards may
    /// have `**`, which is any number of directories.
    pub parents: bool,
    /// `--exclude`: over paths below a source that is a directory, over the name of another, and with
    /// `--parents` over what is made.
    pub exclude: Option<&'a dyn Ignore>,
    /// Whether a source that is a link is taken as one, rather than what it leads to.
    pub keep_link: bool,
    /// Whether sources are names, whatever characters they have.
    pub literal: bool,
    /// Whether a source that is a directory is taken itself, with its owner and mode.
    pub whole: bool,
}

impl std::fmt::Debug for CopySpec<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopySpec")
            .field("sources", &self.sources)
            .field("dest", &self.dest)
            .field("parents", &self.parents)
            .finish_non_exhaustive()
    }
}

/// The files that were chosen, as they were then. Memory: about 150 bytes and the path for each.
#[derive(Debug)]
pub struct Selection<'t> {
    pub(super) tree: &'t Tree<'t>,
    pub(super) dest: String,
    pub(super) items: Vec<Item>,
}

impl Selection<'_> {
    /// Number of files, directories and links.
    pub fn len(&self) -> usize {
        self.items.iter().map(|item| item.entries.len()).sum()
    }

    /// Whether nothing was chosen, which is no error for wildcards.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of content, holes included.
    pub fn bytes(&self) -> u64 {
        let entries = self.items.iter().flat_map(|item| &item.entries);
        entries.filter(|entry| entry.kind() == FileType::RegularFile).map(|entry| entry.stamp.size).sum()
    }
}

/// One source, or one match of a wildcard.
#[derive(Debug)]
pub(super) struct Item {
    /// What it is in the tree, without links.
    pub(super) base: Vec<u8>,
    /// The last name of the source as written: that of a file's copy in a directory.
    pub(super) name: Vec<u8>,
    /// Whether it is a directory, whose entries are copied and not itself.
    pub(super) directory: bool,
    /// Parents first. That of a file has an empty path.
    pub(super) entries: Vec<Entry>,
}

/// A file, directory or link.
#[derive(Debug)]
pub(super) struct Entry {
    /// Below the item's base.
    pub(super) path: Vec<u8>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) stamp: Stamp,
    /// With the kind.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: u64,
    /// Whether it has more than one name.
    pub(super) linked: bool,
    pub(super) sparse: bool,
    /// A directory that is there only because something in it was chosen.
    pub(super) implied: bool,
    /// Hash of content and attributes, once they were read for a checksum.
    pub(super) body: Option<Digest>,
}

impl Entry {
    fn of(path: Vec<u8>, stat: &Stat, link: Option<Vec<u8>>) -> Result<Self> {
        if split(&path).1.starts_with(b".wh.") {
            let text = format!("{}: names that begin with .wh. cannot be in an image", shown(&path));
            return Err(Error::invalid(text).with_hint("in a layer such a name deletes a file; rename it"));
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        Ok(Self {
            path,
            link,
            stamp: Stamp::of(stat),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: stat.st_rdev,
            linked: stat.st_nlink > 1 && !is_dir(stat),
            sparse: u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512) < size,
            implied: false,
            body: None,
        })
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

/// Chooses the files. A wildcard that matches nothing adds nothing; a plain source that is not there is an
/// error of class `NotFound`, whose hint names the ignore pattern that hides it, if one does.
pub fn select<'t>(tree: &'t Tree<'t>, spec: &CopySpec<'_>, cancel: &Cancel) -> Result<Selection<'t>> {
    let selector = Selector { tree, exclude: spec.exclude, whole: spec.whole, cancel };
    let mut items = Vec::new();
    for source in spec.sources {
        if spec.parents {
            items.extend(selector.with_parents(source.as_bytes())?);
        } else if !spec.literal && has_wildcard(source.as_bytes()) {
            for path in selector.expand(source)? {
                items.extend(selector.item(&path, spec.keep_link)?);
            }
        } else {
            let path = lexical(source.as_bytes()).join(&b'/');
            items.extend(selector.item(&path, spec.keep_link)?);
        }
    }
    Ok(Selection { tree, dest: spec.dest.to_owned(), items })
}

/// The paths that a pattern matches.
pub(super) fn expand(tree: &Tree<'_>, pattern: &str, cancel: &Cancel) -> Result<Vec<Vec<u8>>> {
    Selector { tree, exclude: None, whole: false, cancel }.expand(pattern)
}

struct Selector<'s, 't> {
    tree: &'t Tree<'t>,
    exclude: Option<&'s dyn Ignore>,
    whole: bool,
    cancel: &'s Cancel,
}

impl Selector<'_, '_> {
    fn visible(&self, path: &[u8], stat: &Stat) -> bool {
        match self.tree.verdict(path, is_dir(stat)) {
            Verdict::Keep => true,
            Verdict::Drop => is_dir(stat),
            Verdict::DropTree => false,
        }
    }

    fn locate(&self, path: &[u8]) -> Result<Located> {
        locate(self.tree.root.as_fd(), path, &|path, stat| self.visible(path, stat))
            .map_err(|error| failed("look up", path, error))
    }

    /// The link at a path, when it is one: those above it are followed, and it is not.
    fn link(&self, path: &[u8]) -> Result<Option<Item>> {
        let (above, name) = split(path);
        let base = join(&self.locate(above)?.path, name);
        let seen = look(self.tree.root.as_fd(), &base).map_err(|error| failed("look up", &base, error))?;
        let Some((stat, Some(target))) = seen.filter(|(stat, _)| self.visible(&base, stat)) else {
            return Ok(None);
        };
        let mut entry = Entry::of(name.to_vec(), &stat, Some(target))?;
        entry.path.clear();
        Ok(Some(Item { base, name: name.to_vec(), directory: false, entries: vec![entry] }))
    }

    /// One source, its links followed. Nothing when `--exclude` leaves nothing of a file.
    fn item(&self, path: &[u8], keep_link: bool) -> Result<Option<Item>> {
        if keep_link && let Some(link) = self.link(path)? {
            return Ok(Some(link));
        }
        let found = self.locate(path)?;
        let Some(stat) = found.stat else { return Err(self.missing(path, &found.path)) };
        let name = split(path).1.to_vec();
        if is_dir(&stat) {
            let mut entries = Vec::new();
            if self.whole {
                entries.push(Entry::of(Vec::new(), &stat, None)?);
            }
            self.gather(&found.path, &[], &mut |entry| entries.push(entry))?;
            if entries.is_empty() && self.tree.verdict(&found.path, true) != Verdict::Keep {
                return Err(self.missing(path, &found.path));
            }
            return Ok(Some(Item { base: found.path, name, directory: true, entries }));
        }
        if kind_of(&stat) == FileType::Socket {
            let text = format!("{} is a socket, which cannot be in an image", shown(path));
            return Err(Error::invalid(text));
        }
        let excluded = self.exclude.map(|exclude| exclude.excludes(as_path(&name), false));
        if excluded.is_some_and(|verdict| verdict != Verdict::Keep) {
            return Ok(None);
        }
        // The name is checked under which it is copied.
        let mut entry = Entry::of(name.clone(), &stat, None)?;
        entry.path.clear();
        Ok(Some(Item { base: found.path, name, directory: false, entries: vec![entry] }))
    }

    /// Verdict of the tree and of `--exclude` together.
    fn verdict(&self, base: &[u8], path: &[u8], is_dir: bool) -> Verdict {
        let excluded = match self.exclude {
            Some(exclude) => exclude.excludes(as_path(path), is_dir),
            None => Verdict::Keep,
        };
        match (self.tree.verdict(&join(base, path), is_dir), excluded) {
            (Verdict::Keep, Verdict::Keep) => Verdict::Keep,
            (Verdict::DropTree, _) | (_, Verdict::DropTree) => Verdict::DropTree,
            _ => Verdict::Drop,
        }
    }

    fn directory(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        files::open_strict(self.tree.root.as_fd(), as_path(path), flags, Mode::empty())
            .map_err(|error| self.raced(path, error))
    }

    /// Something was there a moment ago.
    fn raced(&self, path: &[u8], error: std::io::Error) -> Error {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => changed(self.tree, path),
            _ => failed("read", path, error),
        }
    }

    /// Everything below a directory, `start` being its path below the item's base. A directory that is
    /// dropped is given when something in it is kept.
    fn gather(&self, base: &[u8], start: &[u8], take: &mut dyn FnMut(Entry)) -> Result<()> {
        let top = join(base, start);
        let dir = self.directory(&top)?;
        let mut walk = Walk::new(dir.as_fd()).map_err(|error| self.raced(&top, error))?;
        let mut pending: Vec<Entry> = Vec::new();
        while let Some(found) = walk.advance().map_err(|error| self.raced(&top, error))? {
            self.cancel.check()?;
            let kind = found.kind();
            let path = join(start, &found.path);
            pending.retain(|above| path.strip_prefix(&above.path[..]).is_some_and(|rest| rest[0] == b'/'));
            match self.verdict(base, &path, kind == FileType::Directory) {
                Verdict::DropTree => walk.pass_over(),
                Verdict::Drop if kind == FileType::Directory => pending.push(self.entry(path, &found)?),
                Verdict::Drop => {}
                Verdict::Keep if kind == FileType::Socket => {}
                Verdict::Keep => {
                    let entry = self.entry(path, &found)?;
                    pending.drain(..).for_each(&mut *take);
                    take(entry);
                }
            }
        }
        Ok(())
    }

    fn entry(&self, path: Vec<u8>, found: &Found) -> Result<Entry> {
        let link = match found.kind() {
            FileType::Symlink => Some(
                rustix::fs::readlinkat(&found.parent, &found.name, Vec::new())
                    .map_err(|error| self.raced(&path, error.into()))?
                    .into_bytes(),
            ),
            _ => None,
        };
        Entry::of(path, &found.stat, link)
    }

    /// The paths that a wildcard matches, in the order of their names. Links before the first wildcard are
    /// followed, those after it are not.
    fn expand(&self, source: &str) -> Result<Vec<Vec<u8>>> {
        let names = lexical(source.as_bytes());
        let literal = names.iter().take_while(|name| !has_wildcard(name)).count();
        let (before, pattern) = names.split_at(literal);
        let written = before.join(&b'/');
        let base = self.locate(&written)?;
        check_pattern(pattern, source)?;
        let mut found = Vec::new();
        if base.stat.as_ref().is_some_and(is_dir) {
            self.descend(&base.path, &[], pattern, false, &mut |path| found.push(join(&written, path)))?;
        }
        Ok(found)
    }

    /// Matches names one level at a time; `take` gets paths below `base`. `deep` gives `**` its meaning.
    fn descend(
        &self,
        base: &[u8],
        path: &[u8],
        pattern: &[Vec<u8>],
        deep: bool,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        self.cancel.check()?;
        let Some((first, rest)) = pattern.split_first() else { return Ok(()) };
        let any_depth = deep && first == b"**";
        if any_depth && !rest.is_empty() {
            self.descend(base, path, rest, deep, take)?;
        }
        let here = join(base, path);
        let dir = self.directory(&here)?;
        let mut walk = Walk::new(dir.as_fd()).map_err(|error| self.raced(&here, error))?;
        while let Some(found) = walk.advance().map_err(|error| self.raced(&here, error))? {
            walk.pass_over();
            let child = join(path, &found.path);
            let hit = any_depth || matches(first, &found.path).unwrap_or(false);
            if !hit || !self.visible(&join(base, &child), &found.stat) {
                continue;
            }
            let directory = found.kind() == FileType::Directory;
            if rest.is_empty() {
                let full = join(base, &child);
                // A dropped directory counts when something in it is kept.
                if self.tree.verdict(&full, directory) == Verdict::Keep || self.has_kept(&full)? {
                    take(&child);
                }
            } else if directory {
                let pattern = if any_depth { pattern } else { rest };
                self.descend(base, &child, pattern, deep, take)?;
            }
        }
        Ok(())
    }

    fn has_kept(&self, dir: &[u8]) -> Result<bool> {
        let mut any = false;
        self.gather(dir, &[], &mut |_| any = true)?;
        Ok(any)
    }

    /// A source of `--parents`: one item over the directory before `/./`.
    fn with_parents(&self, source: &[u8]) -> Result<Option<Item>> {
        let pivot = source.windows(3).position(|bytes| bytes == b"/./");
        let (before, after) = match pivot {
            Some(at) => (source.get(..at).unwrap_or_default(), source.get(at + 3..).unwrap_or_default()),
            None => (&[][..], source),
        };
        let written = lexical(before).join(&b'/');
        let base = self.locate(&written)?;
        if !base.stat.as_ref().is_some_and(is_dir) {
            return Err(self.missing(&written, &base.path));
        }
        let pattern = lexical(after);
        let mut found = Vec::new();
        if has_wildcard(after) {
            check_pattern(&pattern, &String::from_utf8_lossy(source))?;
            self.descend(&base.path, &[], &pattern, true, &mut |path| found.push(path.to_vec()))?;
        } else {
            found.push(pattern.join(&b'/'));
        }
        let mut entries = BTreeMap::new();
        for path in found {
            self.take_with_parents(&base.path, &path, &mut entries)?;
        }
        if entries.is_empty() && has_wildcard(after) {
            return Ok(None);
        }
        let entries = entries.into_values().collect();
        Ok(Some(Item { base: base.path, name: Vec::new(), directory: true, entries }))
    }

    /// A path, what is below it, and the directories above it up to the base.
    fn take_with_parents(
        &self,
        base: &[u8],
        path: &[u8],
        entries: &mut BTreeMap<Vec<u8>, Entry>,
    ) -> Result<()> {
        let mut chain = Vec::new();
        for end in (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]) {
            let part = &path[..end];
            let full = join(base, part);
            let seen = look(self.tree.root.as_fd(), &full).map_err(|error| self.raced(&full, error))?;
            let seen = seen.filter(|(stat, _)| self.visible(&full, stat));
            let Some((stat, link)) = seen else { return Err(self.missing(&full, &full)) };
            match self.verdict(base, part, is_dir(&stat)) {
                Verdict::DropTree => return Ok(()),
                Verdict::Drop if !is_dir(&stat) => return Ok(()),
                _ if part.is_empty() => {}
                _ => chain.push((part.to_vec(), stat, link)),
            }
        }
        let below = chain.last().is_none_or(|(_, stat, _)| is_dir(stat));
        let last = chain.len();
        let mut made = Vec::new();
        for (at, (part, stat, link)) in chain.into_iter().enumerate() {
            let dropped = self.verdict(base, &part, is_dir(&stat)) == Verdict::Drop;
            let mut entry = Entry::of(part, &stat, link)?;
            entry.implied = at + 1 < last || dropped;
            made.push(entry);
        }
        let dropped = made.last().is_some_and(|entry| entry.implied);
        let mut under = Vec::new();
        if below {
            self.gather(base, path, &mut |entry| under.push(entry))?;
        }
        if dropped && under.is_empty() {
            return Ok(());
        }
        for entry in made.into_iter().chain(under) {
            // What was chosen itself outweighs what is only on the way.
            match entries.get(&entry.path) {
                Some(known) if !known.implied || entry.implied => {}
                _ => drop(entries.insert(entry.path.clone(), entry)),
            }
        }
        Ok(())
    }

    /// The error for a source that is not there, with what is known about why.
    fn missing(&self, asked: &[u8], end: &[u8]) -> Error {
        let text = format!("\"{}\": not found in the {}", shown(asked), self.tree.name);
        let error = Error::new(Class::NotFound, text);
        match self.reason(asked, end) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    fn reason(&self, asked: &[u8], end: &[u8]) -> Option<String> {
        let root = self.tree.root.as_fd();
        if let Some(ignore) = self.tree.ignore {
            let ends = (0..=end.len()).filter(|at| end.get(*at).is_none_or(|byte| *byte == b'/'));
            let pattern = ends.filter_map(|at| ignore.hidden_by(as_path(end.get(..at)?))).next();
            let file = shown(asked);
            let is_there = locate(root, asked, &|_, _| true).is_ok_and(|found| found.stat.is_some());
            match (pattern, is_there) {
                (Some(pattern), true) => {
                    return Some(format!("{file} is there, but the ignore pattern \"{pattern}\" hides it"));
                }
                (None, true) => return Some(format!("{file} is there, but the ignore file hides it")),
                // Docker's client leaves out of the context what is ignored.
                (Some(pattern), false) => {
                    return Some(format!("the ignore pattern \"{pattern}\" keeps {file} out of the context"));
                }
                (None, false) => {}
            }
        }
        if end != asked {
            let text = "it leads by a link to";
            return Some(format!("{text} {}; links do not lead out of the {}", shown(end), self.tree.name));
        }
        let (parent, name) = split(end);
        let dir = self.directory(parent).ok()?;
        let mut walk = Walk::new(dir.as_fd()).ok()?;
        while let Some(found) = walk.advance().ok()? {
            walk.pass_over();
            if found.path.eq_ignore_ascii_case(name) && self.visible(&join(parent, &found.path), &found.stat)
            {
                return Some(format!("did you mean {}?", shown(&join(parent, found.name.as_bytes()))));
            }
        }
        None
    }
}

fn check_pattern(pattern: &[Vec<u8>], source: &str) -> Result<()> {
    match pattern.iter().find_map(|name| matches(name, b"").err()) {
        Some(error) => Err(Error::invalid(format!("invalid source \"{source}\"")).caused_by(error)),
        None => Ok(()),
    }
}
