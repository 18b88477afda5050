//! `cp`: files from and to containers.

use serde_json::{Value, json};

use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        files_go_in_and_out,
        directories_go_in_and_out_as_they_are,
        contents_are_merged,
        created_and_stopped_containers_have_files,
        a_slow_reader_is_in_nobody_s_way.differs("it holds the container's lock meanwhile"),
        links_are_copied_or_followed,
        links_never_lead_out,
        archives_come_and_go_as_streams,
        volumes_and_binds_are_reached,
        files_of_the_network_are_reached,
        what_is_read_only_stays,
        owners_are_those_of_the_source,
        what_is_wrong_is_said,
        kinds_are_not_exchanged,
        large_files_arrive,
        sparse_files_stay_sparse.differs("its reader of archives does not know them"),
        memory_is_reached.differs("a copy there ends below the tmpfs");
    Api:
        the_header_tells_what_a_path_is,
        archives_are_named_after_their_path,
        archive_requests_are_refused_in_docker_s_words.differs_from_old("its texts are others"),
        an_archive_may_be_compressed;
];

fn running(c: &Client, flags: &str) {
    c.ok(&format!("docker run -d --name $n {flags} busybox sleep 1000"));
}

fn files_go_in_and_out(c: &Client) {
    running(c, "");
    c.ok("echo in > f; chmod 751 f; touch -d '2020-02-02 02:02:02Z' f");
    c.ok("docker cp f $n:/tmp/g");
    c.says("docker exec $n sh -c 'cat /tmp/g; stat -c \"%a %Y\" /tmp/g'", "in\n751 1580608922\n");
    c.ok("docker exec $n sh -c 'echo out > /tmp/h'; docker cp $n:/tmp/h . ; docker cp -q $n:/tmp/h other");
    c.says("cat h other", "out\nout\n");
    c.ok("mkdir d; docker cp $n:tmp/g d/; docker cp $n:/tmp/g d");
    c.says("stat -c '%a %Y' d/g", "751 1580608922\n");
    let said = c.run("docker cp --quiet=false f $n:/tmp").stderr;
    assert!(
        said.contains("Successfully copied") && said.trim_end().ends_with(&format!("to {}:/tmp", c.n)),
        "{said}"
    );
    // Twice: it is replaced.
    c.ok("echo two > f; docker cp f $n:/tmp/g");
    c.says("docker exec $n cat /tmp/g", "two\n");
}

fn directories_go_in_and_out_as_they_are(c: &Client) {
    running(c, "");
    c.ok("mkdir -p d/sub/deep d/empty; echo a > d/a; ln d/a d/hard; ln -s a d/link; ln -s /nowhere d/broken; mkfifo d/pipe");
    c.ok("chmod 1777 d/sub; chmod 4711 d/a; echo x > d/sub/deep/x; touch -d @1500000000 d/sub/deep d");
    c.ok("docker cp d $n:/new; docker cp d $n:/tmp");
    let list = "sh -c 'cd /new; find . | sort; stat -c \"%a %F\" a sub; stat -c %Y . sub/deep; stat -c %h hard; readlink link; readlink broken'";
    c.says(
        &format!("docker exec $n {list}"),
        ".\n./a\n./broken\n./empty\n./hard\n./link\n./pipe\n./sub\n./sub/deep\n./sub/deep/x\n4711 regular file\n1777 directory\n1500000000\n1500000000\n2\na\n/nowhere\n",
    );
    c.says("docker exec $n ls /tmp", "d\n");
    c.ok("docker cp $n:/new back");
    c.says("stat -c '%a' back/a back/sub && stat -c %Y back", "4711\n1777\n1500000000\n");
    c.says("rm -f d/pipe back/pipe; diff -r --no-dereference d back", "");
    // Into one that is there, and again.
    c.ok("docker cp $n:/new back");
    c.says("cat back/new/sub/deep/x", "x\n");
}

fn contents_are_merged(c: &Client) {
    running(c, "");
    c.ok("mkdir -p one/s two/s; echo 1 > one/s/1; echo 2 > two/s/2; echo 2 > two/top");
    c.ok("docker cp one/. $n:/m; docker cp two/. $n:/m");
    c.says("docker exec $n sh -c 'cd /m; find . -type f | sort'", "./s/1\n./s/2\n./top\n");
    c.ok("mkdir out; docker cp $n:/m/. out; docker cp $n:/m/s/. out");
    c.says("cd out; find . -type f | sort", "./1\n./2\n./s/1\n./s/2\n./top\n");
    c.ok("docker cp $n:/m/. new; rm -rf out; mkdir out; docker cp $n:/ out; docker cp $n:/m out/m2");
    c.says(
        "ls new new/s; cat out/m/top out/m2/s/1 && ls out/bin/sh",
        "new:\ns\ntop\n\nnew/s:\n1\n2\n2\n1\nout/bin/sh\n",
    );
}

