//! `COPY` and `ADD` with their flags, and what ignore files hide.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::build_table::{Row, build_all, ok};
use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        copies_are_exact.differs("its classic builder does not know all flags"),
        archives_are_unpacked.differs("its classic builder does not know all flags"),
        files_of_the_web_are_fetched.differs("its classic builder does not know all flags"),
        repositories_are_fetched.differs("its classic builder knows no git in ADD"),
        ignored_files_are_not_there.differs("its classic builder does not know all forms");
];

fn copies_are_exact(c: &Client) {
    build_all(c, COPIES);
}

pub(crate) const COPIES: &[Row] = &[
    Row::new(
        "copy-renames",
        "FROM busybox\nCOPY a.txt /x/y/z\nRUN [ \"$(cat /x/y/z)\" = a ] && [ $(stat -c %a%u%g /x/y) = 75500 ]\n",
    ),
    Row::new(
        "copy-into-a-directory",
        "FROM busybox\nRUN mkdir /d\nCOPY a.txt /d\nCOPY b.txt /e/\nRUN cat /d/a.txt /e/b.txt\n",
    ),
    Row::new(
        "copy-relative",
        "FROM busybox\nWORKDIR /w\nCOPY a.txt .\nCOPY b.txt x/\nCOPY dir ./\nRUN cat /w/a.txt /w/x/b.txt /w/c.txt\n",
    ),
    Row::new(
        "copy-several",
        "FROM busybox\nCOPY a.txt b.txt exec.sh /d/\nRUN [ $(ls /d | wc -l) = 3 ] && [ $(stat -c %a /d/exec.sh) = 755 ]\n",
    ),
    Row::new(
        "copy-directory-content",
        "FROM busybox\nCOPY dir /d\nRUN [ -f /d/.hidden ] && [ -f /d/sub/d.txt ] && [ ! -e /d/dir ]\n",
    ),
    Row::new(
        "copy-wildcards",
        "FROM busybox\nCOPY ?.txt /q/\nCOPY *.t[xy]t /s/\nRUN [ $(ls /q | wc -l) = 2 ] && [ $(ls /s | wc -l) = 5 ]\n",
    ),
    Row::new("copy-json", "FROM busybox\nCOPY [\"sp ace.txt\", \"/a b\"]\nRUN [ -f '/a b' ]\n"),
    Row::new(
        "copy-chown",
        "FROM busybox\nCOPY --chown=app a.txt /1\nCOPY --chown=app:extra a.txt /2\nCOPY --chown=12:34 dir /3\nCOPY --chown=5 a.txt /4\nRUN [ \"$(stat -c %u:%g /1 /2 /3/sub /3/c.txt /4 | tr '\\n' ' ')\" = '1000:1000 1000:2000 12:34 12:34 5:5 ' ]\n",
    ),
    Row::new(
        "copy-chmod",
        "FROM busybox\nARG M=640\nCOPY --chmod=$M a.txt /1\nCOPY --chmod=u=rwX,go= priv.txt dir /2/\nCOPY --chmod=4755 exec.sh /3\nRUN [ \"$(stat -c %a /1 /2/priv.txt /2/sub /3 | tr '\\n' ' ')\" = '640 600 700 4755 ' ]\n",
    ),
    Row::new(
        "copy-user-is-root",
        "FROM busybox\nUSER app\nCOPY a.txt /home/a\nRUN [ $(stat -c %u /home/a) = 0 ]\n",
    ),
    Row::new(
        "copy-link",
        "FROM busybox\nRUN mkdir -m 700 /d && echo old > /d/a.txt\nCOPY --link a.txt dir /d/\nCOPY --link --chown=app b.txt /b\nRUN [ \"$(cat /d/a.txt)\" = a ] && [ -f /d/sub/d.txt ] && [ $(stat -c %u /b) = 1000 ]\n",
    ),
    Row::new(
        "copy-parents",
        "FROM busybox\nCOPY --parents deep/er/est/e.txt dir /p/\nCOPY --parents ./deep/./er/est /q/\nCOPY --parents **/d.txt /r/\nRUN [ -f /p/deep/er/est/e.txt ] && [ -f /p/dir/c.txt ] && [ -f /q/er/est/e.txt ] && [ -f /r/dir/sub/d.txt ]\n",
    ),
    Row::new(
        "copy-exclude",
        "FROM busybox\nCOPY --exclude=*.txt --exclude=sub dir /d/\nRUN [ \"$(ls -A /d)\" = .hidden ]\n",
    ),
    Row::new("copy-over-a-file", "FROM busybox\nCOPY a.txt /f\nCOPY b.txt /f\nRUN [ \"$(cat /f)\" = b ]\n"),
    Row::new(
        "copy-merges",
        "FROM busybox\nRUN mkdir -p /d/sub && echo own > /d/own && chmod 700 /d/sub && chown 3 /d/own\nCOPY dir /d\nRUN [ \"$(cat /d/own)\" = own ] && [ $(stat -c %u /d/own) = 3 ] && [ -f /d/sub/d.txt ]\n",
    ),
    Row::new(
        "copy-through-a-link",
        "FROM busybox\nRUN mkdir /real && ln -s /real /to && ln -s ../real /home/up\nCOPY a.txt /to/\nCOPY b.txt /home/up/b\nRUN [ -f /real/a.txt ] && [ -f /real/b ] && [ -L /to ]\n",
    ),
    Row::new(
        "copy-link-out-of-the-image",
        "FROM busybox\nRUN ln -s ../../../../../../../.. /up\nCOPY a.txt /up/inside\nRUN [ -f /inside ]\n",
    )
    .check("[ ! -e /inside ]"),
    Row::new(
        "copy-of-links",
        "FROM busybox\nCOPY link /file\nCOPY dirlink /d\nCOPY . /all/\nRUN [ ! -L /file ] && [ -f /d/c.txt ] && [ \"$(readlink /all/link)\" = a.txt ] && [ -L /all/dirlink ] && [ /all/a.txt -ef /all/hard.txt ]\n",
    ),
    Row::new(
        "copy-from-a-stage",
        "FROM busybox AS s\nRUN mkdir -p /o/p && echo 1 > /o/f && chown 3:4 /o/f && chmod 600 /o/f && ln -s f /o/l\nFROM busybox\nCOPY --from=s /o /d\nCOPY --from=s o/f o/l /e/\nCOPY --from=s --chown=9:9 /o/* /g/\nRUN [ $(stat -c %u:%g.%a /d/f) = 3:4.600 ] && [ -L /d/l ] && [ -f /e/l ] && [ $(stat -c %u:%g /g/f) = 9:9 ]\n",
    ),
    Row::new(
        "copy-from-an-image",
        "FROM scratch\nCOPY --from=busybox:latest /etc/passwd /p\nFROM busybox\nCOPY --from=0 /p /p\nRUN cmp /p /etc/passwd\n",
    ),
    Row::new("copy-nothing", "FROM busybox\nCOPY *.none /d/\nCOPY empty /e\nRUN [ -d /e ]\n"),
    Row::new(
        "copy-special-files",
        "FROM busybox AS s\nRUN mkdir /o && mkfifo /o/fifo && mknod /o/null c 1 3 && chmod 1777 /o && touch /o/suid && chmod 6755 /o/suid\nFROM busybox\nCOPY --from=s /o /d\nRUN [ -p /d/fifo ] && [ -c /d/null ] && [ $(stat -c %a /d/suid) = 6755 ]\n",
    ),
    Row::new("copy-times-are-given", "FROM busybox\nCOPY a.txt /a\nRUN [ $(stat -c %Y /a) = 1500000000 ]\n")
        .flags("--build-arg SOURCE_DATE_EPOCH=1500000000"),
];

