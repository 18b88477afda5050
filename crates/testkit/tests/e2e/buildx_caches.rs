//! The build cache in other places, as clients of BuildKit's wire ask for it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use yare_testkit::{Engine, Registry};

use crate::buildx::{has, ok, with};
use crate::case::cases;
use crate::client::Client;

/// Why nothing here runs against dockerd.
const OWN: &str = "the reference engine is tried without the plugins";

cases![
    Docker:
        caches_come_from_everywhere.differs(OWN),
        caches_go_everywhere.differs(OWN),
        caches_of_the_clouds_are_told_of.differs(OWN),
        compose_says_where_its_caches_are.differs(OWN);
];

const LINES: &str = "FROM busybox AS b\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /uuid\n\
                     FROM busybox\nCOPY --from=b /uuid /uuid\nCMD cat /uuid\n";

const BUILD: &str = "docker buildx build --load --build-arg N=$n -t $n/a";

fn prepare(c: &Client) {
    std::fs::write(c.folder.join("ctx/Dockerfile"), LINES).unwrap();
}

/// Works with another engine that has the very same base image.
fn another(c: &Client, work: impl FnOnce(&Client)) {
    let engine = Engine::start();
    let other = c.of(&engine);
    assert!(has(&other, &["docker-buildx"]));
    c.ok("docker save -o base.tar busybox");
    other.ok(&format!("docker load -q -i {}/base.tar", c.folder.display()));
    prepare(&other);
    work(&other);
    drop(other);
    engine.finish();
}

fn caches_of_the_clouds_are_told_of(c: &Client) {
    if !has(c, &["docker-buildx"]) {
        return;
    }
    prepare(c);
    // Buildx itself drops those of Amazon and GitHub where the engine does not say that it knows them.
    let place = "type=azblob,name=n,account_url=http://127.0.0.1:1/,secret_access_key=s";
    let read = ok(c, &format!("docker buildx build --build-arg N=$n --cache-from {place} . 2>&1"));
    assert!(read.contains("unknown cache importer: azblob"), "{read}");
    let written = c.run(&with(&format!("docker buildx build --build-arg N=$n --cache-to {place} . 2>&1")));
    assert!(written.code != 0 && written.stdout.contains("type=azblob"), "{}", written.stdout);
}

fn caches_come_from_everywhere(c: &Client) {
    if !has(c, &["docker-buildx"]) {
        return;
    }
    prepare(c);
    let registry = Registry::start(&c.folder.join("registry"));
    let (host, folder) = (registry.host(), c.folder.display().to_string());
    let yare = yare_testkit::yare_binary().display();
    c.ok(&format!(
        "'{yare}' build -q --build-arg N=$n --cache-to type=registry,ref={host}/cache,mode=max \
         --cache-to type=local,dest=cache,mode=max ctx"
    ));
    let image = format!("{host}/{}/image", c.n);
    let one = "FROM busybox\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /uuid\nCMD cat /uuid\n";
    std::fs::write(c.folder.join("ctx/Dockerfile.one"), one).unwrap();
    ok(
        c,
        &format!(
            "docker buildx build --load --build-arg N=$n --build-arg BUILDKIT_INLINE_CACHE=1 -f Dockerfile.one -t {image} . \
             && docker push -q {image} && docker run --rm {image} > ../one"
        ),
    );
    ok(c, &format!("{BUILD} . && docker run --rm $n/a > ../uuid && docker rmi {image}"));
    let uuid = c.ok("cat uuid");
    for from in [format!("type=registry,ref={host}/cache"), format!("type=local,src={folder}/cache")] {
        another(c, |other| {
            let text = ok(other, &format!("{BUILD} --cache-from {from} . 2>&1"));
            assert!(text.contains("importing cache manifest from"), "{text}");
            assert_eq!(ok(other, "docker run --rm $n/a"), uuid, "{from}: {text}");
        });
    }
    another(c, |other| {
        std::fs::write(other.folder.join("ctx/Dockerfile"), one).unwrap();
        ok(other, &format!("{BUILD} --cache-from {image} --cache-from {host}/not/there ."));
        assert_eq!(ok(other, "docker run --rm $n/a"), c.ok("cat one"));
    });
}

/// A port on which the engine's BuildKit answers as a builder of its own would: without HTTP before it.
struct Builder {
    port: u16,
}

