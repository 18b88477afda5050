//! Health checks.

use crate::case::cases;
use crate::client::{Client, Program};
use crate::happenings::Happenings;

cases![
    Both:
        a_container_becomes_healthy_and_unhealthy,
        what_probes_said_is_kept,
        a_probe_that_takes_too_long_is_killed,
        a_check_comes_from_the_image_or_is_switched_off,
        the_start_period_forgives,
        what_is_unhealthy_is_restarted_killed_or_stopped.differs("it does nothing");
    Docker:
        health_outlives_the_engine,
        a_service_waits_for_a_healthy_one;
];

const STATUS: &str = "{{.State.Health.Status}}";

fn a_container_becomes_healthy_and_unhealthy(c: &Client) {
    let mut events = Happenings::of(c, &c.n);
    // From its first moment it is well, and it takes the trouble away when it begins anew.
    c.ok("docker run -d --name $n --health-cmd 'test ! -e /ill' --health-interval 100ms --health-retries 2 busybox sh -c 'rm -f /ill; sleep 1000'");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "healthy");
    c.says(
        "docker ps --filter health=healthy --filter name=$n --format '{{.Status}}' | grep -c '(healthy)'",
        "1\n",
    );
    c.says("docker ps -q --filter health=none --filter name=$n | wc -l", "0\n");
    c.ok("docker exec $n touch /ill");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "unhealthy");
    let streak: u32 = c.inspect("$n", "{{.State.Health.FailingStreak}}").parse().unwrap();
    assert!(streak >= 2, "{streak}");
    let happened = events.come_to("health_status: unhealthy", 1);
    let of_health: Vec<_> = happened.iter().filter(|action| action.starts_with("health_status")).collect();
    assert_eq!(of_health, ["health_status: healthy", "health_status: unhealthy"], "{happened:?}");
    // Each run begins anew.
    c.ok("docker restart -t 0 $n");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "healthy");
}

fn what_probes_said_is_kept(c: &Client) {
    c.ok("docker run -d --name $n --health-cmd 'echo out; echo err >&2; exit 3' --health-interval 50ms busybox sleep 1000");
    c.comes_to("docker inspect -f '{{len .State.Health.Log}}' $n", "5");
    let last = "{{$log := index .State.Health.Log 4}}{{$log.ExitCode}} {{printf \"%q\" $log.Output}}";
    let said = c.inspect("$n", last);
    assert!(said == r#"3 "out\nerr\n""# || said == r#"3 "err\nout\n""#, "{said}");
    c.ok("docker rm -f $n; docker run -d --name $n --health-cmd 'yes | head -c 9000' --health-interval 50ms busybox sleep 1000");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "healthy");
    c.says("docker inspect -f '{{len (index .State.Health.Log 0).Output}}' $n", "4099\n");
}

fn a_probe_that_takes_too_long_is_killed(c: &Client) {
    c.ok("docker run -d --name $n --health-cmd 'sleep 777' --health-interval 50ms --health-timeout 300ms --health-retries 1 busybox sleep 1000");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "unhealthy");
    let said = c.inspect("$n", "{{$log := index .State.Health.Log 0}}{{$log.ExitCode}} {{$log.Output}}");
    assert_eq!(said, "-1 Health check exceeded timeout (300ms)");
    let left: u32 = c.line("docker exec $n sh -c 'ps | grep -c \"[s]leep 777\"; true'").parse().unwrap();
    assert!(left <= 2, "{left} probes are left");
}

fn a_check_comes_from_the_image_or_is_switched_off(c: &Client) {
    c.ok("mkdir -p $n; printf 'FROM busybox\nHEALTHCHECK --interval=50ms CMD true\nCMD sleep 1000\n' > $n/Dockerfile; docker build -q -t $n/image $n");
    c.ok("docker run -d --name $n $n/image; docker run -d --name $n-b --no-healthcheck $n/image");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "healthy");
    c.says("docker inspect -f '{{if .State.Health}}some{{else}}none{{end}}' $n-b", "none\n");
}

