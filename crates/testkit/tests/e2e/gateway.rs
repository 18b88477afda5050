//! Frontends that are programs in images: `# syntax=` beyond the stock family.

use std::time::Duration;

use yare_testkit::eventually;

use crate::buildx::{OWN, buildx, dockerfile, fails, ok};
use crate::case::cases;
use crate::client::Client;
use crate::llb::{BUSYBOX, Bridge, Graph};
use crate::terminal::Terminal;
use crate::wire::{Message, fields, number, text};

cases![
    Docker:
        a_file_is_built_by_the_frontend_that_it_names.differs(OWN),
        a_frontend_is_chosen_by_an_argument.differs(OWN),
        a_frontend_builds_for_several_platforms.differs(OWN),
        errors_of_frontends_have_their_place.differs(OWN),
        bad_frontends_are_told_of.differs(OWN),
        a_frontend_has_no_network_of_its_own.differs(OWN),
        a_frontend_may_ask_the_stock_one.differs(OWN),
        questions_pass_through_to_frontends.differs(OWN),
        a_frontend_ends_with_its_client.differs(OWN),
        a_frontend_runs_processes_over_its_results.differs(OWN),
        a_client_looks_around_in_its_build.differs(OWN);
    Both:
        frontends_need_no_session.differs(OWN);
    Api:
        processes_have_streams_signals_and_terminals.differs(OWN),
        containers_end_with_their_build.differs(OWN);
];

/// Makes the image of the frontend, `$n/frontend`; `false` without the plugin.
fn frontend(c: &Client) -> bool {
    if !buildx(c) {
        return false;
    }
    std::fs::create_dir_all(c.folder.join("frontend")).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), c.folder.join("frontend/program")).unwrap();
    let lines = "FROM scratch\nCOPY program /program\nENV YARE_E2E_HELPER=frontend\nENTRYPOINT [\"/program\"]\n\
                 LABEL moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests\n";
    std::fs::write(c.folder.join("frontend/Dockerfile"), lines).unwrap();
    ok(c, "docker buildx build -q --load -t $n/frontend ../frontend");
    true
}

/// A file of the frontend's language.
fn file(c: &Client, lines: &str) {
    dockerfile(c, &format!("# syntax={}/frontend\n{lines}", c.n));
}

fn a_file_is_built_by_the_frontend_that_it_names(c: &Client) {
    if !frontend(c) {
        return;
    }
    file(c, &format!("run echo {} > /made\narg WHO\ncopy file\n", c.n));
    let first = ok(c, "docker buildx build --load -t $n/x --build-arg WHO=me . 2>&1");
    assert!(first.contains(&format!("[frontend] {}/frontend", c.n)), "{first}");
    assert_eq!(ok(c, "docker run --rm $n/x"), format!("{}\n", c.n));
    assert_eq!(ok(c, "docker run --rm $n/x cat /WHO /file"), "me\nhello\n");
    assert_eq!(ok(c, "docker inspect -f '{{.Config.Labels.made}}' $n/x"), "elsewhere\n");
    let again = ok(c, "docker build -t $n/x --build-arg WHO=me . 2>&1");
    let cached = |said: &str, step: &str| {
        let mut lines = said.lines().skip_while(|line| !line.ends_with(step));
        lines.nth(1).is_some_and(|line| line.ends_with("CACHED"))
    };
    assert!(cached(&again, "> /made") && cached(&again, "> /WHO"), "{again}");
    let other = ok(c, "docker build -t $n/x --build-arg WHO=you . 2>&1");
    assert!(cached(&other, "> /made") && !cached(&other, "> /WHO"), "{other}");
    assert_eq!(ok(c, "docker run --rm $n/x cat /WHO"), "you\n");
}

fn a_frontend_is_chosen_by_an_argument(c: &Client) {
    if !frontend(c) {
        return;
    }
    dockerfile(c, "run echo chosen > /made\n");
    ok(c, "docker buildx build --load -t $n/x --build-arg BUILDKIT_SYNTAX=$n/frontend . 2>&1");
    assert_eq!(ok(c, "docker run --rm $n/x"), "chosen\n");
    // The file's own wish does not count then.
    file(c, "FROM busybox\nRUN echo stock > /made\n");
    let stock = "docker buildx build --load -t $n/y --build-arg BUILDKIT_SYNTAX=docker/dockerfile:1 . 2>&1";
    ok(c, stock);
    assert_eq!(ok(c, "docker run --rm $n/y cat /made"), "stock\n");
}

