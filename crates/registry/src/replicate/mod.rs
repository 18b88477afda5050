//! Replication: repositories that are kept alike here and at other registries, by rules.
//!
//! A rule copies *to* a registry, on each push and by a comparison now and then, or *from* one, by comparisons
//! alone. Names are mapped by what they begin with, as those of caches are: what is called `prefix/app` here is
//! `path/app` there, and both are the rule's `app`.
//!
//! What is to be done is in the records (see `queue`): it is noted in the same transaction as the push that
//! causes it, taken by one process at a time, and crossed out when it is done. A process that is killed
//! leaves what it was at to the next one. Doing it twice does nothing twice: only what the other side lacks is
//! sent, blobs before manifests, members before their index, and the tag last.
//!
//! ```text
//! push ─┐                         ┌ rule:        which repositories are there?  → repositories
//!       ├→ queue → work (leases) →┼ repository:  which tags differ?             → tags, referrers
//! clock ┘                         └ tag, digest: copy from side to side (`copy`, `side`)
//! ```

mod copy;
mod counts;
mod queue;
mod scan;
mod side;
mod status;
mod work;

pub(crate) use queue::note;
pub use scan::{Difference, replication_plan};
pub use status::{RuleStatus, replication_status};
pub(crate) use status::{ask_all, metrics};
pub(crate) use work::run;

use crate::name::Pattern;
use crate::problem::Result;
use crate::remote::{self, Outbound, Remote};
use counts::Counts;
use serde::Deserialize;
use side::Here;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use yare_distribution::{Client, Intent, Patience, Repository};
use yare_errdefs::Error;

/// A rule of replication.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called: in the records, in metrics and texts. A rule with another name is another rule.
    pub name: String,
    /// The registry to copy to, perhaps with how repositories begin there: `registry.example/backup`.
    #[serde(default)]
    pub to: Option<String>,
    /// The registry to copy from.
    #[serde(default)]
    pub from: Option<String>,
    /// How the repositories begin here: with `team`, `team/app` is the rule's `app`.
    #[serde(default)]
    pub prefix: String,
    /// Which of them, without what they begin with.
    #[serde(default = "everything")]
    pub repositories: Vec<Pattern>,
    /// Which tags.
    #[serde(default = "every_tag")]
    pub tags: Vec<Pattern>,
    /// Whether what speaks about the images is copied, too: signatures, SBOMs.
    #[serde(default = "yes")]
    pub referrers: bool,
    /// Whether tags that are deleted at the one side are deleted at the other.
    #[serde(default)]
    pub delete: bool,
    /// How long a push waits for others of the same tag.
    #[serde(default = "delay", deserialize_with = "crate::config::duration")]
    pub delay: Duration,
    /// How often both sides are compared; 0 for never.
    #[serde(default = "every", deserialize_with = "crate::config::duration")]
    pub every: Duration,
    /// Tags that are copied at a time.
    #[serde(default = "at_once")]
    pub at_once: usize,
    /// The user at the other registry.
    #[serde(default)]
    pub username: Option<String>,
    /// The file with that user's password, read anew for each copy.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Whether it may be reached without, or with unproven, TLS.
    #[serde(default)]
    pub insecure: bool,
    /// Folders with a folder per registry: authorities, client certificates.
    #[serde(default)]
    pub certs_dirs: Vec<PathBuf>,
}

fn everything() -> Vec<Pattern> {
    vec![Pattern::new("**")]
}

fn every_tag() -> Vec<Pattern> {
    vec![Pattern::new("*")]
}

fn yes() -> bool {
    true
}

fn delay() -> Duration {
    Duration::from_secs(10)
}

fn every() -> Duration {
    Duration::from_secs(3600)
}

fn at_once() -> usize {
    4
}

impl Rule {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> yare_errdefs::Result<()> {
        let wrong = |why: &str| Error::invalid(format!("replicate {:?}: {why}", self.name));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(is_plain) {
            return Err(wrong("`name` has up to 64 letters, digits, dots, dashes and underscores"));
        }
        if self.to.is_some() == self.from.is_some() {
            return Err(wrong("want either `to` or `from`"));
        }
        if self.at_once == 0 {
            return Err(wrong("`at_once` is 0"));
        }
        self.remote().check(&self.prefix).map_err(|why| wrong(&why))
    }

    /// Whether it copies to the other registry.
    pub(crate) fn is_push(&self) -> bool {
        self.to.is_some()
    }

    /// The other registry.
    pub(crate) fn remote(&self) -> Remote<'_> {
        Remote {
            of: self.to.as_deref().or(self.from.as_deref()).unwrap_or_default(),
            username: self.username.as_deref(),
            password_file: self.password_file.as_deref(),
            insecure: self.insecure,
            certs_dirs: &self.certs_dirs,
        }
    }

    /// The rule's name of a repository, when it is about it.
    pub(crate) fn rest<'a>(&self, repository: &'a str) -> Option<&'a str> {
        let rest = remote::below(&self.prefix, repository)?;
        self.covers(rest).then_some(rest)
    }

    /// Whether it is about the repository that it calls so.
    pub(crate) fn covers(&self, rest: &str) -> bool {
        self.repositories.iter().any(|pattern| pattern.matches(rest))
    }

    /// What a repository is called here.
    pub(crate) fn local(&self, rest: &str) -> String {
        if self.prefix.is_empty() { rest.to_owned() } else { format!("{}/{rest}", self.prefix) }
    }

    /// Whether it is about a tag.
    pub(crate) fn covers_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|pattern| pattern.matches(tag))
    }
}

