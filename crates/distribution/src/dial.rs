//! Connections: names, addresses, proxies, TLS.

use crate::proxy::{Kind, Login, Proxies, Proxy};
use crate::reach::Reach;
use crate::settings::host_of;
use crate::socks;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use http::header::{HOST, PROXY_AUTHORIZATION};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use yare_sys::outside::Outside;

/// How long an address is tried alone.
const HEAD_START: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("the address has no host")]
    NoHost,
    #[error("{host} is at {address}, which is further inside the network than the registry that leads there")]
    TooFarInside { host: String, address: IpAddr },
    #[error("no connection within {} s", .0.as_secs())]
    Slow(Duration),
    #[error("the name {0} has no address")]
    NoAddress(String),
    #[error("cannot look up {host}")]
    Lookup { host: String, source: io::Error },
    #[error("cannot connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("TLS with {host} failed")]
    Tls { host: String, source: io::Error },
    #[error("the proxy {proxy} does not connect: {why}")]
    Proxy { proxy: String, why: String },
}

/// Where a connection really ended; nowhere known when a proxy made it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

/// Makes connections with one set of rules.
#[derive(Clone)]
pub(crate) struct Dialer(Arc<Rules>);

pub(crate) struct Rules {
    pub(crate) tls: TlsConnector,
    /// For proxies that are spoken with over TLS, where there are any.
    pub(crate) proxy_tls: Option<TlsConnector>,
    pub(crate) proxies: Proxies,
    /// How far inside the target may be.
    pub(crate) reach: Reach,
    pub(crate) patience: Duration,
    /// Where connections are made, if not here.
    pub(crate) outside: Option<Arc<Outside>>,
}

impl Dialer {
    pub(crate) fn new(rules: Rules) -> Self {
        Self(Arc::new(rules))
    }
}

impl tower_service::Service<Uri> for Dialer {
    type Response = Line;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Line, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let rules = Arc::clone(&self.0);
        Box::pin(async move {
            let patience = rules.patience;
            tokio::time::timeout(patience, rules.connect(&uri))
                .await
                .unwrap_or(Err(DialError::Slow(patience)))
        })
    }
}

impl Rules {
    async fn connect(&self, uri: &Uri) -> Result<Line, DialError> {
        let authority = uri.authority().ok_or(DialError::NoHost)?;
        let host = host_of(authority.as_str()).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let Some(proxy) = self.proxies.pick(uri) else {
            let (stream, address) = self.direct(&host, port).await?;
            let peer = Peer(Some(address));
            return Ok(if is_tls {
                self.secure(stream, &host, peer).await?
            } else {
                Line::new(stream, peer)
            });
        };
        // What a name means is the proxy's business; an address is refused here.
        if let Ok(address) = host.parse::<IpAddr>() {
            self.check(&host, address)?;
        }
        let mut stream = self.to_proxy(proxy).await?;
        let stream: Box<dyn Bytestream> = match proxy.kind {
            Kind::Socks => {
                let connected = socks::connect(&mut stream, proxy.login.as_ref(), &host, port).await;
                connected.map_err(|why| DialError::Proxy { proxy: proxy.to_string(), why })?;
                stream
            }
            Kind::Http | Kind::Https if is_tls => {
                Box::new(tunnel(stream, proxy, &format!("{}:{port}", authority.host())).await?)
            }
            // Without TLS the proxy gets the request itself.
            Kind::Http | Kind::Https => {
                return Ok(Line { is_proxied: true, ..Line::new(stream, Peer(None)) });
            }
        };
        if is_tls { self.secure(stream, &host, Peer(None)).await } else { Ok(Line::new(stream, Peer(None))) }
    }