fn a_frontend_builds_for_several_platforms(c: &Client) {
    if !frontend(c) {
        return;
    }
    file(c, "run echo both > /made\neverywhere\n");
    ok(c, "docker buildx build --platform linux/amd64,linux/arm64 -o type=oci,dest=out.tar . 2>&1");
    let found = ok(
        c,
        "mkdir out && tar -C out -xf out.tar && grep -rho '\"architecture\":\"a[a-z]*64\",\"os\":\"linux\"}' out/blobs | sort -u",
    );
    assert_eq!(found.lines().count(), 2, "{found}");
}

fn errors_of_frontends_have_their_place(c: &Client) {
    if !frontend(c) {
        return;
    }
    file(c, "run echo before; false\n");
    let said = fails(c, "docker buildx build .");
    for part in [
        "Dockerfile:2\n",
        "   2 | >>> run echo before; false\n",
        "process \"sh -c echo before; false\" did not complete successfully: exit code: 1",
    ] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    file(c, "run true\nfail nobody wants this\n");
    let said = fails(c, "docker buildx build .");
    assert!(said.contains("   3 | >>> fail nobody wants this\n"), "{said}");
    assert!(said.contains("failed to solve: nobody wants this"), "{said}");
    dockerfile(c, &format!("# syntax={}/nowhere\nrun true\n", c.n));
    let said = fails(c, "docker buildx build .");
    assert!(said.contains(&format!("   1 | >>> # syntax={}/nowhere\n", c.n)), "{said}");
}

fn bad_frontends_are_told_of(c: &Client) {
    if !frontend(c) {
        return;
    }
    for (line, parts) in [
        ("die", &["failed: exit code: 3; it said:", "out of ideas"][..]),
        ("leave", &["ended without a result"]),
        ("babble", &["what it writes on its standard output is no gRPC"]),
        ("stranger 1234", &["this build has no result \"1234\""]),
        ("from local://../..", &["docker-image"]),
        ("nonsense", &["failed: exit code: 101", "an unknown instruction \"nonsense\""]),
    ] {
        file(c, &format!("{line}\n"));
        let said = fails(c, "docker buildx build .");
        for part in parts {
            assert!(said.contains(part), "{line}: {part:?} is missing: {said}");
        }
    }
    // No frontend at all.
    file(c, "run true\n");
    let said = fails(c, "docker buildx build --build-arg BUILDKIT_SYNTAX=busybox .");
    assert!(said.contains("cannot run the frontend busybox: exec: \"/run\""), "{said}");
}

fn a_frontend_has_no_network_of_its_own(c: &Client) {
    if !frontend(c) {
        return;
    }
    file(c, "network\n");
    let said = fails(c, "docker buildx build .");
    assert!(said.contains("failed to solve: lo\n"), "{said}");
    let open = "printf 'FROM %s/frontend\\nLABEL moby.buildkit.frontend.network.none=false\\n' $n | docker build -q -t $n/open -";
    ok(c, open);
    let said = fails(c, "docker buildx build --build-arg BUILDKIT_SYNTAX=$n/open .");
    assert!(said.contains("eth0"), "{said}");
}

fn a_frontend_may_ask_the_stock_one(c: &Client) {
    if !frontend(c) {
        return;
    }
    file(c, "inner Dockerfile.inner\n");
    std::fs::write(c.folder.join("ctx/Dockerfile.inner"), "FROM busybox\nCOPY file /inner\n").unwrap();
    ok(c, "docker buildx build --load -t $n/x . 2>&1");
    assert_eq!(ok(c, "docker run --rm $n/x cat /inner"), "hello\n");
}

fn questions_pass_through_to_frontends(c: &Client) {
    if !frontend(c) {
        return;
    }
    file(c, "run true\n");
    let said = ok(c, "docker buildx build --call=outline,format=json . 2>&1");
    assert!(said.contains("frontend.outline"), "{said}");
}

fn a_frontend_ends_with_its_client(c: &Client) {
    if !frontend(c) {
        return;
    }
    file(c, "hang\n");
    let name = format!("{}-{}", c.n, std::process::id());
    let mark = format!("build-arg:MARK={name}-hangs");
    let runs = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let environments = processes.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
        environments.into_iter().any(|all| String::from_utf8_lossy(&all).contains(&mark))
    };
    let build = format!("exec docker buildx build --build-arg MARK={name}-hangs .");
    let client = c.spawn(&crate::buildx::with(&build));
    eventually("the frontend runs", Duration::from_secs(60), runs);
    client.signal(rustix::process::Signal::TERM);
    eventually("the frontend is gone", Duration::from_secs(60), || !runs());
    drop(client.end());
}

