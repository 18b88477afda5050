//! The bare repository that is kept for an URL.

use super::run::{Run, refused};
use super::url::{GitUrl, is_commit};
use crate::source::{failed, lock, private_folder, touch};
use std::path::{Path, PathBuf};
use yare_errdefs::{Error, Result};
use yare_oci::Digest;
use yare_sys::fs::Lock;

/// A mirror, locked.
pub(super) struct Mirror {
    pub(super) path: PathBuf,
    address: String,
    _lock: Lock,
}

/// A reference that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) commit: String,
    /// The annotated tag that names the commit, when that is how it was found.
    pub(super) tag: Option<String>,
    /// Full name at the remote; none when a commit was asked for.
    pub(super) name: Option<String>,
}

impl Mirror {
    /// Opens the mirror of this URL, made when missing, once nobody else uses it.
    pub(super) fn open(run: &Run<'_>, url: &GitUrl) -> Result<Self> {
        let address = url.address();
        let cache = &run.git.cache;
        private_folder(cache)?;
        // Who asks is part of the key: what a password or token opened is not for those who lack it.
        let user = url.user.clone().unwrap_or_default();
        let proof = run.git.authorization.as_deref().filter(|_| run.trusted).unwrap_or_default();
        let name = Digest::of(format!("{address}\0{user}\0{proof}")).hex();
        let held = cache.join(format!("{name}.lock"));
        let lock = lock(&held, run.cancel)?;
        touch(&held)?;
        let mirror = Self { path: cache.join(&name), address, _lock: lock };
        if mirror.path.join("HEAD").exists() {
            mirror.sweep()?;
        } else {
            mirror.create(run)?;
        }
        Ok(mirror)
    }

    fn create(&self, run: &Run<'_>) -> Result<()> {
        let temporary = self.path.with_extension("new");
        for left in [&temporary, &self.path] {
            yare_sys::fs::remove_tree(left)?;
        }
        let folder = text(&temporary)?;
        run.must("make a repository", &["init", "--quiet", "--bare", "--template=", "--", folder], &[])?;
        std::fs::rename(&temporary, &self.path).map_err(|error| failed("rename", &temporary, error))
    }

    /// Removes the locks and unfinished packs that a killed git left; we hold the lock, so nobody uses them.
    fn sweep(&self) -> Result<()> {
        let stale = |name: &str| name.ends_with(".lock") || name.starts_with("tmp_");
        for folder in ["", "refs/yare", "objects/pack"] {
            let folder = self.path.join(folder);
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.filter_map(std::io::Result::ok) {
                if entry.file_name().to_str().is_some_and(stale) {
                    let path = entry.path();
                    std::fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
                }
            }
        }
        Ok(())
    }

    fn git_dir(&self) -> Result<String> {
        Ok(format!("--git-dir={}", text(&self.path)?))
    }

    /// Runs git in the mirror.
    pub(super) fn git(
        &self,
        run: &Run<'_>,
        what: &str,
        arguments: &[&str],
        env: &[(&str, &Path)],
    ) -> Result<Vec<u8>> {
        let folder = self.git_dir()?;
        run.must(what, &[&[folder.as_str()], arguments].concat(), env)
    }

    /// Which commit the reference means at the remote, now. Branches go before tags, as with `git checkout`.
    pub(super) fn resolve(&self, run: &Run<'_>, reference: &str) -> Result<Resolved> {
        if is_commit(reference) {
            return Ok(Resolved { commit: reference.to_owned(), tag: None, name: None });
        }
        let what = format!("look up {:?} in {}", or_head(reference), self.address);
        let listed = self.git(run, &what, &["ls-remote", "--quiet", "--", &self.address], &[])?;
        let listed = String::from_utf8_lossy(&listed);
        if let Some(found) = choose(&listed, reference) {
            return Ok(found);
        }
        let short = super::url::check_commit(reference).is_ok() && !reference.is_empty();
        if short && let Some(commit) = self.expand(run, reference)? {
            return Ok(Resolved { commit, tag: None, name: None });
        }
        let text = format!("{} has no branch, tag or commit {:?}", self.address, or_head(reference));
        Err(Error::not_found(text).with_hint("a commit is best given with its whole hash"))
    }

    /// The commit whose hash begins so; needs the whole history.
    fn expand(&self, run: &Run<'_>, short: &str) -> Result<Option<String>> {
        self.fetch_all(run)?;
        let wanted = format!("{short}^{{commit}}");
        let folder = self.git_dir()?;
        let ended =
            run.run(&[&folder, "rev-parse", "--verify", "--quiet", "--end-of-options", &wanted], &[])?;
        let commit = String::from_utf8_lossy(&ended.output).trim().to_owned();
        Ok(Some(commit).filter(|commit| ended.status.success() && is_commit(commit)))
    }

    /// The commit that was kept under this hash, which may be an annotated tag's.
    fn kept(&self, run: &Run<'_>, hash: &str) -> Result<Option<String>> {
        let (folder, name) = (self.git_dir()?, format!("refs/yare/{hash}^{{commit}}"));
        let ended = run.run(&[&folder, "rev-parse", "--verify", "--quiet", &name], &[])?;
        let commit = String::from_utf8_lossy(&ended.output).trim().to_owned();
        Ok(Some(commit).filter(|commit| ended.status.success() && is_commit(commit)))
    }

