//! What a git context or the source of `ADD` says, taken apart. Pure.

use percent_encoding::percent_decode_str;
use std::fmt;
use yare_errdefs::{Error, Result};

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http://`, in clear text.
    Http,
    /// `https://`.
    Https,
    /// `ssh://` and `user@host:path`.
    Ssh,
    /// `git://`, in clear text.
    Git,
}

/// The address of a repository, without fragment and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl {
    /// How it is reached.
    pub scheme: Scheme,
    /// User, with the password if there is one: `user[:password]`, percent-encoded as it was given.
    pub user: Option<String>,
    /// Host and port.
    pub host: String,
    /// Path; without a leading slash in the form `user@host:path`.
    pub path: String,
    /// What stands behind `#`.
    pub fragment: Option<String>,
    /// Key and value pairs behind `?`, decoded, in their order.
    pub query: Vec<(String, String)>,
    /// Whether it had the form `user@host:path`.
    pub scp: bool,
}

/// Which time the files of a checkout get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MTime {
    /// One that the caller chooses.
    #[default]
    Checkout,
    /// That of the commit.
    Commit,
}

/// A repository, and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRef {
    /// The repository as it was given, without fragment and query. May hold a password: see
    /// [`GitRef::redacted`].
    pub remote: String,
    /// The address.
    pub url: GitUrl,
    /// Last name of the path, without `.git`.
    pub short_name: String,
    /// Branch, tag, commit, or `refs/…`; empty is the remote's default branch.
    pub reference: String,
    /// Folder in the repository; empty is all of it. As given: [`GitRef::checked_subdir`] makes it clean.
    pub subdir: String,
    /// The commit that it must be, or the beginning of its hash; empty is any.
    pub checksum: String,
    /// `keep-git-dir` of the query.
    pub keep_git_dir: Option<bool>,
    /// `submodules` of the query; unset is yes.
    pub submodules: Option<bool>,
    /// `mtime` of the query.
    pub mtime: Option<MTime>,
    /// `fetch-by-commit` of the query: do not look the reference up, `checksum` is the commit.
    pub fetch_by_commit: bool,
    /// `github.com/x/y`: a local path may have this form, too, and goes first.
    pub indistinguishable_from_local: bool,
    /// Whether it travels in clear text.
    pub unencrypted: bool,
}

fn invalid(text: &str, why: impl fmt::Display) -> Error {
    Error::invalid(format!("invalid git reference {:?}: {why}", redact(text)))
}

/// The text with the password of an URL taken out.
pub(in crate::source) fn redact(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => format!("{scheme}://xxxxx:xxxxx@{host}{path}"),
        Some((_, host)) if scheme.starts_with("http") => format!("{scheme}://xxxxx@{host}{path}"),
        _ => text.to_owned(),
    }
}

