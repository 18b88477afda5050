//! The registry over real sockets.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests may")]

mod access;
mod buckets;
mod cache;
mod cached_buckets;
mod client;
mod collection;
mod conformance;
mod crash;
mod hostile;
mod http2;
mod issuers;
mod mutated;
mod names;
mod replicas;
mod replication;
mod retention;
mod served;
mod suite;
mod webhooks;
