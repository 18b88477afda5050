//! The engine as a whole: version, info, events, disk usage.

use serde_json::Value;

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        version_has_both_sides.differs_from_old("its API begins at 1.12"),
        info_counts_and_names,
        others_who_drop_forwarded_packets_are_named.differs("it edits the rules itself"),
        events_come_in_order,
        events_follow_and_filter,
        events_of_images_and_volumes.differs_from_old("names had no tag"),
        system_df_counts.alone(),
        system_prune_cleans.alone(),
        inspect_finds_any_kind,
        help_is_there;
    Docker:
        yare_goes_by_its_own_name,
        what_is_not_built_says_so.differs("these are built there"),
        an_engine_restarts_under_its_containers.differs("dockerd ends them unless told otherwise"),
        two_engines_live_side_by_side.differs("one dockerd is enough for the reference");
];

fn version_has_both_sides(c: &Client) {
    let text = c.ok("docker version");
    for word in ["Client:", "Server:", " API version:", "OS/Arch:"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let version: Value = serde_json::from_str(&c.ok("docker version --format json")).unwrap();
    assert_eq!(version["Server"]["Os"], "linux");
    assert_eq!(version["Server"]["MinAPIVersion"], "1.24");
    c.says("docker version -f '{{.Server.APIVersion}}'", "1.51\n");
    c.says("docker --version | grep -ci version", "1\n");
    assert!(c.ok("docker -v").contains("ersion"));
}

fn info_counts_and_names(c: &Client) {
    c.ok("docker run -d --name $n busybox sleep 1000");
    let info: Value = serde_json::from_str(&c.ok("docker info --format '{{json .}}'")).unwrap();
    for field in [
        "Containers",
        "ContainersRunning",
        "ContainersPaused",
        "ContainersStopped",
        "Images",
        "NCPU",
        "MemTotal",
    ] {
        assert!(info[field].is_number(), "{field} in {info}");
    }
    assert!(info["ContainersRunning"].as_u64() >= Some(1), "{info}");
    assert_eq!((&info["OSType"], &info["Driver"]), (&"linux".into(), &"overlay2".into()));
    assert_eq!(info["DockerRootDir"], c.host.data_root.display().to_string());
    let text = c.ok("docker info 2>/dev/null");
    for word in [
        "Server:\n",
        " Containers: ",
        "  Running: ",
        " Storage Driver: overlay2\n",
        " Cgroup Version: ",
        " Kernel Version: ",
        " Docker Root Dir: ",
    ] {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    c.says("docker system info -f '{{.Architecture}}'", &format!("{}\n", c.line("uname -m")));
}

/// In a network of its own: the rules of the host are everybody's.
fn others_who_drop_forwarded_packets_are_named(c: &Client) {
    let engine = yare_testkit::Engine::start_inside(&["unshare", "--net"]);
    {
        let c = c.of(&engine);
        let (bridge, iptables) = (engine.bridge(), format!("nsenter -t {} -n iptables", engine.pid()));
        let warned = || c.run("docker info 2>&1").stdout.contains("drops forwarded packets");
        let quiet = warned();
        c.ok(&format!("{iptables} -P FORWARD DROP"));
        let loud = warned();
        c.ok(&format!(
            "{iptables} -I FORWARD -i {bridge} -j ACCEPT; {iptables} -I FORWARD -o {bridge} -j ACCEPT"
        ));
        assert_eq!((quiet, loud, warned()), (false, true, false));
    }
    engine.finish();
}

fn events_come_in_order(c: &Client) {
    let from = c.line("date +%s");
    c.ok("docker run --name $n --label a=$n busybox sh -c 'exit 3' || true");
    c.ok("docker rm $n");
    let said = c.ok(&format!("docker events --since {from} --until $(date +%s -d '+1 second') --filter container=$n --format '{{{{.Type}}}} {{{{.Action}}}}'"));
    let all: Vec<&str> = said.lines().collect();
    let wanted =
        ["container create", "container attach", "container start", "container die", "container destroy"];
    let kept: Vec<&str> = all.iter().copied().filter(|line| line.starts_with("container ")).collect();
    assert_eq!(kept, wanted, "{said}");
    c.says(&format!("docker events --since {from} --until $(date -d '+1 second' +%s) --filter label=a=$n --filter event=die --format '{{{{.Actor.Attributes.exitCode}}}} {{{{.Actor.Attributes.name}}}} {{{{.Actor.Attributes.image}}}}'"), &format!("3 {} busybox\n", c.n));
}

fn events_follow_and_filter(c: &Client) {
    let kinds =
        ["start", "kill", "stop", "pause", "rename"].map(|kind| format!(" --filter event={kind}")).concat();
    let follow = format!(
        "exec docker events --since $(date +%s) --filter container=$n{kinds} --format '{{{{.Action}}}}'"
    );
    let mut child = c.spawn(&follow);
    c.ok("docker run -d --name $n --init busybox sleep 1000");
    child.says("start\n");
    // What comes from now on is no replay.
    c.ok("docker pause $n; docker unpause $n; docker stop $n; docker start $n; docker kill $n");
    child.says("pause\nkill\nstop\nstart\nkill\n");
    let line = c.ok("docker events --since 1m --until $(date -d '+1 second' +%s) --filter container=$n --filter event=pause");
    assert!(
        line.contains(" container pause ") && line.contains(&format!("(image=busybox, name={})", c.n)),
        "{line}"
    );
}

fn events_of_images_and_volumes(c: &Client) {
    let from = c.line("date +%s");
    c.ok("tar -cT/dev/null | docker import --change \"LABEL x=$n\" - $n/a; docker tag $n/a $n/b; docker rmi $n/b; docker rmi $n/a");
    c.ok("docker volume create $n-v; docker run --rm -v $n-v:/x busybox true; docker volume rm $n-v");
    let said = c.ok(&format!("docker events --since {from} --until $(date -d '+1 second' +%s) --filter type=image --format '{{{{.Action}}}} {{{{.Actor.Attributes.name}}}}' | grep $n"));
    let n = &c.n;
    assert_eq!(said, format!("tag {n}/a:latest\ntag {n}/b:latest\n"));
    let said = c.ok(&format!("docker events --since {from} --until $(date -d '+1 second' +%s) --filter volume=$n-v --format '{{{{.Action}}}}'"));
    assert_eq!(said, "create\nmount\nunmount\ndestroy\n");
    c.fails(1, "docker events --since nonsense --until 0s");
}

fn system_df_counts(c: &Client) {
    c.ok("docker run --name $n -v $n-v:/v busybox sh -c 'head -c 2000000 /dev/zero > /file; head -c 3000000 /dev/zero > /v/file'");
    let said = c.ok("docker system df");
    let lines: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect())
        .collect();
    assert_eq!(lines[0], ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    assert_eq!(
        (lines[1][0], lines[2][0], lines[3][0], lines[4][0]),
        ("Images", "Containers", "Local Volumes", "Build Cache")
    );
    assert_eq!(lines[2][1..], ["1", "0", "2MB", "2MB (100%)"]);
    assert_eq!((lines[3][1], lines[3][2], lines[3][4]), ("1", "1", "0B (0%)"));
    assert!(lines[3][3].starts_with("3MB") || lines[3][3].starts_with("3.0"), "{said}");
    let detail = c.ok("docker system df -v");
    assert!(detail.contains(&format!("{}-v", c.n)) && detail.contains("Containers space usage:"), "{detail}");
    c.says("docker system df --format '{{.Type}}={{.TotalCount}}' | tail -2 | head -1", "Local Volumes=1\n");
}

fn system_prune_cleans(c: &Client) {
    c.ok("docker system prune -f; docker create --name $n busybox true");
    let id = c.inspect("$n", "{{.Id}}");
    let said = c.ok("docker system prune -f");
    assert!(said.starts_with(&format!("Deleted Containers:\n{id}\n")), "{said}");
    assert!(said.contains("Total reclaimed space: "), "{said}");
    let outcome = c.run("echo n | docker system prune");
    assert!(outcome.stdout.starts_with("WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n  - all dangling images\n"), "{outcome:?}");
}

fn inspect_finds_any_kind(c: &Client) {
    c.ok("docker create --name $n-c busybox true; docker volume create $n-v");
    c.says("docker inspect -f '{{.Id}}' $n-c busybox | wc -l", "2\n");
    c.says("docker inspect -f '{{.Name}}' $n-c $n-v bridge", &format!("/{n}-c\n{n}-v\nbridge\n", n = c.n));
    c.says("docker inspect --type volume -f '{{.Driver}}' $n-v", "local\n");
    c.fails(1, "docker inspect --type image $n-c");
    c.says("docker inspect -f '{{json .State.Status}}' $n-c", "\"created\"\n");
    let text = c.fails(1, "docker inspect -f '{{.Nonsense}}' $n-c");
    assert!(text.contains("template") || text.contains("Nonsense"), "{text}");
}

fn help_is_there(c: &Client) {
    assert!(c.ok("docker --help").contains("Commands:"));
    for command in [
        "run",
        "ps",
        "images",
        "rmi",
        "exec",
        "logs",
        "container ls",
        "image prune",
        "system df",
        "volume ls",
    ] {
        let help = c.ok(&format!("docker {command} --help"));
        assert!(help.starts_with(&format!("Usage:  docker {command}")), "{command}: {help}");
    }
    let help = c.ok("docker run --help");
    for flag in ["--rm", "-d, --detach", "--stop-timeout int", "-p, --publish list", "--memory bytes"] {
        assert!(help.contains(flag), "{flag} is not in {help}");
    }
}

fn yare_goes_by_its_own_name(c: &Client) {
    let yare = yare_testkit::yare_binary().display();
    assert!(c.ok(&format!("{yare} run --help")).starts_with("Usage:  yare run "));
    c.refuses(125, &format!("{yare} run --nosuchflag busybox"), "unknown flag: --nosuchflag");
    let text = c.fails(1, &format!("{yare} nosuchcommand"));
    assert_eq!(text, "yare: unknown command: yare nosuchcommand\n\nRun 'yare --help' for more information\n");
    c.says(&format!("{yare} run --rm busybox echo hi"), "hi\n");
}

fn what_is_not_built_says_so(c: &Client) {
    for command in ["network create -d macvlan $n", "network create -d ipvlan $n"] {
        let outcome = c.run(&format!("docker {command} < /dev/null"));
        assert_ne!(outcome.code, 0, "{command}: {outcome:?}");
        assert!(outcome.stderr.contains("not built into this Yare"), "{command}: {outcome:?}");
    }
}

fn an_engine_restarts_under_its_containers(c: &Client) {
    let mut engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let c = c.of(&engine);
        c.ok("docker run -d --name $n -p 127.0.0.1::80 busybox sh -c 'i=0; while :; do i=$((i + 1)); echo $i; sleep 0.02; done'");
        c.ok("docker run -d --name $n-short busybox sh -c 'sleep 1; exit 8'; docker create --name $n-new busybox true");
        let before = c.inspect("$n", "{{.State.Pid}} {{.State.StartedAt}} {{.NetworkSettings.IPAddress}}");
        engine.kill9();
        std::thread::sleep(std::time::Duration::from_millis(1200));
        engine.restart();
        assert_eq!(
            c.inspect("$n", "{{.State.Pid}} {{.State.StartedAt}} {{.NetworkSettings.IPAddress}}"),
            before
        );
        c.says("docker wait $n-short; docker start -a $n-new; docker exec $n echo inside", "8\ninside\n");
        c.comes_to("test $(docker logs $n | wc -l) -gt 30 && echo many", "many");
        let numbers: Vec<u32> = c
            .ok("docker stop -t 1 $n >/dev/null; docker logs $n")
            .lines()
            .map(|line| line.parse().unwrap())
            .collect();
        assert!(
            numbers.iter().copied().eq(1..=u32::try_from(numbers.len()).unwrap()),
            "lines are lost or doubled: {numbers:?}"
        );
        assert!(numbers.len() > 30, "{}", numbers.len());
    }
    engine.finish();
}

fn two_engines_live_side_by_side(c: &Client) {
    let engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let other = c.of(&engine);
        c.ok("docker run -d --name $n busybox sleep 1000");
        other.ok("docker run -d --name $n busybox sleep 1000");
        assert_ne!(c.inspect("$n", "{{.Id}}"), other.inspect("$n", "{{.Id}}"));
        other.says("docker ps -aq | wc -l", "1\n");
        other.ok("docker rm -f $n");
        c.says("docker inspect -f '{{.State.Running}}' $n", "true\n");
    }
    engine.finish();
}