impl GitUrl {
    /// Reads an URL of one of the four schemes or the form `user@host:path`. `None` when it is neither.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let url = match text.split_once("://") {
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" => Self::of_authority(Scheme::Http, rest),
                "https" => Self::of_authority(Scheme::Https, rest),
                "ssh" => Self::of_authority(Scheme::Ssh, rest),
                "git" => Self::of_authority(Scheme::Git, rest),
                _ => return Ok(None),
            },
            None => match Self::of_scp(text) {
                Some(url) => url,
                None => return Ok(None),
            },
        };
        if text.chars().any(char::is_control) {
            return Err(invalid(text, "it has a control character"));
        }
        url.check().map_err(|why| invalid(text, why))?;
        Ok(Some(url))
    }

    fn of_authority(scheme: Scheme, rest: &str) -> Self {
        let (rest, query, fragment) = split_tail(rest);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        Self { scheme, user, host: host.to_owned(), path: path.to_owned(), fragment, query, scp: false }
    }

    /// `user@host:path`; a colon behind a slash is none of it.
    fn of_scp(text: &str) -> Option<Self> {
        let word = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let (user, rest) = text.split_once('@')?;
        let (host, rest) = rest.split_once(':')?;
        if !word(user, "-_") || !word(host, "-.") {
            return None;
        }
        let (path, query, fragment) = split_tail(rest);
        Some(Self {
            scheme: Scheme::Ssh,
            user: Some(user.to_owned()),
            host: host.to_owned(),
            path: path.to_owned(),
            fragment,
            query,
            scp: true,
        })
    }

    /// Refuses what git or ssh could take for an option.
    fn check(&self) -> Result<(), &'static str> {
        if self.host.is_empty() {
            return Err("it has no host");
        }
        if self.host.starts_with('-') || self.user.as_ref().is_some_and(|user| user.starts_with('-')) {
            return Err("host and user must not begin with a dash");
        }
        if self.scp && self.path.starts_with('-') {
            return Err("the path must not begin with a dash");
        }
        if self.host.contains(['\\', ' ']) || self.path.contains('\\') {
            return Err("it has a backslash or a space");
        }
        Ok(())
    }

    /// What git is given: no password, no query, no fragment.
    pub fn address(&self) -> String {
        let user = self.user.as_deref().unwrap_or_default();
        if self.scp {
            return format!("{user}@{}:{}", self.host, self.path);
        }
        let (scheme, shown) = match self.scheme {
            Scheme::Http => ("http", ""),
            Scheme::Https => ("https", ""),
            // A password for SSH has no use: git hands it to no one.
            Scheme::Ssh => ("ssh", user.split(':').next().unwrap_or_default()),
            Scheme::Git => ("git", ""),
        };
        let at = if shown.is_empty() { "" } else { "@" };
        format!("{scheme}://{shown}{at}{}{}", self.host, self.path)
    }

    /// User and password for HTTP, decoded: `user:password`.
    pub(super) fn credentials(&self) -> Option<Vec<u8>> {
        let user = self.user.as_deref().filter(|_| matches!(self.scheme, Scheme::Http | Scheme::Https))?;
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let decoded = |text| percent_decode_str(text).collect::<Vec<u8>>();
        Some([decoded(name), decoded(password)].join(&b':'))
    }
}

/// Takes query and fragment off.
fn split_tail(text: &str) -> (&str, Vec<(String, String)>, Option<String>) {
    let (text, fragment) = match text.split_once('#') {
        Some((text, fragment)) => (text, Some(fragment.to_owned())),
        None => (text, None),
    };
    let (text, query) = match text.split_once('?') {
        Some((text, query)) => (text, query),
        None => (text, ""),
    };
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    (text, pairs.map(|(key, value)| (decoded(key), decoded(value))).collect(), fragment)
}

