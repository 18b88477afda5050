//! Clients that build with BuildKit's wire: `docker buildx`, `bake`, `docker compose`. Their plugins are looked
//! for in the folder that `YARE_TEST_DOCKER_PLUGINS` names, then where distributions put them; without them a
//! case says so and is passed over, unless `YARE_REQUIRE_DOCKER_PLUGINS=1` forbids that.

use std::path::{Path, PathBuf};

use yare_testkit::eventually;

use crate::case::cases;
use crate::client::Client;

/// Why nothing here runs against dockerd.
pub(crate) const OWN: &str = "the reference engine is tried without the plugins";

cases![
    Docker:
        a_build_is_loaded_and_cached.differs(OWN),
        only_what_a_build_takes_is_sent_and_only_once.differs(OWN),
        secrets_come_over_the_session_and_stay_out_of_the_image.differs(OWN),
        an_ssh_agent_is_forwarded.differs(OWN),
        contexts_come_from_everywhere.differs(OWN),
        errors_show_the_lines.differs(OWN),
        options_reach_the_steps.differs(OWN),
        entitlements_must_be_granted.differs(OWN),
        results_go_to_the_client.differs(OWN),
        the_frontend_answers_questions.differs(OWN),
        bake_builds_several_targets.differs(OWN),
        compose_builds_its_services.differs(OWN),
        a_build_ends_with_its_client.differs(OWN),
        builds_are_remembered.differs(OWN),
        the_classic_builder_works_without_a_plugin.differs(OWN);
    Both:
        plugins_are_commands.differs(OWN);
];

