//! The client's side of SOCKS 5 (RFC 1928), with user name and password where they are given (RFC 1929).

use crate::proxy::Login;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 5;
/// Ways of signing in.
const NOTHING: u8 = 0;
const PASSWORD: u8 = 2;
/// The version of the exchange of user name and password.
const PASSWORD_VERSION: u8 = 1;
/// Kinds of addresses.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Asks the proxy at the other end for a connection to `host`, a name that the proxy looks up or an address.
/// After it the stream is that connection.
///
/// # Errors
/// What the proxy said, or that it said nothing of the kind.
pub(crate) async fn connect<S>(
    stream: &mut S,
    login: Option<&Login>,
    host: &str,
    port: u16,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    sign_in(stream, login).await?;
    let mut request = vec![VERSION, 1, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend(address.octets());
        }
        Err(_) => {
            let length =
                u8::try_from(host.len()).map_err(|_| "the name has more than 255 bytes".to_owned())?;
            request.extend([NAME, length]);
            request.extend(host.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    send(stream, &request).await?;
    let [version, reply, _, kind] = receive(stream).await?;
    if version != VERSION {
        return Err("it does not speak SOCKS 5".to_owned());
    }
    if reply != 0 {
        return Err(refusal(reply));
    }
    // The address that it connects from is of no use here, but it is in the way.
    match kind {
        IPV4 => receive::<6, S>(stream).await.map(drop),
        IPV6 => receive::<18, S>(stream).await.map(drop),
        NAME => {
            let [length] = receive(stream).await?;
            let mut rest = vec![0; usize::from(length) + 2];
            stream.read_exact(&mut rest).await.map(drop).map_err(|error| error.to_string())
        }
        other => Err(format!("its answer has an address of the unknown kind {other}")),
    }
}

async fn sign_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    login: Option<&Login>,
) -> Result<(), String> {
    let offer: &[u8] =
        if login.is_some() { &[VERSION, 2, NOTHING, PASSWORD] } else { &[VERSION, 1, NOTHING] };
    send(stream, offer).await?;
    let [version, way] = receive(stream).await?;
    match (version, way, login) {
        (VERSION, NOTHING, _) => Ok(()),
        (VERSION, PASSWORD, Some(login)) => {
            let mut request = vec![PASSWORD_VERSION];
            for text in [login.user.as_str(), login.password.expose()] {
                // The proxy's address is read only when both are short enough.
                let length = u8::try_from(text.len()).map_err(|error| error.to_string())?;
                request.push(length);
                request.extend(text.as_bytes());
            }
            send(stream, &request).await?;
            match receive(stream).await? {
                [_, 0] => Ok(()),
                [..] => Err("it does not take the user name and password".to_owned()),
            }
        }
        (VERSION, _, None) => Err("it wants a user name and password".to_owned()),
        (VERSION, _, Some(_)) => Err("it takes no user name and password".to_owned()),
        _ => Err("it does not speak SOCKS 5".to_owned()),
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), String> {
    stream.write_all(bytes).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())
}

async fn receive<const N: usize, S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    match stream.read_exact(&mut bytes).await {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err("it ended the connection without an answer".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn refusal(reply: u8) -> String {
    let why = match reply {
        1 => "it failed",
        2 => "its rules do not allow it",
        3 => "the network cannot be reached",
        4 => "the host cannot be reached, or its name has no address",
        5 => "the connection was refused",
        6 => "the time to live ran out",
        7 => "it makes no connections",
        8 => "it knows no addresses of this kind",
        _ => return format!("it answered with the unknown code {reply}"),
    };
    why.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Secret;

    /// A proxy that expects and answers these; what `connect` makes of it.
    async fn against(login: Option<&Login>, host: &str, exchange: &[(&[u8], &[u8])]) -> Result<(), String> {
        let (mut client, mut proxy) = tokio::io::duplex(1024);
        let (connected, ()) =
            tokio::join!(async move { connect(&mut client, login, host, 443).await }, async move {
                for (expected, answer) in exchange {
                    let mut got = vec![0; expected.len()];
                    proxy.read_exact(&mut got).await.unwrap();
                    assert_eq!(got, *expected);
                    proxy.write_all(answer).await.unwrap();
                }
            });
        connected
    }

    const BOUND: &[u8] = &[5, 0, 0, 1, 10, 0, 0, 1, 1, 187];

    #[tokio::test]
    async fn names_and_addresses_go_to_the_proxy_as_they_are() {
        let name: &[u8] = b"\x05\x01\x00\x03\x09r.example\x01\xbb";
        assert_eq!(against(None, "r.example", &[(&[5, 1, 0], &[5, 0]), (name, BOUND)]).await, Ok(()));
        let v4: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 1, 1, 187];
        let named: &[u8] = b"\x05\x00\x00\x03\x03abc\x00\x01";
        assert_eq!(against(None, "192.0.2.1", &[(&[5, 1, 0], &[5, 0]), (v4, named)]).await, Ok(()));
        let v6: &[u8] = &[5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 187];
        let refused = against(None, "::1", &[(&[5, 1, 0], &[5, 0]), (v6, &[5, 2, 0, 1])]).await;
        assert_eq!(refused.unwrap_err(), "its rules do not allow it");
    }

    #[tokio::test]
    async fn the_password_is_shown_when_it_is_asked_for() {
        let login = Login { user: "u".to_owned(), password: Secret::new("pw") };
        let (hello, shown): (&[u8], &[u8]) = (&[5, 2, 0, 2], b"\x01\x01u\x02pw");
        let name: &[u8] = b"\x05\x01\x00\x03\x01r\x01\xbb";
        let exchange: [(&[u8], &[u8]); 3] = [(hello, &[5, 2]), (shown, &[1, 0]), (name, BOUND)];
        assert_eq!(against(Some(&login), "r", &exchange).await, Ok(()));
        let refused = against(Some(&login), "r", &[(hello, &[5, 2]), (shown, &[1, 1])]).await;
        assert_eq!(refused.unwrap_err(), "it does not take the user name and password");
        let wanted = against(None, "r", &[(&[5, 1, 0], &[5, 0xff])]).await;
        assert_eq!(wanted.unwrap_err(), "it wants a user name and password");
    }

    #[tokio::test]
    async fn what_is_no_socks_is_told() {
        let http = against(None, "r", &[(&[5, 1, 0], b"HTTP/1.1 400\r\n")]).await;
        assert_eq!(http.unwrap_err(), "it does not speak SOCKS 5");
        let silent = against(None, "r", &[(&[5, 1, 0], &[5])]).await;
        assert_eq!(silent.unwrap_err(), "it ended the connection without an answer");
        let long = "x".repeat(300);
        assert!(against(None, &long, &[(&[5, 1, 0], &[5, 0])]).await.unwrap_err().contains("255"));
    }
}
