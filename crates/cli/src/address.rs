//! Which engine: `-H`, `YARE_HOST`, `DOCKER_HOST`, contexts, or the default socket; and how TLS is spoken with it.
//! Precedence, defaults and texts are those of docker CLI 28.2.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use yare_client::{Address, Pem, Tls};

use crate::context::{Autostart, Context, Environment};
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts::env::open_error;
use crate::store::{DEFAULT_NAME, Store};

/// Where our engine listens unless told otherwise.
pub(crate) const DEFAULT: &str = "/run/yare/yare.sock";
/// Where Docker's does: taken when one listens there and ours is not.
const DOCKERS: &str = "/var/run/docker.sock";
/// Where one listens for TLS on this host, for those who asked for TLS and named none.
const DEFAULT_TLS: &str = "tcp://localhost:2376";

/// What the flags and the environment say about the engine.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    /// The context that is in use.
    pub context: String,
    /// The address of the context `default`; none for the default socket.
    pub host: Option<String>,
    /// Whether a flag names that address.
    pub is_named: bool,
    /// What the context `default` needs for TLS.
    pub tls: Option<Tls>,
}

impl Default for Chosen {
    fn default() -> Self {
        Self { context: DEFAULT_NAME.to_owned(), host: None, is_named: false, tls: None }
    }
}

/// Notes what is chosen. Nothing is looked up: commands that ask no engine work with a broken choice, too.
pub(crate) fn choose(cx: &mut Context, global: &Given) -> Result<(), Failure> {
    let mut hosts = global.list("host");
    if global.has("context") && !global.text("context").is_empty() && !hosts.is_empty() {
        return Err("conflicting options: cannot specify both --host and --context".into());
    }
    if hosts.len() > 1 {
        return Err(unresolved("Specify only one -H"));
    }
    let named = hosts.pop();
    let of_environment =
        || cx.environment.nonempty("YARE_HOST").or_else(|| cx.environment.nonempty("DOCKER_HOST"));
    let context = global
        .text_opt("context")
        .map(str::to_owned)
        .filter(|name| !name.is_empty())
        .or_else(|| (named.is_some() || of_environment().is_some()).then(|| DEFAULT_NAME.to_owned()))
        .or_else(|| cx.environment.nonempty("DOCKER_CONTEXT"))
        .unwrap_or_else(|| cx.config().current_context.clone());
    let context = if context.is_empty() { DEFAULT_NAME.to_owned() } else { context };
    let is_named = named.is_some();
    let mut host = named.filter(|host| !host.is_empty()).or_else(of_environment);
    // Files that are missing are no fault of a command that uses another context.
    let tls = if context == DEFAULT_NAME { tls(&cx.environment, global)? } else { None };
    if tls.is_some() {
        host.get_or_insert_with(|| DEFAULT_TLS.to_owned());
    }
    cx.chosen = Chosen { context, host, is_named, tls };
    Ok(())
}

/// Settles the engine's address; only the default one is started when nothing listens there.
pub(crate) fn settle(cx: &mut Context, autostart: Option<Autostart>) -> Result<(), Failure> {
    let (host, tls) = if cx.chosen.context == DEFAULT_NAME {
        (cx.chosen.host.clone(), cx.chosen.tls.clone())
    } else {
        let store = Store::of(&cx.config_directory);
        let unresolved = |failure: Failure| unresolved(&failure.text);
        let stored = store.get(&cx.chosen.context).map_err(unresolved)?;
        let tls = store.tls(&stored).map_err(unresolved)?;
        (Some(stored.host().to_owned()), tls)
    };
    if let Some(host) = host {
        let initialized = |error: yare_client::Error| {
            let failure = Failure::from(error);
            Failure { text: format!("Failed to initialize: {}", failure.text), ..failure }
        };
        cx.address = Address::parse(&host).map_err(initialized)?;
        // Sockets and ssh have no need of it, so files that are not right do not matter to them.
        if let (Address::Tcp { .. }, Some(tls)) = (&cx.address, tls) {
            cx.tls = Some(tls.settings().map_err(initialized)?);
        }
        return Ok(());
    }
    let user = rustix::process::geteuid().as_raw();
    let folder = own_folder(user, cx.environment.nonempty("XDG_RUNTIME_DIR"));
    let own = folder.filter(|folder| is_private(folder, user)).map(|folder| folder.join("yare/yare.sock"));
    if let Some(found) = default_socket(own, DEFAULT.as_ref(), DOCKERS.as_ref()) {
        cx.address = Address::Unix(found);
    }
    cx.autostart.set(autostart);
    Ok(())
}

