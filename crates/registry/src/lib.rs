//! An OCI registry: distribution spec 1.1 over local files or a bucket.
//!
//! Pull, push, discovery, management and referrers; Docker's schema 2 and manifest lists beside OCI's
//! documents; uploads in one request, in pieces, gone on with after a lost connection or a killed process;
//! collection, retention and scrubbing while clients are served; users, tokens, rules, quotas.
//!
//! # On disk, format 1
//!
//! ```text
//! <root>/                        mode 0700
//!   lock                         held by the process that has the root open
//!   control.sock                 how `yare registry gc` and `scrub` reach that process
//!   registry.redb                what is where: see the head of `records`
//!   blobs/sha256/<64 hex>        blobs, shared by all repositories: see `yare_content`
//!   uploads/                     blobs on their way in: see the head of `uploads`
//!   trash/                       files that are about to be unlinked
//!   damaged/<64 hex>             blobs that scrubbing found rotten; manifests as <64 hex>.manifest
//!   scrubbed                     when all was last read again: see `scrub`
//!   token-key                    the key that signs tokens, when this registry issues them
//! ```
//!
//! Names of repositories and tags are keys of the database and never parts of paths. A blob's bytes are
//! synced before its name, its name before the record, and a client is told after the record: a crash at
//! any point leaves at most a file that no record speaks of, which the next collection takes. Nothing is
//! walked at the start.
//!
//! An engine's images are served beside what is here: see `images`. Copies at other registries: see
//! `replicate`.
//!
//! # In a bucket
//!
//! With `storage.url` all of that is in a bucket of S3, Google Cloud Storage or Azure, which any number of
//! processes serve at once: see the head of `bucket`. The root has a copy of the records then, which may be
//! thrown away. The seam is narrow: `records` (a commit is an object of a log, see `records::replica`),
//! `blobs` (where the bytes of a blob are) and `uploads` (how they come in) know of it, and collection and
//! scrubbing, which look at what nobody speaks of. Every rule, quota and list is one code over the records.

mod access;
mod audit;
mod blobs;
mod bucket;
mod cache;
mod clock;
mod collect;
pub mod config;
mod events;
mod holdings;
mod htpasswd;
mod http_client;
mod images;
mod limit;
mod links;
mod listing;
pub mod manifest;
mod manifests;
mod metrics;
pub mod name;
mod names;
pub mod problem;
mod quota;
pub mod range;
mod records;
mod registry;
mod remote;
mod replicate;
mod retention;
pub mod route;
mod scrub;
mod secrets;
mod serve;
mod token;
mod uploads;
mod usage;

pub use cache::Proxy;
pub use clock::Clock;
pub use collect::{Collected, collect};
pub use config::Config;
pub use holdings::{Holdings, QuotaUse, RepositoryUse, holdings};
pub use htpasswd::line as htpasswd_line;
pub use images::{Document, Images, Pushed};
pub use registry::Registry;
pub use remote::Outbound;
pub use replicate::{Difference, RuleStatus, replication_plan, replication_status};
pub use scrub::{Damage, Scrubbed, scrub};
pub use secrets::Secrets;
pub use serve::{ask, bind, bind_by, serve};
