//! A store of buckets that lives as long as the tests. Which one, `YARE_TEST_STORE` says:
//!
//! | | | |
//! |---|---|---|
//! | `s3` (default) | moto | `python3 -m venv V && V/bin/pip install 'moto[server]'`, then `YARE_TEST_S3_PYTHON=V/bin/python` |
//! | `azure` | Azurite | `npm install --prefix N azurite`, then `YARE_TEST_AZURITE=N/node_modules/.bin/azurite-blob` |
//! | `gcs` | moto behind a translation of Google's dialect (generations, their conditions) | as `s3` |
//!
//! moto takes one request at a time, so that puts on condition are what they promise. Where the store cannot be
//! had, tests say so and end; with `YARE_REQUIRE_STORE=1` they fail. With `YARE_TEST_STORAGE=bucket` the registries
//! of all tests are in buckets; those that look at files fail then, the others (`conformance`, `access`, `tools`)
//! have to pass.

use crate::client::Client;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use yare_oci::Digest;
use yare_registry::Config;

/// Whether all registries of the tests are in buckets.
pub(crate) const EVERYWHERE: &str = "YARE_TEST_STORAGE";
/// Where a process that a test starts finds the server.
const AT: &str = "YARE_TEST_STORE_ADDRESS";

/// A signature: the S3 server looks whether there is one.
const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=0";

/// Ends with its standard input: with the test, however that ends.
const MOTO: &str = r"
import os, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

class Google:
    'Google Cloud Storage as S3 would say it: a generation for each object, which conditions speak about.'
    def __init__(self, s3):
        self.s3, self.generations, self.last = s3, {}, 1000

    def __call__(self, environ, start):
        path, method, query = environ['PATH_INFO'], environ['REQUEST_METHOD'], environ['QUERY_STRING']
        is_put = method == 'PUT' and 'uploadId=' not in query
        wanted = environ.pop('HTTP_X_GOOG_IF_GENERATION_MATCH', None)
        if is_put and wanted is not None and int(wanted) != self.generations.get(path, 0):
            start('412 Precondition Failed', [('Content-Length', '0')])
            return [b'']
        environ['HTTP_AUTHORIZATION'] = SIGNED
        if query == 'uploads=':
            environ['QUERY_STRING'] = 'uploads'
        def begin(status, headers, error=None):
            if status.startswith('2'):
                if is_put or (method == 'POST' and 'uploadId=' in query):
                    self.last += 1
                    self.generations[path] = self.last
                elif method == 'DELETE' and not query:
                    self.generations.pop(path, None)
                if path in self.generations:
                    headers = list(headers) + [('x-goog-generation', str(self.generations[path]))]
            return start(status, headers, error)
        return self.s3(environ, begin)

SIGNED, kind = sys.argv[1:]
app = DomainDispatcherApplication(create_backend_app)
app = Google(app) if kind == 'gcs' else app
server = make_server('127.0.0.1', 0, app, threaded=False)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(f'127.0.0.1:{server.server_port}', flush=True)
server.serve_forever()
";

/// Azurite's account; its key is the same everywhere and in its manual.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    S3,
    Azure,
    Google,
}

impl Kind {
    /// The one that the tests are about.
    pub(crate) fn wanted() -> Self {
        match std::env::var("YARE_TEST_STORE").as_deref() {
            Err(_) | Ok("s3") => Self::S3,
            Ok("azure") => Self::Azure,
            Ok("gcs") => Self::Google,
            Ok(other) => panic!("YARE_TEST_STORE={other}: want s3, azure or gcs"),
        }
    }
}

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
    let kind = Kind::wanted();
    let started = if kind == Kind::Azure { start_azurite() } else { start_moto(kind) };
    let Some((child, address)) = started else {
        assert!(std::env::var_os("YARE_REQUIRE_STORE").is_none(), "the store ({kind:?}) does not start");
        println!("SKIPPED: the store ({kind:?}) is not there; see the head of tests/it/buckets.rs");
        return None;
    };
    let client = Client::new(&address);
    match kind {
        Kind::S3 | Kind::Google => client.send("PUT", "/images", &[], b"").expect(200),
        Kind::Azure => make_container(&client).expect(201),
    };
    Some(Server { address, _child: Some(child) })
}

