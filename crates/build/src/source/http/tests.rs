//! Downloads from a server that runs in the test.

use super::*;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server holds, and the requests that it saw.
#[derive(Default)]
struct Shelf {
    body: Vec<u8>,
    /// `Content-Length`, when it is a lie.
    announced: Option<usize>,
    headers: String,
    status: Option<u16>,
    requests: Vec<String>,
}

struct Server {
    shelf: Arc<Mutex<Shelf>>,
    port: u16,
}

impl Server {
    fn start(body: &[u8], headers: &str) -> Self {
        let shelf = Shelf { body: body.to_vec(), headers: headers.to_owned(), ..Shelf::default() };
        let shelf = Arc::new(Mutex::new(shelf));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Arc::clone(&shelf);
        std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap(), &served)));
        Self { shelf, port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

fn answer(mut stream: TcpStream, shelf: &Mutex<Shelf>) {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while !request.ends_with("\r\n\r\n") && reader.read_line(&mut request).unwrap() > 0 {}
    let mut shelf = shelf.lock().unwrap();
    let etag = shelf.headers.lines().find_map(|line| line.strip_prefix("ETag: "));
    let same = etag.is_some_and(|etag| request.contains(&format!("If-None-Match: {etag}")));
    let status = shelf.status.unwrap_or(if same { 304 } else { 200 });
    let length = shelf.announced.unwrap_or(shelf.body.len());
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{}\r\n",
        shelf.headers.replace('\n', "\r\n")
    );
    stream.write_all(head.as_bytes()).unwrap();
    if status == 200 {
        // A client that has read enough may be gone.
        let _ = stream.write_all(&shelf.body);
    }
    shelf.requests.push(request);
}

/// The least of a client.
struct Plain;

