//! The client against a registry in the same process that fails as it is told to.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod auth;
mod blobs;
mod copies;
mod fake;
mod faults;
mod hosts;
mod lists;
mod manifests;
mod mutated;
mod proxies;
mod signatures;
mod tamper;
mod uploads;
mod web;

use fake::{Fake, settings};
use yare_distribution::{Client, Credentials, Intent, Repository, Settings};
use yare_oci::Reference;

/// A repository of the fake, for someone without credentials.
async fn repository(fake: &Fake, path: &str) -> Repository {
    open(settings(), &fake.name(path), &Credentials::Anonymous).await
}

async fn open(settings: Settings, name: &str, credentials: &Credentials) -> Repository {
    let reference = Reference::parse(name).unwrap();
    Client::new(settings).repository(&reference, credentials, Intent::Push).await.unwrap()
}