/// Refuses rules that contradict each other, or a cache.
pub(crate) fn check(rules: &[Rule], proxies: &[crate::cache::Proxy]) -> yare_errdefs::Result<()> {
    for (index, rule) in rules.iter().enumerate() {
        rule.check()?;
        if rules.iter().take(index).any(|other| other.name == rule.name) {
            return Err(Error::invalid(format!("two `replicate` sections have the name {:?}", rule.name)));
        }
        let below = rule.local("x");
        if proxies.iter().any(|proxy| proxy.rest(&below).is_some()) {
            return Err(Error::invalid(format!(
                "replicate {:?}: its repositories are a cache of an upstream already",
                rule.name
            ))
            .with_hint("give one of both another prefix"));
        }
    }
    Ok(())
}

/// All rules, with what is needed to carry them out.
#[derive(Debug)]
pub(crate) struct Replication {
    works: Vec<Arc<Work>>,
    /// By this name this process takes jobs.
    holder: String,
}

/// A rule at work.
#[derive(Debug)]
pub(crate) struct Work {
    rule: Rule,
    client: Client,
    counts: Counts,
}

impl Replication {
    /// What the configuration says.
    pub(crate) fn open(rules: &[Rule], outbound: &Outbound) -> Result<Self> {
        let works = rules.iter().map(|rule| {
            let patience =
                Patience { attempts: 3, longest_pause: Duration::from_secs(10), ..Patience::default() };
            let client = rule.remote().client(outbound, patience)?;
            Ok(Arc::new(Work { rule: rule.clone(), client, counts: Counts::default() }))
        });
        Ok(Self { works: works.collect::<yare_errdefs::Result<_>>()?, holder: crate::uploads::random_id()? })
    }
}

impl Work {
    /// A repository at the other registry.
    async fn remote(&self, rest: &str) -> yare_errdefs::Result<Repository> {
        let remote = self.rule.remote();
        let reference = remote
            .repository(rest)
            .ok_or_else(|| Error::invalid(format!("{}/{rest} is no name of a repository", remote.of)))?;
        let intent = match (self.rule.is_push(), self.rule.delete) {
            (false, _) => Intent::Pull,
            (true, false) => Intent::Push,
            (true, true) => Intent::Manage,
        };
        let credentials = remote.credentials().map_err(failed)?;
        let opened = self.client.repository(&reference, &credentials, intent).await;
        opened.map_err(|error| Error::wrap("cannot use the other registry", error))
    }
}

/// An error of this registry, as one of a job.
fn failed(error: crate::problem::Error) -> Error {
    error.into_failed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        toml::from_str(&format!("name = 'r'\n{text}")).unwrap()
    }

    #[test]
    fn names_are_mapped_both_ways() {
        let cases = [
            ("to = 'r.example/backup'", "team/app", Some("r.example/backup/team/app")),
            ("to = 'r.example'\nprefix = 'team'", "team/app", Some("r.example/app")),
            ("to = 'r.example'\nprefix = 'team'", "teams/app", None),
            ("from = 'docker.io'\nprefix = 'hub'", "hub/library/debian", Some("docker.io/library/debian")),
            ("to = 'r.example'\nrepositories = ['team/*', 'x']", "team/app", Some("r.example/team/app")),
            ("to = 'r.example'\nrepositories = ['team/*', 'x']", "y", None),
        ];
        for (text, local, remote) in cases {
            let rule = rule(text);
            rule.check().unwrap();
            let rest = rule.rest(local);
            assert_eq!(rest.map(|rest| rule.local(rest)).as_deref(), remote.map(|_| local), "{text}");
            let found = rest.and_then(|rest| rule.remote().repository(rest));
            assert_eq!(found.map(|found| found.repository()).as_deref(), remote, "{text}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (text, why) in [
            ("", "either"),
            ("to = 'r.example'\nfrom = 'q.example'", "either"),
            ("to = 'library'", "host:port/path"),
            ("to = 'r.example'\nprefix = '../x'", "prefix"),
            ("to = 'r.example'\nusername = 'x'", "go together"),
            ("to = 'r.example'\nat_once = 0", "at_once"),
        ] {
            let error = rule(text).check().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let rules = [rule("to = 'r.example'"), rule("to = 'q.example'")];
        assert!(check(&rules, &[]).unwrap_err().to_string().contains("two"));
        let proxy = toml::from_str("prefix = 'hub'\nupstream = 'docker.io'").unwrap();
        let rules = [rule("from = 'docker.io'\nprefix = 'hub/library'")];
        assert!(check(&rules, &[proxy]).unwrap_err().to_string().contains("cache"));
    }
}