impl Fetch for Plain {
    fn get(&self, url: &str, conditions: Conditions<'_>, _: &Cancel) -> Result<Response> {
        let rest = url.strip_prefix("http://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).map_err(|_| Error::unavailable("connection refused"))?;
        let mut request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in
            [("If-None-Match", conditions.etag), ("If-Modified-Since", conditions.last_modified)]
        {
            request.extend(value.map(|value| format!("{name}: {value}\r\n")));
        }
        stream.write_all(format!("{request}\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            Some(line[name.len() + 1..].trim().to_owned())
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = header("content-length").map(|length| length.parse().unwrap());
        Ok(Response {
            status,
            etag: header("etag"),
            last_modified: header("last-modified"),
            content_disposition: header("content-disposition"),
            length,
            body: Box::new(reader),
        })
    }
}

fn get(root: &Path, url: &str, checksum: Option<Digest>) -> Result<Download> {
    let wanted = Wanted { url, checksum, limit: 1 << 20 };
    Downloads::open(root)?.get(&Plain, &wanted, &Cancel::default())
}

const HEADERS: &str = "ETag: \"one\"\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\n\
                       Content-Disposition: attachment; filename=\"../../evil.sh\"\n";

#[test]
fn an_unchanged_file_is_not_downloaded_again() {
    let (server, root) = (Server::start(b"hello", HEADERS), tempfile::tempdir().unwrap());
    let url = server.url("/a/file.txt?token=s3cret");
    let first = get(root.path(), &url, None).unwrap();
    assert_eq!((first.digest, first.size), (Digest::of("hello"), 5));
    assert_eq!(first.modified, Some(784_111_777));
    assert_eq!(first.suggested_name.as_deref(), Some("evil.sh"), "a plain name, whatever the server says");
    assert_eq!(get(root.path(), &url, None).unwrap(), first);
    let requests = std::mem::take(&mut server.shelf.lock().unwrap().requests);
    assert!(!requests[0].contains("If-") && requests[1].contains("If-None-Match: \"one\""));
    assert!(requests[1].contains("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"));

    // Bytes that are gone are fetched again; so is what changed.
    std::fs::remove_file(&first.path).unwrap();
    assert_eq!(get(root.path(), &url, None).unwrap(), first);
    *server.shelf.lock().unwrap() =
        Shelf { body: b"news".to_vec(), headers: "ETag: \"two\"\n".into(), ..Shelf::default() };
    let second = get(root.path(), &url, None).unwrap();
    assert_eq!((second.digest, second.modified), (Digest::of("news"), None));

    let written = std::fs::read_dir(root.path().join("urls")).unwrap();
    for entry in written.map(|entry| entry.unwrap().path()) {
        assert!(!std::fs::read_to_string(entry).unwrap().contains("s3cret"));
    }
}

#[test]
fn a_checksum_is_held_to() {
    let (server, root) = (Server::start(b"hello", ""), tempfile::tempdir().unwrap());
    let url = server.url("/f");
    let (right, wrong) = (Digest::of("hello"), Digest::of("other"));
    let error = get(root.path(), &url, Some(wrong)).unwrap_err();
    assert_eq!(error.to_string(), format!("digest mismatch {right}: {wrong}"));
    assert_eq!(get(root.path(), &url, Some(right)).unwrap().digest, right);
    let asked = server.shelf.lock().unwrap().requests.len();
    assert_eq!(get(root.path(), &url, Some(right)).unwrap().digest, right);
    assert_eq!(server.shelf.lock().unwrap().requests.len(), asked, "known bytes are not asked for");
    for bad in ["", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        assert_eq!(parse_checksum(bad).unwrap_err().class(), Class::InvalidArgument, "{bad}");
    }
    assert_eq!(parse_checksum(&right.to_string()).unwrap(), right);
}

#[test]
fn failures_say_what_they_are_and_leave_nothing() {
    let (server, root) = (Server::start(b"hello", ""), tempfile::tempdir().unwrap());
    let url = server.url("/f");
    for (status, class) in [(404, Class::NotFound), (401, Class::Unauthenticated), (503, Class::Unavailable)]
    {
        server.shelf.lock().unwrap().status = Some(status);
        let error = get(root.path(), &url, None).unwrap_err();
        assert_eq!(error.class(), class);
        assert!(error.to_string().ends_with(&format!("invalid response status {status}")), "{error}");
    }
    let shelf = |announced, length| Shelf { body: vec![1; length], announced, ..Shelf::default() };
    *server.shelf.lock().unwrap() = shelf(Some(50), 10);
    let error = get(root.path(), &url, None).unwrap_err();
    assert!(is_temporary(&error) && error.to_string().ends_with("ended after 10 of 50 bytes"), "{error}");
    for announced in [None, Some(10)] {
        *server.shelf.lock().unwrap() = shelf(announced, (1 << 20) + 1);
        let error = get(root.path(), &url, None).unwrap_err();
        assert!(error.to_string().contains("the limit is 1048576"), "{error}");
    }
    assert_eq!(std::fs::read_dir(root.path().join("blobs")).unwrap().count(), 0);
    for bad in ["file:///etc/passwd", "ftp://h/x", "http://h/\r\nX: y", "/x"] {
        assert_eq!(get(root.path(), bad, None).unwrap_err().class(), Class::InvalidArgument, "{bad}");
    }
}

#[test]
fn the_end_of_the_build_ends_a_download() {
    let (server, root) = (Server::start(b"hello", ""), tempfile::tempdir().unwrap());
    let cancel = Cancel::default();
    cancel.cancel();
    let wanted = Wanted { url: &server.url("/f"), checksum: None, limit: 100 };
    let error = Downloads::open(root.path()).unwrap().get(&Plain, &wanted, &cancel).unwrap_err();
    assert_eq!(error.class(), Class::Cancelled);
}

#[test]
fn downloads_that_nobody_used_are_forgotten() {
    let (server, root) = (Server::start(b"hello", HEADERS), tempfile::tempdir().unwrap());
    let url = server.url("/f");
    let file = get(root.path(), &url, None).unwrap();
    let downloads = Downloads::open(root.path()).unwrap();
    let now = std::time::SystemTime::now();
    assert_eq!(downloads.prune(now - Duration::from_secs(60)).unwrap(), 0);
    assert!(file.path.exists());
    assert_eq!(downloads.prune(now + Duration::from_secs(60)).unwrap(), 5);
    assert!(!file.path.exists());
    assert_eq!(get(root.path(), &url, None).unwrap(), file);
}

#[test]
fn names() {
    let name = |url| file_name(url, None, true).map(Option::unwrap).map_err(|error| error.to_string());
    assert_eq!(name("https://h/a/b%20c.tgz?x=/y#z").unwrap(), "b c.tgz");
    for url in [
        "https://u:p@h/",
        "https://h",
        "https://h/a/",
        "https://h/%2e%2e",
        "https://h/a%2Fb",
        "https://h/%00",
    ] {
        let error = name(url).unwrap_err();
        assert!(error.starts_with("cannot determine filename from url: https://"), "{error}");
        assert!(!error.contains(":p@"), "{error}");
    }
    assert_eq!(file_name("https://h/", Some("given"), true).unwrap().as_deref(), Some("given"));
    assert_eq!(file_name("https://h/", None, false).unwrap(), None, "the destination names it");
    assert_eq!(name_of_disposition("inline; FileName=a.tar").as_deref(), Some("a.tar"));
    assert_eq!(name_of_disposition("attachment"), None);
}