fn archives_are_unpacked(c: &Client) {
    build_all(c, ARCHIVES);
}

pub(crate) const ARCHIVES: &[Row] = &[
    Row::new(
        "add-every-compression",
        "FROM busybox\nADD arch.tar /0/\nADD arch.tar.gz /1/\nADD arch.tar.bz2 /2/\nADD arch.tar.xz /3/\nADD arch.tar.zst /4/\nRUN for d in 0 1 2 3 4; do [ \"$(cat /$d/x/y.txt)\" = y ] && [ -L /$d/x/z ] || exit 1; done; [ $(stat -c %u:%g /1/x/y.txt) = 7:8 ]\n",
    ),
    Row::new(
        "add-unpack-off",
        "FROM busybox\nADD --unpack=false arch.tar.gz /d/\nRUN [ -f /d/arch.tar.gz ]\n",
    ),
    Row::new(
        "add-chown",
        "FROM busybox\nADD --chown=app --chmod=600 a.txt /a\nADD --chown=9:9 arch.tar /d/\nRUN [ $(stat -c %u:%g.%a /a) = 1000:1000.600 ] && [ $(stat -c %u:%g /d/x/y.txt) = 9:9 ]\n",
    ),
    Row::new(
        "add-what-is-no-archive",
        "FROM busybox\nADD a.txt dir /d/\nRUN [ -f /d/a.txt ] && [ -f /d/sub/d.txt ]\n",
    ),
    Row::new("copy-does-not-unpack", "FROM busybox\nCOPY arch.tar.gz /d/\nRUN [ -f /d/arch.tar.gz ]\n"),
    Row::new(
        "add-merges",
        "FROM busybox\nRUN mkdir -p /d/x && echo own > /d/x/own\nADD arch.tar /d\nRUN [ -f /d/x/own ] && [ -f /d/x/y.txt ]\n",
    ),
];