fn start_moto(kind: Kind) -> Option<(Child, String)> {
    let python = std::env::var("YARE_TEST_S3_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut child = Command::new(python)
        .args(["-c", MOTO, SIGNED, if kind == Kind::Google { "gcs" } else { "s3" }])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
    (!line.is_empty()).then(|| (child, line.trim().to_owned()))
}

/// A shell between the test and Azurite ends it with its own standard input.
fn start_azurite() -> Option<(Child, String)> {
    let azurite = std::env::var_os("YARE_TEST_AZURITE")?;
    let address = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
    let script = "\"$0\" --silent --inMemoryPersistence --disableTelemetry --skipApiVersionCheck --blobPort \"$1\" \
                  > /dev/null 2>&1 & read -r _; kill $!";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(azurite)
        .arg(address.port().to_string())
        .stdin(Stdio::piped())
        .spawn()
        .ok()?;
    let is_there = (0..3000).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        TcpStream::connect(address).is_ok()
    });
    is_there.then(|| (child, address.to_string()))
}

/// Makes the container, which the client of stores does not do.
fn make_container(client: &Client) -> crate::client::Answer {
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let to_sign = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2023-11-03\n/{ACCOUNT}/{ACCOUNT}/images\nrestype:container"
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &BASE64_STANDARD.decode(KEY).unwrap());
    let signature = BASE64_STANDARD.encode(ring::hmac::sign(&key, to_sign.as_bytes()));
    let authorization = format!("SharedKey {ACCOUNT}:{signature}");
    let headers = [
        ("x-ms-date", date.as_str()),
        ("x-ms-version", "2023-11-03"),
        ("Authorization", authorization.as_str()),
    ];
    client.send("PUT", &format!("/{ACCOUNT}/images?restype=container"), &headers, b"")
}

/// The `[storage]` of a configuration with this prefix, and more lines of it.
pub(crate) fn storage(prefix: &str, more: &str) -> Option<String> {
    let address = address()?;
    let (scheme, options) = match Kind::wanted() {
        Kind::S3 => (
            "s3",
            format!(
                "endpoint = 'http://{address}'\nregion = 'us-east-1'\naccess_key_id = 'test'\n\
                 secret_access_key = 'test'"
            ),
        ),
        Kind::Azure => (
            "az",
            format!(
                "endpoint = 'http://{address}/{ACCOUNT}'\naccount_name = '{ACCOUNT}'\naccount_key = '{KEY}'"
            ),
        ),
        Kind::Google => {
            let account = format!(
                r#"{{"private_key":"","private_key_id":"","client_email":"","disable_oauth":true,"gcs_base_url":"http://{address}"}}"#
            );
            ("gs", format!("service_account_key = '{account}'"))
        }
    };
    Some(format!("[storage]\nurl = '{scheme}://images/{prefix}'\n{more}\n[storage.options]\n{options}\n"))
}

/// Puts a registry below `root` into a prefix of its own.
pub(crate) fn store_there(config: &mut Config, root: &Path) {
    let prefix = Digest::of(root.as_os_str().as_encoded_bytes()).hex();
    let text = storage(&prefix, "").expect("the store is there");
    let storage = Config::parse(&text).unwrap().storage;
    config.storage.url = storage.url;
    config.storage.options = storage.options;
}

/// A client of the server that looks at objects past the registry; only S3's lets anybody do so.
pub(crate) fn objects() -> Option<Client> {
    let address = address().filter(|_| Kind::wanted() == Kind::S3);
    if address.is_none() {
        println!("SKIPPED: only S3 lets the test look at objects");
    }
    address.map(|address| Client::new(address).with(SIGNED))
}

/// Lets a process that a test starts use the server of this one.
pub(crate) fn share(command: &mut Command) {
    if let Some(address) = address() {
        command.env(AT, address);
    }
}
