//! Health checks.

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        a_container_becomes_healthy_and_unhealthy,
        what_probes_said_is_kept,
        a_probe_that_takes_too_long_is_killed,
        a_check_comes_from_the_image_or_is_switched_off,
        the_start_period_forgives;
    Docker:
        health_outlives_the_engine,
        a_service_waits_for_a_healthy_one;
];

const STATUS: &str = "{{.State.Health.Status}}";

fn a_container_becomes_healthy_and_unhealthy(c: &Client) {
    c.ok("docker run -d --name $n --health-cmd 'test -e /ok' --health-interval 100ms --health-retries 2 busybox sh -c 'touch /ok; sleep 1000'");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "healthy");
    c.says(
        "docker ps --filter health=healthy --filter name=$n --format '{{.Status}}' | grep -c '(healthy)'",
        "1\n",
    );
    c.says("docker ps -q --filter health=none --filter name=$n | wc -l", "0\n");
    c.ok("docker exec $n rm /ok");
    c.comes_to(&format!("docker inspect -f '{STATUS}' $n"), "unhealthy");
    let streak: u32 = c.inspect("$n", "{{.State.Health.FailingStreak}}").parse().unwrap();
    assert!(streak >= 2, "{streak}");
    c.says(
        "docker events --since 60s --until $(($(date +%s) + 1)) --filter container=$n --filter event=health_status --format '{{.Action}}'",
        "health_status: healthy\nhealth_status: unhealthy\n",
    );
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
