//! What users of the engine see, end to end: real clients, real containers.
//!
//! Most cases run twice, with the stock `docker` and with `yare`, against one engine that all share; each
//! case has a prefix of its own for the names it uses. `YARE_REFERENCE=1` runs the same cases against a
//! dockerd instead (`YARE_REFERENCE_DOCKERD` names its binary), which proves the cases; those that differ on
//! purpose are passed over there and say why.
//!
//! Arguments are those of `cargo test`: filters, `--exact`, `--skip`, `--ignored`, `--include-ignored`,
//! `--test-threads`, `--list`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::exit,
    reason = "this is the test runner and its tests"
)]

mod archive;
mod case;
mod client;
mod frontend;
mod happenings;
mod host;
mod http;
mod image_content;
mod inside;
mod keeper;
mod peer;
mod runner;
mod terminal;
mod wire;

mod api;
mod build_cache;
mod build_caches;
mod build_copy;
mod build_ends;
mod build_errors;
mod build_inputs;
mod build_language;
mod build_options;
mod build_outputs;
mod build_peers;
mod build_run;
mod build_table;
mod build_vectors;
mod buildx;
mod buildx_caches;
mod buildx_clients;
mod buildx_contexts;
mod buildx_history;
mod buildx_platforms;
mod changes;
mod copies;
mod devices;
mod errors;
mod exec;
mod flags;
mod gateway;
mod health;
mod history;
mod hostile_clients;
mod images;
mod imagetools;
mod import;
mod lifecycle;
mod limits;
mod links;
mod listing;
mod llb;
mod llb_sources;
mod log_drivers;
mod logs;
mod manifests;
mod mounts;
mod names;
mod network;
mod policy;
mod publish;
mod publish6;
mod recorded;
mod registry;
mod removal;
mod security;
mod soak;
mod sockets;
mod streams;
mod system;
mod tls;
mod tty;
mod usage;
mod user_networks;
mod volumes;

fn main() {
    if inside::is_asked_for() {
        inside::main();
        return;
    }
    if keeper::is_asked_for() {
        keeper::main();
        return;
    }
    let themes = [
        images::CASES,
        imagetools::CASES,
        import::CASES,
        history::CASES,
        removal::CASES,
        lifecycle::CASES,
        links::CASES,
        listing::CASES,
        policy::CASES,
        flags::CASES,
        devices::CASES,
        security::CASES,
        tls::CASES,
        limits::CASES,
        mounts::CASES,
        volumes::CASES,
        copies::CASES,
        changes::CASES,
        usage::CASES,
        streams::CASES,
        tty::CASES,
        exec::CASES,
        log_drivers::CASES,
        logs::CASES,
        network::CASES,
        publish::CASES,
        publish6::CASES,
        manifests::CASES,
        registry::CASES,
        errors::CASES,
        user_networks::CASES,
        names::CASES,
        health::CASES,
        system::CASES,
        api::CASES,
        build_language::CASES,
        build_copy::CASES,
        build_run::CASES,
        build_cache::CASES,
        build_caches::CASES,
        build_ends::CASES,
        build_errors::CASES,
        build_options::CASES,
        build_inputs::CASES,
        build_vectors::CASES,
        gateway::CASES,
        build_peers::CASES,
        build_outputs::CASES,
        buildx::CASES,
        buildx_caches::CASES,
        buildx_clients::CASES,
        buildx_contexts::CASES,
        buildx_history::CASES,
        buildx_platforms::CASES,
        llb::CASES,
        llb_sources::CASES,
        recorded::CASES,
        hostile_clients::CASES,
        soak::CASES,
        sockets::CASES,
    ];
    let ok = runner::run(&themes.concat());
    std::process::exit(i32::from(!ok));
}
