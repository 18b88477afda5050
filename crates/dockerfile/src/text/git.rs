//! References to git repositories, as `ADD` and build contexts have them:
//! `https://host/path.git#ref:subdir`, `git@host:path?branch=b&subdir=d`, `git://…`, `ssh://…`.

use crate::flags::go_bool;
use crate::quote::quote;
use percent_encoding::percent_decode_str;

/// A repository and what of it is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitRef {
    /// Where it is, for `git fetch`.
    pub remote: String,
    /// Name of the repository, without `.git`.
    pub short_name: String,
    /// Branch, tag or commit; the default branch if not said.
    pub reference: Option<String>,
    /// Directory in it.
    pub subdir: Option<String>,
    /// The commit that it must be, or the begin of its name.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are taken.
    pub submodules: Option<bool>,
    /// Whether `checksum` is what is fetched, and not `reference`.
    pub fetch_by_commit: bool,
    /// Times of the files.
    pub mtime: Option<Mtime>,
    /// Whether it could be a path as well: `github.com/a/b` without a scheme.
    pub like_a_path: bool,
    /// Whether it comes over the network as it is, for all to read and change.
    pub unencrypted: bool,
}

/// Which time the files of a repository get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtime {
    /// That of the build.
    Checkout,
    /// That of the commit.
    Commit,
}

/// What a source of `ADD` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddSource {
    /// A path or pattern in the context.
    Local,
    /// A file to download.
    Http,
    /// A repository to clone.
    Git(Box<GitRef>),
}

/// Understands a source of `ADD` whose variables are expanded. `COPY` takes local ones only.
pub fn add_source(source: &str) -> Result<AddSource, String> {
    match GitRef::parse(source)? {
        Some(git) if !git.like_a_path => Ok(AddSource::Git(Box::new(git))),
        None if source.starts_with("http://") || source.starts_with("https://") => Ok(AddSource::Http),
        _ => Ok(AddSource::Local),
    }
}

impl GitRef {
    /// Reads a reference; `None` if it is none.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let (before, fragment) = text.split_once('#').map_or((text, None), |(text, part)| (text, Some(part)));
        let (remote, query) =
            before.split_once('?').map_or((before, None), |(text, part)| (text, Some(part)));
        let Some(mut git) = repository(remote) else { return Ok(None) };
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            git.reference = Some(reference.to_owned()).filter(|text| !text.is_empty());
            git.subdir = Some(subdir.to_owned()).filter(|text| !text.is_empty());
        }
        git.query(query.unwrap_or_default())?;
        // It becomes an argument of a program, which would take it for an option.
        for given in [&git.reference, &git.checksum].into_iter().flatten() {
            if given.starts_with('-') {
                return Err(format!("invalid ref: {}", quote(given)));
            }
        }
        Ok(Some(git))
    }

    fn query(&mut self, query: &str) -> Result<(), String> {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let (mut tag, mut branch) = (None, None);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (decode(key), decode(value));
            let yes = || match value.as_str() {
                "" => Ok(true),
                value => go_bool(value).ok_or_else(|| format!("invalid {key} value: {}", quote(value))),
            };
            match key.as_str() {
                "ref" => one(&mut self.reference, "ref", value)?,
                "tag" => one(&mut tag, "tag", value)?,
                "branch" => one(&mut branch, "branch", value)?,
                "subdir" => one(&mut self.subdir, "subdir", value)?,
                "checksum" | "commit" => one(&mut self.checksum, "checksum", value)?,
                "keep-git-dir" => self.keep_git_dir = Some(yes()?),
                "submodules" => self.submodules = Some(yes()?),
                "fetch-by-commit" => self.fetch_by_commit = yes()?,
                "mtime" => {
                    self.mtime = Some(match value.as_str() {
                        "checkout" => Mtime::Checkout,
                        "commit" => Mtime::Commit,
                        _ => return Err(format!("invalid mtime value: {}", quote(&value))),
                    });
                }
                _ => return Err(format!("unexpected query {}", quote(&key))),
            }
        }
        if let (Some(tag), Some(branch)) = (&tag, &branch) {
            return Err(format!("branch conflicts with tag: {} and {}", quote(branch), quote(tag)));
        }
        let named = tag.map(|tag| format!("refs/tags/{tag}"));
        let named = named.or(branch.map(|branch| format!("refs/heads/{branch}")));
        named.map_or(Ok(()), |named| one(&mut self.reference, "ref", named))
    }
}

/// Sets what may be said once; an empty value says nothing.
fn one(known: &mut Option<String>, what: &str, value: String) -> Result<(), String> {
    match known {
        Some(known) if *known != value => {
            Err(format!("{what} conflicts: {} and {}", quote(known), quote(&value)))
        }
        _ if value.is_empty() => Ok(()),
        _ => {
            *known = Some(value);
            Ok(())
        }
    }
}

/// The repository at `remote`, if that is how repositories are named.
fn repository(remote: &str) -> Option<GitRef> {
    let (like_a_path, unencrypted) = match remote.split_once("://") {
        Some(("https", _)) => (false, false),
        Some(("http", _)) => (false, true),
        Some(("ssh", _)) => (false, false),
        Some(("git", _)) => (false, true),
        Some(_) => return None,
        None if is_scp(remote) => (false, false),
        None if remote.starts_with("github.com/") => (true, false),
        None => return None,
    };
    if remote.starts_with("http") && !remote.ends_with(".git") {
        return None;
    }
    let name = remote.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let short_name = name.strip_suffix(".git").unwrap_or(name).to_owned();
    Some(GitRef { remote: remote.to_owned(), short_name, like_a_path, unencrypted, ..GitRef::default() })
}

/// `user@host:path`.
fn is_scp(remote: &str) -> bool {
    let name = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let parts = remote.split_once('@').and_then(|(user, rest)| Some((user, rest.split_once(':')?.0)));
    parts.is_some_and(|(user, host)| name(user) && name(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_becomes_an_option_of_git() {
        assert!(add_source("https://x/y.git#--upload-pack=x").is_err());
        assert!(add_source("https://x/y.git?commit=-x").is_err());
        assert_eq!(add_source("-oProxyCommand@x:y"), Ok(AddSource::Local));
    }

    #[test]
    fn sources_of_add_are_told_apart() {
        for local in ["a", "../b.git", "github.com/moby/buildkit", "ftp://x/y"] {
            assert_eq!(add_source(local), Ok(AddSource::Local), "{local}");
        }
        assert_eq!(add_source("https://x/y.tar.gz?z=1#q"), Ok(AddSource::Http));
        let Ok(AddSource::Git(git)) =
            add_source("ssh://git@x/y.git?keep-git-dir=1&submodules=0&commit=a%20b")
        else {
            panic!()
        };
        assert_eq!(
            (git.keep_git_dir, git.submodules, git.checksum.as_deref()),
            (Some(true), Some(false), Some("a b"))
        );
        assert!(
            add_source("https://x/y.git?subdir=a#:b").expect_err("twice").starts_with("subdir conflicts")
        );
    }
}
