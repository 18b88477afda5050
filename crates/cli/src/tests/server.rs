//! An engine that answers what a test tells it to, over a unix socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
    pub head: String,
}

/// What is answered.
pub(super) enum Reply {
    /// A status and a document.
    Json(u16, String),
    /// The head, then whatever the function writes; the connection is closed after it.
    Raw(String, Box<dyn FnOnce(UnixStream, Vec<u8>) + Send>),
}

type Answer = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A listening engine.
pub(super) struct Server {
    pub path: PathBuf,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Listens, and answers each request with `answer`.
    pub(super) fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("yare-cli-{}-{number}.sock", std::process::id()));
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log): (Arc<Answer>, _) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || drop(serve(stream.unwrap(), &*answer, &log)));
            }
        });
        Self { path, seen }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

fn serve(stream: UnixStream, answer: &Answer, log: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let mut first = head.split_whitespace();
        let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (known, value) = line.split_once(':')?;
                known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body)?;
        if header("transfer-encoding").is_some() {
            body = chunks(&mut reader)?;
        }
        let seen = Seen { method, path, body, head };
        log.lock().unwrap().push(seen.clone());
        match answer(&seen) {
            Reply::Json(status, text) => {
                let body = if seen.method == "HEAD" || status == 204 { "" } else { text.as_str() };
                let length =
                    if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", text.len()) };
                write!(writer, "HTTP/1.1 {status} X\r\nApi-Version: 1.51\r\n{length}\r\n{body}")?;
            }
            Reply::Raw(head, then) => {
                writer.write_all(head.as_bytes())?;
                let early = reader.buffer().to_vec();
                then(writer, early);
                return Ok(());
            }
        }
    }
}

fn chunks(reader: &mut BufReader<UnixStream>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk)?;
        body.extend_from_slice(&chunk[..length]);
        if length == 0 {
            return Ok(body);
        }
    }
}
