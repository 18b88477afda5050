//! Lists: tags, repositories, referrers, search.

use crate::address::{encode, join, next_link, same_origin};
use crate::error::Asked;
use crate::manifest::Name;
use crate::referrer::list_tag;
use crate::refusal::legible;
use crate::repository::{Access, Repository, Tries};
use crate::session::{Call, Session};
use crate::wire::header;
use crate::{Error, Result};
use http::header::ACCEPT;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use yare_oci::{ContentDigest, MediaType};

/// The largest page, in bytes, and the most pages and entries of a list.
const LARGEST: usize = 8 << 20;
const PAGES: usize = 10_000;
/// Entries with annotations, of which a list of referrers consists.
const REFERRERS: usize = 50_000;
const ENTRIES: usize = 1_000_000;
const PAGE: usize = 1000;

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Repositories {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

/// A manifest that speaks about another one, as a list of them has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Its media type.
    #[serde(default)]
    pub media_type: String,
    /// What it is called.
    pub digest: ContentDigest,
    /// Its bytes.
    pub size: u64,
    /// What kind of artifact it is.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Referrers {
    manifests: Vec<Referrer>,
}

impl Repository {
    /// All tags, in the registry's order, each once.
    ///
    /// # Errors
    /// Of the registry, when it does not tell or there is no such repository.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let asked = self.asked("list the tags");
        let mut tries = Tries::new(&asked);
        for session in self.sessions(Access::Resolve(&Name::Tag(String::new()))) {
            let path = format!("tags/list?n={PAGE}");
            match pages(&session, &asked, path, |page: Tags| page.tags.unwrap_or_default()).await {
                Ok(tags) => return Ok(tags),
                Err(error) => tries.failed(error),
            }
        }
        Err(tries.error())
    }

    /// The manifests that speak about this one (signatures, SBOMs, provenance), of one kind or of all. Asks
    /// the referrers API, and where there is none the tag that stands in for it. A mirror that knows of none
    /// may just not keep them: the next one is asked.
    ///
    /// # Errors
    /// Of the registry, when it cannot be reached or forbids the question.
    pub async fn referrers(
        &self,
        subject: impl Into<ContentDigest>,
        kind: Option<&str>,
    ) -> Result<Vec<Referrer>> {
        let subject = &subject.into();
        let asked = self.asked(format!("list the referrers of {subject}"));
        let mut tries = Tries::new(&asked);
        let mut is_answered = false;
        for session in self.sessions(Access::Pull) {
            match self.referrers_at(&session, &asked, subject, kind).await {
                Ok(mut found) => {
                    found
                        .retain(|entry| kind.is_none_or(|kind| entry.artifact_type.as_deref() == Some(kind)));
                    if !found.is_empty() || session.endpoint.is_origin {
                        return Ok(found);
                    }
                    is_answered = true;
                }
                Err(error) => tries.failed(error),
            }
        }
        if is_answered { Ok(Vec::new()) } else { Err(tries.error()) }
    }

    async fn referrers_at(
        &self,
        session: &Session,
        asked: &Asked,
        subject: &ContentDigest,
        kind: Option<&str>,
    ) -> Result<Vec<Referrer>> {
        let filter = kind.map(|kind| format!("?artifactType={}", encode(kind))).unwrap_or_default();
        let path = format!("referrers/{subject}{filter}");
        match index(session, asked, &path).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
            answer => return answer,
        }
        match index(session, asked, &format!("manifests/{}", list_tag(subject))).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(Vec::new()),
            answer => answer,
        }
    }
}

/// The entries of an index, over all its pages.
async fn index(session: &Session, asked: &Asked, path: &str) -> Result<Vec<Referrer>> {
    // Docker's registry does not give an index to who does not ask for one.
    let call = Call::new(asked, Method::GET, path, &[200]).header(ACCEPT, MediaType::OCI_INDEX);
    let (first, mut next) = read::<Referrers>(session, asked, call).await?;
    let (mut found, mut asked_before) = (first.manifests, BTreeSet::new());
    while let Some(address) = next {
        let has_no_end = found.len() > REFERRERS || asked_before.len() >= PAGES;
        if has_no_end || !asked_before.insert(address.clone()) {
            return Err(Error::content(asked, "the list leads in circles, or has no end"));
        }
        let address = address.parse().map_err(|_| Error::content(asked, "the list goes on at no address"))?;
        let page: Referrers;
        (page, next) = read(session, asked, Call::at(asked, Method::GET, address, &[200])).await?;
        found.extend(page.manifests);
    }
    Ok(found)
}

/// All repositories of a registry that the caller may see.
pub(crate) async fn catalog(session: &Session, asked: &Asked) -> Result<Vec<String>> {
    session.want("registry:catalog:*".to_owned()).await;
    let path = format!("_catalog?n={PAGE}");
    pages(session, asked, path, |page: Repositories| page.repositories.unwrap_or_default()).await
}

async fn page<T: DeserializeOwned>(
    session: &Session,
    asked: &Asked,
    path: &str,
) -> Result<(T, Option<String>)> {
    read(session, asked, Call::new(asked, Method::GET, path, &[200])).await
}

async fn read<T: DeserializeOwned>(
    session: &Session,
    asked: &Asked,
    call: Call<'_>,
) -> Result<(T, Option<String>)> {
    let answer = session.document(&call, LARGEST).await?;
    let next = header(&answer.headers, "link").and_then(next_link).and_then(|next| join(&answer.url, next));
    let next = next.filter(|next| same_origin(next, &answer.url)).map(|next| next.to_string());
    let page = serde_json::from_slice(&answer.body).map_err(|error| {
        Error::content(asked, format!("the answer is no such list: {}", legible(&error.to_string())))
    })?;
    Ok((page, next))
}

/// Follows a list to its end. A registry that leads in circles, or without end, is stopped.
async fn pages<T: DeserializeOwned>(
    session: &Session,
    asked: &Asked,
    first: String,
    entries: impl Fn(T) -> Vec<String>,
) -> Result<Vec<String>> {
    let (mut found, mut known) = (Vec::new(), BTreeSet::new());
    let mut asked_before = BTreeSet::new();
    let (mut list, mut next) = page(session, asked, &first).await?;
    for _ in 0..PAGES {
        found.extend(entries(list).into_iter().filter(|entry| known.insert(entry.clone())));
        let Some(address) = next else { return Ok(found) };
        if found.len() > ENTRIES || !asked_before.insert(address.clone()) {
            return Err(Error::content(asked, "the list leads in circles, or has no end"));
        }
        let address = address.parse().map_err(|_| Error::content(asked, "the list goes on at no address"))?;
        (list, next) = read(session, asked, Call::at(asked, Method::GET, address, &[200])).await?;
    }
    Err(Error::content(asked, format!("the list has more than {PAGES} pages")))
}
