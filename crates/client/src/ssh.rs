//! Engines behind ssh: a connection is a program that joins its streams to the far engine's socket.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;

use crate::Error;

/// How long a program may take to end after its connection has.
const ENDING: Duration = Duration::from_secs(2);
/// How much of what it said is shown.
const SAID: usize = 4096;

/// Where `ssh://` leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    user: Option<String>,
    host: String,
    port: Option<String>,
    /// The far engine's socket, when it is not the one that the far command line would take.
    socket: Option<String>,
}

impl Ssh {
    /// Reads what follows `ssh://`, with the texts of Docker's client.
    pub(crate) fn parse(rest: &str) -> Result<Self, Error> {
        let wrong = |why: String| Error::Ssh { why };
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !query.is_empty() {
            return Err(wrong(format!("query parameters are not allowed: {query:?}")));
        }
        if !fragment.is_empty() {
            return Err(wrong(format!("fragments are not allowed: {fragment:?}")));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(wrong("plain-text password is not supported".to_owned()));
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or_default()),
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        if host.is_empty() {
            return Err(wrong("hostname is empty".to_owned()));
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Ok(Self {
            user: user.filter(|user| !user.is_empty()).map(decoded),
            host: host.to_owned(),
            port: Some(port.to_owned()).filter(|port| !port.is_empty()),
            socket: Some(decoded(path)).filter(|path| !path.trim_matches('/').is_empty()),
        })
    }

    /// What `ssh` is called with: as Docker's client does, so that keys that allow one command allow it here.
    fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> = ["-o", "ConnectTimeout=30", "-T"].map(str::to_owned).to_vec();
        let options = [("-l", &self.user), ("-p", &self.port)];
        for (flag, value) in options.into_iter().filter_map(|(flag, value)| Some((flag, value.clone()?))) {
            words.extend([flag.to_owned(), value]);
        }
        words.extend(["--".to_owned(), self.host.clone(), "docker".to_owned()]);
        if let Some(socket) = &self.socket {
            words.extend(["--host".to_owned(), quoted(&format!("unix://{socket}"))]);
        }
        words.extend(["system", "dial-stdio"].map(str::to_owned));
        words
    }

    /// Starts the program. One socket is its input and its output, so each side can end its half.
    pub(crate) fn dial(&self) -> io::Result<(UnixStream, Tunnel)> {
        let (ours, theirs) = UnixStream::pair()?;
        // A file, not a pipe: a connection that ssh keeps for others would hold a pipe open.
        let said = File::from(rustix::fs::memfd_create("ssh", rustix::fs::MemfdFlags::CLOEXEC)?);
        let words = self.arguments();
        let mut command = Command::new("ssh");
        command
            .args(&words)
            .stdin(OwnedFd::from(theirs.try_clone()?))
            .stdout(OwnedFd::from(theirs))
            .stderr(said.try_clone()?);
        let child = yare_sys::process::in_own_session(&mut command).spawn()?;
        ours.set_nonblocking(true)?;
        Ok((ours, Tunnel { child, said, words }))
    }
}

impl fmt::Display for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        if let Some(port) = &self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or_default())
    }
}

/// A word as the far shell reads it: ssh joins the words of a command with spaces.
fn quoted(word: &str) -> String {
    let harmless = |letter: char| letter.is_ascii_alphanumeric() || "/:._-+@%=,".contains(letter);
    if word.chars().all(harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A running `ssh`.
#[derive(Debug)]
pub(crate) struct Tunnel {
    child: Child,
    said: File,
    words: Vec<String>,
}

impl Tunnel {
    /// Why the connection broke, when that is because the program ended.
    pub(crate) fn explain(&mut self) -> Option<Error> {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begun.elapsed() < ENDING => std::thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        };
        let mut said = vec![0; SAID];
        let length = self.said.read_at(&mut said, 0).unwrap_or(0);
        let said = String::from_utf8_lossy(&said[..length]);
        Some(Error::Tunnel {
            message: format!(
                "error during connect: command [ssh {}] has exited with {}, make sure the URL is valid, and \
                 Docker 18.09 or later is installed on the remote host: stderr={}",
                self.words.join(" "),
                status.to_string().replace(": ", " "),
                said.trim_end(),
            ),
            hint: ["docker: not found", "docker: command not found"]
                .iter()
                .any(|text| said.contains(text))
                .then(|| "the far host needs docker, or a link of that name to yare".to_owned()),
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // One that has ended leaves nothing behind; one that runs ends with its connection.
        drop(self.child.try_wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_called_as_dockers_client_calls_it() {
        let words = |rest: &str| Ssh::parse(rest).unwrap().arguments().join(" ");
        let start = "-o ConnectTimeout=30 -T";
        assert_eq!(words("far"), format!("{start} -- far docker system dial-stdio"));
        assert_eq!(words("me@far:2222"), format!("{start} -l me -p 2222 -- far docker system dial-stdio"));
        assert_eq!(words("[::1]:22/"), format!("{start} -p 22 -- ::1 docker system dial-stdio"));
        assert_eq!(
            words("far/run/x.sock"),
            format!("{start} -- far docker --host unix:///run/x.sock system dial-stdio")
        );
        assert_eq!(
            words("far/a%20$(b)"),
            format!("{start} -- far docker --host 'unix:///a $(b)' system dial-stdio")
        );
    }

    #[test]
    fn addresses_are_refused_with_dockers_texts() {
        let refused = |rest: &str| Ssh::parse(rest).unwrap_err().to_string();
        for (rest, why) in [
            ("me:pw@far", "plain-text password is not supported"),
            ("", "hostname is empty"),
            ("me@:22", "hostname is empty"),
            ("far?x=1", "query parameters are not allowed: \"x=1\""),
            ("far#f", "fragments are not allowed: \"f\""),
        ] {
            assert_eq!(refused(rest), format!("ssh host connection is not valid: invalid SSH URL: {why}"));
        }
        assert_eq!(Ssh::parse("me@[::1]:2/s").unwrap().to_string(), "ssh://me@[::1]:2/s");
    }
}