    /// A connection to the proxy itself.
    async fn to_proxy(&self, proxy: &Proxy) -> Result<Box<dyn Bytestream>, DialError> {
        let connected = self.to_name(&proxy.host, proxy.port).await;
        let stream = connected
            .map_err(|source| DialError::Connect { address: format!("the proxy {proxy}"), source })?;
        let (Kind::Https, Some(tls)) = (proxy.kind, &self.proxy_tls) else { return Ok(Box::new(stream)) };
        let failed = |why: String| DialError::Proxy { proxy: proxy.to_string(), why };
        let name = ServerName::try_from(proxy.host.clone()).map_err(|error| failed(error.to_string()))?;
        let secured = tls.connect(name, stream).await;
        Ok(Box::new(secured.map_err(|error| failed(format!("TLS with it failed: {error}")))?))
    }

    /// A connection to the first address of a name that takes one.
    async fn to_name(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut error = io::Error::from(io::ErrorKind::NotFound);
        for address in tokio::net::lookup_host((host, port)).await? {
            match connect(self.outside.as_deref(), address).await {
                Ok(stream) => return Ok(stream),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// Tries the addresses of a name: the next one when one fails, or has not answered for a moment (RFC 8305).
    async fn direct(&self, host: &str, port: u16) -> Result<(TcpStream, IpAddr), DialError> {
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|source| DialError::Lookup { host: host.to_owned(), source })?;
        let (mut error, mut allowed) = (DialError::NoAddress(host.to_owned()), Vec::new());
        for address in in_turns(found.take(8).collect()) {
            match self.check(host, address.ip()) {
                Ok(()) => allowed.push(address),
                Err(refused) => error = refused,
            }
        }
        let (stream, address) = race(allowed, self.patience, |address| self.open(address))
            .await
            .map_err(|failed| failed.unwrap_or(error))?;
        Ok((stream, address.ip()))
    }

    async fn open(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = connect(self.outside.as_deref(), address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<(), DialError> {
        if Reach::of(address) > self.reach {
            return Err(DialError::TooFarInside { host: host.to_owned(), address });
        }
        Ok(())
    }

    async fn secure<S>(&self, stream: S, host: &str, peer: Peer) -> Result<Line, DialError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let failed = |source| DialError::Tls { host: host.to_owned(), source };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let stream = self.tls.connect(name, stream).await.map_err(failed)?;
        Ok(Line::new(stream, peer))
    }
}

/// The first address that opens. Each is tried when the one before it failed, or has had its head start.
async fn race<S, F: Future<Output = io::Result<S>>>(
    addresses: Vec<SocketAddr>,
    patience: Duration,
    open: impl Fn(SocketAddr) -> F,
) -> Result<(S, SocketAddr), Option<DialError>> {
    let (mut error, mut opening) = (None, FuturesUnordered::new());
    let mut addresses = addresses.into_iter();
    loop {
        match addresses.next() {
            Some(address) => {
                let opened = open(address);
                opening.push(async move { (address, opened.await) });
            }
            None if opening.is_empty() => return Err(error),
            None => {}
        }
        let patience = if addresses.len() > 0 { HEAD_START } else { patience };
        match tokio::time::timeout(patience, opening.next()).await {
            Ok(Some((address, Ok(stream)))) => return Ok((stream, address)),
            Ok(Some((address, Err(source)))) => {
                error = Some(DialError::Connect { address: address.to_string(), source });
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// The addresses of both families in turns, so that one family without a way out delays the other only once.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut turns = Vec::with_capacity(first.len() + other.len());
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    loop {
        let before = turns.len();
        turns.extend(first.next());
        turns.extend(other.next());
        if turns.len() == before {
            return turns;
        }
    }
}

/// A connection from this process's network namespace, or from another one.
async fn connect(outside: Option<&Outside>, address: SocketAddr) -> io::Result<TcpStream> {
    let Some(outside) = outside else { return TcpStream::connect(address).await };
    let socket = outside.stream(address.is_ipv6())?;
    socket.set_nonblocking(true)?;
    TcpSocket::from_std_stream(socket).connect(address).await
}

/// A way through the proxy to `target` (RFC 9110, 9.3.6).
async fn tunnel(
    stream: Box<dyn Bytestream>,
    proxy: &Proxy,
    target: &str,
) -> Result<TokioIo<hyper::upgrade::Upgraded>, DialError> {
    let failed = |why: String| DialError::Proxy { proxy: proxy.to_string(), why };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(yare_errdefs::chain(&error)))?;
    tokio::spawn(connection.with_upgrades());
    let request = http::Request::connect(target).header(HOST, target);
    let mut request =
        request.body(http_body_util::Empty::<Bytes>::new()).map_err(|error| failed(error.to_string()))?;
    if let Some(login) = proxy.login.as_ref().and_then(Login::header) {
        request.headers_mut().insert(PROXY_AUTHORIZATION, login);
    }
    let response = sender.send_request(request).await.map_err(|error| failed(yare_errdefs::chain(&error)))?;
    if !response.status().is_success() {
        return Err(failed(format!("it answered {}", response.status())));
    }
    let upgraded = hyper::upgrade::on(response).await;
    upgraded.map(TokioIo::new).map_err(|error| failed(yare_errdefs::chain(&error)))
}

trait Bytestream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Bytestream for S {}

/// An open connection.
pub(crate) struct Line {
    stream: TokioIo<Box<dyn Bytestream>>,
    peer: Peer,
    is_proxied: bool,
}

impl Line {
    fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: Peer) -> Self {
        Self { stream: TokioIo::new(Box::new(stream)), peer, is_proxied: false }
    }
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied).extra(self.peer)
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::time::Instant;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 443)).collect()
    }

