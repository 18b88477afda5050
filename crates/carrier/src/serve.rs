//! The carrier's loop: orders come in, ports are served by tasks.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::orders::{self, Order, Port, Transport};
use crate::process::requests;
use crate::{packets, streams};

/// Whether ports are still open. Those that are not let their connections go on.
pub(crate) type Door = watch::Receiver<bool>;

/// Waits until ports are closed.
pub(crate) async fn closed(door: &mut Door) {
    // Nobody is left who could close them: they are closed.
    let _ = door.wait_for(|is_open| !is_open).await;
}

/// Serves until there is neither an engine nor a port, nor a connection of one.
pub(crate) async fn run(engine: OwnedFd) -> io::Result<()> {
    let engine = Arc::new(engine);
    let mut orders = listen(Arc::clone(&engine))?;
    let (door, _) = watch::channel(true);
    let mut ports: BTreeMap<Port, JoinHandle<()>> = BTreeMap::new();
    let mut requests = requests()?;
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => carry_out(order, &engine, &door, &mut ports).await,
                None => break,
            },
            _ = requests.recv() => {
                door.send_replace(false);
                break;
            }
        }
    }
    // Without an engine it goes on, until the next one has another.
    let is_open = *door.borrow();
    if is_open && !ports.is_empty() {
        requests.recv().await;
        door.send_replace(false);
    }
    for (_, port) in ports {
        // A port that has panicked has ended, too.
        let _ = port.await;
    }
    Ok(())
}

/// What the engine says, until it is gone or speaks another language.
fn listen(engine: Arc<OwnedFd>) -> io::Result<mpsc::Receiver<(Order, Vec<OwnedFd>)>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
        while let Ok(Some(order)) = orders::receive(&*engine) {
            if sender.blocking_send(order).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

async fn carry_out(
    (order, descriptors): (Order, Vec<OwnedFd>),
    engine: &OwnedFd,
    door: &watch::Sender<bool>,
    ports: &mut BTreeMap<Port, JoinHandle<()>>,
) {
    match order {
        Order::Serve { port, target } => {
            if let Some(old) = ports.remove(&port) {
                end(old).await;
            }
            // A socket that cannot be waited for is closed: its clients are refused.
            let socket = descriptors.into_iter().next();
            let task = socket.map(|socket| serve(port.transport, socket, target, door.subscribe()));
            if let Some(Ok(task)) = task {
                ports.insert(port, task);
            }
        }
        Order::Close { ports: closed } => {
            for port in closed {
                if let Some(task) = ports.remove(&port) {
                    end(task).await;
                }
            }
            // An engine that has gone meanwhile needs no answer.
            let _ = orders::answer(engine);
        }
    }
}

/// Ends a port with all its connections; their sockets are closed when this returns.
async fn end(task: JoinHandle<()>) {
    task.abort();
    // It was told to end: how it did is no news.
    let _ = task.await;
}

fn serve(
    transport: Transport,
    socket: OwnedFd,
    target: SocketAddr,
    door: Door,
) -> io::Result<JoinHandle<()>> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(match transport {
        Transport::Tcp => {
            let listener = tokio::net::TcpListener::from_std(TcpListener::from(socket))?;
            tokio::spawn(streams::serve(listener, target, door))
        }
        Transport::Udp => {
            let socket = tokio::net::UdpSocket::from_std(UdpSocket::from(socket))?;
            tokio::spawn(packets::serve(socket, target, door))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A carrier in a thread, as its engine sees it.
    fn carrying() -> (OwnedFd, thread::JoinHandle<io::Result<()>>) {
        let (engine, theirs) = yare_sys::socket::seqpacket_pair().unwrap();
        let carrier = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(theirs))
        });
        (engine, carrier)
    }

    /// A server that gives back what it gets, in capitals, and what it is told last is the end.
    fn shouting() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        stream.write_all(&buffer[..length].to_ascii_uppercase()).unwrap();
                    }
                    let _ = stream.write_all(b"BYE");
                });
            }
        });
        address
    }

    fn close(engine: &OwnedFd, port: Port) {
        orders::send(engine, &Order::Close { ports: vec![port] }, &[]).unwrap();
        assert_eq!(yare_sys::socket::recv_with_fds(engine, &mut [0; 8]).unwrap().0, 1);
    }

    #[test]
    fn streams_are_carried_both_ways_and_a_closed_port_is_free() {
        let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
        let port = Port { transport: Transport::Tcp, address: listener.local_addr().unwrap() };
        let (engine, carrier) = carrying();
        // It waits at the door until there is somebody.
        let mut early = TcpStream::connect(port.address).unwrap();
        orders::send(&engine, &Order::Serve { port, target: shouting() }, &[listener.as_fd()]).unwrap();
        drop(listener);
        let long = "a".repeat(1 << 20);
        let mut writer = early.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(long.as_bytes()).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut said = String::new();
        early.read_to_string(&mut said).unwrap();
        writing.join().unwrap();
        assert_eq!(said.len(), (1 << 20) + 3);
        assert!(said.starts_with("AAA") && said.ends_with("ABYE"));
        // One that is under way ends with its port.
        let mut late = TcpStream::connect(port.address).unwrap();
        late.write_all(b"x").unwrap();
        late.read_exact(&mut [0]).unwrap();
        close(&engine, port);
        assert_eq!(late.read(&mut [0]).unwrap_or(0), 0);
        TcpListener::bind(port.address).unwrap();
        drop(engine);
        carrier.join().unwrap().unwrap();
    }

    #[test]
    fn packets_are_carried_both_ways_each_client_its_own() {
        let Ok(socket) = UdpSocket::bind("[::]:0") else { return };
        let address = socket.local_addr().unwrap();
        let port = Port { transport: Transport::Udp, address };
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                let answer = format!("{} from {}", String::from_utf8_lossy(&buffer[..length]), from.port());
                server.send_to(answer.as_bytes(), from).unwrap();
            }
        });
        let (engine, carrier) = carrying();
        orders::send(&engine, &Order::Serve { port, target }, &[socket.as_fd()]).unwrap();
        drop(socket);
        let client = || {
            let socket = UdpSocket::bind("[::1]:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            // Answers of another address would not reach it.
            socket.connect(("::1", address.port())).unwrap();
            socket
        };
        let ask = |socket: &UdpSocket, text: &str| {
            socket.send(text.as_bytes()).unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            answer.strip_prefix(&format!("{text} from ")).unwrap().to_owned()
        };
        let (one, two) = (client(), client());
        let (first, second) = (ask(&one, "a"), ask(&two, "b"));
        assert_ne!(first, second);
        assert_eq!(ask(&one, "c"), first, "it stays one flow");
        close(&engine, port);
        UdpSocket::bind(address).unwrap();
        drop(engine);
        carrier.join().unwrap().unwrap();
    }
}