/// Where a plugin of the docker command line is.
fn plugin(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("YARE_TEST_DOCKER_PLUGINS").map(PathBuf::from);
    let usual = [
        "/usr/libexec/docker/cli-plugins",
        "/usr/lib/docker/cli-plugins",
        "/usr/local/lib/docker/cli-plugins",
    ];
    let folders = named.into_iter().chain(usual.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Gives the client of this case its plugins; `false` when there are none.
pub(crate) fn has(c: &Client, wanted: &[&str]) -> bool {
    let folder = c.folder.join("docker/cli-plugins");
    std::fs::create_dir_all(&folder).unwrap();
    for name in wanted {
        let Some(path) = plugin(name) else {
            let forbidden = std::env::var_os("YARE_REQUIRE_DOCKER_PLUGINS").is_some_and(|value| value == "1");
            assert!(!forbidden, "{name} is missing, and YARE_REQUIRE_DOCKER_PLUGINS=1 forbids passing over");
            eprintln!("SKIP {}: no {name}; YARE_TEST_DOCKER_PLUGINS names its folder", c.n);
            return false;
        };
        std::os::unix::fs::symlink(path, folder.join(name)).unwrap();
    }
    c.ok("mkdir -p ctx && echo hello > ctx/file");
    true
}

pub(crate) fn buildx(c: &Client) -> bool {
    has(c, &["docker-buildx"])
}

/// A script with the plugins, in the folder of the context.
pub(crate) fn with(script: &str) -> String {
    format!("export DOCKER_CONFIG=$PWD/docker BUILDKIT_PROGRESS=plain; cd ctx\n{script}")
}

pub(crate) fn ok(c: &Client, script: &str) -> String {
    c.ok(&with(script))
}

pub(crate) fn fails(c: &Client, script: &str) -> String {
    c.fails(1, &with(script))
}

/// What a build stands on has a name of its own meanwhile. It is given back soon after the build; until then, and
/// while other cases build, it is there.
#[track_caller]
pub(crate) fn names_in_between_are_given_back(c: &Client) {
    c.comes_to("docker images -q build.invalid/input", "");
}

pub(crate) fn dockerfile(c: &Client, lines: &str) {
    std::fs::write(c.folder.join("ctx/Dockerfile"), lines).unwrap();
}

fn a_build_is_loaded_and_cached(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(
        c,
        &format!("FROM busybox\nARG WHO\nCOPY file /f\nRUN echo {} $WHO > /who\nCMD cat /f /who\n", c.n),
    );
    let first = ok(c, "docker buildx build --load -t $n/x --build-arg WHO=me --label a=b . 2>&1");
    assert!(first.contains("[2/3] COPY file /f"), "{first}");
    assert_eq!(ok(c, "docker run --rm $n/x"), format!("hello\n{} me\n", c.n));
    assert_eq!(ok(c, "docker inspect -f '{{.Config.Labels.a}}' $n/x"), "b\n");
    let again = ok(c, "docker build -t $n/x --build-arg WHO=me --label a=b . 2>&1");
    assert_eq!(again.matches("CACHED").count(), 3, "{again}");
    let id = ok(c, "docker buildx build -q --iidfile id -t $n/x --build-arg WHO=me --label a=b . && cat id");
    let ids: Vec<&str> = id.split("sha256:").skip(1).map(str::trim).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{id}");
    assert_eq!(ok(c, "docker inspect -f '{{.Id}}' $n/x").trim(), format!("sha256:{}", ids[0]));
    ok(c, "docker rmi $n/x");
}

/// Bytes that the client sent for the main context.
fn sent(log: &str) -> f64 {
    let context = log.split("load build context").nth(1).unwrap_or_else(|| panic!("no context: {log}"));
    let line = context
        .lines()
        .filter(|line| line.contains("transferring context:"))
        .find(|line| line.ends_with("done"));
    let text = line.unwrap_or_else(|| panic!("no transfer: {log}"));
    let number = text.split("transferring context: ").nth(1).unwrap().split(' ').next().unwrap();
    let (digits, unit) = number.split_at(number.find(|letter: char| letter.is_alphabetic()).unwrap());
    let factor = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        other => panic!("unknown unit {other}: {log}"),
    };
    digits.parse::<f64>().unwrap() * factor
}

fn only_what_a_build_takes_is_sent_and_only_once(c: &Client) {
    if !buildx(c) {
        return;
    }
    ok(
        c,
        "mkdir many && for i in $(seq 300); do head -c 5000 /dev/urandom > many/$i; done; echo 'many/1*' > .dockerignore",
    );
    dockerfile(c, "FROM busybox\nCOPY file /f\n");
    let log = ok(c, "docker buildx build -t $n/x . 2>&1");
    assert!(sent(&log) < 1000.0, "only the file is sent: {log}");
    dockerfile(c, "FROM busybox\nCOPY many /many\nCMD ls /many | wc -l\n");
    let log = ok(c, "docker buildx build -t $n/x . 2>&1");
    assert!(sent(&log) > 900_000.0, "{log}");
    // Without 1, 10-19 and 100-199.
    assert_eq!(ok(c, "docker run --rm $n/x"), "189\n");
    let log = ok(c, "docker buildx build -t $n/x . 2>&1");
    assert!(sent(&log) < 20_000.0, "unchanged files are not sent again: {log}");
    let log =
        ok(c, "rm many/2 many/3; echo new > many/4; chmod 600 many/5; docker buildx build -t $n/x . 2>&1");
    assert!(sent(&log) < 30_000.0, "{log}");
    let script = "docker run --rm $n/x sh -c 'ls /many | wc -l; cat /many/4; stat -c %a /many/5'";
    assert_eq!(ok(c, script), "187\nnew\n600\n");
    ok(c, "docker rmi $n/x");
}

fn secrets_come_over_the_session_and_stay_out_of_the_image(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(
        c,
        "FROM busybox\nRUN --mount=type=secret,id=one wc -c < /run/secrets/one > /size\nRUN --mount=type=secret,id=two,env=TWO echo $TWO | wc -c >> /size\nCMD cat /size\n",
    );
    let script = "printf canary-7f3a > one; TWO=canary-7f3b docker buildx build --secret id=one,src=one --secret id=two,env=TWO -t $n/x .";
    ok(c, script);
    assert_eq!(ok(c, "docker run --rm $n/x"), "11\n12\n");
    assert_eq!(ok(c, "docker save $n/x | tr -d '\\0' | grep -c canary-7f3 || true"), "0\n");
    dockerfile(c, "FROM busybox\nRUN --mount=type=secret,id=three,required=true true\n");
    let said = fails(c, "docker buildx build .");
    assert!(said.contains("three"), "{said}");
    ok(c, "docker rmi $n/x");
}

fn an_ssh_agent_is_forwarded(c: &Client) {
    if !buildx(c) || c.run("command -v ssh-agent ssh-add ssh-keygen").code != 0 {
        return;
    }
    // A client of the agent's protocol is a question of five bytes.
    dockerfile(
        c,
        "FROM busybox\nRUN --mount=type=ssh,required=true test -S $SSH_AUTH_SOCK && stat -c %F $SSH_AUTH_SOCK > /kind\nCMD cat /kind\n",
    );
    let script = "eval $(ssh-agent) > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT; ssh-keygen -q -t ed25519 -N '' -f key; ssh-add -q key; docker buildx build --ssh default -t $n/x .";
    ok(c, script);
    assert_eq!(ok(c, "docker run --rm $n/x"), "socket\n");
    let said = fails(c, "docker buildx build --no-cache .");
    assert!(said.contains("ssh"), "{said}");
    ok(c, "docker rmi $n/x");
}

fn contexts_come_from_everywhere(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM base\nCOPY --from=other x /x\nCOPY file /f\nCMD cat /x /f\n");
    ok(c, "mkdir ../other; echo other > ../other/x");
    let named = "--build-context base=docker-image://busybox --build-context other=../other";
    ok(c, &format!("docker buildx build {named} -t $n/x ."));
    assert_eq!(ok(c, "docker run --rm $n/x"), "other\nhello\n");
    ok(c, &format!("tar c . | docker buildx build {named} -t $n/y -"));
    assert_eq!(ok(c, "docker run --rm $n/y"), "other\nhello\n");
    ok(c, "printf 'FROM busybox\\nCMD echo alone' | docker buildx build -t $n/z -");
    assert_eq!(ok(c, "docker run --rm $n/z"), "alone\n");
    ok(c, "printf 'FROM busybox\\nCOPY file /g\\nCMD cat /g' | docker buildx build -t $n/z -f - .");
    assert_eq!(ok(c, "docker run --rm $n/z"), "hello\n");
    ok(c, "mkdir sub; mv Dockerfile sub/D; ln -s sub/D link");
    ok(c, &format!("docker buildx build {named} -f link -t $n/x ."));
    ok(c, "docker rmi $n/x $n/y $n/z");
}

fn errors_show_the_lines(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM busybox\nRUN echo before; false\n");
    let said = fails(c, "docker buildx build .");
    for part in [
        "before",
        "Dockerfile:2\n",
        "   2 | >>> RUN echo before; false\n",
        "failed to solve: process \"/bin/sh -c echo before; false\" did not complete successfully: exit code: 1",
    ] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    dockerfile(c, "FROM busybox\nRUNN false\n");
    let said = fails(c, "docker buildx build .");
    assert!(said.contains(">>> RUNN false") && said.contains("unknown instruction: RUNN"), "{said}");
    let said = fails(c, "docker buildx build -f nope .");
    assert!(said.contains("nope"), "{said}");
    dockerfile(c, "FROM busybox\nCOPY missing /\n");
    let said = fails(c, "docker buildx build .");
    assert!(said.contains(">>> COPY missing /") && said.contains("missing\": not found"), "{said}");
}

fn options_reach_the_steps(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(
        c,
        "FROM busybox AS one\nRUN grep -q 1.2.3.4 /etc/hosts; ulimit -n > /n; ls /sys/class/net >> /n\nCMD cat /n\nFROM one\nRUN false\n",
    );
    ok(
        c,
        "docker buildx build --target one --add-host h:1.2.3.4 --ulimit nofile=99:100 --network none -t $n/x .",
    );
    assert_eq!(ok(c, "docker run --rm $n/x"), "99\nlo\n");
    let log = ok(c, "docker buildx build --no-cache --target one --add-host h:1.2.3.4 -t $n/x . 2>&1");
    assert_eq!(log.matches("CACHED").count(), 1, "the base alone: {log}");
    ok(c, "docker rmi $n/x");
}

fn entitlements_must_be_granted(c: &Client) {
    if !buildx(c) {
        return;
    }
    for (flag, entitlement) in
        [("--network=host", "network.host"), ("--security=insecure", "security.insecure")]
    {
        dockerfile(c, &format!("FROM busybox\nRUN {flag} true\n"));
        let said = fails(c, "docker buildx build .");
        assert!(said.contains(&format!("{entitlement} is not allowed")), "{said}");
        ok(c, &format!("docker buildx build --allow {entitlement} ."));
    }
}

fn results_go_to_the_client(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM scratch\nCOPY --chmod=640 file /sub/f\nCOPY --chmod=755 file /s\n");
    ok(
        c,
        "ln -s sub/f file2; docker buildx build -o type=local,dest=out . && docker buildx build -o type=tar,dest=out.tar .",
    );
    assert_eq!(ok(c, "cat out/sub/f; stat -c %a out/sub/f out/s"), "hello\n640\n755\n");
    assert_eq!(ok(c, "tar -xOf out.tar sub/f"), "hello\n");
    let said = fails(c, "docker buildx build -o type=unknown .");
    assert!(said.contains("unknown"), "{said}");
}

fn the_frontend_answers_questions(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "# check=skip=none\nfrom busybox AS one\nARG X=5\nRUN echo $X\n");
    let said = c.run(&with("docker buildx build --check ."));
    let said = format!("{}{}", said.stdout, said.stderr);
    assert!(said.contains("ConsistentInstructionCasing"), "{said}");
    let outline = ok(c, "docker buildx build --call outline . 2>/dev/null");
    assert!(outline.contains('X') && outline.contains('5'), "{outline}");
    let targets = ok(c, "docker buildx build --call targets . 2>/dev/null");
    assert!(targets.contains("one (default)"), "{targets}");
}

