use super::*;
use std::io::Read;
use std::net::TcpListener;

fn remote(address: Address) -> Remote {
    let target =
        Target::Syslog { address: Some(address), facility: 3, format: crate::target::SyslogFormat::Rfc5424 };
    Remote::connect(target, About { tag: "t".to_owned(), ..About::default() }).unwrap()
}

fn send(remote: &mut Remote, text: &str) -> io::Result<()> {
    remote.send(Stream::Stdout, Timestamp::now(), text.as_bytes(), true)
}

#[test]
fn a_server_that_comes_back_is_found_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let mut remote = remote(Address::Tcp(place.to_string()));
    send(&mut remote, "one").unwrap();
    let (mut first, _) = listener.accept().unwrap();
    let mut buffer = [0; 200];
    let length = first.read(&mut buffer).unwrap();
    assert!(buffer[..length].ends_with(b" t - one\n"));
    drop((first, listener));
    // The first write after the end may still be taken by the kernel.
    while send(&mut remote, "lost").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let listener = TcpListener::bind(place).unwrap();
    std::thread::sleep(PAUSE);
    send(&mut remote, "two").unwrap();
    let (mut second, _) = listener.accept().unwrap();
    let length = second.read(&mut buffer).unwrap();
    assert!(buffer[..length].ends_with(b" t - two\n"));
}

#[test]
fn parts_of_a_line_are_numbered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let _server = UnixDatagram::bind(&path).unwrap();
    let mut remote = remote(Address::UnixDatagram(path));
    assert_eq!(remote.part(Stream::Stdout, true), None);
    let first = remote.part(Stream::Stdout, false).unwrap();
    assert_eq!(remote.part(Stream::Stderr, true), None, "the other stream is another line");
    let last = remote.part(Stream::Stdout, true).unwrap();
    assert_eq!((first.number, first.is_last, last.number, last.is_last), (1, false, 2, true));
    assert_eq!(first.id, last.id);
    assert_eq!(first.id.len(), 64);
}

#[test]
fn who_is_not_there_is_told() {
    let target = Target::Fluentd { address: Address::Unix("/none/x".into()), later: false, precise: false };
    assert!(Remote::connect(target, About::default()).is_err());
    let target = Target::Fluentd { address: Address::Unix("/none/x".into()), later: true, precise: false };
    let mut remote = Remote::connect(target, About::default()).unwrap();
    assert!(send(&mut remote, "lost").is_err());
}
