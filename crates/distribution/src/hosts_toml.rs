//! containerd's `hosts.toml`: mirrors and rules of one registry.
//!
//! ```toml
//! server = "https://registry.example"        # where the registry itself is
//!
//! [host."https://mirror.example/v2/cache"]   # asked before it, in the order of the file
//!   capabilities = ["pull", "resolve"]       # and "push"; without the line: all of them
//!   override_path = true                     # the path above is used as it is, with no /v2 added
//!   ca = "ca.crt"                            # or a list
//!   client = ["client.cert", "client.key"]   # or one file with both
//!   skip_verify = true
//!   dial_timeout = "5s"                      # to open a connection, TLS included
//!   [host."https://mirror.example/v2/cache".header]
//!     X-Key = "value"                        # or a list
//!   [host."https://mirror.example/v2/cache".rewrite]   # k3s's: what it calls repositories (module `rewrite`)
//!     "^library/(.*)" = "hub/$1"
//! ```
//!
//! The members of a host may also stand at the top and then mean the server. Relative paths are relative to
//! the folder of the file. A member of another name is an error: what it was meant to do, or to forbid, would
//! not happen.

use crate::rewrite::Rewrites;
use crate::settings::{Endpoint, Scheme, Trust};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What may be said of a host.
const MEMBERS: &[&str] =
    &["capabilities", "ca", "client", "dial_timeout", "header", "override_path", "rewrite", "skip_verify"];
/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// What a `hosts.toml` says.
#[derive(Debug)]
pub(crate) struct Hosts {
    /// The registry itself.
    pub(crate) server: Host,
    /// Who is asked before it, in order.
    pub(crate) mirrors: Vec<Host>,
}

/// What a file says about one host.
#[derive(Debug, Default)]
pub(crate) struct Host {
    address: Option<(Scheme, String, String)>,
    resolves: bool,
    pulls: bool,
    pushes: bool,
    trust: Trust,
    override_path: bool,
    headers: Vec<(String, String)>,
    rewrites: Rewrites,
    connect: Option<Duration>,
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<String, toml::Spanned<Rules>>,
}