impl Builder {
    fn of(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = socket.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let socket = socket.clone();
                std::thread::spawn(move || carry(client, &socket));
            }
        });
        Self { port }
    }
}

fn carry(client: TcpStream, socket: &Path) -> io::Result<()> {
    let mut engine = UnixStream::connect(socket)?;
    engine.write_all(b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        engine.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let (mut up, mut down) = ((client.try_clone()?, engine.try_clone()?), (engine, client));
    let there = std::thread::spawn(move || {
        drop(io::copy(&mut up.0, &mut up.1));
        drop(up.1.shutdown(Shutdown::Both));
    });
    drop(io::copy(&mut down.0, &mut down.1));
    drop(down.1.shutdown(Shutdown::Both));
    drop(there.join());
    Ok(())
}

fn caches_go_everywhere(c: &Client) {
    if !has(c, &["docker-buildx"]) {
        return;
    }
    prepare(c);
    let registry = Registry::start(&c.folder.join("registry"));
    let builder = Builder::of(&c.host.socket);
    let (host, folder) = (registry.host(), c.folder.display().to_string());
    let name = &c.n;
    ok(c, &format!("docker buildx create --name {name} --driver remote tcp://127.0.0.1:{}", builder.port));
    let build = |to: &str| {
        let output = "-o type=local,dest=../out";
        ok(
            c,
            &format!("docker buildx build --builder {name} --build-arg N=$n {output} --cache-to {to} . 2>&1"),
        )
    };
    let text = build(&format!("type=registry,ref={host}/cache,mode=max"));
    assert!(text.contains("exporting cache to registry"), "{text}");
    let text = build("type=local,dest=../cache,mode=max");
    assert!(text.contains("exporting cache to client directory"), "{text}");
    let tags = c.ok("cat cache/index.json");
    assert!(tags.contains("\"latest\""), "the client named it: {tags}");
    // What is there is not sent again.
    let list = "find cache/blobs -type f -printf '%i %p\\n' | sort";
    let before = c.ok(list);
    build("type=local,dest=../cache,mode=max");
    assert_eq!(c.ok(list), before);
    let uuid = c.ok("cat out/uuid");
    for from in [format!("type=registry,ref={host}/cache"), format!("type=local,src={folder}/cache")] {
        another(c, |other| {
            ok(other, &format!("{BUILD} --cache-from {from} ."));
            assert_eq!(ok(other, "docker run --rm $n/a"), uuid, "{from}");
        });
    }
    drop(registry);
    let to = format!("type=registry,ref={host}/cache");
    let text = c.fails(
        1,
        &with(&format!("docker buildx build --builder {name} --cache-to {to} . 2>&1 | cat >&2; exit 1")),
    );
    assert!(text.contains("cannot export the build cache"), "{text}");
    ok(c, &format!("docker buildx build --builder {name} --cache-to {to},ignore-error=true ."));
    ok(c, &format!("docker buildx rm {name}"));
}

fn compose_says_where_its_caches_are(c: &Client) {
    if !has(c, &["docker-buildx", "docker-compose"]) {
        return;
    }
    let registry = Registry::start(&c.folder.join("registry"));
    let image = format!("{}/{}/app", registry.host(), c.n);
    let one = "FROM busybox\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /uuid\nCMD cat /uuid\n";
    let compose = |c: &Client| {
        std::fs::write(c.folder.join("ctx/Dockerfile"), one).unwrap();
        let text = format!(
            "name: {n}\nservices:\n  a:\n    image: {image}\n    build:\n      context: .\n      args: {{N: {n}}}\n      \
             cache_from: [\"{image}\"]\n      cache_to: [type=inline]\n",
            n = c.n
        );
        std::fs::write(c.folder.join("ctx/compose.yaml"), text).unwrap();
    };
    compose(c);
    ok(c, &format!("docker compose build && docker run --rm {image} > ../uuid && docker push -q {image}"));
    another(c, |other| {
        assert!(has(other, &["docker-compose"]));
        compose(other);
        ok(other, "docker compose build");
        assert_eq!(
            ok(other, &format!("docker run --rm {image} && docker rmi -f {image} > ../gone")),
            c.ok("cat uuid")
        );
    });
    ok(c, &format!("docker rmi {image}"));
}