fn created_and_stopped_containers_have_files(c: &Client) {
    c.ok("docker create --name $n -v $n-v:/data busybox sh -c 'cat /in /data/in; echo out > /out; echo v > /data/out'");
    c.ok("echo early > in; docker cp in $n:/in; docker cp in $n:/data/in");
    c.says("docker start -a $n", "early\nearly\n");
    c.says("docker cp $n:/out - | tar xO; docker cp $n:/data/out - | tar xO", "out\nv\n");
    c.ok("echo again > in; docker cp in $n:/in");
    c.says("docker start -a $n", "again\nearly\n");
    // Nothing of it keeps a container from going.
    c.ok("docker rm $n; docker volume rm $n-v");
}

fn a_slow_reader_is_in_nobody_s_way(c: &Client) {
    c.ok("docker run --name $n -v $n-v:/v busybox sh -c 'head -c 30000000 /dev/zero > /big'");
    let slow = "read -n 1 x; for i in $(seq 300); do [ ! -e done ] || exit; sleep 0.1; done";
    let reader = c.spawn(&format!("docker cp $n:/big - | ({slow})"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    c.ok("timeout 60 docker start $n; docker wait $n; timeout 60 docker rm $n; touch done");
    drop(reader);
}

fn links_are_copied_or_followed(c: &Client) {
    running(c, "");
    c.ok("docker exec $n sh -c 'mkdir /real; echo r > /real/f; ln -s /real /dl; ln -s real/f /fl; ln -s fl /ffl'");
    c.ok("docker cp $n:/fl plain; docker cp -L $n:/ffl followed; docker cp -L $n:/dl folder; docker cp $n:/dl/f through");
    c.says("readlink plain; cat followed folder/f through", "real/f\nr\nr\nr\n");
    c.ok("mkdir into; docker cp -L $n:/dl into; docker cp -L $n:/fl into");
    c.says("cat into/dl/f into/fl", "r\nr\n");
    c.ok("echo new > f; ln -s f l; docker cp l $n:/real/l; docker cp -L l $n:/real/f2; docker cp f $n:/dl; docker cp f $n:/dl/g");
    c.says("docker exec $n sh -c 'readlink /real/l; cat /real/f2 /real/f /real/g'", "f\nnew\nnew\nnew\n");
    // The destination is a link to a file: that file is written.
    c.ok("echo to > t; docker cp t $n:/ffl");
    c.says("docker exec $n sh -c 'cat /real/f; readlink /ffl'", "to\nfl\n");
}

fn links_never_lead_out(c: &Client) {
    running(c, "");
    c.ok("mkdir outside; echo host > outside/f; echo x > x");
    let outside = c.folder.join("outside").display().to_string();
    let up = "../../../../../../../../../../../..";
    c.ok(&format!(
        "docker exec $n sh -c 'ln -s {outside} /abs; ln -s {up}{outside} /up; ln -s /proc/1/root /magic'"
    ));
    for link in ["abs", "up"] {
        c.refuses(
            1,
            &format!("docker cp $n:/{link}/f ."),
            &format!("Error response from daemon: Could not find the file /{link}/f in container {}", c.n),
        );
        c.fails(1, &format!("docker cp x $n:/{link}/f"));
    }
    c.fails(1, &format!("docker cp $n:/magic{outside}/f ."));
    c.fails(1, &format!("docker cp x $n:/magic{outside}/f"));
    // A path of the host that the container has too is the container's.
    c.ok(&format!(
        "docker exec $n sh -c 'mkdir -p {outside}; echo inside > {outside}/f'; docker cp x $n:/abs/f"
    ));
    c.says("cat outside/f", "host\n");
    c.says(&format!("docker exec $n cat {outside}/f"), "x\n");
    // Links that the archive brings along.
    c.ok(&format!("mkdir a b; ln -s {outside} a/l; tar -C a -cf 1.tar l; mkdir b/l; echo evil > b/l/f; tar -C b -cf 2.tar l/f"));
    c.ok("docker exec $n mkdir /to; docker cp - $n:/to < 1.tar");
    c.run("docker cp - $n:/to < 2.tar");
    c.says("cat outside/f; ls outside", "host\nf\n");
}

fn archives_come_and_go_as_streams(c: &Client) {
    running(c, "");
    c.ok("mkdir -p s/d; echo 1 > s/1; echo 2 > s/d/2; tar -C s -cf a.tar . ; tar -C s -czf b.tgz 1");
    c.ok("docker exec $n mkdir /to /gz; docker cp - $n:/to < a.tar; docker cp - $n:/gz < b.tgz");
    c.says("docker exec $n cat /to/1 /to/d/2 /gz/1", "1\n2\n1\n");
    c.says("docker cp $n:/to - | tar t | sort", "to/\nto/1\nto/d/\nto/d/2\n");
    c.says("docker cp $n:/to/. - | tar t | sort", "./\n./1\n./d/\n./d/2\n");
    c.says("docker cp $n:/to/d/2 - | tar tv | cut -c1-10", "-rw-r--r--\n");
    c.refuses(
        1,
        "docker cp - $n:/to/1 < a.tar",
        &format!("destination \"{}:/to/1\" must be a directory", c.n),
    );
}

fn volumes_and_binds_are_reached(c: &Client) {
    c.ok("mkdir host; echo h > host/f; echo one > one; docker volume create $n-v");
    c.ok(
        "docker run -d --name $n -v $n-v:/v -v $PWD/host:/v/deep/host -v $PWD/one:/single busybox sleep 1000",
    );
    let check = || {
        c.ok("echo new > new; docker cp new $n:/v; docker cp new $n:/v/deep/host/g");
        c.says("docker run --rm -v $n-v:/v busybox cat /v/new; cat host/g; rm host/g", "new\nnew\n");
        c.says("docker cp $n:/v/deep/host/f - | tar xO; docker cp $n:/single - | tar xO", "h\none\n");
        c.says("docker cp $n:/v - | tar t | sort", "v/\nv/deep/\nv/deep/host/\nv/deep/host/f\nv/new\n");
    };
    check();
    c.ok("docker stop -t0 $n");
    check();
}

fn files_of_the_network_are_reached(c: &Client) {
    running(c, "--hostname $n --add-host other:192.0.2.7");
    let check = || {
        c.says("docker cp $n:/etc/hostname - | tar xO", &format!("{}\n", c.n));
        c.says("docker cp $n:/etc/hosts - | tar xO | grep -c 192.0.2.7", "1\n");
        c.says("docker cp $n:/etc/. - | tar t | grep -cx './\\(hosts\\|hostname\\|resolv.conf\\)'", "3\n");
    };
    c.ok("echo mine > hosts");
    let text = c.fails(1, "docker cp hosts $n:/etc/hosts");
    assert!(text.contains("hosts: device or resource busy"), "{text}");
    c.says("docker exec $n grep -c 192.0.2.7 /etc/hosts", "1\n");
    check();
    c.ok("docker kill $n; docker wait $n");
    check();
}

fn what_is_read_only_stays(c: &Client) {
    c.ok("mkdir host; echo x > x; docker run -d --name $n --read-only -v $n-v:/v -v $PWD/host:/h:ro busybox sleep 1000");
    let check = || {
        let text = |what: &str| format!("Error response from daemon: {what} is marked read-only");
        c.refuses(1, "docker cp x $n:/", &text("container rootfs"));
        c.refuses(1, "docker cp x $n:/tmp/x", &text("container rootfs"));
        c.refuses(1, "docker cp x $n:/h", &text("mounted volume"));
        c.ok("docker cp x $n:/v");
    };
    check();
    c.ok("docker stop -t0 $n");
    check();
    c.says("ls host", "");
}

fn owners_are_those_of_the_source(c: &Client) {
    c.ok("echo bob:x:1234:5678::/:/bin/sh > passwd; docker create --name $n-u -u bob busybox true; docker cp passwd $n-u:/etc/passwd");
    running(c, "");
    c.ok("mkdir d; echo 1 > d/f; chown -R 77:88 d; docker cp d $n:/d; docker cp -a d $n:/a; docker cp -a d $n-u:/d");
    c.says("docker exec $n stat -c %u:%g /d /d/f /a /a/f", "77:88\n77:88\n77:88\n77:88\n");
    c.says("docker cp $n-u:/d - | tar tv --numeric-owner | awk '{print $2}'", "1234/5678\n1234/5678\n");
    if c.program == Program::Yare {
        // Docker's client takes the flag and does nothing with it.
        c.ok("docker exec $n chown 5:6 /d/f; docker cp -a $n:/d/f kept");
        c.says("stat -c %u:%g kept", "5:6\n");
    }
}

fn what_is_wrong_is_said(c: &Client) {
    running(c, "");
    c.ok("echo x > x; mkdir d");
    let n = &c.n;
    let daemon = |text: &str| format!("Error response from daemon: {text}");
    c.refuses(
        1,
        "docker cp $n:/nosuch .",
        &daemon(&format!("Could not find the file /nosuch in container {n}")),
    );
    c.refuses(
        1,
        "docker cp x $n:/nosuch/y",
        &daemon(&format!("Could not find the file /nosuch in container {n}")),
    );
    c.refuses(1, "docker cp $n-no:/x .", &daemon(&format!("No such container: {n}-no")));
    c.refuses(1, "docker cp x $n-no:/x", &daemon(&format!("No such container: {n}-no")));
    // Docker's client may complain of its own pipe first.
    let text = c.fails(1, "docker cp d $n:/etc/passwd");
    assert!(text.ends_with("cannot copy directory\n"), "{text}");
    c.refuses(1, "docker cp x y", "must specify at least one container source");
    c.refuses(1, "docker cp $n:/x $n:/y", "copying between containers is not supported");
    c.refuses(1, "docker cp $n:/etc x", "cannot copy directory");
    c.fails(1, "docker cp x $n:/etc/passwd/");
    c.fails(1, "docker cp $n:/etc/passwd/x .");
    c.fails(1, "docker cp nosuch $n:/");
}

fn kinds_are_not_exchanged(c: &Client) {
    running(c, "");
    c.ok("docker exec $n sh -c 'mkdir -p /to/d/full; echo f > /to/f'; mkdir -p s/f; echo d > s/d");
    let over = |from: &str, to: &str, name: &str| {
        format!("Error response from daemon: cannot overwrite {to} \"{name}\" with {from} \"/to\"")
    };
    c.refuses(1, "tar -C s -c f | docker cp - $n:/to", &over("directory", "non-directory", "f"));
    c.refuses(1, "tar -C s -c d | docker cp - $n:/to", &over("non-directory", "directory", "d"));
    c.says("docker exec $n sh -c 'cat /to/f; ls /to/d'", "f\nfull\n");
}

fn large_files_arrive(c: &Client) {
    running(c, "");
    c.ok("head -c 40000000 /dev/urandom > big");
    c.ok("docker cp big $n:/big");
    c.says("docker exec $n cat /big | cmp - big && echo same", "same\n");
    c.ok("docker cp $n:/big back && cmp big back");
}

fn sparse_files_stay_sparse(c: &Client) {
    running(c, "");
    c.ok("truncate -s 3G sparse; echo end >> sparse");
    c.ok("tar -cSf - sparse | docker cp - $n:/");
    c.says(
        "docker exec $n sh -c 'stat -c %s /sparse; tail -n1 /sparse | tr -d \"\\0\"'",
        "3221225476\nend\n",
    );
    c.says("docker cp $n:/sparse - | head -c 1000000 | wc -c | awk '{print ($1 < 100000)}'", "1\n");
}

fn memory_is_reached(c: &Client) {
    running(c, "--tmpfs /t --mount type=tmpfs,dst=/u");
    c.ok("echo x > x; docker cp x $n:/t/x; docker cp x $n:/u");
    c.says("docker exec $n cat /t/x /u/x; docker cp $n:/t/x - | tar xO", "x\nx\nx\n");
}

fn head(c: &Client, path: &str) -> (u16, Value) {
    let response = c.api("HEAD", &format!("/v1.51/containers/{}/archive?path={path}", c.n), None);
    let stat = response.header("x-docker-container-path-stat").map(|header| {
        let json = c.ok(&format!("echo {header} | base64 -d"));
        let mut stat: Value = serde_json::from_str(&json).unwrap();
        assert!(stat["mtime"].as_str().unwrap().starts_with("20"), "{stat}");
        stat.as_object_mut().unwrap().remove("mtime");
        stat
    });
    (response.status, stat.unwrap_or_default())
}

fn the_header_tells_what_a_path_is(c: &Client) {
    running(c, "");
    c.ok("docker exec $n sh -c 'mkdir /d; chmod 1777 /d; echo hello > /d/f; chmod 4640 /d/f; ln -s ../../d/f /d/l; ln -s nosuch /d/b; ln -s /d /dl; mkfifo /d/p'");
    let stat = |name: &str, size: u64, mode: u64, target: &str| {
        (200, json!({"name": name, "size": size, "mode": mode, "linkTarget": target}))
    };
    let (setuid, link, pipe) = (1 << 23, 1 << 27, 1 << 25);
    assert_eq!(head(c, "/d/f"), stat("f", 6, setuid | 0o640, ""));
    assert_eq!(head(c, "d/f"), stat("f", 6, setuid | 0o640, ""));
    assert_eq!(head(c, "/dl/f"), stat("f", 6, setuid | 0o640, ""));
    assert_eq!(head(c, "/d/l"), stat("l", 9, link | 0o777, "/d/f"));
    assert_eq!(head(c, "/d/b"), stat("b", 6, link | 0o777, "/d/nosuch"));
    assert_eq!(head(c, "/dl"), stat("dl", 2, link | 0o777, "/d"));
    assert_eq!(head(c, "/d/p"), stat("p", 0, pipe | 0o644, ""));
    for (path, name) in [("/d", "d"), ("/d/", "d"), ("/dl/", "dl"), ("/d/.", "."), ("/", "/"), ("/.", ".")] {
        let (status, stat) = head(c, path);
        let sticky = if name == "/" || path == "/." { 0 } else { 1 << 20 | 0o777 };
        assert_eq!((status, stat["name"].as_str()), (200, Some(name)), "{path}");
        let mode = stat["mode"].as_u64().unwrap();
        assert!(mode & 1 << 31 != 0 && mode & sticky == sticky, "{path}: {stat}");
    }
    assert_eq!(head(c, "/nosuch").0, 404);
    assert_eq!(head(c, "/proc/1").0, 404, "what the kernel shows is no part of it");
    assert_eq!(head(c, "").0, 400);
}

fn archives_are_named_after_their_path(c: &Client) {
    running(c, "-v $n-v:/v");
    c.ok("docker exec $n sh -c 'mkdir /d; echo 1 > /d/f; ln -s /d /dl; echo v > /v/f'");
    let list = |path: &str| {
        let url = format!("http://docker/v1.51/containers/{}/archive?path={path}", c.n);
        c.ok(&format!("curl -sf --unix-socket {} '{url}' | tar -Pt", c.host.socket.display()))
    };
    assert_eq!(list("/d"), "d/\nd/f\n");
    assert_eq!(list("/d/"), "d/\nd/f\n");
    assert_eq!(list("/d/."), "./\n./f\n");
    assert_eq!(list("/dl"), "dl\n");
    assert_eq!(list("/dl/"), "dl/\ndl/f\n");
    assert_eq!(list("/d/f"), "f\n");
    let root = list("/");
    for line in ["/", "/d/f", "/etc/passwd", "/proc/", "/dev/", "/v/f"] {
        assert!(root.lines().any(|have| have == line), "{line} is missing in {root}");
    }
    assert!(!root.contains("/proc/1"), "{root}");
}

fn archive_requests_are_refused_in_docker_s_words(c: &Client) {
    running(c, "");
    c.ok("docker exec $n sh -c 'ln -s b /a; ln -s a /b'");
    let get = |query: &str| {
        let response = c.api("GET", &format!("/v1.51/containers/{}/archive{query}", c.n), None);
        (response.status, response.message())
    };
    assert_eq!(get(""), (400, "bad parameter: pathcannot be empty".to_owned()));
    assert_eq!(get("?path=/no"), (404, format!("Could not find the file /no in container {}", c.n)));
    assert_eq!(get("?path=/a/x").1, "lstat /a/x: too many levels of symbolic links");
    assert_eq!(get("?path=/etc/passwd/x").1, "lstat /etc/passwd/x: not a directory");
    let put = |path: &str| {
        let response = c.api("PUT", &format!("/v1.51/containers/{}/archive?path={path}", c.n), None);
        (response.status, response.message())
    };
    assert_eq!(put("/etc/passwd"), (400, "extraction point is not a directory".to_owned()));
    assert_eq!(put("/no"), (404, format!("Could not find the file /no in container {}", c.n)));
    assert_eq!(put("/etc/passwd/x").1, "not a directory");
}

fn an_archive_may_be_compressed(c: &Client) {
    running(c, "");
    c.ok("echo 1 > f; docker exec $n mkdir /gz /xz /bz2 /zst");
    for (flag, name) in [("-z", "gz"), ("-J", "xz"), ("-j", "bz2"), ("--zstd", "zst")] {
        c.ok(&format!("tar {flag} -cf a.{name} f; docker cp - $n:/{name} < a.{name}"));
        c.says(&format!("docker exec $n cat /{name}/f"), "1\n");
    }
}