/// Serves files by their paths until it is asked for `/end`.
pub(crate) fn serve(files: Vec<(&'static str, Vec<u8>)>) -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let count = stream.read(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..count]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            if path == "/end" {
                return;
            }
            let found = files.iter().find(|(name, _)| *name == path);
            let (status, body) = found.map_or(("404 Not Found", &[][..]), |(_, body)| ("200 OK", body));
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Sat, 03 Feb 2001 04:05:06 GMT\r\n\
                 Connection: close\r\n\r\n",
                body.len()
            );
            // A client that went away is its own business.
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    (port, thread)
}

/// Ends a server of [`serve`].
pub(crate) fn end(port: u16, thread: std::thread::JoinHandle<()>) {
    let ended = TcpStream::connect(("127.0.0.1", port));
    ended.and_then(|mut stream| stream.write_all(b"GET /end HTTP/1.1\r\n\r\n")).unwrap();
    thread.join().unwrap();
}

fn files_of_the_web_are_fetched(c: &Client) {
    c.ok("mkdir -p web ctx && printf 'FROM busybox\\nCOPY f /f\\nLABEL from=web\\n' > web/Dockerfile && echo x > web/f \
         && tar -C web -czf web.tar.gz Dockerfile f");
    let archive = std::fs::read(c.folder.join("web.tar.gz")).unwrap();
    let (port, thread) = serve(vec![("/f", b"file\n".to_vec()), ("/web.tar.gz", archive)]);
    let other = "0".repeat(64);
    ok(
        c,
        &format!(
            r#"set -e; i=$n/web; u=http://127.0.0.1:{port}
sum=$(printf 'file\n' | sha256sum | cut -d' ' -f1)
cat > ctx/Dockerfile <<EOF
FROM busybox
ADD $u/f /d/
ADD --checksum=sha256:$sum --chmod=644 --chown=7 $u/f /g
ADD --unpack=true $u/web.tar.gz /u/
RUN [ "\$(cat /d/f /g)" = "\$(printf 'file\nfile')" ] && [ \$(stat -c %a.%u /d/f) = 600.0 ] && [ \$(stat -c %a.%u /g) = 644.7 ] && [ -f /u/f ]
EOF
build -t $i ctx > out 2>&1 || {{ cat out; exit 1; }}
printf 'FROM busybox\nADD --checksum=sha256:{other} %s /x\n' $u/f > ctx/Dockerfile
if build ctx > out 2>&1; then exit 1; fi; grep -q "$sum" out && grep -q '>>> ADD' out || {{ cat out; exit 1; }}
printf 'FROM busybox\nADD %s /x\n' $u/none > ctx/Dockerfile
if build ctx > out 2>&1; then exit 1; fi; grep -q '404' out && grep -q '>>> ADD' out || {{ cat out; exit 1; }}
build -t $i $u/web.tar.gz > out 2>&1 || {{ cat out; exit 1; }}; is "$(config Labels)" '{{"from":"web"}}'"#
        ),
    );
    end(port, thread);
}

