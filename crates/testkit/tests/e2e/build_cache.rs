//! What is done again and what is not, what builds share, and what nobody may find afterwards.

use std::time::{Duration, Instant};

use yare_testkit::{Engine, Outcome};

use crate::build_table::{ok, script};
use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        what_did_not_change_is_not_run.differs("its classic builder writes another history"),
        one_file_among_many_is_copied_and_nothing_else_changes,
        the_cache_is_listed_and_pruned.differs("the classic builder's cache are its images"),
        an_image_goes_and_its_steps_stay.differs("the classic builder's cache are its images");
    Docker:
        independent_stages_run_beside_each_other.alone().differs("its classic builder does one step after the other"),
        builds_of_one_dockerfile_share_their_work.differs("its classic builder shares nothing that is under way"),
        secrets_are_found_nowhere.differs("its classic builder knows no secrets"),
        hosts_and_days_make_the_same_image.differs("the times of its images are those of the build");
];

/// A step whose result is another each time it runs.
const CHANCE: &str =
    "FROM busybox\nARG WHO\nRUN cat /proc/sys/kernel/random/uuid > /u\nCOPY a.txt /a\nCOPY b.txt /b\n";

fn dockerfile(c: &Client, text: &str) {
    c.ok("mkdir -p ctx && echo a > ctx/a.txt && echo b > ctx/b.txt");
    std::fs::write(c.folder.join("ctx/Dockerfile"), text).unwrap();
}