    /// Makes sure that the mirror has the commit with all its files, downloading only what is missing, and
    /// returns its hash: another one when that of an annotated tag was asked for.
    pub(super) fn ensure(&self, run: &Run<'_>, wanted: &Resolved) -> Result<String> {
        let commit = &wanted.commit;
        if let Some(commit) = self.kept(run, commit)? {
            return Ok(commit);
        }
        let keep = format!("refs/yare/{commit}");
        let exact = format!("+{commit}:{keep}");
        let first = self.fetch(run, &["--depth=1"], &[&exact])?;
        if first.status.success()
            && let Some(commit) = self.kept(run, commit)?
        {
            return Ok(commit);
        }
        // Not every server hands out commits by hash; then by name, which must still mean the same commit.
        if let Some(name) = &wanted.name {
            let named = format!("+{name}:refs/yare-names/{commit}");
            if self.fetch(run, &["--depth=1"], &[&named])?.status.success()
                && let Some(commit) = self.keep(run, commit)?
            {
                return Ok(commit);
            }
        }
        if self.fetch_all(run).is_ok()
            && let Some(commit) = self.keep(run, commit)?
        {
            return Ok(commit);
        }
        Err(refused(&format!("fetch {commit} from {}", self.address), &first))
    }

    /// Keeps what was fetched by name under its hash, if that came with it.
    fn keep(&self, run: &Run<'_>, commit: &str) -> Result<Option<String>> {
        let (folder, keep) = (self.git_dir()?, format!("refs/yare/{commit}"));
        match run.run(&[&folder, "update-ref", &keep, commit], &[])?.status.success() {
            true => self.kept(run, commit),
            false => Ok(None),
        }
    }

    fn fetch_all(&self, run: &Run<'_>) -> Result<()> {
        let shallow: &[&str] = if self.path.join("shallow").exists() { &["--unshallow"] } else { &[] };
        let all = ["+refs/heads/*:refs/yare-heads/*", "+refs/tags/*:refs/yare-tags/*"];
        let ended = self.fetch(run, shallow, &all)?;
        if ended.status.success() { Ok(()) } else { Err(refused(&format!("fetch {}", self.address), &ended)) }
    }

    fn fetch(&self, run: &Run<'_>, options: &[&str], names: &[&str]) -> Result<super::run::Ended> {
        let folder = self.git_dir()?;
        let fixed =
            ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--force"];
        run.run(&[&[folder.as_str()], &fixed[..], options, &["--", &self.address], names].concat(), &[])
    }

    /// Seconds since 1970 at which the commit was made.
    pub(super) fn time(&self, run: &Run<'_>, commit: &str) -> Result<i64> {
        let arguments = ["show", "--no-patch", "--format=%ct", "--end-of-options", commit];
        let shown = self.git(run, "read the commit", &arguments, &[])?;
        let shown = String::from_utf8_lossy(&shown);
        shown.trim().parse().map_err(|_| Error::invalid(format!("commit {commit} has no time")))
    }
}

fn or_head(reference: &str) -> &str {
    if reference.is_empty() { "HEAD" } else { reference }
}

/// Paths that we made are text; the cache's own is the caller's.
pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::invalid(format!("the path {} is not UTF-8", path.display())))
}

/// Chooses from what `ls-remote` lists: `<hash>\t<name>` a line, `^{}` behind the name of a tag for the commit
/// that it names.
pub(super) fn choose(listed: &str, reference: &str) -> Option<Resolved> {
    let find = |name: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines.find(|(_, listed)| *listed == name).map(|(hash, _)| hash.to_owned())
    };
    let reference = or_head(reference);
    let short = |kind: &str| reference.strip_prefix(kind).unwrap_or(reference).to_owned();
    let names = match reference {
        "HEAD" => vec!["HEAD".to_owned()],
        _ => vec![
            format!("refs/heads/{}", short("refs/heads/")),
            format!("refs/tags/{}", short("refs/tags/")),
            format!("refs/{}", short("refs/")),
        ],
    };
    names.into_iter().find_map(|name| {
        let hash = find(&name).filter(|hash| is_commit(hash))?;
        let peeled = find(&format!("{name}^{{}}")).filter(|hash| is_commit(hash));
        let tag = peeled.is_some().then(|| hash.clone());
        Some(Resolved { commit: peeled.unwrap_or(hash), tag, name: Some(name) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "1111111111111111111111111111111111111111";
    const B: &str = "2222222222222222222222222222222222222222";
    const C: &str = "3333333333333333333333333333333333333333";

    #[test]
    fn branches_go_before_tags_and_tags_are_peeled() {
        let listed = format!(
            "{A}\tHEAD\n{A}\trefs/heads/main\n{B}\trefs/heads/v1\n{C}\trefs/tags/v1\n{C}\trefs/tags/v2\n{A}\trefs/tags/v2^{{}}\n{B}\trefs/pull/7/head\n"
        );
        let commit = |name| choose(&listed, name).map(|found| found.commit);
        assert_eq!(commit("").as_deref(), Some(A));
        assert_eq!(commit("v1").as_deref(), Some(B));
        assert_eq!(commit("refs/tags/v1").as_deref(), Some(C));
        assert_eq!(commit("pull/7/head").as_deref(), Some(B));
        assert_eq!(commit("ain"), None, "a tail of a name is not the name");
        let tagged = choose(&listed, "v2").unwrap();
        assert_eq!((tagged.commit.as_str(), tagged.tag.as_deref()), (A, Some(C)));
        assert_eq!(choose("--exec=x\trefs/heads/evil\n", "evil"), None);
    }
}