fn bake_builds_several_targets(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(
        c,
        "FROM busybox AS one\nCOPY file /f\nCMD cat /f\nFROM one AS two\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s > /f\n",
    );
    let bake = "variable \"N\" {}\ngroup \"default\" { targets = [\"one\", \"two\"] }\n\
        target \"one\" {\n target = \"one\"\n tags = [\"${N}/one\"]\n}\n\
        target \"two\" {\n target = \"two\"\n tags = [\"${N}/two\"]\n secret = [\"id=s,src=file\"]\n}\n";
    std::fs::write(c.folder.join("ctx/docker-bake.hcl"), bake).unwrap();
    ok(c, "N=$n docker buildx bake");
    assert_eq!(ok(c, "docker run --rm $n/one; docker run --rm $n/two"), "hello\n6\n");
    // A target that stands on another one.
    let bake = "target \"one\" {\n target = \"one\"\n}\n\
        target \"three\" {\n dockerfile-inline = \"FROM basis\\nRUN echo three >> /f\"\n contexts = { basis = \"target:one\" }\n tags = [\"${N}/three\"]\n}\nvariable \"N\" {}\n";
    std::fs::write(c.folder.join("ctx/docker-bake.hcl"), bake).unwrap();
    ok(c, "N=$n docker buildx bake three");
    assert_eq!(ok(c, "docker run --rm $n/three"), "hello\nthree\n");
    names_in_between_are_given_back(c);
    ok(c, "docker rmi $n/one $n/two $n/three");
}

