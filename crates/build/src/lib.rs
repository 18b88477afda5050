//! The build engine: a Dockerfile becomes a graph of content-addressed steps, which is solved in parallel and
//! cached exactly.
//!
//! Every client's wire ends in a [`Request`]. [`build`] reads it top to bottom: the Dockerfile is parsed,
//! lowered to a [`graph`] that has only what the target needs, the graph is solved (each vertex looked up
//! in the [`cache`] by everything that decides it, else done), and the result is committed as an image.
//! What is needed from the engine around it is [`Worker`]: base images, processes, secrets.
//!
//! A step's upper directory becomes its layer by a rename ([`yare_snapshot::DraftId`]); hashes are computed
//! beside the next step. Nothing that a result depends on is left to the clock, the user or the host: times
//! of files come from the base image or `SOURCE_DATE_EPOCH`.

pub mod attest;
mod build;
pub mod cache;
pub mod cancel;
mod check;
pub mod context;
pub mod definition;
mod deliver;
pub mod devices;
mod export;
pub mod failure;
pub mod files;
pub mod graph;
mod keys;
mod lower;
pub mod output;
mod owner;
pub mod progress;
pub mod request;
pub mod scan;
mod solve;
pub mod source;
mod squash;
pub mod syntax;
mod transfer;
mod verify;
pub mod worker;

pub use build::{Built, build};
pub use cancel::Cancel;
pub use check::call;
pub use definition::{evaluate, prepare};
pub use failure::Failure;
pub use owner::resolve as resolve_owner;
pub use progress::Progress;
pub use request::Request;
pub use solve::{Prepared, Tools};
pub use transfer::ContentStore;
pub use worker::Worker;

pub use yare_errdefs::{Error, Result};