fn a_frontend_runs_processes_over_its_results(c: &Client) {
    if !frontend(c) {
        return;
    }
    file(c, "run echo inside > /made\nsay cat /made\n");
    let said = fails(c, "docker buildx build .");
    assert!(said.contains("failed to solve: 0: inside\n"), "{said}");
    file(c, "say echo no; exit 7\n");
    let said = fails(c, "docker buildx build .");
    assert!(said.contains("failed to solve: 7: no\n"), "{said}");
}

fn a_client_looks_around_in_its_build(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM busybox\nRUN echo inside > /made\n");
    let script = "export BUILDX_EXPERIMENTAL=1\ndocker buildx debug --invoke /bin/sh --on always build .";
    let terminal = Terminal::open(c, 100, 40, &crate::buildx::with(script));
    terminal.shows_that("a prompt", |screen| screen.contains("/ #"));
    terminal.types("cat /made; tty");
    terminal.shows("inside");
    terminal.shows("/dev/pts/0");
    terminal.types("exit 3");
    terminal.shows_that("the monitor", |screen| screen.contains("(buildx)"));
    terminal.types("exit");
    terminal.shows_that("the end", |screen| screen.contains("ended 0"));
}

/// The classic endpoint, and the engine's own.
fn frontends_need_no_session(c: &Client) {
    if !frontend(c) {
        return;
    }
    let said = |script: &str| c.run(&format!("cd ctx; export DOCKER_BUILDKIT=0\n{script}"));
    let ok = |script: &str| {
        let outcome = said(script);
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    };
    let fails = |script: &str| {
        let outcome = said(script);
        assert_ne!(outcome.code, 0, "{}", outcome.stdout);
        outcome.stdout + &outcome.stderr
    };
    file(c, &format!("run echo {} > /made\narg WHO\ncopy file\n", c.n));
    ok("docker build -t $n/x --build-arg WHO=me .");
    assert_eq!(ok("docker run --rm $n/x cat /made /WHO /file"), format!("{}\nme\nhello\n", c.n));
    assert_eq!(ok("docker inspect -f '{{.Config.Labels.made}}' $n/x"), "elsewhere\n");
    file(c, "run echo before; false\n");
    let why = fails("docker build .");
    assert!(why.contains("   2 | >>> run echo before; false\n") && why.contains("exit code: 1"), "{why}");
    file(c, "run true\nfail nobody wants this\n");
    let why = fails("docker build .");
    assert!(why.contains("   3 | >>> fail nobody") && why.contains("nobody wants this"), "{why}");
    file(c, "die\n");
    let why = fails("docker build .");
    assert!(why.contains("   1 | >>> # syntax=") && why.contains("out of ideas"), "{why}");
    file(c, "say cat /proc/self/cgroup > /dev/null; echo there\n");
    let why = fails("docker build .");
    assert!(why.contains("0: there"), "{why}");
    file(c, "inner Dockerfile.inner\n");
    let why = fails("docker build .");
    assert!(why.contains("needs a client with a session") && why.contains("docker buildx build"), "{why}");
}

/// A message about a process.
fn about(process: &str, field: u32, what: &Message) -> Message {
    Message::new().text(1, process).message(field, what)
}

/// Begins a process in the container `c` with all three streams.
fn begin(process: &str, script: &str, tty: bool) -> Message {
    let meta = Message::new().text(1, "sh").text(1, "-c").text(1, script).text(2, "A=b").text(3, "/");
    let init = Message::new().text(1, "c").message(2, &meta);
    let init = [0, 1, 2].into_iter().fold(init, |init, fd| init.int(3, fd)).int(4, i64::from(tty));
    let init = init.message(6, &Message::new().text(1, "s").text(2, "S"));
    about(process, 2, &init)
}

fn typed(process: &str, bytes: &str) -> Message {
    about(process, 3, &Message::new().int(1, 0).text(3, bytes))
}

fn closed(process: &str) -> Message {
    about(process, 3, &Message::new().int(1, 0).int(2, 1))
}

/// What a process wrote to a stream, and its exit code.
fn of(answers: &[Vec<u8>], process: &str, stream: u64) -> (String, Option<u64>) {
    let own: Vec<_> = answers.iter().filter(|answer| text(answer, 1) == process).collect();
    assert_eq!(fields(own[0], 5).len(), 1, "it starts before it says something");
    assert_eq!(fields(own[own.len() - 1], 7).len(), 1, "it is done when all is said");
    let files = own.iter().flat_map(|answer| fields(answer, 3));
    let said = files.filter(|file| number(file, 1) == stream).map(|file| text(&file, 3)).collect();
    let exit = own.iter().find_map(|answer| fields(answer, 6).pop());
    (said, exit.map(|exit| number(&exit, 1)))
}