fn compose_builds_its_services(c: &Client) {
    if !has(c, &["docker-buildx", "docker-compose"]) {
        return;
    }
    dockerfile(
        c,
        "FROM busybox AS one\nARG A\nRUN echo $A > /a\nCOPY --from=more x /x\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s >> /a\nCMD cat /a /x\nFROM one\nRUN false\n",
    );
    let compose = format!(
        "name: {n}\nservices:\n  a:\n    image: {n}/a\n    build:\n      context: .\n      target: one\n      args: {{A: from-compose}}\n      additional_contexts: {{more: ../more}}\n      secrets: [s]\n      labels: {{l: v}}\n  b:\n    image: {n}/b\n    build:\n      dockerfile_inline: |\n        FROM busybox\n        CMD echo b\n      context: .\nsecrets:\n  s: {{file: ./file}}\n",
        n = c.n
    );
    std::fs::write(c.folder.join("ctx/compose.yaml"), compose).unwrap();
    ok(c, "mkdir ../more; echo more > ../more/x; docker compose build");
    assert_eq!(ok(c, "docker run --rm $n/a; docker run --rm $n/b"), "from-compose\n6\nmore\nb\n");
    assert_eq!(ok(c, "docker inspect -f '{{.Config.Labels.l}}' $n/a"), "v\n");
    ok(c, "docker rmi $n/a $n/b");
}