impl GitRef {
    /// Reads a git reference as Docker does. `None` when the text is no such thing: a local path, or an
    /// HTTP address of something else.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let local = text.starts_with("github.com/");
        let parsed = if local { GitUrl::parse(&format!("https://{text}"))? } else { GitUrl::parse(text)? };
        let Some(url) = parsed else {
            // An old form that Docker sends to git, too; a path it is not.
            let old = text.starts_with("git@").then(|| invalid(text, "expected git@host:path"));
            return old.map_or(Ok(None), Err);
        };
        let http = matches!(url.scheme, Scheme::Http | Scheme::Https);
        if http && !local && !url.path.ends_with(".git") {
            return Ok(None);
        }
        let end = text.find(['#', '?']).unwrap_or(text.len());
        let name = url.path.rsplit('/').next().unwrap_or_default();
        let mut git = Self {
            remote: lower_scheme(&text[..end]),
            short_name: name.strip_suffix(".git").unwrap_or(name).to_owned(),
            reference: String::new(),
            subdir: String::new(),
            checksum: String::new(),
            keep_git_dir: None,
            submodules: None,
            mtime: None,
            fetch_by_commit: false,
            indistinguishable_from_local: local,
            unencrypted: matches!(url.scheme, Scheme::Http | Scheme::Git),
            url,
        };
        git.read_query().and_then(|()| git.read_fragment()).map_err(|why| invalid(text, why))?;
        git.check().map_err(|why| invalid(text, why))?;
        Ok(Some(git))
    }

    fn read_query(&mut self) -> Result<(), String> {
        let mut seen: Vec<(String, String)> = Vec::new();
        for (key, value) in std::mem::take(&mut self.url.query) {
            if seen.iter().any(|(known, _)| *known == key) {
                return Err(format!("query {key:?} has several values"));
            }
            match key.as_str() {
                "ref" | "tag" | "branch" => self.read_name(&key, &value, &seen)?,
                "subdir" => self.subdir.clone_from(&value),
                "checksum" | "commit" => self.checksum.clone_from(&value),
                "keep-git-dir" => self.keep_git_dir = Some(switch(&key, &value)?),
                "submodules" => self.submodules = Some(switch(&key, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = switch(&key, &value)?,
                "mtime" => {
                    self.mtime = Some(match value.as_str() {
                        "commit" => MTime::Commit,
                        "checkout" => MTime::Checkout,
                        _ => {
                            return Err(format!("invalid mtime value {value:?}: must be checkout or commit"));
                        }
                    });
                }
                _ => return Err(format!("unexpected query {key:?}")),
            }
            seen.push((key, value));
        }
        Ok(())
    }

    fn read_name(&mut self, key: &str, value: &str, seen: &[(String, String)]) -> Result<(), String> {
        let other =
            seen.iter().map(|(key, _)| key.as_str()).find(|key| ["ref", "tag", "branch"].contains(key));
        if let Some(other) = other {
            // Whatever their order, one text for one pair.
            let mut pair = [key, other];
            pair.sort_by_key(|name| ["ref", "branch", "tag"].iter().position(|known| known == name));
            return Err(format!("{} conflicts with {}", pair[0], pair[1]));
        }
        self.reference = match key {
            "tag" => format!("refs/tags/{value}"),
            "branch" => format!("refs/heads/{value}"),
            _ => value.to_owned(),
        };
        Ok(())
    }

    fn read_fragment(&mut self) -> Result<(), String> {
        let Some(fragment) = self.url.fragment.take() else { return Ok(()) };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        if !reference.is_empty() {
            if !self.reference.is_empty() {
                return Err(format!("ref conflicts: {:?} and {reference:?}", self.reference));
            }
            reference.clone_into(&mut self.reference);
        }
        if !subdir.is_empty() {
            if !self.subdir.is_empty() {
                return Err(format!("subdir conflicts: {:?} and {subdir:?}", self.subdir));
            }
            subdir.clone_into(&mut self.subdir);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        check_name(&self.reference)?;
        check_commit(&self.checksum)?;
        self.checked_subdir().map(drop)
    }

    /// The folder as a clean relative path; empty is the whole repository. One that leads out is an error.
    pub fn checked_subdir(&self) -> Result<String, String> {
        let mut names = Vec::new();
        for name in self.subdir.split('/') {
            match name {
                "" | "." => {}
                ".." => return Err(format!("subdir {:?} leads out of the repository", self.subdir)),
                name if name.eq_ignore_ascii_case(".git") => {
                    return Err(format!("subdir {:?} is git's own", self.subdir));
                }
                name => names.push(name),
            }
        }
        Ok(names.join("/"))
    }

    /// The repository for people, records and logs: without password.
    pub fn redacted(&self) -> String {
        redact(&self.remote)
    }

    /// The older spelling, `remote#ref:subdir`, without password: for provenance and progress.
    pub fn fragment_form(&self, with_subdir: bool) -> String {
        let subdir = self.checked_subdir().unwrap_or_default();
        let mut text = self.redacted();
        if !self.reference.is_empty() || (with_subdir && !subdir.is_empty()) {
            text = format!("{text}#{}", self.reference);
        }
        if with_subdir && !subdir.is_empty() {
            text = format!("{text}:{subdir}");
        }
        text
    }
}

fn lower_scheme(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        None => text.to_owned(),
    }
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "true" | "t" | "T" | "TRUE" | "True" => Ok(true),
        "0" | "false" | "f" | "F" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value {value:?}: must be true or false")),
    }
}

/// A name that git would accept for a branch, and nothing that it could take for something else
/// (git-check-ref-format(1)).
fn check_name(name: &str) -> Result<(), String> {
    let bad = |why| Err(format!("ref {name:?} {why}"));
    if name.starts_with(['-', '+', '^', '/']) {
        return bad("begins with a character that names cannot begin with");
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c)) {
        return bad("has a character that names cannot have");
    }
    let parts = name.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock"));
    if name.contains("..")
        || name.contains("@{")
        || name.contains("//")
        || name.ends_with(['/', '.'])
        || parts
    {
        return bad("is no name of a branch, tag or commit");
    }
    Ok(())
}

/// The beginning of a commit's hash, or nothing.
pub(super) fn check_commit(text: &str) -> Result<(), String> {
    let hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if text.is_empty() || (hex && (7..=64).contains(&text.len())) {
        return Ok(());
    }
    Err(format!("invalid checksum {text} for Git source, expected hex commit hash"))
}

/// Whether this is the whole hash of a commit (SHA-1 or SHA-256).
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && check_commit(text).is_ok()
}