/// The folder of what runs for a user; root has the system's.
fn own_folder(user: u32, runtime: Option<String>) -> Option<PathBuf> {
    let runtime = runtime.map(PathBuf::from).filter(|path| path.is_absolute());
    (user != 0).then(|| runtime.unwrap_or_else(|| PathBuf::from(format!("/run/user/{user}"))))
}

/// Whether nobody else could listen in a folder.
fn is_private(folder: &Path, user: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(folder).is_ok_and(|found| found.uid() == user && found.mode() & 0o022 == 0)
}

/// The socket to ask, where it is not the usual one: the user's own, if an engine listens there or nobody does
/// anywhere whom this user may ask; or Docker's, if there is none of ours.
fn default_socket(own: Option<PathBuf>, usual: &Path, dockers: &Path) -> Option<PathBuf> {
    // A socket file alone proves nothing: it outlives its engine.
    let listens = |path: &Path| UnixStream::connect(path).is_ok();
    if let Some(own) = own
        && (listens(&own) || !(listens(usual) || listens(dockers)))
    {
        return Some(own);
    }
    (!usual.exists() && listens(dockers)).then(|| dockers.to_owned())
}

fn unresolved(why: &str) -> Failure {
    Failure::new(format!("Failed to initialize: unable to resolve docker endpoint: {why}"))
}

/// What flags and environment say about TLS; none when they do not ask for it.
fn tls(environment: &Environment, global: &Given) -> Result<Option<Tls>, Failure> {
    let verifies = global.bool_or("tlsverify", environment.nonempty("DOCKER_TLS_VERIFY").is_some());
    // As with docker, who says anything about verifying wants TLS.
    let is_on = global.has("tlsverify")
        || verifies
        || global.bool_or("tls", environment.nonempty("DOCKER_TLS").is_some());
    if !is_on {
        return Ok(None);
    }
    let folder = match environment.nonempty("DOCKER_CERT_PATH") {
        Some(folder) => PathBuf::from(folder),
        None => crate::config_directory(environment),
    };
    let file = |flag: &str, name: &str, may_lack: bool| {
        let path = match global.text_opt(flag) {
            Some(path) => PathBuf::from(unquoted(path)),
            None => folder.join(name),
        };
        let is_unwanted = path.as_os_str().is_empty();
        let is_lacking = may_lack && !global.has(flag) && !path.exists();
        if is_unwanted || is_lacking { Ok(None) } else { pem(&path).map(Some) }
    };
    Ok(Some(Tls {
        authority: file("tlscacert", "ca.pem", false)?,
        certificate: file("tlscert", "cert.pem", true)?,
        key: file("tlskey", "key.pem", true)?,
        trusts_anybody: !verifies,
    }))
}

fn pem(path: &Path) -> Result<Pem, Failure> {
    let name = path.display().to_string();
    match std::fs::read(path) {
        Ok(text) => Ok(Pem { name, text }),
        Err(error) => Err(unresolved(&open_error(&name, &error))),
    }
}

