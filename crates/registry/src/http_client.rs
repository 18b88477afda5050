//! Sending to a webhook: one request over a connection of its own.

use crate::secrets::Secrets;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use yare_errdefs::{Error, Result};

/// The media type of Docker's notifications.
const EVENTS: &str = "application/vnd.docker.distribution.events.v1+json";
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where events go.
pub(crate) struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Target {
    /// Checks a URL and the headers to send along.
    pub(crate) fn new(url: &str, authorities: Option<&Path>, headers: &Secrets) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("webhook {}: {why}", shown(url)));
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        let host = uri.host().ok_or_else(|| wrong("no host"))?.trim_matches(['[', ']']).to_owned();
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(Arc::new(client_settings(authorities)?)), 443),
            _ => return Err(wrong("want http or https")),
        };
        let port = uri.port_u16().unwrap_or(port);
        let headers = headers.iter().map(|(name, value)| {
            let name =
                HeaderName::try_from(name.as_str()).map_err(|_| wrong("a header name is not right"))?;
            let value =
                HeaderValue::try_from(value.as_str()).map_err(|_| wrong("a header value is not right"))?;
            Ok((name, value))
        });
        let headers = headers.collect::<Result<_>>()?;
        Ok(Self { uri, host, port, tls, headers })
    }

    /// Posts an envelope of events; any answer but a success is an error. One of class `InvalidArgument` says
    /// that it is this envelope that is not taken.
    pub(crate) async fn post(&self, envelope: &[u8]) -> Result<()> {
        let sent = tokio::time::timeout(PATIENCE, self.try_post(envelope)).await;
        sent.unwrap_or_else(|_| Err(Error::unavailable("no answer in time")))
    }

    async fn try_post(&self, envelope: &[u8]) -> Result<()> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| Error::unavailable("cannot connect").caused_by(error))?;
        let Some(tls) = &self.tls else { return self.speak(stream, envelope).await };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| Error::precondition("the host is no name for TLS").caused_by(error))?;
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(tls))
            .connect(name, stream)
            .await
            .map_err(|error| Error::unavailable("TLS failed").caused_by(error))?;
        self.speak(stream, envelope).await
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        envelope: &[u8],
    ) -> Result<()> {
        let failed = |error: hyper::Error| Error::unavailable("the connection failed").caused_by(error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let driving = tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let authority = self.uri.authority().map_or("", http::uri::Authority::as_str);
        // Credentials in a URL are not part of the host.
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let mut request = Request::post(path).header(HOST, host).header(CONTENT_TYPE, EVENTS);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(bytes::Bytes::copy_from_slice(envelope)))
            .map_err(|error| Error::internal("cannot make a request").caused_by(error))?;
        let answer = sender.send_request(request).await.map_err(failed);
        driving.abort();
        match answer?.status() {
            status if status.is_success() => Ok(()),
            status if is_of_the_request(status) => Err(Error::invalid(format!("answered {status}"))),
            status => Err(Error::unavailable(format!("answered {status}"))),
        }
    }
}

/// Whether another request would be answered otherwise, now; not for want of rights, time or the right path.
fn is_of_the_request(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 407 | 408 | 425 | 429)
}

/// What of a URL may be seen in a log: neither credentials nor the path, which is the secret of many services.
pub(crate) fn shown(url: &str) -> String {
    let parsed: Option<Uri> = url.parse().ok();
    let shown = parsed.as_ref().and_then(|uri| {
        let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}://{}{port}", uri.scheme_str()?, uri.host()?))
    });
    shown.unwrap_or_else(|| "(not a URL)".to_owned())
}

/// The settings of TLS for these authorities, or the system's.
pub(crate) fn client_settings(authorities: Option<&Path>) -> Result<ClientConfig> {
    let roots = match authorities {
        Some(path) => yare_tls::authorities(&yare_tls::read(path)?, &path.display().to_string())?,
        None => yare_tls::system_authorities()?,
    };
    yare_tls::client(yare_tls::Trust::Authorities(roots), None)
}
