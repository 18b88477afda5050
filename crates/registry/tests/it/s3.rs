//! An S3 server that lives as long as the tests: moto, one request at a time, so that puts on condition are
//! what they promise.
//!
//! `python3 -m venv V && V/bin/pip install 'moto[server]'`, then `YARE_TEST_S3_PYTHON=V/bin/python`. Where it
//! cannot be had, tests say so and end; with `YARE_REQUIRE_S3=1` they fail. With
//! `YARE_TEST_STORAGE=s3` the registries of all tests are in buckets; those that look at files fail then, the
//! others (`conformance`, `access`, `tools`) have to pass.

use crate::client::Client;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use yare_oci::Digest;
use yare_registry::Config;

/// Whether all registries of the tests are in buckets.
pub(crate) const EVERYWHERE: &str = "YARE_TEST_STORAGE";
/// Where a process that a test starts finds the server.
const AT: &str = "YARE_TEST_S3_ADDRESS";

/// A signature: the server looks whether there is one.
pub(crate) const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
                                 SignedHeaders=host, Signature=0";

/// Ends with its standard input: with the test, however that ends.
const SERVER: &str = r"
import os, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
app = DomainDispatcherApplication(create_backend_app)
server = make_server('127.0.0.1', 0, app, threaded=False)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(f'127.0.0.1:{server.server_port}', flush=True)
server.serve_forever()
";

struct Server {
    address: String,
    /// Its standard input ends it.
    _child: Option<Child>,
}

/// The address of the server; `None` when there is none and that is no failure.
pub(crate) fn address() -> Option<&'static str> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(start).as_ref().map(|server| server.address.as_str())
}

fn start() -> Option<Server> {
    if let Ok(address) = std::env::var(AT) {
        return Some(Server { address, _child: None });
    }
    let python = std::env::var("YARE_TEST_S3_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let child = Command::new(python)
        .args(["-c", SERVER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut line = String::new();
    let started = child.ok().and_then(|mut child| {
        BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
        (!line.is_empty()).then_some(child)
    });
    let Some(child) = started else {
        assert!(std::env::var_os("YARE_REQUIRE_S3").is_none(), "moto[server] does not start");
        println!("SKIPPED: moto[server] is not there; see the head of tests/it/s3.rs");
        return None;
    };
    let address = line.trim().to_owned();
    Client::new(&address).send("PUT", "/images", &[], b"").expect(200);
    Some(Server { address, _child: Some(child) })
}

/// The `[storage]` of a configuration with this prefix, and more lines of it.
pub(crate) fn storage(prefix: &str, more: &str) -> Option<String> {
    let address = address()?;
    Some(format!(
        "[storage]\nurl = 's3://images/{prefix}'\n{more}\n[storage.options]\nendpoint = 'http://{address}'\n\
         region = 'us-east-1'\naccess_key_id = 'test'\nsecret_access_key = 'test'\n"
    ))
}

/// Puts a registry below `root` into a prefix of its own.
pub(crate) fn store_there(config: &mut Config, root: &Path) {
    let prefix = Digest::of(root.as_os_str().as_encoded_bytes()).hex();
    let text = storage(&prefix, "").expect("moto[server] is there");
    let storage = Config::parse(&text).unwrap().storage;
    config.storage.url = storage.url;
    config.storage.options = storage.options;
}

/// Lets a process that a test starts use the server of this one.
pub(crate) fn share(command: &mut Command) {
    if let Some(address) = address() {
        command.env(AT, address);
    }
}
