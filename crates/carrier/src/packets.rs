//! UDP.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use yare_sys::packet::{self, Way};

use crate::serve::{Door, closed};

/// Flows of one port at a time. A packet of one more is lost.
const FLOWS: usize = 4096;

/// How long a flow may be silent, as with docker-proxy.
const IDLE: Duration = Duration::from_secs(90);

/// Packets of a flow that wait.
const QUEUE: usize = 64;

/// The longest packet.
const LONGEST: usize = 64 << 10;

/// Serves a port until it is closed.
pub(crate) async fn serve(socket: UdpSocket, target: SocketAddr, mut door: Door) {
    let socket = Arc::new(socket);
    // Answers come from the address that was asked, or clients would not take them.
    if packet::tell_destination(&*socket).is_err() {
        return;
    }
    let mut flows: HashMap<Way, mpsc::Sender<Vec<u8>>> = HashMap::new();
    // They end with this function.
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let received = socket.async_io(Interest::READABLE, || packet::receive(&*socket, &mut buffer));
        let (length, from) = tokio::select! {
            () = closed(&mut door) => return,
            Some(_) = tasks.join_next() => continue,
            received = received => match received {
                Ok(packet) => packet,
                // News of a client that has gone.
                Err(_) => continue,
            },
        };
        let data = buffer[..length].to_vec();
        if let Some(flow) = flows.get(&from).filter(|flow| !flow.is_closed()) {
            // A flow that is too quick loses packets, as anywhere.
            let _ = flow.try_send(data);
            continue;
        }
        flows.retain(|_, flow| !flow.is_closed());
        if flows.len() < FLOWS {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let _ = sender.try_send(data);
            flows.insert(from, sender);
            let socket = Arc::clone(&socket);
            tasks.spawn(async move {
                // An error is a container that does not listen: nobody is told, the next packet tries anew.
                let _ = flow(&socket, from, target, receiver).await;
            });
        }
    }
}

async fn flow(
    socket: &UdpSocket,
    client: Way,
    target: SocketAddr,
    mut packets: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let any: SocketAddr =
        if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().map_err(io::Error::other)?;
    let server = UdpSocket::bind(any).await?;
    server.connect(target).await?;
    let mut buffer = vec![0; LONGEST];
    loop {
        tokio::select! {
            Some(packet) = packets.recv() => drop(server.send(&packet).await?),
            answer = server.recv(&mut buffer) => {
                let answer = &buffer[..answer?];
                socket.async_io(Interest::WRITABLE, || packet::answer(socket, answer, client)).await?;
            }
            () = tokio::time::sleep(IDLE) => return Ok(()),
        }
    }
}