    #[test]
    fn families_take_turns() {
        let turns = in_turns(addresses(&["::1", "::2", "::3", "10.0.0.1"]));
        assert_eq!(turns, addresses(&["::1", "10.0.0.1", "::2", "::3"]));
        let turns = in_turns(addresses(&["10.0.0.1", "10.0.0.2", "::1"]));
        assert_eq!(turns, addresses(&["10.0.0.1", "::1", "10.0.0.2"]));
        assert!(in_turns(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_has_its_head_start_and_no_more() {
        let (begun, all) = (Instant::now(), addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
        let tried = Mutex::new(Vec::new());
        let open = |address: SocketAddr| {
            tried.lock().push((address, begun.elapsed()));
            let last = all[2];
            async move { if address == last { Ok(()) } else { std::future::pending().await } }
        };
        let ((), address) = race(all.clone(), Duration::from_secs(60), open).await.unwrap();
        assert_eq!(address, all[2]);
        let tried = tried.into_inner();
        assert_eq!(tried.iter().map(|(address, _)| *address).collect::<Vec<_>>(), all);
        for pair in tried.windows(2) {
            assert!(pair[1].1 - pair[0].1 >= HEAD_START, "{tried:?}");
        }
    }

    #[tokio::test]
    async fn a_slow_address_stays_in_the_race_and_a_dead_one_costs_nothing() {
        let all = addresses(&["10.0.0.1", "10.0.0.2"]);
        // It answers after the other had begun, which never does.
        let open = |address: SocketAddr| {
            let first = all[0];
            async move {
                if address != first {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(2 * HEAD_START).await;
                Ok(())
            }
        };
        let ((), address) = race(all.clone(), Duration::from_secs(60), open).await.unwrap();
        assert_eq!(address, all[0]);
        let (begun, dead) = (Instant::now(), addresses(&["10.0.0.1"; 8]));
        let refused = |_| async { Err::<(), _>(io::ErrorKind::ConnectionRefused.into()) };
        let error = race(dead, Duration::from_secs(60), refused).await.unwrap_err();
        assert!(matches!(error, Some(DialError::Connect { .. })), "{error:?}");
        assert!(begun.elapsed() < 7 * HEAD_START, "a refusal is not waited for");
        assert!(race(Vec::new(), HEAD_START, refused).await.unwrap_err().is_none());
    }
}
