//! Clients of BuildKit's wire that come together, leave early, stop listening, or bring keys.

use std::path::Path;
use std::time::Duration;

use yare_testkit::{Engine, eventually};

use crate::buildx::{OWN, buildx, dockerfile, has, ok, with};
use crate::case::cases;
use crate::client::Client;

cases![
    Docker:
        an_agent_signs_for_a_step.differs(OWN),
        compose_hands_on_agents_and_sources_of_a_cache.differs(OWN),
        compose_says_all_of_a_build.differs(OWN),
        bake_reads_json.differs(OWN),
        two_clients_build_at_once.differs(OWN),
        nothing_stays_of_clients_that_are_killed.differs(OWN),
        a_client_that_stops_listening_costs_bounded_memory.alone().differs(OWN);
];

/// An agent with the key `key`, until the script ends.
const AGENT: &str = "set -e; eval $(ssh-agent) > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT; [ -e key ] || ssh-keygen -q -t ed25519 -N '' -f key; ssh-add -q key";

/// The Dockerfile of a step that has `data` signed by the agent: it has the public key alone.
fn signing(c: &Client) -> bool {
    if c.run("command -v ssh-agent ssh-add ssh-keygen").code != 0 {
        return false;
    }
    ok(
        c,
        "mkdir -p tools/bin; cp $(command -v ssh-keygen) tools/bin; for l in $(ldd $(command -v ssh-keygen) | grep -o '/[^ ]*'); do mkdir -p tools/$(dirname $l); cp -L $l tools/$l; done; printf 'key\\n' > .dockerignore",
    );
    dockerfile(
        c,
        "FROM busybox AS sign
COPY tools /
RUN mkdir -p /etc && echo root:x:0:0::/:/bin/sh > /etc/passwd && echo data > /data
COPY key.pub /key.pub
RUN --mount=type=ssh,required=true ssh-keygen -q -Y sign -f /key.pub -n test /data
FROM scratch
COPY --from=sign /data /data.sig /
",
    );
    true
}

fn an_agent_signs_for_a_step(c: &Client) {
    if !buildx(c) || !signing(c) {
        return;
    }
    ok(c, &format!("{AGENT}; docker buildx build --ssh default -o type=local,dest=../out ."));
    ok(c, "ssh-keygen -q -Y check-novalidate -n test -s ../out/data.sig < ../out/data");
}

fn compose_hands_on_agents_and_sources_of_a_cache(c: &Client) {
    if !has(c, &["docker-buildx", "docker-compose"]) || !signing(c) {
        return;
    }
    let compose = format!(
        "name: {n}\nservices:\n  a:\n    image: {n}/a\n    build:\n      context: .\n      ssh: [default]\n      cache_from: [busybox]\n      target: sign\n",
        n = c.n
    );
    std::fs::write(c.folder.join("ctx/compose.yaml"), compose).unwrap();
    ok(c, &format!("{AGENT}; docker compose build"));
    let signature = ok(c, "docker run --rm $n/a cat /data.sig");
    assert!(signature.contains("BEGIN SSH SIGNATURE"), "{signature}");
    ok(c, "docker rmi $n/a");
}

