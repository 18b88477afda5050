//! TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::serve::{Door, closed};

/// Connections of one port at a time; more wait until one ends.
const CONNECTIONS: usize = 16384;

/// How long a container may take to accept.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long until accepting is tried again where descriptors have run out.
const PAUSE: Duration = Duration::from_millis(50);

/// How much is on its way in each direction, in bytes.
const BUFFER: usize = 32 << 10;

/// Serves a port until it is closed; then waits for its connections.
pub(crate) async fn serve(listener: TcpListener, target: SocketAddr, mut door: Door) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = closed(&mut door) => break,
            Some(_) = connections.join_next() => {}
            (place, accepted) = accepted => match accepted {
                Ok((client, _)) => {
                    connections.spawn(async move {
                        let _place = place;
                        carry(client, target).await;
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Carries both ways until both have ended. Whoever cannot be connected is hung up on, as by a container that
/// refuses.
async fn carry(mut client: TcpStream, target: SocketAddr) {
    let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(target)).await;
    let Ok(Ok(mut server)) = connected else { return };
    for stream in [&client, &server] {
        // Without these a stream is slower, or outlives an end that has vanished: no reason to hang up.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(stream, true);
        let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(60));
    }
    // A connection that breaks is broken for both.
    let _ = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
}