fn runs(text: &str) -> bool {
    let processes = Path::new("/proc").read_dir().unwrap().flatten();
    let mut lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| line.starts_with(b"sleep") && String::from_utf8_lossy(&line).contains(text))
}

fn a_build_ends_with_its_client(c: &Client) {
    if !buildx(c) {
        return;
    }
    let seconds = format!("98{}", std::process::id());
    dockerfile(c, &format!("FROM busybox\nRUN exec sleep {seconds}\n"));
    // The plugin is killed: nothing of it can say goodbye.
    let script = "docker/cli-plugins/docker-buildx build ctx > log 2>&1 & echo $!";
    let pid = c.line(script);
    eventually("the step runs", std::time::Duration::from_secs(20), || runs(&seconds));
    c.ok(&format!("kill -9 {pid}"));
    eventually("the step ends with its client", std::time::Duration::from_secs(20), || !runs(&seconds));
}

fn builds_are_remembered(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, &format!("FROM busybox\nRUN echo said-{}\n", c.n));
    ok(
        c,
        "docker buildx build --metadata-file meta -t $n/x . && grep -o '[a-z0-9]*\",' meta | head -1 | tr -d '\",' > ref",
    );
    let logs = ok(c, "docker buildx history logs $(cat ref) 2>&1");
    assert!(logs.contains(&format!("said-{}", c.n)), "{logs}");
    let listed = ok(c, "docker buildx history ls");
    assert!(listed.contains(&ok(c, "cat ref").trim()[..20]), "{listed}");
    ok(c, "docker buildx history rm $(cat ref)");
    let said = fails(c, "docker buildx history logs $(cat ref)");
    assert!(said.contains("no"), "{said}");
    let used = ok(c, "docker buildx du");
    assert!(used.contains("Reclaimable"), "{used}");
    ok(c, "docker rmi $n/x");
}

fn the_classic_builder_works_without_a_plugin(c: &Client) {
    c.ok("mkdir ctx empty; printf 'FROM busybox\\nCMD echo classic' > ctx/Dockerfile");
    if plugin("docker-buildx").is_none_or(|path| !path.starts_with("/usr")) {
        c.ok("unset DOCKER_BUILDKIT; DOCKER_CONFIG=$PWD/empty docker build -t $n/x ctx");
        c.says("docker run --rm $n/x", "classic\n");
    }
    c.ok("DOCKER_BUILDKIT=0 docker build -t $n/x ctx && docker rmi $n/x");
}

fn plugins_are_commands(c: &Client) {
    if !has(c, &["docker-buildx", "docker-compose"]) {
        return;
    }
    assert!(ok(c, "docker compose version").starts_with("Docker Compose version"));
    assert!(ok(c, "docker -D buildx version").contains("buildx"));
    let help = ok(c, "docker help");
    assert!(help.contains("\n  buildx*     Docker Buildx\n  "), "{help}");
    let plugins = ok(c, "docker info -f '{{range .ClientInfo.Plugins}}{{.Name}} {{end}}'");
    assert_eq!(plugins, "buildx compose \n");
    assert!(
        ok(c, "docker info").contains(" Plugins:\n  buildx: Docker Buildx (Docker Inc.)\n    Version:  ")
    );
    // Its exit code is the plugin's.
    c.fails(17, &with("docker compose -f nowhere.yaml config; [ $? -ne 0 ] && exit 17"));
    dockerfile(c, "FROM busybox\nCOPY file /f\n");
    ok(c, "docker buildx build --load -t $n/plug . && docker run --rm $n/plug cat /f && docker rmi $n/plug");
    std::fs::write(c.folder.join("docker/cli-plugins/docker-bad"), "#!/bin/sh\necho junk\n").unwrap();
    ok(c, "chmod +x ../docker/cli-plugins/docker-bad");
    assert!(ok(c, "docker help").contains("\nInvalid Plugins:\n  bad         invalid metadata"));
    if c.program == crate::client::Program::Yare {
        // Without a word about the engine but ours, a plugin is told.
        ok(c, "export YARE_HOST=$DOCKER_HOST; unset DOCKER_HOST; docker compose ls");
        assert!(fails(c, "docker bad").contains("docker-bad is not valid: invalid metadata"));
    }
}