fn what_did_not_change_is_not_run(c: &Client) {
    dockerfile(c, CHANCE);
    let build = |flags: &str| {
        ok(c, &format!("build --build-arg WHO=$n {flags} -t $n/x ctx > out 2>&1 || {{ cat out; exit 1; }}"));
        let layers = c.line("docker image inspect -f '{{range .RootFS.Layers}}{{.}} {{end}}' $n/x");
        layers.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let first = build("");
    assert_eq!(build(""), first);
    if c.program == Program::Docker {
        c.says("grep -c 'Using cache' out", "3\n");
    } else {
        c.ok("grep -q '4 steps, 4 from the cache, 0B added' out");
    }
    // Another time and a new inode change nothing.
    c.ok("touch -d 2001-01-01 ctx/a.txt; cp ctx/b.txt c; mv c ctx/b.txt");
    assert_eq!(build(""), first);
    c.ok("echo c > ctx/b.txt");
    let last = build("--label l=1");
    assert_eq!(last[..3], first[..3]);
    assert_ne!(last[3], first[3]);
    if c.program == Program::Yare {
        c.ok("echo d > ctx/b.txt");
        build("--explain");
        c.ok("grep -q 'because b.txt has changed' out || { cat out; exit 1; }");
        build("--explain --build-arg WHO=else");
        c.ok("grep -q 'because the argument or variable WHO has changed' out || { cat out; exit 1; }");
        let other = build("--no-cache-filter 0");
        assert_ne!(other[1], first[1]);
    }
    let anew = build("--no-cache");
    assert_ne!(anew[1], first[1]);
    // A build that ran everything is what the next one finds.
    assert_eq!(build(""), anew);
    let mode = "chmod 600 ctx/a.txt";
    c.ok(mode);
    assert_ne!(build("")[2], anew[2]);
}

/// The rest is linked from the last result, which stays what it was.
fn one_file_among_many_is_copied_and_nothing_else_changes(c: &Client) {
    dockerfile(c, "FROM busybox\nCOPY many /many\n");
    c.ok("mkdir ctx/many && for f in $(seq 300); do echo $f $n > ctx/many/$f; done");
    ok(c, "build -t $n/one ctx");
    c.ok("echo changed > ctx/many/7; rm ctx/many/8; chmod 600 ctx/many/9; echo new > ctx/many/new");
    ok(c, "build -t $n/two ctx");
    if c.program == Program::Yare {
        // A second build without the first one's results compares equal.
        ok(c, "build --verify -t $n/three ctx");
    }
    let all = "for f in *; do echo $f $(stat -c %a $f) $(cat $f); done";
    let expected = c.ok(&format!("cd ctx/many; {all}"));
    let found = c.ok(&format!("docker run --rm -w /many $n/two sh -c '{all}'"));
    assert_eq!(sorted(&found), sorted(&expected));
    c.says(
        "docker run --rm $n/one sh -c 'cat /many/7 /many/8; stat -c %a /many/9; ls /many | wc -l'",
        &format!("7 {n}\n8 {n}\n644\n300\n", n = c.n),
    );
    // A container that writes one writes its own.
    c.says("docker run --rm $n/two sh -c 'echo mine > /many/1; cat /many/1'", "mine\n");
    c.says("docker run --rm $n/one cat /many/1", &format!("1 {}\n", c.n));
    // The first one goes, and the second is whole.
    c.ok("docker rmi $n/one");
    c.says("docker run --rm $n/two cat /many/1", &format!("1 {}\n", c.n));
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn independent_stages_run_beside_each_other(c: &Client) {
    let stages: String = (0..10)
        .map(|number| format!("FROM busybox AS s{number}\nRUN sleep 3; echo {number} {0} > /f\n", c.n))
        .collect();
    let copies: String = (0..10).map(|number| format!("COPY --from=s{number} /f /f{number}\n")).collect();
    dockerfile(c, &format!("{stages}FROM busybox\n{copies}RUN cat /f0 /f9\n"));
    let begun = Instant::now();
    ok(c, "build -t $n/x ctx");
    assert!(begun.elapsed() < Duration::from_secs(20), "thirty seconds of sleep took {:?}", begun.elapsed());
}

fn builds_of_one_dockerfile_share_their_work(c: &Client) {
    dockerfile(c, &CHANCE.replace("RUN cat", "RUN sleep 1; cat"));
    ok(
        c,
        "for i in 1 2 3 4 5; do docker build --build-arg WHO=$n -q ctx > out$i 2>&1 & done; wait; cat out*",
    );
    c.says("cat out? | grep -c sha256:", "5\n");
    c.says("cat out? | grep sha256: | sort -u | wc -l", "1\n");
}

fn the_cache_is_listed_and_pruned(c: &Client) {
    let engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    dockerfile(
        &own,
        "FROM busybox\nRUN --mount=type=cache,target=/c echo cached > /c/f\nRUN head -c 100000 /dev/zero > /z\nCOPY a.txt /a\n",
    );
    ok(&own, "build -t x ctx");
    own.says("docker system df --format '{{.Type}} {{.TotalCount}}' | tail -1", "Build Cache 4\n");
    let rows = own.api("GET", "/system/df", None).json();
    let rows = rows["BuildCache"].as_array().unwrap().clone();
    let row = |kind: &str, description: &str| {
        rows.iter()
            .find(|row| row["Type"] == kind && row["Description"].as_str().unwrap().contains(description))
            .unwrap_or_else(|| panic!("no {kind} {description:?} in {rows:?}"))
            .clone()
    };
    assert_eq!(row("exec.cachemount", "")["Size"], 7);
    assert_eq!(row("regular", "/dev/zero")["Size"], 100_000);
    assert_eq!(row("regular", "/dev/zero")["Shared"], true, "an image has its layer");
    assert_eq!(row("regular", "COPY a.txt")[" Parents"][0], row("regular", "/dev/zero")["ID"]);
    own.ok("docker rmi x");
    // Kept for the next build, and now the cache's own.
    ok(&own, "build -t x ctx > out 2>&1; ! grep -q 'added' out || grep -q ' 0B added' out");
    own.ok("docker rmi x");
    let pruned = own.ok("docker builder prune -f --filter type=exec.cachemount");
    assert!(pruned.ends_with("Total reclaimed space: 7B\n"), "{pruned}");
    let pruned = own.ok("docker builder prune -af");
    assert!(pruned.ends_with("Total reclaimed space: 100kB\n"), "{pruned}");
    own.says(
        "docker system df --format '{{.Type}} {{.TotalCount}} {{.Size}}' | tail -1",
        "Build Cache 0 0B\n",
    );
    ok(&own, "build -t x ctx");
    drop(own);
    engine.finish();
}

fn an_image_goes_and_its_steps_stay(c: &Client) {
    dockerfile(c, CHANCE);
    let build = "build --build-arg WHO=$n-rmi -q -t $n/x ctx 2> /dev/null";
    let build = if c.program == Program::Yare {
        build.replace("build --", "docker build --")
    } else {
        build.to_owned()
    };
    let first = ok(c, &build);
    c.ok("docker rmi $n/x");
    assert_eq!(ok(c, &build), first);
    c.says("docker run --rm $n/x sh -c 'wc -c < /u'", "37\n");
}

fn secrets_are_found_nowhere(c: &Client) {
    let engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    // What is looked for is in no script and no Dockerfile either.
    let secret = format!("{}-{:x}", own.n, std::process::id()).repeat(3);
    dockerfile(
        &own,
        "FROM busybox\nRUN --mount=type=secret,id=s,target=/s,required [ $(wc -c < /s) -gt 10 ]\nRUN --mount=type=secret,id=s,env=S,required [ ${#S} -gt 10 ] && echo ok > /f\n",
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s"), &secret).unwrap();
    let yare = yare_testkit::yare_binary().display().to_string();
    let source = folder.path().join("s").display().to_string();
    own.ok(&format!("{yare} build --progress=rawjson --secret id=s,src={source} -t x ctx > out 2>&1 || {{ cat out; exit 1; }}"));
    own.ok("docker history --no-trunc x > history; docker image inspect x > inspected; docker system df -v > df; docker save x > saved; docker events --since 1h --until 0s > events");
    engine_holds_nothing(&own, &secret);
    // Its value is no part of the key: another value changes nothing.
    std::fs::write(folder.path().join("s"), format!("another {secret}")).unwrap();
    own.ok(&format!("{yare} build --progress=plain --secret id=s,src={source} -t x ctx 2>&1 | grep -q '3 steps, 3 from the cache'"));
    drop(own);
    engine.finish();
}

#[track_caller]
fn engine_holds_nothing(c: &Client, secret: &str) {
    let found = c.run(&format!("grep -rlF '{secret}' {} .", c.host.folder.display()));
    assert_eq!(
        (found.code, found.stdout.as_str()),
        (1, ""),
        "the secret is in these files: {}",
        found.stderr
    );
}

/// The same files with other times, owners' umask and engine give the same image.
fn hosts_and_days_make_the_same_image(c: &Client) {
    let engines = [Engine::start(), Engine::start()];
    let base = engines[0]
        .docker(&["import", "--change", "CMD [\"sh\"]", "-", "busybox:latest"])
        .input(yare_testkit::busybox_rootfs_tar());
    base.ok();
    let saved: Outcome = engines[0].docker(&["save", "busybox"]).run();
    engines[1].docker(&["load"]).input(saved.bytes).ok();
    let image = |engine: &Engine, before: &str| {
        let own = c.of(engine);
        let build = script(&own, &format!("set -e; {before}; mkdir -p ctx/d; echo a > ctx/d/a; echo b > ctx/b; ln -s b ctx/l; echo '#!x' > ctx/x; chmod 755 ctx/x ctx/d ctx; chmod 644 ctx/b ctx/d/a
printf 'FROM busybox\\nRUN mkdir /made && echo x > /made/f && ln -s f /made/l && rm /bin/yes\\nCOPY . /all/\\nWORKDIR /w\\nCOPY --link <<EOF /here\\nx\\nEOF\\nRUN rm -r /made && echo 1 > /etc/new\\nENV A=1\\nCMD [\"a\"]\\n' > ctx/Dockerfile; chmod 644 ctx/Dockerfile
build -t x ctx > out 2>&1 || {{ cat out; exit 1; }}"));
        own.ok(&build);
        (
            own.line("docker image inspect -f '{{.Id}}' x"),
            own.ok("docker image inspect -f '{{range .RootFS.Layers}}{{println .}}{{end}}{{.Created}}' x"),
        )
    };
    let one = image(&engines[0], "umask 022");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(image(&engines[1], "umask 077; export TZ=Asia/Tokyo; mkdir ctx; echo gone > ctx/b"), one);
    engines.into_iter().for_each(Engine::finish);
}
