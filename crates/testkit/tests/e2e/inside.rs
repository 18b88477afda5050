//! Programs for containers that busybox does not have: this binary, which is static, mounted into them.

use std::net::UdpSocket;

const ASKED: &str = "YARE_E2E_HELPER";

pub(crate) fn is_asked_for() -> bool {
    std::env::var_os(ASKED).is_some()
}

/// Does what the variable names.
pub(crate) fn main() {
    match std::env::var(ASKED).unwrap().as_str() {
        "udp-echo" => echo(),
        "frontend" => crate::frontend::main(),
        other => panic!("there is no program {other}"),
    }
}

/// Answers every packet on port 53 with itself.
fn echo() {
    let socket = UdpSocket::bind(("0.0.0.0", 53)).unwrap();
    let mut buffer = [0; 65_536];
    loop {
        let (size, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..size], from).unwrap();
    }
}
