//! Sockets with less than all rights, as an ordinary user meets them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use yare_testkit::Engine;

use crate::case::cases;
use crate::client::Client;

const OWN: &str = "the test starts an engine of its own";

cases![
    Docker:
        an_ordinary_user_reads_and_changes_nothing.differs(OWN);
];

/// An engine with two restricted sockets in a folder that everybody may enter, and a listener for metrics.
fn engine(folder: &std::path::Path, metrics: u16) -> Engine {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    let socket = |name: &str, allow: Value| json!({"host": format!("unix://{}/{name}.sock", folder.display()), "allow": allow, "mode": "0666"});
    let mut engine = Engine::start();
    engine.load_busybox();
    let config = json!({
        "sockets": [socket("read", json!(["read"])), socket("operate", json!(["read", "logs", "operate"]))],
        "metrics-addr": format!("127.0.0.1:{metrics}"),
        "default-stop-timeout": 0,
        "log-format": "json",
    });
    fs::write(engine.path().join("daemon.json"), config.to_string()).unwrap();
    engine.restart();
    engine
}

fn an_ordinary_user_reads_and_changes_nothing(c: &Client) {
    let folder = tempfile::tempdir().unwrap();
    let metrics = yare_testkit::free_port();
    let engine = engine(folder.path(), metrics);
    let own = c.of(&engine);
    let running = "docker run -d --name $n -e PASSWORD=secret -l traefik.enable=true busybox sh -c 'echo said; sleep 999'";
    let id = own.line(running);
    own.ok("docker volume create -d local -o type=tmpfs -o device=tmpfs -o o=size=1m,uid=77 $n-v");
    let user = |socket: &str, script: &str| {
        let socket = format!("unix://{}/{socket}.sock", folder.path().display());
        format!(
            "setpriv --reuid 65534 --regid 65534 --clear-groups env DOCKER_HOST={socket} DOCKER_CONFIG=/nonexistent \
             {script}"
        )
    };

    // What monitoring and a proxy look at.
    let read = |script: &str| user("read", script);
    own.says(&read("docker ps --no-trunc -q"), &format!("{id}\n"));
    own.says(
        &read("docker inspect -f '{{json .Config.Env}} {{index .Config.Labels \"traefik.enable\"}}' $n"),
        "[\"PASSWORD=(hidden)\"] true\n",
    );
    own.says(&read("docker volume inspect -f '{{.Options.o}}' $n-v"), "(hidden)\n");
    for script in
        ["docker version", "docker info", "docker images", "docker network ls", "docker system df -v"]
    {
        own.ok(&read(script));
    }
    own.says(&read("docker stats --no-stream --format '{{.Name}}'"), &format!("{}\n", own.n));
    own.says(
        &read("docker events --since 1h --until 0s --filter event=start --format '{{.Action}}' | tail -n 1"),
        "start\n",
    );

    // The ways out: none of them.
    let mut wrong = Vec::new();
    for (script, row) in [
        ("docker run --rm busybox true", "POST /containers/create"),
        ("docker run --rm --privileged -v /:/host busybox true", "POST /containers/create"),
        ("docker run --rm -v $DOCKER_HOST:/s busybox true", "POST /containers/create"),
        ("docker exec $n id", "POST /containers/{id}/exec"),
        ("docker attach --no-stdin $n", "received 403"),
        ("docker cp $n:/etc/shadow -", "GET /containers/{id}/archive"),
        ("docker cp /etc/hostname $n:/", "no such directory"),
        ("docker export $n", "GET /containers/{id}/export"),
        ("docker save busybox", "GET /images/get"),
        ("docker commit $n x", "POST /commit"),
        ("docker logs $n", "GET /containers/{id}/logs"),
        ("docker top $n auxe", "top with arguments for ps"),
        ("docker history busybox", "GET /images/{name}/history"),
        ("docker pull busybox", "POST /images/create"),
        ("docker search localhost:1/x", "GET /images/search"),
        ("docker rm -f $n", "DELETE /containers/{id}"),
        ("docker stop $n", "POST /containers/{id}/stop"),
        ("docker update --restart always $n", "POST /containers/{id}/update"),
        ("docker volume rm $n-v", "DELETE /volumes/{name}"),
        ("docker network create x", "POST /networks/create"),
        ("docker system prune -f", "POST /containers/prune"),
        ("docker plugin install x --grant-all-permissions", "GET /plugins/privileges"),
        ("docker swarm init", "POST /swarm/init"),
    ] {
        let run = own.run(&format!("{} 2>&1", read(script)));
        // Two of them never show what the engine says.
        let own_words = ["received 403", "no such directory"].contains(&row);
        let denied = format!("{row} is denied: the policy of the socket unix://");
        if run.code == 0 || !run.stdout.contains(if own_words { row } else { &denied }) {
            wrong.push(format!("{script}: {run:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let build = own.run(&format!(
        "mkdir -p b && echo FROM busybox > b/Dockerfile && {} 2>&1",
        read("env DOCKER_BUILDKIT=0 docker build b")
    ));
    assert!(build.code != 0 && build.stdout.contains("POST /build is denied"), "{build:?}");
    assert_eq!(own.inspect("$n", "{{.State.Status}}"), "running");
    let main = "setpriv --reuid 65534 --regid 65534 --clear-groups env DOCKER_CONFIG=/nonexistent docker ps";
    assert!(own.run(main).stderr.contains("permission denied"), "the socket for all rights");

    // Who may operate ends and starts what is there.
    let operate = |script: &str| user("operate", script);
    own.says(&operate("docker logs $n"), "said\n");
    own.ok(&operate("docker restart $n"));
    // Nobody gave it more than the configuration's no time at all.
    own.says(&operate("timeout 9 docker stop $n"), &format!("{}\n", own.n));
    assert!(own.run(&operate("docker rm $n")).stderr.contains("allows only: read, logs, operate"));

    // What was denied and what was changed is in the log, with the client's user.
    let log = engine.log();
    let objects = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_user: Vec<Value> = objects.filter(|line| line["uid"] == 65534).collect();
    let has = |text: &str, path: &str| {
        of_user.iter().any(|line| line["msg"] == text && line["path"].as_str().unwrap().contains(path))
    };
    assert!(has("denied", "/containers/create") && has("allowed", "/stop"), "{log}");

    let page = own.ok(&format!("curl -s -H 'Host: some.example' http://127.0.0.1:{metrics}/metrics"));
    assert!(page.contains("engine_daemon_container_states_containers"), "{page}");
    own.says(
        &format!("curl -s -o /dev/null -w '%{{http_code}}\\n' http://127.0.0.1:{metrics}/containers/json"),
        "403\n",
    );
    own.ok("docker rm -f $n && docker volume rm $n-v");
    drop(own);
    engine.finish();
}
