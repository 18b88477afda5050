//! A run in a terminal: raw while it lasts, resized, left with the detach keys.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::server::{Reply, Server};
use super::{leaked, parse, with_streams};
use crate::session::Stdio;

const UPGRADED: &str = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";

#[test]
fn a_terminal_is_raw_resized_and_put_back() {
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let slave = open();
    tcsetwinsize(&slave, Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    static RAW: AtomicBool = AtomicBool::new(false);
    let probe = open();
    let probe = std::sync::Mutex::new(Some(probe));
    let server = Server::start(move |seen| {
        let path = seen.path.trim_start_matches("/v1.51");
        if path.starts_with("/containers/create") {
            assert!(String::from_utf8_lossy(&seen.body).contains("\"ConsoleSize\":[33,101]"));
            return Reply::Json(201, r#"{"Id":"abc","Warnings":[]}"#.to_owned());
        }
        if path.contains("/attach?") {
            let probe = probe.lock().unwrap().take().unwrap();
            return Reply::Raw(
                UPGRADED.to_owned(),
                Box::new(move |mut stream, mut got| {
                    stream.write_all(b"prompt# ").unwrap();
                    let mut buffer = [0; 64];
                    while !got.ends_with(&[16, 17]) {
                        let count = stream.read(&mut buffer).unwrap();
                        assert!(count > 0, "the keys must reach the engine, which emits the event");
                        got.extend_from_slice(&buffer[..count]);
                    }
                    let modes = tcgetattr(&probe).unwrap().local_modes;
                    RAW.store(!modes.intersects(LocalModes::ICANON | LocalModes::ECHO), Ordering::SeqCst);
                }),
            );
        }
        if path.contains("/wait") {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            return Reply::Raw(head, Box::new(|_, _| std::thread::sleep(Duration::from_secs(5))));
        }
        Reply::Json(204, String::new())
    });
    let typing = std::thread::spawn(move || {
        let mut master = std::fs::File::from(master);
        let mut shown = Vec::new();
        let mut buffer = [0; 64];
        while !shown.ends_with(b"prompt# ") {
            let count = master.read(&mut buffer).unwrap();
            shown.extend_from_slice(&buffer[..count]);
        }
        master.write_all(b"ls\r").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        master.write_all(b"\x10").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        master.write_all(b"\x11").unwrap();
        master
    });
    let stdio = Stdio { input: leaked(open()), output: leaked(open()), errors: leaked(open()) };
    let mut cx = with_streams(stdio);
    cx.address = yare_client::Address::Unix(server.path.clone());
    let (command, given) = parse(&mut cx, "run -it busybox sh").unwrap();
    let begun = Instant::now();
    assert_eq!(crate::start(&cx, command, &given), Ok(0));
    assert!(begun.elapsed() < Duration::from_secs(3), "a detach does not wait for the exit");
    assert!(RAW.load(Ordering::SeqCst), "the terminal must be raw in the session");
    assert!(tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    drop(typing.join().unwrap());
    let seen = server.seen.lock().unwrap();
    let resized = seen.iter().any(|seen| seen.path == "/v1.51/containers/abc/resize?h=33&w=101");
    assert!(resized, "{:?}", seen.iter().map(|seen| &seen.path).collect::<Vec<_>>());
}
