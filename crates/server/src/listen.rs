//! Listeners and connections: accepting, limits, timeouts, and ending in good order.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use yare_tls::Watched;

use crate::edge::Edge;
use crate::policy::Policy;
use crate::socket::{Line, Socket};

/// A bound listener. Who may connect to a unix socket is decided by the mode of its file, and what they may do
/// by its [`Door`].
#[derive(Debug)]
pub enum Listener {
    /// A unix socket.
    Unix(std::os::unix::net::UnixListener),
    /// A TCP socket. Whoever can connect to it owns the host; requests of web pages are refused.
    Tcp(std::net::TcpListener),
    /// A TCP socket for clients that speak TLS; the settings say whether they show certificates.
    Tls(std::net::TcpListener, Watched<ServerConfig>),
}

/// A listener, and what may be done through it.
#[derive(Debug)]
pub struct Door {
    /// Where clients come in.
    pub listener: Listener,
    /// What they may do; everything, where there is none.
    pub policy: Option<Policy>,
}

impl From<Listener> for Door {
    fn from(listener: Listener) -> Self {
        Self { listener, policy: None }
    }
}

/// How the server treats its clients.
#[derive(Debug, Clone)]
pub struct Options {
    /// Host names that clients of TCP listeners may use besides `localhost` and addresses in numbers.
    pub allowed_hosts: Vec<String>,
    /// How long running requests may go on after the end was asked for.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { allowed_hosts: Vec::new(), grace: Duration::from_secs(5) }
    }
}

/// The most bytes that the head of a request may have.
const MAX_HEAD: usize = 64 << 10;
/// How long a connection may be idle, and how long the head of a request may take; dockerd has the same.
const IDLE: Duration = Duration::from_secs(300);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The pause after a failure to accept (no descriptors left, for example).
const PAUSE: Duration = Duration::from_millis(100);

/// Serves all listeners until `shutdown` completes, then lets running requests finish for a while.
pub(crate) async fn run(
    edge: Arc<Edge>,
    doors: Vec<Door>,
    grace: Duration,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut acceptors = JoinSet::new();
    for Door { listener, policy } in doors {
        let acceptor = Acceptor::new(listener)?;
        let policy = policy.map(Arc::new);
        acceptors.spawn(accept_all(acceptor, policy, Arc::clone(&edge), stopped.clone(), grace));
    }
    drop(stopped);
    shutdown.await;
    stop.send_replace(true);
    while acceptors.join_next().await.is_some() {}
    Ok(())
}

enum Acceptor {
    Unix(UnixListener),
    Tcp(TcpListener, Option<Watched<ServerConfig>>),
}

/// A connection that was accepted.
enum Accepted {
    Ready(Socket),
    /// A client that has yet to say who it is.
    Handshake(TcpStream, Arc<ServerConfig>),
}

impl Acceptor {
    fn new(listener: Listener) -> io::Result<Self> {
        match listener {
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
            Listener::Tcp(listener) => Self::tcp(listener, None),
            Listener::Tls(listener, settings) => Self::tcp(listener, Some(settings)),
        }
    }

    fn tcp(listener: std::net::TcpListener, settings: Option<Watched<ServerConfig>>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(TcpListener::from_std(listener)?, settings))
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| Accepted::Ready(Socket::unix(stream)))
            }
            Self::Tcp(listener, settings) => listener.accept().await.map(|(stream, _)| match settings {
                None => Accepted::Ready(Socket::plain(Line::tcp(stream))),
                Some(settings) => Accepted::Handshake(stream, settings.get()),
            }),
        }
    }
}

/// Accepts until it is told to stop, then waits for its connections.
async fn accept_all(
    acceptor: Acceptor,
    policy: Option<Arc<Policy>>,
    edge: Arc<Edge>,
    mut stopped: watch::Receiver<bool>,
    grace: Duration,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = told(&mut stopped) => break,
            accepted = acceptor.accept() => match accepted {
                Ok(accepted) => {
                    let (edge, policy, stopped) = (Arc::clone(&edge), policy.clone(), stopped.clone());
                    // Handshakes, too, are beside the accepting: a slow client is nobody else's delay.
                    connections.spawn(async move {
                        if let Some(socket) = admit(accepted).await {
                            serve(socket.under(policy), edge, stopped).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(acceptor);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::info!("ended while requests were still being answered");
    }
}

/// Brings a connection to the point where HTTP is spoken; none when the client does not get there.
async fn admit(accepted: Accepted) -> Option<Socket> {
    let (stream, settings) = match accepted {
        Accepted::Ready(socket) => return Some(socket),
        Accepted::Handshake(stream, settings) => (stream, settings),
    };
    let peer = stream.peer_addr().ok();
    let handshake = async {
        if !says_hello(&stream).await? {
            refuse_plain(stream).await?;
            return Err(io::Error::other(PLAIN));
        }
        TlsAcceptor::from(settings).accept(Line::tcp(stream)).await
    };
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(session)) => return Some(Socket::tls(session)),
        // A look whether somebody listens.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(?peer, "no handshake")
        }
        // Who may not, and why, is what one looks for in the log.
        Ok(Err(error)) => tracing::info!(?peer, %error, "refused a client: no TLS handshake"),
        Err(_) => tracing::info!(?peer, "refused a client: its TLS handshake took too long"),
    }
    None
}

/// Whether a client begins as TLS does: with a record of the handshake (RFC 8446, 5.1).
async fn says_hello(stream: &TcpStream) -> io::Result<bool> {
    const HANDSHAKE_RECORD: u8 = 22;
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 0 || first[0] == HANDSHAKE_RECORD)
}

/// What a client is told that does not speak TLS; Docker's clients show it.
const PLAIN: &str = "Client sent an HTTP request to an HTTPS server.";

async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(format!("HTTP/1.0 400 Bad Request\r\n\r\n{PLAIN}\n").as_bytes()).await?;
    stream.shutdown().await?;
    // Closed with unread bytes in it, the connection would be reset, and the client see that in place of the
    // answer.
    tokio::io::copy(&mut stream.take(MAX_HEAD as u64), &mut tokio::io::sink()).await.map(drop)
}

/// Waits until the end is asked for.
async fn told(stopped: &mut watch::Receiver<bool>) {
    // The sender being gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Serves one connection until it ends, or until it is told to stop and the running request is answered.
pub(crate) async fn serve(socket: Socket, edge: Arc<Edge>, mut stopped: watch::Receiver<bool>) {
    let service = service_fn(|request| Arc::clone(&edge).answer(socket.clone(), request));
    let connection = http1::Builder::new()
        .half_close(true)
        .title_case_headers(true)
        .max_header_size(MAX_HEAD)
        .max_buf_size(2 * MAX_HEAD)
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(socket.clone()), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = told(&mut stopped) => {
            // Events, followed logs and waits would go on for ever.
            socket.let_go();
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended early");
    }
}
