//! Submodules, without `git submodule`: that reads what the repository says in too many places.
//!
//! A submodule is a gitlink in the tree (the commit) and a section of `.gitmodules` (the address). Only these
//! two are read; `update`, `branch` and the rest of the section are passed over.

use super::checkout::{Job, fill as fill_folder};
use super::mirror::{Mirror, Resolved};
use super::run::too_large;
use super::url::{GitUrl, is_commit};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use yare_errdefs::{Error, Result};
use yare_sys::fs::{open_dir, open_strict};

/// Deepest nesting.
const MOST_LEVELS: usize = 16;
/// Most submodules of one repository.
const MOST: usize = 1024;

/// A submodule of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    path: String,
    address: String,
    commit: String,
}

/// The submodules of a commit, sorted by path. A tree that has more files than can be listed, or more bytes than
/// are allowed, is an error: a few kilobytes of repository can unpack to any number.
pub(super) fn list(job: &Job<'_>, mirror: &Mirror, commit: &str) -> Result<Vec<Module>> {
    let run = job.run(None);
    let tree =
        mirror.git(&run, "list the tree", &["ls-tree", "-r", "-l", "-z", "--end-of-options", commit], &[])?;
    if bytes(&tree) > job.git.limit {
        return Err(too_large(job.git.limit));
    }
    let links = gitlinks(&tree);
    if links.is_empty() {
        return Ok(Vec::new());
    }
    if links.len() > MOST {
        return Err(Error::invalid(format!(
            "the repository has {} submodules, the limit is {MOST}",
            links.len()
        )));
    }
    let blob = format!("--blob={commit}:.gitmodules");
    let query = ["config", &blob, "--null", "--get-regexp", r"^submodule\..*\.(path|url)$"];
    let listed = mirror.git(&run, "read .gitmodules", &query, &[]);
    let listed = listed
        .map_err(|error| Error::wrap("the repository has submodules and no valid .gitmodules", error))?;
    modules(&links, &sections(&listed))
}

/// Bytes of all files, from `ls-tree -l -z`: mode, type, hash, size or `-`, tab, path.
fn bytes(tree: &[u8]) -> u64 {
    let sizes = tree.split(|byte| *byte == 0).filter_map(|entry| {
        let head = std::str::from_utf8(entry.split(|byte| *byte == b'\t').next()?).ok()?;
        head.rsplit(' ').next()?.parse::<u64>().ok()
    });
    sizes.fold(0, u64::saturating_add)
}

/// Commits of gitlinks by path, from the same.
fn gitlinks(tree: &[u8]) -> BTreeMap<String, String> {
    let entries = tree.split(|byte| *byte == 0).filter_map(|entry| {
        let entry = std::str::from_utf8(entry.strip_prefix(b"160000 commit ")?).ok()?;
        let (head, path) = entry.split_once('\t')?;
        let commit = head.split(' ').next()?;
        is_commit(commit).then(|| (path.to_owned(), commit.to_owned()))
    });
    entries.collect()
}

/// Addresses by path, from `git config --null`.
fn sections(listed: &[u8]) -> BTreeMap<String, String> {
    let (mut paths, mut urls) = (BTreeMap::new(), BTreeMap::new());
    for entry in listed.split(|byte| *byte == 0) {
        let Some((key, value)) = std::str::from_utf8(entry).ok().and_then(|entry| entry.split_once('\n'))
        else {
            continue;
        };
        let (name, into) = match (key.strip_suffix(".path"), key.strip_suffix(".url")) {
            (Some(name), _) => (name, &mut paths),
            (_, Some(name)) => (name, &mut urls),
            _ => continue,
        };
        into.insert(name.to_owned(), value.to_owned());
    }
    paths.into_iter().filter_map(|(name, path)| Some((path, urls.remove(&name)?))).collect()
}

fn modules(links: &BTreeMap<String, String>, sections: &BTreeMap<String, String>) -> Result<Vec<Module>> {
    let module = |(path, commit): (&String, &String)| {
        let address = sections.get(path).ok_or_else(|| {
            Error::invalid(format!("no url found for submodule path {path:?} in .gitmodules"))
        })?;
        Ok(Module { path: path.clone(), address: address.clone(), commit: commit.clone() })
    };
    links.iter().map(module).collect()
}

