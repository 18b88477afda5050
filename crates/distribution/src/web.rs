//! Plain downloads, for what is no registry: the same connections, proxies, limits and care with redirects.

use crate::address::{join, printable, same_origin};
use crate::credentials::Credentials;
use crate::error::Asked;
use crate::reach::Reach;
use crate::settings::Trust;
use crate::token::sensitive;
use crate::wire::{self, Response, Wire};
use crate::{Error, Result};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Uri};
use std::fmt;

/// Most redirects in a row.
const REDIRECTS: usize = 10;

/// What a server answered, whatever its status; the body is still to be read.
pub struct Page {
    asked: Asked,
    response: Response,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Page {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.header(name)
    }

    /// Bytes of the body, as announced.
    pub fn length(&self) -> Option<u64> {
        self.response.length()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// The connection broke, or nothing came for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.response.chunk(&self.asked).await
    }
}

/// Gets an address. The user names it, so it may be anywhere; a redirect leads no further inside the network
/// than where it came from. A user name and password in it are for its own host.
pub(crate) async fn get(wire: &Wire, url: &str, headers: &[(HeaderName, String)]) -> Result<Page> {
    let (url, login) = split_login(url);
    let address: Uri = url.parse().map_err(|_| Error::Settings { what: format!("{url:?} is no address") })?;
    let asked = Asked::new("read the content", printable(&address));
    let first = address.clone();
    let (mut address, mut reach) = (address, Reach::Link);
    for _ in 0..=REDIRECTS {
        let mut request = Request::get(&address);
        request = request.header(USER_AGENT, "yare").header(ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                request = request.header(name, value);
            }
        }
        if let Some(login) = login.as_ref().filter(|_| same_origin(&first, &address)) {
            request = request.header(AUTHORIZATION, login);
        }
        let request = request
            .body(wire::empty())
            .map_err(|_| Error::Settings { what: format!("{url:?} cannot be asked for") })?;
        let response = wire.send(&asked, request, &Trust::default(), wire.limits(reach)).await?;
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(Page { asked, response });
        }
        let location = response.header(LOCATION.as_str()).unwrap_or_default();
        let next = join(&address, location).ok_or_else(|| {
            Error::refused(&asked, format!("it leads to {location:?}, which is no address"))
        })?;
        if address.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
            return Err(Error::refused(&asked, format!("it leads out of TLS, to {}", printable(&next))));
        }
        reach = response.reach.unwrap_or(Reach::Public);
        response.drain(&asked).await;
        address = next;
    }
    Err(Error::refused(&asked, format!("it leads on more than {REDIRECTS} times")))
}

/// An address without the user name and password in it, and what is shown for them.
fn split_login(url: &str) -> (String, Option<HeaderValue>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let Some((login, host)) = authority.rsplit_once('@') else { return (url.to_owned(), None) };
    let (name, password) = login.split_once(':').unwrap_or((login, ""));
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let login = Credentials::basic(decode(name), decode(password)).basic_header();
    (format!("{scheme}://{host}{path}"), login.as_ref().and_then(sensitive))
}
