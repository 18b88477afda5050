//! Frontends that are programs in images: `# syntax=` beyond the stock family.

use std::time::Duration;

use yare_testkit::eventually;

use crate::buildx::{OWN, buildx, dockerfile, fails, ok};
use crate::case::cases;
use crate::client::Client;

cases![
    Docker:
        a_file_is_built_by_the_frontend_that_it_names.differs(OWN),
        a_frontend_is_chosen_by_an_argument.differs(OWN),
        errors_of_frontends_have_their_place.differs(OWN),
        bad_frontends_are_told_of.differs(OWN),
        a_frontend_has_no_network_of_its_own.differs(OWN),
        a_frontend_may_ask_the_stock_one.differs(OWN),
        questions_pass_through_to_frontends.differs(OWN),
        a_frontend_ends_with_its_client.differs(OWN);
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
    let said = c.fails(1, "cd ctx; DOCKER_BUILDKIT=0 docker build .");
    assert!(said.contains("docker buildx build"), "{said}");
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
    let mark = format!("build-arg:MARK={}-hangs", c.n);
    let runs = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let environments = processes.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
        environments.into_iter().any(|all| String::from_utf8_lossy(&all).contains(&mark))
    };
    let script = crate::buildx::with("exec docker buildx build --build-arg MARK=$n-hangs .");
    let client = c.spawn(&script);
    eventually("the frontend runs", Duration::from_secs(60), runs);
    client.signal(rustix::process::Signal::TERM);
    eventually("the frontend is gone", Duration::from_secs(60), || !runs());
    drop(client.end());
}
