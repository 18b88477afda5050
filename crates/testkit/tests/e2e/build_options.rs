//! Where contexts and Dockerfiles come from, and what is written of the result.

use crate::build_table::{context, ok, script};
use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        contexts_come_from_everywhere.differs("its classic builder reads no zstd, and other texts"),
        results_are_written_where_asked.differs("its classic builder writes other ids"),
        images_get_their_names_and_lose_them.differs("its classic builder keeps its steps as images");
    Docker:
        images_may_have_600_layers.differs("dockerd takes 127");
    Api:
        a_request_that_is_none_is_refused.differs("the texts are our own");
];

fn contexts_come_from_everywhere(c: &Client) {
    context(c);
    c.ok("printf 'FROM busybox\\nCOPY a.txt /a\\nRUN [ \"$(cat /a)\" = a ]\\n' > ctx/Dockerfile; mkdir ctx/dir/deep; printf 'FROM busybox\\nCOPY dir/c.txt /c\\nLABEL of=deep\\n' > ctx/dir/deep/D; printf 'FROM busybox\\nCOPY b.txt /b\\nLABEL of=outside\\n' > outside");
    let of = |flags: &str, label: &str| {
        ok(
            c,
            &format!(
                "set -e; i=$n/x; {flags} > out 2>&1 || {{ cat out; exit 1; }}; is \"$(docker image inspect -f '{{{{.Config.Labels.of}}}}' $i)\" '{label}'"
            ),
        );
    };
    let none = "<no value>";
    of("build -t $i ctx", none);
    of("cd ctx; build -t $i . ; cd ..", none);
    of("build -t $i -f ctx/dir/deep/D ctx", "deep");
    of("build -t $i -f outside ctx", "outside");
    of("build -t $i -f - ctx < outside", "outside");
    of("ln -sfn ctx linked; build -t $i linked", none);
    for kind in ["", ".gz", ".bz2", ".xz", ".zst"] {
        of(&format!("tar -C ctx -caf sent.tar{kind} .; build -t $i - < sent.tar{kind}"), none);
    }
    of("tar -C ctx -c . | build -t $i -f dir/deep/D -", "deep");
    of("printf 'FROM busybox\\nLABEL of=stdin\\n' | build -t $i -", "stdin");
    let said = ok(c, "if printf 'FROM busybox\\nCOPY a.txt /\\n' | build - 2>&1; then exit 1; fi");
    assert!(said.contains("not found") || said.contains("this build has no files"), "{said}");
    ok(c, "mv ctx/Dockerfile ctx/dockerfile; build ctx");
    let said = ok(c, "rm ctx/dockerfile; if build ctx 2>&1; then exit 1; fi");
    assert!(said.contains("Dockerfile"), "{said}");
    let said = ok(c, "if build none 2>&1; then exit 1; fi");
    assert!(said.contains("none"), "{said}");
}

fn results_are_written_where_asked(c: &Client) {
    c.ok("mkdir ctx; printf 'FROM busybox\\nARG V\\nLABEL v=$V\\n' > ctx/Dockerfile");
    let quiet = c.line("DOCKER_BUILDKIT=0 docker build -q --iidfile id -t $n/x -t $n/y:1 ctx 2>/dev/null");
    assert!(quiet.len() == 71 && quiet.starts_with("sha256:"), "{quiet}");
    c.says("docker image inspect -f '{{.Id}}' $n/x $n/y:1", &format!("{quiet}\n{quiet}\n"));
    c.says("echo $(cat id)", &format!("{quiet}\n"));
    // A file of an earlier build is not taken for that of a failed one.
    ok(c, "if build --iidfile id --target none ctx > out 2>&1; then exit 1; fi; [ ! -s id ]");
    ok(c, "export V=fromenv; build --build-arg V -t $n/x ctx");
    c.says("docker image inspect -f '{{.Config.Labels.v}}' $n/x", "fromenv\n");
    let failing =
        c.run("printf 'FROM busybox\\nRUN echo seen; exit 3\\n' | DOCKER_BUILDKIT=0 docker build -q - 2>&1");
    assert!(failing.code != 0 && failing.stdout.contains("exit code: 3"), "{failing:?}");
    if c.program == Program::Yare {
        c.ok("docker build --progress=rawjson --metadata-file meta -t $n/x ctx 2> raw");
        let id = c.line("docker image inspect -f '{{.Id}}' $n/x");
        let meta: serde_json::Value = serde_json::from_str(&c.ok("cat meta")).unwrap();
        assert_eq!(meta["containerimage.config.digest"], id.as_str());
        assert_eq!(meta["image.name"], format!("{}/x:latest", c.n));
        let raw = c.ok("cat raw");
        let news: Vec<serde_json::Value> =
            raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for vertex in news.iter().filter_map(|line| line["vertexes"].as_array()).flatten() {
            let (started, completed) = (vertex["started"].as_str(), vertex["completed"].as_str());
            assert!(
                completed.is_none() || started.is_some_and(|started| Some(started) <= completed),
                "{vertex}"
            );
        }
    }
}