fn processes_have_streams_signals_and_terminals(c: &Client) {
    let bridge = Bridge::begin(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let made = graph.run(&base, &[], "echo made > /made; mkdir /over", &[]);
    let result = bridge.solve(&graph, &made);
    let root = Message::new().text(3, "/").text(23, &result);
    let again = Message::new().text(3, "/again").text(23, &result).int(5, 1);
    let memory = Message::new().text(3, "/memory").int(6, 4);
    let host = Message::new().text(1, "elsewhere").text(2, "1.2.3.4");
    let container = Message::new().text(1, "c").message(2, &root).message(2, &again).message(2, &memory);
    let container = container.int(3, 2).message(6, &host).text(7, "named");
    bridge.call("NewContainer", &container).unwrap();
    assert_eq!(bridge.call("NewContainer", &container).unwrap_err().code, 6);
    // The first process goes on until the others have had their say and are gone.
    let answers = bridge
        .exec(&[
            begin(
                "first",
                "read a; echo got $a $A; cat; while [ $(ls /over | wc -l) != 3 ]; do sleep 0.1; done; while set -- /proc/[0-9]*; [ $# != 1 ]; do sleep 0.1; done",
                false,
            ),
            begin(
                "other",
                "cat /made /again/made; echo wrong >&2; hostname; grep -c elsewhere /etc/hosts; touch /over/other",
                false,
            ),
            begin("killed", "sleep 1000", false),
            begin("typed", "while [ \"$(stty size 2>/dev/null)\" != '30 90' ]; do sleep 0.1; done; tty; echo $TERM$B; touch /over/typed", true),
            typed("first", "one\ntw"),
            about("killed", 8, &Message::new().text(1, "SIGKILL")),
            about("typed", 4, &Message::new().int(1, 30).int(2, 90)),
            begin("late", "ls -d /sys/class/net/*; echo $S; echo x > /again/x || touch /over/late; exit 3", false),
            typed("first", "o\n"),
            closed("first"),
        ])
        .unwrap();
    assert_eq!(of(&answers, "first", 1), ("got one b\ntwo\n".to_owned(), Some(0)));
    assert_eq!(of(&answers, "other", 1).0, "made\nmade\nnamed\n1\n");
    assert_eq!(of(&answers, "other", 2), ("wrong\n".to_owned(), Some(0)));
    assert_eq!(of(&answers, "killed", 1).1, Some(137));
    assert_eq!(of(&answers, "typed", 1), ("/dev/pts/0\r\nxterm\r\n".to_owned(), Some(0)));
    assert_eq!(of(&answers, "late", 1), ("/sys/class/net/lo\nhush\n".to_owned(), Some(3)));
    // It went with its first process.
    let refused = of(&bridge.exec(&[begin("more", "true", false)]).unwrap(), "more", 1);
    assert_eq!(refused.1, Some(255));
    bridge.call("ReleaseContainer", &Message::new().text(1, "c")).unwrap();
    assert_eq!(bridge.call("ReleaseContainer", &Message::new().text(1, "c")).unwrap_err().code, 5);
    assert_eq!(bridge.exec(&[begin("x", "true", false)]).unwrap_err().code, 5);
    // What was written is gone with it.
    let read = Message::new().text(1, &result).text(2, "/over/late");
    assert_eq!(bridge.call("ReadFile", &read).unwrap_err().code, 5);
    let stranger = Message::new().text(1, "d").message(2, &Message::new().text(3, "/").text(23, "1234"));
    assert_eq!(bridge.call("NewContainer", &stranger).unwrap_err().code, 5);
    let host = Message::new().text(1, "e").message(2, &root).int(3, 1);
    let refused = bridge.call("NewContainer", &host).unwrap_err();
    assert!(refused.message.contains("network.host is not allowed"), "{refused:?}");
    bridge.end();
}

fn containers_end_with_their_build(c: &Client) {
    let bridge = Bridge::begin(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let result = bridge.solve(&graph, &base);
    let root = Message::new().text(3, "/").text(23, &result);
    bridge.call("NewContainer", &Message::new().text(1, "c").message(2, &root)).unwrap();
    let mark = format!("sleep 1000; echo {}-{}", c.n, std::process::id());
    let runs = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(&mark))
    };
    let talking = {
        let (bridge, script) = (bridge.clone(), mark.clone());
        std::thread::spawn(move || bridge.exec(&[begin("p", &script, false)]))
    };
    eventually("the process runs", Duration::from_secs(60), || runs() || talking.is_finished());
    if talking.is_finished() {
        panic!("{:?}", talking.join().unwrap().map(|all| of(&all, "p", 2)));
    }
    bridge.end();
    eventually("the process is gone", Duration::from_secs(60), || !runs());
    let answers = talking.join().unwrap().unwrap();
    assert_eq!(of(&answers, "p", 1).1, Some(137));
}
