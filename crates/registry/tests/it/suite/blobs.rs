//! Blobs: every way to push one, and what can go wrong on it.

use super::{Algorithm, noise};
use crate::client::{Answer, Client, location, patch_streamed, with_digest};

/// The least bytes of a piece.
const LEAST: usize = 1024;
const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

/// How a blob comes in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// One request.
    Post,
    PostPut,
    /// One `PATCH` without a length.
    Streamed,
    /// `PATCH` by `PATCH`.
    Pieces {
        /// The last one comes with the `PUT`.
        put_last: bool,
        /// Before each piece comes one that does not belong there.
        strays: bool,
    },
}

pub(super) const WAYS: [Way; 4] =
    [Way::PostPut, Way::Post, Way::Streamed, Way::Pieces { put_last: false, strays: false }];

/// Pushes a blob; the answer to the request that ends it.
pub(super) fn push(client: &Client, name: &str, way: Way, (digest, bytes): (&str, &[u8])) -> Answer {
    match way {
        Way::Post => {
            let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
            client.send("POST", &path, &[OCTETS], bytes)
        }
        Way::PostPut => client.send("PUT", &with_digest(&client.start(name), &digest), &[OCTETS], bytes),
        Way::Streamed => {
            let answer = patch_streamed(client, &client.start(name), bytes).expect(202);
            client.send("PUT", &with_digest(&location(&answer), &digest), &[OCTETS], b"")
        }
        Way::Pieces { put_last, strays } => in_pieces(client, name, (digest, bytes), (put_last, strays)),
    }
}

fn in_pieces(
    client: &Client,
    name: &str,
    (digest, bytes): (&str, &[u8]),
    (put_last, strays): (bool, bool),
) -> Answer {
    let piece = (bytes.len() / 3 + 1).max(LEAST);
    let (mut at, mut start) = (client.start(name), 0);
    while start < bytes.len() {
        if strays {
            at = stray(client, &at, (digest, bytes), (start, piece, put_last));
        }
        let end = bytes.len().min(start + piece);
        if put_last && end == bytes.len() {
            return send_piece(client, &with_digest(&at, &digest), "PUT", bytes, start..end);
        }
        let answer = send_piece(client, &at, "PATCH", bytes, start..end).expect(202);
        assert_eq!(answer.header("Range"), Some(format!("0-{}", end - 1).as_str()));
        (at, start) = (location(&answer), end);
    }
    client.send("PUT", &with_digest(&at, &digest), &[OCTETS], b"")
}

fn send_piece(
    client: &Client,
    at: &str,
    method: &str,
    bytes: &[u8],
    range: std::ops::Range<usize>,
) -> Answer {
    let header = format!("{}-{}", range.start, range.end - 1);
    client.send(method, at, &[OCTETS, ("Content-Range", &header)], &bytes[range])
}

