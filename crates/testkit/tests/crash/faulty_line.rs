//! A line to a registry on which things go wrong by chance: one request for each connection, and for each
//! request perhaps one fault.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::chance::Chance;

/// What goes over the line at once, and how long it rests after it: about 16 MB in a second.
const PIECE: usize = 64 * 1024;
const REST: Duration = Duration::from_millis(4);
/// How long a line that stalls is silent before it breaks.
const STALL: Duration = Duration::from_secs(2);

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// It does not reach the registry; this is the answer.
    Answer(u16),
    /// The line breaks after this many thousandths of the request.
    CutUp(u64),
    /// The line breaks after this many thousandths of the answer.
    CutDown(u64),
    /// The same after a silence.
    Stall(u64),
    /// The answer is late.
    Late(Duration),
    /// The content of the request has another bit there.
    FlipUp(u64),
    /// The content of the answer has another bit there.
    FlipDown(u64),
}

/// The line, on a port of its own.
#[derive(Clone)]
pub(crate) struct FaultyLine {
    port: u16,
    line: Arc<Line>,
}

struct Line {
    registry: String,
    chance: Mutex<Chance>,
    /// Of a hundred requests, how many have a fault.
    percent: AtomicU64,
    faults: AtomicU64,
    flips: AtomicU64,
    received: AtomicU64,
}

impl FaultyLine {
    pub(crate) fn to(registry: String, chance: Chance) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let line = Arc::new(Line {
            registry,
            chance: Mutex::new(chance),
            percent: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            flips: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let serving = Arc::clone(&line);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let line = Arc::clone(&serving);
                std::thread::spawn(move || {
                    // Either side may leave at any time.
                    let _ = line.serve(client);
                });
            }
        });
        Self { port, line }
    }

    /// Its name in references.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on so many of a hundred requests have a fault.
    pub(crate) fn spoil(&self, percent: u64) {
        self.line.percent.store(percent, Ordering::Relaxed);
    }

    /// Faults that there were.
    pub(crate) fn faults(&self) -> u64 {
        self.line.faults.load(Ordering::Relaxed)
    }

    /// Answers that had another content than the registry gave.
    pub(crate) fn flips(&self) -> u64 {
        self.line.flips.load(Ordering::Relaxed)
    }

    /// Bytes of content that came over the line.
    pub(crate) fn received(&self) -> u64 {
        self.line.received.load(Ordering::Relaxed)
    }
}

impl Line {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let mut first = [0];
        // A client that tries TLS first.
        if client.peek(&mut first)? == 0 || first == [0x16] {
            return Ok(());
        }
        let mut client = BufReader::new(client);
        let request = Head::read(&mut client)?;
        let fault = self.draw();
        if let Fault::Answer(status) = fault {
            let answer = format!("HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            return client.get_mut().write_all(answer.as_bytes());
        }
        let mut server = BufReader::new(TcpStream::connect(&self.registry)?);
        let up = Passage::of(&request, request.length, fault.of_request());
        if !up.run(&request, &mut client, server.get_mut(), &AtomicU64::new(0))? {
            return server.get_ref().shutdown(Shutdown::Both);
        }
        if let Fault::Late(time) = fault {
            std::thread::sleep(time);
        }
        let answer = Head::read(&mut server)?;
        let length = if request.is("HEAD ") || answer.is("HTTP/1.1 204") { 0 } else { answer.length };
        if let (Fault::FlipDown(_), 1..) = (fault, length) {
            self.flips.fetch_add(1, Ordering::Relaxed);
        }
        let down = Passage::of(&answer, length, fault.of_answer());
        let whole = down.run(&answer, &mut server, client.get_mut(), &self.received)?;
        if let (Fault::Stall(_), false) = (fault, whole) {
            std::thread::sleep(STALL);
        }
        client.get_ref().shutdown(Shutdown::Both)
    }

    fn draw(&self) -> Fault {
        let mut chance = self.chance.lock().unwrap();
        if chance.below(100) >= self.percent.load(Ordering::Relaxed) {
            return Fault::None;
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        let place = chance.below(1000);
        match chance.below(8) {
            0 => Fault::Answer(*chance.pick(&[429, 500, 502, 503]).unwrap()),
            1 => Fault::CutUp(place),
            2 | 3 => Fault::CutDown(place),
            4 => Fault::Stall(place),
            5 => Fault::Late(chance.millis(10, 400)),
            6 => Fault::FlipUp(place),
            _ => Fault::FlipDown(place),
        }
    }
}

/// What a fault does to one direction.
#[derive(Clone, Copy)]
enum Spoil {
    Nothing,
    Cut(u64),
    Flip(u64),
}

impl Fault {
    fn of_request(self) -> Spoil {
        match self {
            Self::CutUp(place) => Spoil::Cut(place),
            Self::FlipUp(place) => Spoil::Flip(place),
            _ => Spoil::Nothing,
        }
    }

    fn of_answer(self) -> Spoil {
        match self {
            Self::CutDown(place) | Self::Stall(place) => Spoil::Cut(place),
            Self::FlipDown(place) => Spoil::Flip(place),
            _ => Spoil::Nothing,
        }
    }
}

/// The head of a request or an answer.
struct Head {
    bytes: Vec<u8>,
    /// Bytes of the content that follows.
    length: u64,
}

impl Head {
    /// Reads one, and has it say that it is the last on its connection.
    fn read(from: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let (mut bytes, mut length) = (Vec::new(), 0);
        loop {
            let start = bytes.len();
            if from.read_until(b'\n', &mut bytes)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&bytes[start..]).to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            assert!(!line.starts_with("transfer-encoding:"), "content without a length: {line}");
            if line == "\r\n" {
                bytes.truncate(start);
                bytes.extend_from_slice(b"connection: close\r\n\r\n");
                return Ok(Self { bytes, length });
            }
        }
    }

    fn is(&self, start: &str) -> bool {
        self.bytes.starts_with(start.as_bytes())
    }
}

/// Head and content on their way.
struct Passage {
    length: u64,
    /// Bytes of both after which it breaks off.
    cut: Option<u64>,
    /// The byte of the content that changes.
    flip: Option<u64>,
}

impl Passage {
    fn of(head: &Head, length: u64, spoil: Spoil) -> Self {
        let (cut, flip) = match spoil {
            Spoil::Nothing => (None, None),
            Spoil::Cut(place) => (Some((head.bytes.len() as u64 + length) * place / 1000), None),
            Spoil::Flip(place) => (None, Some(length * place / 1000)),
        };
        Self { length, cut, flip }
    }

    /// Carries it; whether all of it went through. One who does not want the rest is no failure: there may be
    /// an answer that says why.
    fn run(
        &self,
        head: &Head,
        from: &mut impl Read,
        to: &mut TcpStream,
        passed: &AtomicU64,
    ) -> io::Result<bool> {
        let cut = self.cut.unwrap_or(u64::MAX);
        let of_head = head.bytes.len().min(usize::try_from(cut).unwrap_or(usize::MAX));
        to.write_all(&head.bytes[..of_head])?;
        let end = self.length.min(cut - of_head as u64);
        let (mut at, mut piece) = (0, vec![0; PIECE]);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let count = from.read(&mut piece[..most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(flip) = self.flip.filter(|flip| (at..at + count as u64).contains(flip)) {
                piece[(flip - at) as usize] ^= 1;
            }
            if to.write_all(&piece[..count]).is_err() {
                return Ok(true);
            }
            at += count as u64;
            passed.fetch_add(count as u64, Ordering::Relaxed);
            std::thread::sleep(REST);
        }
        Ok(self.cut.is_none())
    }
}