/// The address of a submodule; `./` and `../` count from the one of its parent.
fn absolute(parent: &GitUrl, address: &str) -> Result<GitUrl> {
    let refused = |why: &str| Error::invalid(format!("submodule address {address:?}: {why}"));
    if !address.starts_with("./") && !address.starts_with("../") {
        let mut url = GitUrl::parse(address)?
            .ok_or_else(|| refused("only http, https, ssh and git are allowed for submodules"))?;
        (url.query, url.fragment) = (Vec::new(), None);
        return Ok(url);
    }
    let mut names: Vec<&str> = parent.path.split('/').filter(|name| !name.is_empty()).collect();
    for name in address.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop().ok_or_else(|| refused("leads above the host"))?),
            name => names.push(name),
        }
    }
    let slash = if parent.path.starts_with('/') { "/" } else { "" };
    let path = format!("{slash}{}", names.join("/"));
    // Parsed again, so that the same checks hold for it.
    let url = GitUrl { path, ..parent.clone() };
    GitUrl::parse(&url.address())?.ok_or_else(|| refused("is no address"))?;
    Ok(url)
}

/// Puts the submodules, and theirs, into the folders that the checkout made for them.
pub(super) fn fill(
    job: &Job<'_>,
    parent: &GitUrl,
    modules: Vec<Module>,
    (dir, level): (&Path, usize),
) -> Result<()> {
    if level >= MOST_LEVELS && !modules.is_empty() {
        return Err(Error::invalid(format!("submodules are nested more than {MOST_LEVELS} deep")));
    }
    for module in modules {
        let context = format!("cannot fill the submodule {:?}", module.path);
        fill_one(job, parent, &module, (dir, level)).map_err(|error| Error::wrap(context, error))?;
    }
    Ok(())
}

fn fill_one(job: &Job<'_>, parent: &GitUrl, module: &Module, (dir, level): (&Path, usize)) -> Result<()> {
    // Nobody else writes here, so what is no link now stays none.
    open_strict(open_dir(dir)?.as_fd(), &module.path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| Error::invalid("its folder is not in the tree").caused_by(error))?;
    let folder = dir.join(&module.path);
    let url = absolute(parent, &module.address)?;
    let run = job.run(Some(&url));
    let mirror = Mirror::open(&run, &url)?;
    mirror.ensure(&run, &Resolved { commit: module.commit.clone(), tag: None, name: None })?;
    let below = list(job, &mirror, &module.commit)?;
    fill_folder(job, &mirror, &module.commit, (&folder, &url))?;
    drop(mirror);
    fill(job, &url, below, (&folder, level + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_addresses_stay_on_the_host() {
        let parent = GitUrl::parse("https://u:p@h/a/b.git").unwrap().unwrap();
        assert_eq!(absolute(&parent, "../c.git").unwrap().address(), "https://h/a/c.git");
        assert_eq!(absolute(&parent, "./sub").unwrap().path, "/a/b.git/sub");
        assert!(absolute(&parent, "../../../../etc").is_err());
        let scp = GitUrl::parse("git@h:a/b.git").unwrap().unwrap();
        assert_eq!(absolute(&scp, "../c").unwrap().address(), "git@h:a/c");
    }

    #[test]
    fn trees_are_measured() {
        let hash = "1".repeat(40);
        let tree = format!(
            "100644 blob {hash}      12\ta 7\0160000 commit {hash}       -\tsub dir\0100755 blob {hash} 30\tb\0"
        );
        assert_eq!(bytes(tree.as_bytes()), 42);
        assert_eq!(gitlinks(tree.as_bytes()), BTreeMap::from([("sub dir".to_owned(), hash)]));
    }

    #[test]
    fn other_transports_are_refused() {
        let parent = GitUrl::parse("https://h/a.git").unwrap().unwrap();
        for bad in
            ["/etc", "file:///etc", "ext::sh -c id", "-u./x", "--upload-pack=x", "ssh://-oProxyCommand=x/y"]
        {
            assert!(absolute(&parent, bad).is_err(), "{bad}");
        }
    }
}
