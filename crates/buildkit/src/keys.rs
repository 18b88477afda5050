//! Secrets, SSH agents and credentials over a client's session.

use crate::cache::{ClientFolder, Published};
use crate::grpc::{Code, Status};
use crate::link::Link;
use crate::proto::Empty;
use crate::proto::session::{BytesMessage, CredentialsResponse, NamedRequest, SecretResponse};
use crate::session::{CREDENTIALS, GET_SECRET, Session};
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};
use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;
use yare_api::AuthConfig;
use yare_build::ContentStore;
use yare_engine::build::Keys;
use yare_errdefs::{Error, Result};

const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
/// Bytes of a secret, as in the field.
const LONGEST: usize = 500 << 10;

/// What one build may ask of its client.
#[derive(Debug)]
pub(crate) struct ClientKeys {
    link: Link,
    /// Holds the sockets; below the folder of what lives as long as the engine.
    folder: PathBuf,
    agents: Mutex<HashMap<String, Agent>>,
    /// A cache that went into one of the client's folders.
    pub(crate) published: Published,
}

#[derive(Debug)]
struct Agent {
    path: PathBuf,
    task: AbortHandle,
}

impl ClientKeys {
    pub(crate) fn new(link: Link, exec_root: &std::path::Path) -> Self {
        let folder = exec_root.join(yare_sys::fs::unique_name("ssh-"));
        Self { link, folder, agents: Mutex::default(), published: Published::default() }
    }

    fn listen(&self, id: &str, place: usize) -> Result<Agent> {
        let failed = |error: std::io::Error| {
            Error::internal("cannot make a socket for the client's SSH agent").caused_by(error)
        };
        match std::fs::DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let path = self.folder.join(place.to_string());
        let _runtime = self.link.runtime.enter();
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // Nobody but a step that has it mounted can come here.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
        let (session, id) = (Arc::clone(&self.link.session), id.to_owned());
        let task = self.link.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (session, id) = (Arc::clone(&session), id.clone());
                tokio::spawn(async move {
                    if let Err(status) = forward(&session, &id, stream).await {
                        tracing::debug!(message = status.message, "an SSH agent's connection ended");
                    }
                });
            }
        });
        Ok(Agent { path, task: task.abort_handle() })
    }
}

impl Keys for ClientKeys {
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.link.wait(secret(&self.link.session, id))
    }

    fn agent(&self, id: &str) -> Result<Option<PathBuf>> {
        let id = if id.is_empty() { "default" } else { id };
        // Held while the client is asked: one socket an agent.
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(id) {
            return Ok(Some(agent.path.clone()));
        }
        let question = NamedRequest { id: id.to_owned() };
        let asked = async {
            match self.link.session.unary::<Empty>(CHECK_AGENT, &question).await {
                Ok(_) => Ok(true),
                Err(status) if matches!(status.code, Code::NotFound | Code::Unimplemented) => Ok(false),
                // The client says so with no code of its own.
                Err(status) if status.code == Code::Unknown => Ok(false),
                Err(status) => Err(status),
            }
        };
        if !self.link.wait::<_, Status>(asked)? {
            return Ok(None);
        }
        let agent = self.listen(id, agents.len())?;
        let path = agent.path.clone();
        agents.insert(id.to_owned(), agent);
        Ok(Some(path))
    }

    fn credentials(&self, registry: &str) -> Result<AuthConfig> {
        let host = if registry == "docker.io" { HUB } else { registry };
        self.link.wait(self.ask_credentials(host))
    }

    fn folder(&self, id: &str) -> Result<Box<dyn ContentStore + '_>> {
        Ok(Box::new(ClientFolder::new(&self.link, id, &self.published)?))
    }
}

/// The secret of this id; `None` when the client has none.
pub(crate) async fn secret(session: &Session, id: &str) -> std::result::Result<Option<Vec<u8>>, Status> {
    let question = NamedRequest { id: id.to_owned() };
    match session.unary::<SecretResponse>(GET_SECRET, &question).await {
        Ok(answer) if answer.data.len() > LONGEST => {
            let text = format!("the secret {id} has more than {LONGEST} bytes");
            Err(Status::new(Code::InvalidArgument, text))
        }
        Ok(answer) => Ok(Some(answer.data)),
        Err(status) if matches!(status.code, Code::NotFound | Code::Unimplemented) => Ok(None),
        Err(status) => Err(status),
    }
}

/// Docker Hub's name in clients' files.
const HUB: &str = "https://index.docker.io/v1/";

impl ClientKeys {
    /// What the client's file has for a registry.
    async fn ask_credentials(&self, host: &str) -> std::result::Result<AuthConfig, Status> {
        let question = NamedRequest { id: host.to_owned() };
        let answer = match self.link.session.unary::<CredentialsResponse>(CREDENTIALS, &question).await {
            Ok(answer) => answer,
            Err(status) if matches!(status.code, Code::NotFound | Code::Unimplemented) => {
                return Ok(AuthConfig::default());
            }
            Err(status) => return Err(status),
        };
        // Without a user name it is a token that was got by signing in.
        let token = answer.username.is_empty();
        let (password, identitytoken) =
            if token { (String::new(), answer.secret) } else { (answer.secret, String::new()) };
        let serveraddress = host.to_owned();
        Ok(AuthConfig {
            username: answer.username,
            password,
            identitytoken,
            serveraddress,
            ..AuthConfig::default()
        })
    }
}

impl Drop for ClientKeys {
    fn drop(&mut self) {
        let agents = self.agents.get_mut().unwrap_or_else(PoisonError::into_inner);
        if agents.is_empty() {
            return;
        }
        agents.values().for_each(|agent| agent.task.abort());
        if let Err(error) = yare_sys::fs::remove_tree(&self.folder) {
            tracing::warn!(%error, "sockets of SSH agents stay until the next start of the machine");
        }
    }
}

/// Copies between a step and the client's agent.
async fn forward(session: &Session, id: &str, stream: UnixStream) -> std::result::Result<(), Status> {
    let mut metadata = HeaderMap::new();
    let value =
        HeaderValue::try_from(id).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
    metadata.insert("buildkit.ssh.id", value);
    let mut exchange = session.call(FORWARD_AGENT, metadata).await?;
    let (mut reader, mut writer) = stream.into_split();
    let mut buffer = BytesMut::with_capacity(32 << 10);
    let mut open = true;
    loop {
        tokio::select! {
            read = reader.read_buf(&mut buffer), if open => match read {
                Ok(0) | Err(_) => {
                    open = false;
                    exchange.outbound.close()?;
                }
                Ok(_) => {
                    let data = buffer.split().freeze();
                    exchange.outbound.send(&BytesMessage { data }).await?;
                }
            },
            message = exchange.message::<BytesMessage>() => match message? {
                Some(message) => {
                    let written = writer.write_all(&message.data).await;
                    written.map_err(|_| Status::gone())?;
                }
                None => return Ok(()),
            },
        }
    }
}