/// Every key of `build` in a compose file that a step or the image can show.
fn compose_says_all_of_a_build(c: &Client) {
    if !has(c, &["docker-buildx", "docker-compose"]) {
        return;
    }
    let registry = yare_testkit::Registry::start(&c.folder.join("registry"));
    let base = format!("{}/{}/base", registry.host(), c.n);
    ok(c, &format!("docker tag busybox {base}; docker push -q {base}; docker rmi {base}"));
    let lines = format!(
        "FROM {base} AS one
ARG WHO
ARG SOURCE_DATE_EPOCH=1600000000
COPY --from=more data /data
RUN --mount=type=secret,id=key cat /run/secrets/key | md5sum > /sum
RUN ulimit -n > /limit; df -m /dev/shm | tail -1 > /shm; ls /sys/class/net > /net; echo $WHO > /who
RUN cat /proc/sys/kernel/random/uuid > /uuid
FROM one AS two
RUN false
FROM one AS strong
RUN --security=insecure grep CapEff /proc/self/status > /caps
"
    );
    dockerfile(c, &lines);
    ok(c, "mkdir more; echo more > more/data; printf canary-9c1 > key");
    let common = "context: .\n      additional_contexts: { more: ./more }\n      secrets: [key]";
    let compose = format!(
        "name: {n}
secrets:
  key: {{ file: ./key }}
services:
  a:
    image: {n}/a
    build:
      {common}
      target: one
      args: {{ WHO: me }}
      labels: {{ label.one: '1' }}
      tags: ['{n}/second', '{n}/third:3']
      cache_to: ['type=local,dest=../cache,mode=max']
      cache_from: ['type=local,src=../cache']
      network: none
      shm_size: 33554432
      ulimits: {{ nofile: {{ soft: 76, hard: 99 }} }}
      platforms: ['linux/amd64']
      pull: true
      no_cache: true
  b:
    image: {n}/b
    build:
      {common}
      target: strong
      privileged: true
",
        n = c.n
    );
    std::fs::write(c.folder.join("ctx/compose.yaml"), compose).unwrap();
    ok(c, "docker compose build a");
    let said = ok(
        c,
        "docker run --rm $n/third:3 sh -c 'cat /who /data /limit /net; tr -s \" \" < /shm | cut -d\" \" -f2'",
    );
    assert_eq!(said, "me\nmore\n76\nlo\n32\n");
    assert_eq!(ok(c, "docker run --rm $n/a cat /sum"), ok(c, "md5sum < key"));
    assert_eq!(ok(c, "docker inspect -f '{{index .Config.Labels \"label.one\"}}' $n/second"), "1\n");
    assert_eq!(ok(c, "docker save $n/a | tr -d '\\0' | grep -c canary-9c1 || true"), "0\n");
    assert!(c.folder.join("cache/index.json").is_file());
    let first = ok(c, "docker run --rm $n/a cat /uuid");
    ok(c, "docker compose build a");
    assert_ne!(ok(c, "docker run --rm $n/a cat /uuid"), first, "no_cache");
    ok(c, "docker compose build b");
    let caps = ok(c, "docker run --rm $n/b cat /caps; grep CapBnd /proc/self/status");
    let sets: Vec<&str> = caps.split_whitespace().filter(|word| !word.ends_with(':')).collect();
    assert_eq!(sets.first(), sets.last(), "{caps}");
    ok(c, "docker rmi $n/a $n/b $n/second $n/third:3");
}

fn bake_reads_json(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM busybox AS one\nARG A\nRUN echo $A > /a\nCMD cat /a\nFROM one\nRUN false\n");
    let bake = format!(
        "{{\"group\": {{\"default\": {{\"targets\": [\"x\", \"y\"]}}}}, \"target\": {{\
         \"x\": {{\"target\": \"one\", \"args\": {{\"A\": \"from-x\"}}, \"tags\": [\"{n}/x\"]}},\
         \"y\": {{\"inherits\": [\"x\"], \"args\": {{\"A\": \"from-y\"}}, \"tags\": [\"{n}/y\"]}}}}}}",
        n = c.n
    );
    std::fs::write(c.folder.join("ctx/docker-bake.json"), bake).unwrap();
    ok(c, "docker buildx bake");
    assert_eq!(ok(c, "docker run --rm $n/x; docker run --rm $n/y"), "from-x\nfrom-y\n");
    ok(c, "docker rmi $n/x $n/y");
}

