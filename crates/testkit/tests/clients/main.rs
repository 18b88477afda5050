//! Other people's clients of our registry: each pushes, pulls, compares, lists and deletes as far as it can, by
//! every way into the registry ([`place::SETUPS`]).

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests may")]

mod content;
mod place;

mod buildah;
mod docker;
mod oras;
mod podman;
mod skopeo;