#[derive(Deserialize, Default)]
struct Rules {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    rewrite: BTreeMap<String, toml::Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Pair(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

/// The rules of a folder; `None` when it has no `hosts.toml`.
pub(crate) fn read(folder: &Path) -> Result<Option<Hosts>> {
    let path = folder.join("hosts.toml");
    let wrong = |why: String| Error::Settings { what: format!("{}: {why}", path.display()) };
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
        Ok(metadata) if metadata.len() > LARGEST => return Err(wrong("it is larger than 1 MiB".to_owned())),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    parse(&text, folder).map(Some).map_err(wrong)
}

fn parse(text: &str, folder: &Path) -> Result<Hosts, String> {
    let refused = |error: toml::de::Error| error.to_string().trim_end().to_owned();
    check_names(&text.parse().map_err(refused)?)?;
    let file: File = toml::from_str(text).map_err(refused)?;
    // A place in the text does not come through a flattened member: what the server's host may have is read
    // by itself.
    let rules: Rules = toml::from_str(text).map_err(refused)?;
    let mut server = host(&rules, folder, "rewrite")?;
    server.address = file.server.as_deref().map(split_address).transpose()?;
    let mirrors = ordered(&file.host).map(|(address, rules)| {
        let host = host(rules, folder, &format!("host.{address:?}.rewrite"))?;
        Ok(Host { address: Some(split_address(address)?), ..host })
    });
    Ok(Hosts { server, mirrors: mirrors.collect::<Result<_, String>>()? })
}

/// A table in the order of the file, which is the order of tries and rules; maps have none.
fn ordered<T>(table: &BTreeMap<String, toml::Spanned<T>>) -> impl Iterator<Item = (&str, &T)> {
    let mut members: Vec<_> = table.iter().collect();
    members.sort_by_key(|(_, value)| value.span().start);
    members.into_iter().map(|(name, value)| (name.as_str(), value.get_ref()))
}

/// Whether all members are known.
fn check_names(file: &toml::Table) -> Result<(), String> {
    let known = |name: &&String| MEMBERS.contains(&name.as_str());
    let wrong = |place: &str, name: &str| {
        Err(format!(
            "unknown key {name:?}{place}; known are server, host and, also of a host, {}",
            MEMBERS.join(", ")
        ))
    };
    if let Some(name) = file.keys().find(|name| !known(name) && *name != "server" && *name != "host") {
        return wrong("", name);
    }
    for (address, host) in file.get("host").and_then(toml::Value::as_table).into_iter().flatten() {
        if let Some(name) = host.as_table().and_then(|host| host.keys().find(|name| !known(name))) {
            return wrong(&format!(" of [host.{address:?}]"), name);
        }
    }
    Ok(())
}

/// A duration as Go writes it.
fn duration(text: &str) -> Result<Duration, String> {
    let nanos = yare_gotext::parse_duration(text).map_err(|error| format!("dial_timeout: {error}"))?;
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0);
    nanos.map(Duration::from_nanos).ok_or_else(|| format!("dial_timeout: {text:?} is no time to wait"))
}

/// `rewrite` is the name of the table with its rewrites.
fn host(rules: &Rules, folder: &Path, rewrite: &str) -> Result<Host, String> {
    let can = |word: &str| rules.capabilities.as_ref().is_none_or(|list| list.iter().any(|one| one == word));
    if let Some(unknown) =
        rules.capabilities.iter().flatten().find(|word| !["pull", "resolve", "push"].contains(&word.as_str()))
    {
        return Err(format!("unknown capability {unknown:?}"));
    }
    let path = |name: &String| folder.join(name);
    let identity = match &rules.client {
        None => None,
        Some(Client::One(one)) => Some((path(one), path(one))),
        Some(Client::Pair(pair)) => Some(pair_of(pair, folder)?),
        Some(Client::Pairs(pairs)) => pairs.first().map(|pair| pair_of(pair, folder)).transpose()?,
    };
    let headers = rules
        .header
        .iter()
        .flat_map(|(name, values)| values.list().iter().map(|value| (name.clone(), value.clone())));
    let place = format!("{}: [{rewrite}]", folder.join("hosts.toml").display());
    let rewrites = ordered(&rules.rewrite).map(|(pattern, with)| (pattern, with.as_str()));
    let rewrites = Rewrites::new(place, rewrites).map_err(|why| format!("[{rewrite}]: {why}"))?;
    Ok(Host {
        address: None,
        resolves: can("resolve"),
        pulls: can("pull"),
        pushes: can("push"),
        trust: Trust {
            authorities: rules.ca.iter().flat_map(|ca| ca.list().iter().map(path)).collect(),
            identity,
            any: rules.skip_verify,
        },
        override_path: rules.override_path,
        headers: headers.collect(),
        rewrites,
        connect: rules.dial_timeout.as_deref().map(duration).transpose()?,
    })
}

fn pair_of(pair: &[String], folder: &Path) -> Result<(PathBuf, PathBuf), String> {
    match pair {
        [both] => Ok((folder.join(both), folder.join(both))),
        [certificate, key] if key.is_empty() => Ok((folder.join(certificate), folder.join(certificate))),
        [certificate, key] => Ok((folder.join(certificate), folder.join(key))),
        _ => Err("client: wanted is a certificate and its key".to_owned()),
    }
}

impl Host {
    /// The mirror as an endpoint; `plain` gives one with defaults.
    pub(crate) fn endpoint(&self, plain: impl Fn(&str) -> Endpoint) -> Endpoint {
        let authority = self.address.as_ref().map(|(_, authority, _)| authority.as_str()).unwrap_or_default();
        let mut endpoint = plain(authority);
        self.settle(&mut endpoint);
        endpoint
    }