fn two_clients_build_at_once(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(
        c,
        &format!(
            "FROM busybox\nARG A\nRUN echo {} > /common; sleep 1\nCOPY . /c\nRUN echo $A >> /c/file\nCMD cat /c/file\n",
            c.n
        ),
    );
    // The same directory, the same first step, another argument each; then a directory of its own.
    ok(
        c,
        "for i in 1 2 3; do docker buildx build --build-arg A=$i -t $n/$i . > ../log$i 2>&1 & p=\"$p $!\"; done; for i in $p; do wait $i || { cat ../log*; exit 1; }; done",
    );
    for place in 1..=3 {
        assert_eq!(ok(c, &format!("docker run --rm $n/{place}")), format!("hello\n{place}\n"));
    }
    ok(c, "docker rmi $n/1 $n/2 $n/3");
}

/// Names in a folder; it may not be there.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn nothing_stays_of_clients_that_are_killed(c: &Client) {
    let engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    let c = &own;
    if !buildx(c) {
        return;
    }
    ok(c, "mkdir many; for i in $(seq 200); do head -c 20000 /dev/urandom > many/$i; done");
    dockerfile(
        c,
        "FROM busybox\nCOPY many /many\nRUN sleep 1; echo done > /done\nCOPY file /f\nRUN sleep 600\n",
    );
    for pause in ["0.05", "0.15", "0.3", "0.45", "0.6", "0.8", "1.1", "1.5", "2.5"] {
        c.ok(&with(&format!("../docker/cli-plugins/docker-buildx build --no-cache . > ../log 2>&1 & sleep {pause}; kill -9 $!; wait")));
    }
    let left = || {
        let mut left = names(&engine.data_root().join("containers"));
        left.extend(names(&engine.data_root().join("build/contexts")));
        left.extend(
            names(&engine.data_root().join("build/synced"))
                .into_iter()
                .filter(|name| name.starts_with("once")),
        );
        left.extend(names(&engine.exec_root()).into_iter().filter(|name| name.starts_with("ssh-")));
        left.extend(names(&engine.exec_root().join("containers")));
        left
    };
    eventually("what was made for the builds is gone", Duration::from_secs(60), || left().is_empty());
    eventually("no build is under way", Duration::from_secs(60), || {
        !ok(c, "docker buildx history ls --format '{{.Status}}'").contains("Running")
    });
    dockerfile(c, "FROM busybox\nCOPY many /many\nCMD ls /many | wc -l\n");
    assert_eq!(ok(c, "docker buildx build -q -t x . > /dev/null; docker run --rm x"), "200\n");
    drop(own);
    engine.finish();
}

/// Bytes of the engine's memory.
fn resident(engine: &Engine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn a_client_that_stops_listening_costs_bounded_memory(c: &Client) {
    let engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    let c = &own;
    if !buildx(c) {
        return;
    }
    // Much more than is kept of a build's output. It is done when the file is there.
    dockerfile(
        c,
        "FROM busybox\nRUN --mount=type=cache,target=/c,id=told yes 0123456789abcdef | head -c 150000000; touch /c/done; sleep 600\n",
    );
    let before = resident(&engine);
    // It stops in the middle of what the step says.
    let pid = c.line(&with("../docker/cli-plugins/docker-buildx build . > ../log 2>&1 & echo $!"));
    eventually("the step runs", Duration::from_secs(60), || {
        !names(&engine.exec_root().join("containers")).is_empty()
    });
    c.ok(&format!("sleep 0.3; kill -STOP {pid}"));
    let mounts = engine.data_root().join("build/mounts");
    eventually("the step has said everything", Duration::from_secs(120), || {
        names(&mounts).iter().any(|name| mounts.join(name).join("done").exists())
    });
    let grown = resident(&engine).saturating_sub(before) >> 20;
    c.ok(&format!("kill -9 {pid}"));
    eprintln!("150 MB of output to a client that stopped: {grown} MiB more in the engine");
    assert!(grown < 96, "{grown} MiB");
    eventually("the step ends", Duration::from_secs(60), || {
        names(&engine.exec_root().join("containers")).is_empty()
    });
    drop(own);
    engine.finish();
}