/// A path without the quotes that scripts put around it for docker, which takes them off.
fn unquoted(text: &str) -> &str {
    let inner = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;
    use crate::table::GLOBAL;

    fn context(words: &[&str], variables: &[(&'static str, String)]) -> Result<Context, Failure> {
        let mut cx = crate::tests::context();
        let variables = variables.to_vec();
        cx.environment = Environment::new(move |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        });
        cx.config_directory = crate::config_directory(&cx.environment);
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let global = flags::parse(GLOBAL.iter(), &words, true).unwrap();
        choose(&mut cx, &global)?;
        Ok(cx)
    }

    /// What the context `default` is for a command line.
    fn chosen(words: &[&str], variables: &[(&'static str, String)]) -> Result<(String, Option<Tls>), String> {
        let cx = context(words, variables).map_err(|failure| failure.text)?;
        Ok((cx.chosen.host.unwrap_or_default(), cx.chosen.tls))
    }

    /// The address that a command line leads to.
    fn settled(words: &[&str], variables: &[(&'static str, String)]) -> Result<String, String> {
        let settled = context(words, variables).and_then(|mut cx| settle(&mut cx, None).map(|()| cx));
        settled.map(|cx| cx.address.to_string()).map_err(|failure| failure.text)
    }

    #[test]
    fn tls_is_asked_for_as_with_docker() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".docker");
        std::fs::create_dir(&folder).unwrap();
        let at_home = [("HOME", home.path().display().to_string())];
        let missing = chosen(&["--tls"], &at_home).unwrap_err();
        let path = folder.join("ca.pem");
        assert_eq!(
            missing,
            format!(
                "Failed to initialize: unable to resolve docker endpoint: open {}: no such file or directory",
                path.display()
            )
        );
        std::fs::write(&path, "authority").unwrap();
        let (address, tls) = chosen(&["--tls"], &at_home).unwrap();
        let tls = tls.unwrap();
        assert_eq!(address, "tcp://localhost:2376");
        assert!(
            tls.trusts_anybody && tls.certificate.is_none() && tls.authority.unwrap().text == b"authority"
        );
        for (words, expected) in [
            (&["--tlsverify", "-H", "tcp://h"][..], Some(false)),
            (&["--tlsverify=false", "-H", "tcp://h"], Some(true)),
            (&["--tls=false", "-H", "tcp://h"], None),
            (&["-H", "tcp://h"], None),
        ] {
            let (address, tls) = chosen(words, &at_home).unwrap();
            assert_eq!(tls.map(|tls| tls.trusts_anybody), expected, "{words:?}");
            assert_eq!(address, "tcp://h");
        }
        assert!(
            chosen(&["--tls", "--tlscert", "/nope"], &at_home).unwrap_err().contains("open /nope: no such")
        );
        // Empty for none, and quotes are taken off.
        let (_, tls) = chosen(&["--tlsverify", "--tlscacert="], &at_home).unwrap();
        assert!(tls.unwrap().authority.is_none());
        let quoted = format!("\"{}\"", path.display());
        assert!(chosen(&["--tls", "--tlskey", &quoted], &at_home).unwrap().1.unwrap().key.is_some());
    }

    #[test]
    fn the_environment_asks_for_tls() {
        let certificates = tempfile::tempdir().unwrap();
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            std::fs::write(certificates.path().join(name), name).unwrap();
        }
        let at = ("DOCKER_CERT_PATH", certificates.path().display().to_string());
        let on = |name| chosen(&[], &[at.clone(), (name, "0".to_owned())]).unwrap().1.unwrap();
        let tls = on("DOCKER_TLS_VERIFY");
        assert!(!tls.trusts_anybody && tls.key.unwrap().text == b"key.pem");
        assert!(on("DOCKER_TLS").trusts_anybody);
        assert!(chosen(&["-H", "tcp://h"], std::slice::from_ref(&at)).unwrap().1.is_none());
    }

    #[test]
    fn a_user_without_root_asks_the_own_engine_first() {
        use std::os::unix::net::UnixListener;
        assert_eq!(own_folder(0, Some("/run/user/0".to_owned())), None);
        assert_eq!(own_folder(7, None).unwrap(), Path::new("/run/user/7"));
        assert_eq!(own_folder(7, Some("relative".to_owned())).unwrap(), Path::new("/run/user/7"));
        assert!(
            !is_private(Path::new("/tmp"), rustix::process::geteuid().as_raw()),
            "anybody may write there"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let found = |own: Option<&str>| {
            let found = default_socket(own.map(path), &path("usual"), &path("docker"))?;
            Some(found.file_name().unwrap().to_str().unwrap().to_owned())
        };
        let is = |name: &str| Some(name.to_owned());
        assert_eq!((found(None), found(Some("own"))), (None, is("own")), "nobody listens");
        let _dockers = UnixListener::bind(path("docker")).unwrap();
        assert_eq!((found(None), found(Some("own"))), (is("docker"), is("docker")));
        let usual = UnixListener::bind(path("usual")).unwrap();
        assert_eq!((found(None), found(Some("own"))), (None, None), "the system's, which is the usual one");
        let _own = UnixListener::bind(path("own")).unwrap();
        assert_eq!((found(None), found(Some("own"))), (None, is("own")));
        drop(usual);
        assert_eq!(found(None), None, "its file is left: it may come again");
    }

    #[test]
    fn hosts_and_contexts_exclude_one_another() {
        assert_eq!(
            settled(&["--context", "x", "-H", "tcp://h"], &[]).unwrap_err(),
            "conflicting options: cannot specify both --host and --context"
        );
        let host = ("DOCKER_HOST", "tcp://h".to_owned());
        assert!(
            settled(&["--context", "nope"], std::slice::from_ref(&host))
                .unwrap_err()
                .contains("context not found")
        );
        let context = ("DOCKER_CONTEXT", "nope".to_owned());
        assert_eq!(settled(&[], &[host, context]).unwrap(), "tcp://h:2375");
        assert_eq!(settled(&["-H", "ssh://me@far"], &[]).unwrap(), "ssh://me@far");
        assert_eq!(
            settled(&["-H", "ssh://me:pw@far"], &[]).unwrap_err(),
            "Failed to initialize: ssh host connection is not valid: invalid SSH URL: plain-text password is not supported"
        );
    }
}
