//! A registry and the ways into it.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;
use yare_testkit::{Access, Invocation, Registry, Setup};

use crate::content;

/// The ways in: without a login, with a password, with tokens for it, and with those over TLS.
const SETUPS: [Setup; 4] = [
    Setup { access: Access::Everybody, has_tls: false },
    Setup { access: Access::Password, has_tls: false },
    Setup { access: Access::Tokens, has_tls: false },
    Setup { access: Access::Tokens, has_tls: true },
];

/// What a registry answers with for manifests of every kind.
const MANIFESTS: &str = "Accept: application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";

/// A registry, and a folder for the client.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
    registry: Registry,
    setup: Setup,
}

/// A manifest as the registry has it.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// Of its bytes, as counted here.
    pub(crate) digest: String,
    /// The type that it is served with.
    pub(crate) kind: String,
    pub(crate) value: Value,
}

/// Does this by every way in.
pub(crate) fn by_every_way(work: impl Fn(&Place)) {
    for setup in SETUPS {
        println!("{setup:?}");
        work(&Place::new(setup));
    }
}

impl Place {
    /// One for everybody, where it does not matter how one comes in.
    pub(crate) fn for_everybody() -> Self {
        Self::new(SETUPS[0])
    }

    fn new(setup: Setup) -> Self {
        let folder = tempfile::Builder::new().prefix("yare-clients-").tempdir().unwrap();
        let registry = Registry::of_yare_with(&folder.path().join("registry"), setup);
        std::fs::write(folder.path().join("auth.json"), "{}").unwrap();
        Self { folder, registry, setup }
    }

    /// The registry's name in references.
    pub(crate) fn host(&self) -> String {
        self.registry.host()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn access(&self) -> Access {
        self.setup.access
    }

    pub(crate) fn has_login(&self) -> bool {
        self.access() != Access::Everybody
    }

    /// The authority of the registry's certificate.
    pub(crate) fn authority(&self) -> Option<PathBuf> {
        self.setup.has_tls.then(|| self.path("registry/certs/ca.crt"))
    }

    /// What skopeo and its kin must be told to reach it, as flags that begin so.
    fn flags(&self, prefix: &str) -> String {
        let trust = match self.authority() {
            Some(path) => format!("cert-dir={}", path.parent().unwrap().display()),
            None => "tls-verify=false".to_owned(),
        };
        let login = if self.has_login() { format!(" --{prefix}creds=user:secret") } else { String::new() };
        format!("--{prefix}{trust}{login}")
    }

    /// A script in the folder, as a user would type it. `$host` is the registry; `$flags` (`$src` and `$dest`
    /// where there are two sides) are what skopeo and its kin must be told to reach it.
    pub(crate) fn script(&self, script: &str) -> Invocation {
        let script = format!("set -eu\ncd '{}'\n{script}", self.folder.path().display());
        let folder = self.folder.path().display().to_string();
        let bare = ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"]
            .into_iter()
            .fold(Invocation::new("bash", &["-c", &script]), Invocation::without_env);
        bare.env("host", self.host())
            .env("flags", self.flags(""))
            .env("src", self.flags("src-"))
            .env("dest", self.flags("dest-"))
            .env("HOME", &folder)
            .env("DOCKER_CONFIG", format!("{folder}/docker"))
            .env("REGISTRY_AUTH_FILE", format!("{folder}/auth.json"))
    }

    /// Runs a script that must succeed; gives its output.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let outcome = self.script(script).run();
        assert_eq!(outcome.code, 0, "{:?} $ {script}\n{}{}", self.setup, outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    /// Asks the registry itself: the status, the head and the body.
    #[track_caller]
    fn ask(&self, path: &str) -> (String, String, Vec<u8>) {
        let scheme = if self.setup.has_tls { "https" } else { "http" };
        let url = format!("{scheme}://{}/v2/{path}", self.host());
        // The registry takes a password in the place of a token.
        let login = if self.has_login() { vec!["--user", "user:secret"] } else { vec![] };
        let authority = self.authority().map(|path| path.display().to_string());
        let authority: Vec<&str> = authority.iter().flat_map(|path| ["--cacert", path]).collect();
        let curl = ["--silent", "--show-error", "--http1.1", "--include", "--header", MANIFESTS];
        let said = Invocation::new("curl", &[&curl[..], &login, &authority, &[&url]].concat()).run();
        assert_eq!(said.code, 0, "{url}: {}", said.stderr);
        let end = said.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(said.bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().to_owned();
        (status, head, said.bytes[end + 4..].to_vec())
    }

    /// A manifest; the registry must have it.
    #[track_caller]
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Manifest {
        let (status, head, body) = self.ask(&format!("{repository}/manifests/{reference}"));
        assert_eq!(status, "200", "{repository} {reference}: {}", String::from_utf8_lossy(&body));
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let found = lines.find(|(header, _)| header.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_owned()).unwrap()
        };
        let digest = content::digest(&body);
        assert_eq!(header("Docker-Content-Digest"), digest);
        Manifest { digest, kind: header("Content-Type"), value: serde_json::from_slice(&body).unwrap() }
    }

    /// Whether the registry has a manifest.
    #[track_caller]
    pub(crate) fn has(&self, repository: &str, reference: &str) -> bool {
        match self.ask(&format!("{repository}/manifests/{reference}")).0.as_str() {
            "200" => true,
            "404" => false,
            other => panic!("{repository} {reference}: {other}"),
        }
    }

    /// The tags of a repository.
    #[track_caller]
    pub(crate) fn tags(&self, repository: &str) -> Value {
        let (status, _, body) = self.ask(&format!("{repository}/tags/list"));
        assert_eq!(status, "200", "{repository}");
        serde_json::from_slice::<Value>(&body).unwrap()["tags"].take()
    }
}

impl Manifest {
    /// The types of its layers.
    pub(crate) fn layers(&self) -> Vec<&str> {
        let layers = self.value["layers"].as_array().into_iter().flatten();
        layers.map(|layer| layer["mediaType"].as_str().unwrap()).collect()
    }

    /// The digests of what an index lists.
    pub(crate) fn members(&self) -> Vec<&str> {
        let members = self.value["manifests"].as_array().into_iter().flatten();
        members.map(|member| member["digest"].as_str().unwrap()).collect()
    }
}