/// Sends a piece that does not follow what is there, and asks where to go on.
fn stray(
    client: &Client,
    at: &str,
    (digest, bytes): (&str, &[u8]),
    (start, piece, put_last): (usize, usize, bool),
) -> String {
    let from = if start + piece < bytes.len() { start + piece } else { 0 };
    let to = bytes.len().min(from + piece);
    let answer = if put_last && to == bytes.len() {
        send_piece(client, &with_digest(at, &digest), "PUT", bytes, from..to)
    } else {
        send_piece(client, at, "PATCH", bytes, from..to)
    };
    let answer = client.get(&location(&answer.expect(416))).expect(204);
    let last: usize = answer.header("Range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
    assert_eq!(last, start.saturating_sub(1), "what is there is as before");
    location(&answer)
}

/// Whether a blob can be had, by both methods.
pub(super) fn check(client: &Client, name: &str, (digest, bytes): (&str, &[u8])) {
    let path = format!("/v2/{name}/blobs/{digest}");
    let (head, got) = (client.head(&path).expect(200), client.get(&path).expect(200));
    assert_eq!(got.body, bytes);
    assert_eq!(head.header("Content-Length"), Some(bytes.len().to_string().as_str()));
    for header in ["Content-Length", "Docker-Content-Digest", "Content-Type", "ETag", "Accept-Ranges"] {
        assert_eq!(head.header(header), got.header(header), "{header}");
    }
    assert_eq!(got.header("Docker-Content-Digest"), Some(digest));
}

/// Pushes a blob, and sees that it can be had where the answer says.
pub(super) fn push_right(client: &Client, name: &str, way: Way, (digest, bytes): (&str, &[u8])) {
    let answer = push(client, name, way, (digest, bytes)).expect(201);
    assert_eq!(answer.header("Docker-Content-Digest"), Some(digest), "{way:?}");
    assert_eq!(client.get(&location(&answer)).expect(200).body, bytes, "{way:?}");
}

pub(super) fn delete(client: &Client, name: &str, digest: &str) {
    let path = format!("/v2/{name}/blobs/{digest}");
    client.delete(&path).expect(202);
    client.head(&path).expect(404);
}

pub(super) fn each_way_in(client: &Client, algorithm: Algorithm) {
    let name = "suite/ways";
    let several = [(false, false), (true, false), (false, true), (true, true)]
        .map(|(put_last, strays)| (Way::Pieces { put_last, strays }, LEAST * 3 - 5));
    for (number, (way, size)) in WAYS.map(|way| (way, 512)).into_iter().chain(several).enumerate() {
        let bytes = noise(&format!("way {number} {algorithm:?}"), size);
        let digest = algorithm.of(&bytes);
        client.get(&format!("/v2/{name}/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
        push_right(client, name, way, (&digest, &bytes));
        check(client, name, (&digest, &bytes));
        delete(client, name, &digest);
    }
}

pub(super) fn mounts(client: &Client, algorithm: Algorithm) {
    let (from, to) = ("suite/lender", "suite/borrower");
    for source in [Some(from), None] {
        let bytes = noise(&format!("mounted {source:?} {algorithm:?}"), 512);
        let digest = algorithm.of(&bytes);
        push_right(client, from, Way::PostPut, (&digest, &bytes));
        let answer = mount(client, to, source, &digest).expect(201);
        assert_eq!(answer.header("Docker-Content-Digest"), Some(digest.as_str()));
        assert_eq!(client.get(&location(&answer)).expect(200).body, bytes);
        check(client, to, (&digest, &bytes));
        delete(client, to, &digest);
        check(client, from, (&digest, &bytes));
        delete(client, from, &digest);
    }
    // What is not there begins an upload.
    let bytes = noise(&format!("not mounted {algorithm:?}"), 512);
    let digest = algorithm.of(&bytes);
    let at = location(&mount(client, to, Some(from), &digest).expect(202));
    client.send("PUT", &with_digest(&at, &digest), &[OCTETS], &bytes).expect(201);
    check(client, to, (&digest, &bytes));
    delete(client, to, &digest);
}

fn mount(client: &Client, to: &str, from: Option<&str>, digest: &str) -> Answer {
    let from = from.map(|from| format!("&from={from}")).unwrap_or_default();
    client.send("POST", &format!("/v2/{to}/blobs/uploads/?mount={digest}{from}"), &[], b"")
}

pub(super) fn cancelled(client: &Client, algorithm: Algorithm) {
    let at = client.start("suite/cancelled");
    client.delete(&at).expect(204);
    client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
    let late = client.send("PUT", &with_digest(&at, &algorithm.of(b"late")), &[OCTETS], b"late");
    late.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

pub(super) fn ranges(client: &Client, algorithm: Algorithm) {
    let (name, bytes) = ("suite/ranges", noise(&format!("ranges {algorithm:?}"), 2048));
    let digest = algorithm.of(&bytes);
    push_right(client, name, Way::PostPut, (&digest, &bytes));
    let cases = [
        ("500-1499", Some(500..1500)),
        ("500-", Some(500..2048)),
        ("-500", Some(1548..2048)),
        ("2000-5000", Some(2000..2048)),
        ("500-0", None),
        ("5000-10000", None),
    ];
    for (range, want) in cases {
        let header = format!("bytes={range}");
        let answer = client.send("GET", &format!("/v2/{name}/blobs/{digest}"), &[("Range", &header)], b"");
        let Some(want) = want else {
            answer.expect(416);
            continue;
        };
        let answer = answer.expect(206);
        let said = format!("bytes {}-{}/2048", want.start, want.end - 1);
        assert_eq!(answer.header("Content-Range"), Some(said.as_str()), "{range}");
        assert_eq!(answer.header("Content-Length"), Some(want.len().to_string().as_str()), "{range}");
        assert_eq!(answer.body, bytes[want], "{range}");
    }
    delete(client, name, &digest);
}

pub(super) fn small(client: &Client, algorithm: Algorithm) {
    for (bytes, way) in [b"".as_slice(), b"{}"].into_iter().flat_map(|bytes| WAYS.map(|way| (bytes, way))) {
        let digest = algorithm.of(bytes);
        push_right(client, "suite/small", way, (&digest, bytes));
        check(client, "suite/small", (&digest, bytes));
        delete(client, "suite/small", &digest);
    }
}

pub(super) fn wrong_digests(client: &Client, algorithm: Algorithm) {
    let last = Way::Pieces { put_last: true, strays: false };
    for (number, way) in WAYS.into_iter().chain([last]).enumerate() {
        let bytes = noise(&format!("wrong {number} {algorithm:?}"), LEAST * 3 - 5);
        let digest = algorithm.of(&bytes);
        let sent = [bytes.as_slice(), b"oh no"].concat();
        push(client, "suite/wrong", way, (&digest, &sent)).refused(400, "DIGEST_INVALID");
        for digest in [digest, algorithm.of(&sent)] {
            client.head(&format!("/v2/suite/wrong/blobs/{digest}")).expect(404);
        }
    }
}
