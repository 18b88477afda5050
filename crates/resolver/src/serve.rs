//! The loop of the resolver's process: one thread, and descriptors that have news.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use simple_dns::RCODE;

use crate::answer::{self, Decision, Transport};
use crate::forward::{Asked, Progress, take_message};
use crate::names::Directory;
use crate::orders::{self, Order};

/// How much one container, and all together, may have under way.
const QUESTIONS_OF_ONE: usize = 256;
const QUESTIONS: usize = 4096;
const CONNECTIONS_OF_ONE: usize = 64;

/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);

/// Packets that are read at once before others have their turn.
const BURST: usize = 64;

/// The number of the engine's socket among the sources.
const ENGINE: u64 = 0;

/// Something that has news.
#[derive(Debug)]
enum Source {
    Packets { client: String, socket: UdpSocket },
    Door { client: String, listener: TcpListener },
    Connection(Connection),
    Question(Question),
}

#[derive(Debug)]
struct Connection {
    client: String,
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Questions of it that others are asked.
    waiting: usize,
    /// The other end says nothing more, and may still read.
    is_done: bool,
    deadline: Instant,
}

#[derive(Debug)]
struct Question {
    client: String,
    socket: OwnedFd,
    asked: Asked,
    packet: Vec<u8>,
    whom: Whom,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy)]
enum Whom {
    Packet(u64, SocketAddr),
    Connection(u64),
}

/// The resolver.
#[derive(Debug)]
pub(crate) struct Server {
    poll: OwnedFd,
    /// The engine's socket, as long as there is an engine.
    engine: Option<OwnedFd>,
    directory: Directory,
    sources: BTreeMap<u64, Source>,
    next: u64,
    turn: usize,
}