fn the_start_period_forgives(c: &Client) {
    c.ok("docker run -d --name $n --health-cmd 'test -e /ok' --health-interval 1h --health-start-period 1h --health-start-interval 50ms --health-retries 1 busybox sleep 1000");
    c.comes_to("docker inspect -f '{{len .State.Health.Log}}' $n", "5");
    assert_eq!(c.inspect("$n", STATUS), "starting");
    c.says("docker ps --filter name=$n --format '{{.Status}}' | grep -c 'health: starting'", "1\n");
    c.ok("docker exec $n touch /ok");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "healthy");
}

/// Docker's command line says it with a label, ours with a flag too.
fn what_is_unhealthy_is_restarted_killed_or_stopped(c: &Client) {
    let check = "--health-cmd 'test -e /ok' --health-interval 100ms --health-retries 2 --health-start-period 10s --health-start-interval 50ms --stop-timeout 2";
    let label = "--label yare.health-on-failure";
    let way = if c.program == Program::Yare { "--health-on-failure" } else { label };
    // The first run finds the file and takes it away; the next ones never have been healthy.
    let run = "busybox sh -c 'test -e /was || { touch /ok /was; }; sleep 1000'";
    let [mut events, mut of_kill] = ["", "-kill"].map(|name| Happenings::of(c, &format!("{}{name}", c.n)));
    c.ok(&format!("docker run -d --name $n {check} {way}=restart {run}"));
    c.ok(&format!("docker run -d --name $n-kill {check} --restart on-failure {way}=kill {run}"));
    c.ok(&format!("docker run -d --name $n-stop {check} --restart always {way}=stop {run}"));
    for name in ["$n", "$n-kill", "$n-stop"] {
        c.comes_to(&format!("docker inspect -f '{STATUS}' {name}"), "healthy");
    }
    let first = c.inspect("$n", "{{.State.StartedAt}}");
    c.ok("for name in $n $n-kill $n-stop; do docker exec $name rm /ok; done");
    c.comes_to(
        &format!("docker inspect -f '{{{{eq .State.StartedAt \"{first}\"}}}} {STATUS}' $n"),
        "false starting",
    );
    // It was restarted by its policy, which counts.
    c.comes_to("docker inspect -f '{{gt .RestartCount 0}} {{.State.Running}}' $n-kill", "true true");
    c.comes_to("docker inspect -f '{{.State.Status}} {{.RestartCount}}' $n-stop", "exited 0");
    let happened = events.come_to("restart", 1).join("\n");
    assert!(happened.contains("health_status: unhealthy\nkill\n"), "{happened}");
    // Started by the user, and then by its policy.
    let happened = of_kill.come_to("start", 2);
    assert!(!happened.contains(&"stop".to_owned()), "{happened:?}");
    let refused = c.fails(1, &format!("docker create {label}=reboot busybox"));
    let why = "invalid label yare.health-on-failure 'reboot': must be one of none, kill, restart, stop";
    assert!(refused.contains(why), "{refused}");
}

fn health_outlives_the_engine(c: &Client) {
    let mut engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let c = c.of(&engine);
        c.ok("docker run -d --name $n --health-cmd 'test -e /ok' --health-interval 100ms --health-retries 1 busybox sh -c 'touch /ok; sleep 1000'");
        c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "healthy");
        engine.kill9();
        engine.restart();
        c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "healthy");
        c.ok("docker exec $n rm /ok");
        c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "unhealthy");
        c.ok("docker rm -f $n");
    }
    engine.finish();
}

fn a_service_waits_for_a_healthy_one(c: &Client) {
    let Some(compose) = crate::names::compose(c) else { return };
    let file = "services:\n  db:\n    image: busybox\n    command: sh -c 'sleep 1; touch /ok; sleep 1000'\n    healthcheck: {test: test -e /ok, interval: 100ms, retries: 100}\n  web:\n    image: busybox\n    command: sh -c 'ping -c 1 db && sleep 1000'\n    depends_on: {db: {condition: service_healthy}}\n";
    std::fs::write(c.folder.join("compose.yaml"), file).unwrap();
    c.ok(&format!("{compose} up -d"));
    c.says(&format!("{compose} ps --format '{{{{.Service}}}} {{{{.Health}}}}' | sort"), "db healthy\nweb \n");
    c.ok(&format!("{compose} down -t 1"));
}