fn repositories_are_fetched(c: &Client) {
    let port = yare_testkit::free_port();
    ok(c, &(format!("port={port}\n") + "set -e; mkdir -p repo/sub ctx; cd repo; git init -q -b main .; git config user.email x@y; git config user.name x
echo 1 > f; echo s > sub/f; printf 'FROM busybox\\nCOPY f /f\\nRUN [ \"$(cat /f)\" = 1 ]\\n' > Dockerfile
printf 'FROM busybox\\nCOPY f /f\\nRUN [ \"$(cat /f)\" = s ]\\n' > sub/Dockerfile
git add .; git commit -qm one; git tag v1; echo 2 > f; git commit -qam two; git update-server-info; cd ..
mkdir served; git clone -q --bare repo served/r.git; git -C served/r.git update-server-info
git daemon --reuseaddr --export-all --base-path=served --listen=127.0.0.1 --port=$port served > /dev/null 2>&1 & daemon=$!
trap 'kill $daemon' EXIT
for try in $(seq 300); do git ls-remote -q git://127.0.0.1:$port/r.git > /dev/null 2>&1 && break; sleep 0.1; done
u=git://127.0.0.1:$port/r.git
build -t $n/v1 $u#v1; build -t $n/sub $u#main:sub
cat > ctx/Dockerfile <<EOF
FROM busybox
ADD $u /a
ADD --keep-git-dir=true $u#v1 /b
RUN [ \"\\$(cat /a/f /b/f | tr -d '\\n')\" = 21 ] && [ ! -e /a/.git ] && [ -d /b/.git ]
EOF
build -t $n/add ctx"));
}

fn ignored_files_are_not_there(c: &Client) {
    crate::build_table::context(c);
    for (name, patterns, there) in IGNORED {
        std::fs::write(c.folder.join("ctx/.dockerignore"), patterns).unwrap();
        std::fs::write(c.folder.join("ctx/Dockerfile"), "FROM busybox\nCOPY . /x/\n").unwrap();
        ok(
            c,
            &format!(
                "set -e; i=$n/{name}; build -t $i ctx > /dev/null 2>&1; is \"$(docker run --rm -w /x $i find . -type f | sort | tr '\\n' ' ')\" '{there}'"
            ),
        );
    }
    if c.program == Program::Yare {
        // The stock client reads the common one only.
        ok(
            c,
            "set -e; echo '*' > ctx/.dockerignore; echo b.txt > ctx/other.Dockerfile.dockerignore
printf 'FROM busybox\\nCOPY . /x/\\nRUN [ ! -e /x/b.txt ] && [ -e /x/a.txt ]\\n' > ctx/other.Dockerfile
build -f ctx/other.Dockerfile ctx",
        );
    }
}

const IGNORED: &[(&str, &str, &str)] = &[
    ("none-but", "*\n!a.txt\n!dir\ndir/sub\n", "./a.txt ./dir/.hidden ./dir/c.txt "),
    ("deep", "**/*.txt\n*.log\narch*\nexec.sh\n.dockerignore\nDockerfile\n", "./dir/.hidden "),
    (
        "comments",
        "# a comment\n\n/a.txt\n b.txt \n./hard.txt\n*.log\narch*\ndeep/\nsp*\npriv*\nexec*\n.docker*\nDocker*\n",
        "./dir/.hidden ./dir/c.txt ./dir/sub/d.txt ",
    ),
    ("last-counts", "*\n!dir/**\ndir/*.txt\n!dir/c.txt\n", "./dir/.hidden ./dir/c.txt ./dir/sub/d.txt "),
];