    /// Applies what the file says.
    pub(crate) fn settle(&self, endpoint: &mut Endpoint) {
        if let Some((scheme, authority, path)) = &self.address {
            endpoint.authority = authority.clone();
            endpoint.scheme = *scheme;
            let path = path.trim_end_matches('/');
            endpoint.base = match self.override_path || path.ends_with("/v2") {
                true => path.to_owned(),
                false => format!("{path}/v2"),
            };
        }
        endpoint.trust.authorities.extend(self.trust.authorities.iter().cloned());
        endpoint.trust.any |= self.trust.any;
        if self.trust.identity.is_some() {
            endpoint.trust.identity.clone_from(&self.trust.identity);
        }
        endpoint.headers.extend(self.headers.iter().cloned());
        endpoint.rewrites.clone_from(&self.rewrites);
        endpoint.connect = self.connect.or(endpoint.connect);
        (endpoint.resolves, endpoint.pulls, endpoint.pushes) = (self.resolves, self.pulls, self.pushes);
    }
}

/// `https://host[:port][/path]` in its parts; without a scheme it is TLS.
pub(crate) fn split_address(address: &str) -> Result<(Scheme, String, String), String> {
    let (scheme, rest) = match address.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        Some((other, _)) => {
            return Err(format!("{address:?} has the scheme {other:?}; known are https and http"));
        }
        None => (Scheme::Https, address),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let parsed: http::uri::Authority = authority.parse().map_err(|_| format!("{address:?} has no host"))?;
    if authority.contains('@') || parsed.host().is_empty() || path.contains(['?', '#']) {
        return Err(format!("{address:?} must be scheme, host, port and path, and nothing else"));
    }
    Ok((scheme, authority.to_owned(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
server = "https://upstream.example"
ca = "up.crt"

[host."https://z.example"]
  capabilities = ["pull", "resolve"]
  ca = ["one.crt", "/etc/two.crt"]
  client = ["c.cert", "c.key"]

[host."http://a.example:5000/v2/proxy"]
  override_path = true
  skip_verify = true
  dial_timeout = "1m30s"
  [host."http://a.example:5000/v2/proxy".header]
    x-key = "v"
"#;

    #[test]
    fn the_order_of_the_file_is_kept() {
        let hosts = parse(FILE, Path::new("/d")).unwrap();
        let order: Vec<_> = hosts.mirrors.iter().map(|host| host.address.clone().unwrap().1).collect();
        assert_eq!(order, ["z.example", "a.example:5000"]);
        let first = &hosts.mirrors[0];
        assert!(first.pulls && first.resolves && !first.pushes);
        assert_eq!(first.trust.authorities, [PathBuf::from("/d/one.crt"), PathBuf::from("/etc/two.crt")]);
        assert_eq!(first.trust.identity, Some(("/d/c.cert".into(), "/d/c.key".into())));
        let second = &hosts.mirrors[1];
        assert!(second.trust.any && second.pushes);
        assert_eq!(second.headers, [("x-key".to_owned(), "v".to_owned())]);
        assert_eq!(hosts.server.trust.authorities, [PathBuf::from("/d/up.crt")]);
    }

    #[test]
    fn paths_are_overridden_or_completed() {
        let plain = |authority: &str| crate::Settings::default().endpoints(authority).unwrap().remove(0);
        let hosts = parse(FILE, Path::new("/d")).unwrap();
        assert_eq!(hosts.mirrors[1].endpoint(plain).base, "/v2/proxy");
        assert_eq!(hosts.mirrors[1].endpoint(plain).connect, Some(Duration::from_secs(90)));
        assert_eq!(hosts.mirrors[0].endpoint(plain).base, "/v2");
    }

    #[test]
    fn wrong_files_say_why() {
        for (text, why) in [
            ("server = 1", "server"),
            ("[host.\"ftp://x\"]", "scheme"),
            ("[host.\"https://u:p@x\"]", "nothing else"),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "unknown capability"),
            ("skip-verify = true", "unknown key \"skip-verify\"; known are server"),
            ("[host.\"https://x\"]\nserver = \"y\"", "unknown key \"server\" of [host.\"https://x\"]"),
            ("[host.\"https://x\".rewrite]\n\"(\" = \"b\"", "[host.\"https://x\".rewrite]: cannot read"),
            ("[rewrite]\n\"^a\" = \"$1\"", "[rewrite]: \"$1\" names a group \"1\""),
            ("rewrite = \"a\"", "rewrite"),
            ("dial_timeout = \"5 parsecs\"", "dial_timeout"),
            ("dial_timeout = \"-1s\"", "no time to wait"),
        ] {
            let error = parse(text, Path::new("/d")).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