fn images_get_their_names_and_lose_them(c: &Client) {
    c.ok("mkdir ctx; printf 'FROM busybox\\nARG V\\nLABEL v=$V\\n' > ctx/Dockerfile");
    ok(c, "build --build-arg V=$n -t $n/a -t $n/b:1 ctx");
    let first = c.line("docker image inspect -f '{{.Id}}' $n/a");
    ok(c, "build --build-arg V=2$n -t $n/a ctx");
    c.says(
        &format!("docker image inspect -f '{{{{json .RepoTags}}}}' {first}"),
        &format!("[\"{}/b:1\"]\n", c.n),
    );
    ok(c, "build --build-arg V=3$n -t $n/b:1 ctx");
    c.says(&format!("docker image inspect -f '{{{{json .RepoTags}}}}' {first}"), "[]\n");
    c.ok(&format!(
        "docker images -q --no-trunc --filter dangling=true | grep -q {first}; docker rmi {first}"
    ));
    // A container holds the image whose name went on.
    c.ok("docker run -d --name $n-c $n/a sleep 1000");
    ok(c, "build --build-arg V=4$n -t $n/a ctx");
    c.says("docker ps --format '{{.Status}}' --filter name=$n-c | cut -c1-2", "Up\n");
    // Only its own: cases beside this one have images without names too.
    c.ok("docker rm -f $n-c; for v in 2 3; do docker image prune -f --filter label=v=$v$n; done");
}

/// More than the kernel takes in one overlay: built, run, and loaded again.
fn images_may_have_600_layers(c: &Client) {
    let engine = yare_testkit::Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    own.ok("mkdir -p ctx/f; for i in $(seq 600); do echo $i > ctx/f/$i; done; \
         { echo FROM busybox; for i in $(seq 600); do echo COPY f/$i /f/; done; echo 'RUN [ $(ls /f | wc -l) = 600 ]'; } > ctx/Dockerfile");
    let slow = |text: &str| {
        let outcome = own.script(&script(&own, text)).patience(std::time::Duration::from_secs(300)).run();
        assert_eq!(outcome.code, 0, "{}", crate::client::shown(&outcome));
    };
    slow("build -t x ctx > out 2>&1 || { tail -5 out; exit 1; }");
    own.says("docker run --rm x sh -c 'cat /f/1 /f/600; ls /f | wc -l; touch /f/new'", "1\n600\n600\n");
    slow("docker save -o saved x; docker rmi x; docker builder prune -af; docker load -i saved");
    own.says("docker run --rm x sh -c 'cat /f/1 /f/600; ls /f | wc -l'", "1\n600\n600\n");
    drop(own);
    engine.finish();
}

fn a_request_that_is_none_is_refused(c: &Client) {
    for (query, text) in [
        ("buildargs=x", "error reading buildargs"),
        ("labels=%5B%5D", "error reading labels"),
        ("ulimits=x", "error reading ulimit settings"),
        ("version=2", "building with BuildKit through this endpoint"),
        ("t=UPPER", "invalid tag"),
        ("shmsize=x", "invalid syntax"),
    ] {
        let answer = c.api("POST", &format!("/build?{query}"), Some(&serde_json::json!({"a": 1})));
        assert!(answer.status >= 400 && answer.message().contains(text), "{query}: {}", answer.text());
    }
    let empty = c.api("POST", "/build", None);
    assert!(
        empty.status == 400 && empty.message().contains("the build context is empty"),
        "{}",
        empty.text()
    );
    assert_eq!(c.api("POST", "/build/prune?filters=%7B%22none%22%3A%5B%22x%22%5D%7D", None).status, 400);
    assert_eq!(c.api("POST", "/build/cancel", None).status, 400);
}