impl Server {
    pub(crate) fn new(engine: OwnedFd) -> io::Result<Self> {
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&poll, &engine, EventData::new_u64(ENGINE), EventFlags::IN)?;
        Ok(Self {
            poll,
            engine: Some(engine),
            directory: Directory::default(),
            sources: BTreeMap::new(),
            next: ENGINE + 1,
            turn: 0,
        })
    }

    /// Serves until there is neither an engine nor a container.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while self.engine.is_some() || !self.directory.is_idle() {
            let mut events = Vec::with_capacity(BURST);
            let limit = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
            // A little later than sooner: a deadline is past when it is looked at.
            let limit = limit.map(|limit| limit + Duration::from_millis(1));
            let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                other => drop(other?),
            }
            for event in events {
                match event.data.u64() {
                    ENGINE => self.obey(),
                    source => self.attend(source),
                }
            }
            self.expire();
        }
        Ok(())
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.sources.values().filter_map(Source::deadline).min()
    }

    /// Takes what the engine says.
    fn obey(&mut self) {
        loop {
            let Some(engine) = &self.engine else { return };
            match orders::receive(engine) {
                Ok(Some((order, descriptors))) => self.carry_out(order, descriptors),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The engine is gone, or speaks another language: what is known stays.
                Ok(None) | Err(_) => self.engine = None,
            }
        }
    }

    fn carry_out(&mut self, order: Order, descriptors: Vec<OwnedFd>) {
        match order {
            Order::Serve(client) => {
                self.forget(&client.id);
                let id = client.id.clone();
                self.directory.admit(client);
                if let Ok([udp, tcp]) = <[OwnedFd; 2]>::try_from(descriptors) {
                    let socket = UdpSocket::from(udp);
                    let listener = TcpListener::from(tcp);
                    self.add(Source::Packets { client: id.clone(), socket });
                    self.add(Source::Door { client: id, listener });
                }
            }
            Order::Change(client) => self.directory.admit(client),
            Order::Forget { id } => {
                self.forget(&id);
                self.directory.dismiss(&id);
            }
            Order::Join(member) => self.directory.join(member),
            Order::Leave { network, id } => self.directory.leave(&network, &id),
        }
    }

    /// Closes everything of a container's: its sockets keep its namespace alive.
    fn forget(&mut self, id: &str) {
        self.sources.retain(|_, source| {
            let stays = source.client() != id;
            if !stays {
                // The engine has copies of some: closing ours does not end the news of them.
                let _ = epoll::delete(&self.poll, source.descriptor());
            }
            stays
        });
    }

    fn add(&mut self, source: Source) -> u64 {
        let number = self.next;
        self.next += 1;
        // Without it the source is silent, and times out or goes with its container.
        let _ = epoll::add(&self.poll, source.descriptor(), EventData::new_u64(number), source.interest());
        self.sources.insert(number, source);
        number
    }

    /// Looks after a source that has news. It is taken out meanwhile, and put back if it stays.
    fn attend(&mut self, number: u64) {
        let Some(mut source) = self.sources.remove(&number) else { return };
        let stays = match &mut source {
            Source::Packets { client, socket } => {
                self.read_packets(number, client, socket);
                true
            }
            Source::Door { client, listener } => {
                self.welcome(client, listener);
                true
            }
            Source::Connection(connection) => self.converse(number, connection),
            Source::Question(question) => {
                let progress = question.asked.go_on(&question.socket);
                return self.settle(number, source, progress);
            }
        };
        if stays {
            self.put_back(number, source);
        }
    }

    fn put_back(&mut self, number: u64, source: Source) {
        let interest = EventData::new_u64(number);
        // It is in there, so this cannot fail.
        let _ = epoll::modify(&self.poll, source.descriptor(), interest, source.interest());
        self.sources.insert(number, source);
    }

    fn read_packets(&mut self, number: u64, client: &str, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        for _ in 0..BURST {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
            let whom = Whom::Packet(number, from);
            if let Some(reply) = self.decide(client, &buffer[..length], Transport::Udp, whom) {
                // Whoever does not take it asks again.
                let _ = socket.send_to(&reply, from);
            }
        }
    }

    /// The answer, if it can be given at once.
    fn decide(&mut self, client: &str, packet: &[u8], transport: Transport, whom: Whom) -> Option<Vec<u8>> {
        self.turn = self.turn.wrapping_add(1);
        match answer::decide(&self.directory, client, packet, transport, self.turn) {
            Decision::Reply(reply) => Some(reply),
            Decision::Ignore => None,
            Decision::Forward => self.forward(client, packet, transport, whom),
        }
    }

    /// Asks others; gives a refusal when that cannot be.
    fn forward(&mut self, client: &str, packet: &[u8], transport: Transport, whom: Whom) -> Option<Vec<u8>> {
        let questions = self.sources.values().filter(|source| matches!(source, Source::Question(_)));
        let (all, own) = questions
            .fold((0, 0), |(all, own), source| (all + 1, own + usize::from(source.client() == client)));
        let upstreams = self.directory.client(client).map(|client| client.upstreams.clone());
        let upstreams = upstreams.filter(|_| all < QUESTIONS && own < QUESTIONS_OF_ONE);
        let mut asked =
            Asked::new(packet.to_vec(), transport == Transport::Tcp, upstreams.unwrap_or_default());
        match asked.ask_next() {
            Progress::Asking(socket) => {
                let (client, packet) = (client.to_owned(), packet.to_vec());
                self.add(Source::Question(Question { client, socket, asked, packet, whom }));
                None
            }
            _ => Some(answer::refusal(packet, RCODE::ServerFailure)),
        }
    }

    /// Does what follows from the progress of a question.
    fn settle(&mut self, number: u64, source: Source, progress: Progress) {
        let Source::Question(mut question) = source else { return };
        match progress {
            Progress::Waiting => self.put_back(number, Source::Question(question)),
            Progress::Asking(socket) => {
                question.socket = socket;
                self.add(Source::Question(question));
            }
            Progress::Answered(reply) => self.give(question.whom, &reply),
            Progress::Failed => {
                let refusal = answer::refusal(&question.packet, RCODE::ServerFailure);
                self.give(question.whom, &refusal);
            }
        }
    }

    /// Sends an answer to whoever asked, if he is still there.
    fn give(&mut self, whom: Whom, reply: &[u8]) {
        match whom {
            Whom::Packet(number, to) => {
                if let Some(Source::Packets { socket, .. }) = self.sources.get(&number) {
                    // Whoever does not take it asks again.
                    let _ = socket.send_to(reply, to);
                }
            }
            Whom::Connection(number) => {
                if let Some(Source::Connection(connection)) = self.sources.get_mut(&number) {
                    connection.queue(reply);
                    connection.waiting = connection.waiting.saturating_sub(1);
                    self.attend(number);
                }
            }
        }
    }

    fn welcome(&mut self, client: &str, listener: &TcpListener) {
        for _ in 0..BURST {
            let Ok((stream, _)) = listener.accept() else { return };
            let open = self
                .sources
                .values()
                .filter(|source| matches!(source, Source::Connection(_)) && source.client() == client);
            if open.count() >= CONNECTIONS_OF_ONE || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.add(Source::Connection(Connection {
                client: client.to_owned(),
                stream,
                input: Vec::new(),
                output: Vec::new(),
                waiting: 0,
                is_done: false,
                deadline: Instant::now() + IDLE,
            }));
        }
    }

    /// Reads and writes what a connection has; `false` at its end.
    fn converse(&mut self, number: u64, connection: &mut Connection) -> bool {
        let mut buffer = [0; 4096];
        while !connection.is_done {
            match connection.stream.read(&mut buffer) {
                Ok(0) => connection.is_done = true,
                Ok(length) => connection.input.extend(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
            connection.deadline = Instant::now() + IDLE;
            while let Some(packet) = take_message(&mut connection.input) {
                let whom = Whom::Connection(number);
                match self.decide(&connection.client, &packet, Transport::Tcp, whom) {
                    Some(reply) => connection.queue(&reply),
                    None => connection.waiting += 1,
                }
            }
            // It does not read what it asks for.
            if connection.output.len() > 1 << 20 {
                return false;
            }
        }
        let is_needed = |connection: &Connection| {
            !connection.is_done || connection.waiting > 0 || !connection.output.is_empty()
        };
        connection.flush() && is_needed(connection)
    }

    /// Ends what has waited for too long.
    fn expire(&mut self) {
        let now = Instant::now();
        let due = self.sources.iter().filter(|(_, source)| source.deadline().is_some_and(|at| at <= now));
        let due: Vec<u64> = due.map(|(number, _)| *number).collect();
        for number in due {
            let Some(mut source) = self.sources.remove(&number) else { continue };
            if let Source::Question(question) = &mut source {
                let progress = question.asked.ask_next();
                self.settle(number, source, progress);
            }
        }
    }
}

impl Connection {
    fn queue(&mut self, message: &[u8]) {
        if let Ok(length) = u16::try_from(message.len()) {
            self.output.extend(length.to_be_bytes());
            self.output.extend(message);
        }
    }

    /// Writes what can be written; `false` when the other end is gone.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

impl Source {
    fn client(&self) -> &str {
        match self {
            Self::Packets { client, .. } | Self::Door { client, .. } => client,
            Self::Connection(connection) => &connection.client,
            Self::Question(question) => &question.client,
        }
    }

    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Packets { socket, .. } => socket.as_fd(),
            Self::Door { listener, .. } => listener.as_fd(),
            Self::Connection(connection) => connection.stream.as_fd(),
            Self::Question(question) => question.socket.as_fd(),
        }
    }

    fn interest(&self) -> EventFlags {
        let writes = match self {
            Self::Connection(connection) => !connection.output.is_empty(),
            Self::Question(question) => question.asked.wants_to_write(),
            Self::Packets { .. } | Self::Door { .. } => false,
        };
        // The end of what is read would be news for ever.
        let reads = !matches!(self, Self::Connection(connection) if connection.is_done);
        let flag = |is_set, flag| if is_set { flag } else { EventFlags::empty() };
        flag(reads, EventFlags::IN) | flag(writes, EventFlags::OUT)
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Connection(connection) => Some(connection.deadline),
            Self::Question(question) => Some(question.asked.deadline),
            Self::Packets { .. } | Self::Door { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::{Client, Member};
    use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question as Asks, TYPE};

    fn query(name: &str) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let name = Name::new(name).unwrap();
        packet.questions.push(Asks::new(name, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().unwrap()
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    /// A resolver that serves one container, and the addresses at which it listens.
    fn serving() -> (OwnedFd, SocketAddr, SocketAddr, std::thread::JoinHandle<io::Result<()>>) {
        let (engine, theirs) = yare_sys::socket::seqpacket_pair().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (packets, door) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let member = Member {
            network: "n".into(),
            id: "c".into(),
            names: vec!["web".into()],
            ips: vec!["10.0.0.2".parse().unwrap()],
        };
        let client = Client { id: "c".into(), networks: vec!["n".into()], ..Client::default() };
        orders::send(&engine, &Order::Join(member), &[]).unwrap();
        orders::send(&engine, &Order::Serve(client), &[udp.as_fd(), tcp.as_fd()]).unwrap();
        let thread = std::thread::spawn(move || Server::new(theirs)?.run());
        (engine, packets, door, thread)
    }

    #[test]
    fn answers_go_out_over_both_transports_and_it_ends_when_nobody_needs_it() {
        let (engine, packets, door, thread) = serving();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut buffer = [0; 512];
        socket.send_to(&query("web"), packets).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..length].ends_with(&[10, 0, 0, 2]));
        // A name of others, with nobody to ask.
        socket.send_to(&query("example.org"), packets).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(Packet::parse(&buffer[..length]).unwrap().rcode(), RCODE::ServerFailure);
        // Two questions in pieces, and then nothing more is said.
        let mut stream = TcpStream::connect(door).unwrap();
        let both = [framed(&query("web")), framed(&query("web"))].concat();
        stream.write_all(&both[..5]).unwrap();
        stream.write_all(&both[5..]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        let answers: Vec<_> = std::iter::from_fn(|| take_message(&mut said)).collect();
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|answer| answer.ends_with(&[10, 0, 0, 2])));
        // Without its engine it goes on …
        drop(engine);
        socket.send_to(&query("web"), packets).unwrap();
        assert!(socket.recv(&mut buffer).is_ok());
        assert!(!thread.is_finished());
    }

    #[test]
    fn a_container_that_is_forgotten_is_not_answered() {
        let (engine, packets, door, thread) = serving();
        orders::send(&engine, &Order::Forget { id: "c".into() }, &[]).unwrap();
        drop(engine);
        // … and ends with the last container.
        thread.join().unwrap().unwrap();
        assert!(TcpStream::connect(door).is_err());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(packets).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let refused = socket.send(&query("web")).and_then(|_| socket.recv(&mut [0; 512]));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
