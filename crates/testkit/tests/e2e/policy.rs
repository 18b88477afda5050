//! Restart policies.

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        on_failure_gives_up_after_its_count,
        on_failure_leaves_success_alone,
        always_runs_until_it_is_stopped,
        a_wait_ends_with_each_run,
        restarting_containers_are_stopped_and_removed_at_any_moment,
        a_policy_that_is_none_is_refused.differs_from_old("texts were others"),
        rm_and_restart_do_not_mix;
];

fn on_failure_gives_up_after_its_count(c: &Client) {
    c.ok("docker run -d --name $n --restart on-failure:2 busybox sh -c 'echo run; exit 3'");
    c.comes_to(
        "docker inspect -f '{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}' $n",
        "exited 2 3",
    );
    c.says("docker logs $n", "run\nrun\nrun\n");
}

fn on_failure_leaves_success_alone(c: &Client) {
    c.ok("docker run -d --name $n --restart on-failure busybox true");
    c.says("docker wait $n", "0\n");
    c.ok("sleep 0.4");
    c.says("docker inspect -f '{{.State.Status}} {{.RestartCount}}' $n", "exited 0\n");
}

fn always_runs_until_it_is_stopped(c: &Client) {
    c.ok("docker run -d --name $n --restart always busybox sh -c 'echo run; sleep 0.1'");
    c.comes_to("test $(docker inspect -f '{{.RestartCount}}' $n) -ge 2 && echo twice", "twice");
    c.ok("docker stop -t 1 $n");
    let count = c.inspect("$n", "{{.RestartCount}}");
    c.ok("sleep 1");
    assert_eq!(c.inspect("$n", "{{.State.Status}} {{.RestartCount}}"), format!("exited {count}"));
    c.ok("docker run -d --name $n-u --restart unless-stopped --init busybox sleep 1000");
    // Killed from outside, it comes back.
    let pid: u32 = c.inspect("$n-u", "{{.State.Pid}}").parse().unwrap();
    assert!(pid > 1);
    c.ok(&format!("kill -9 {pid}"));
    c.comes_to("docker inspect -f '{{.State.Status}} {{.RestartCount}}' $n-u", "running 1");
    // Killed by its user, it does not.
    c.ok("docker kill $n-u; sleep 0.5");
    assert_eq!(c.inspect("$n-u", "{{.State.Status}}"), "exited");
}

fn a_wait_ends_with_each_run(c: &Client) {
    c.ok("docker run -d --name $n --restart always busybox sh -c 'sleep 0.7; exit 7'");
    c.says("timeout 60 docker wait $n", "7\n");
    c.says("timeout 60 docker wait $n", "7\n");
}

fn restarting_containers_are_stopped_and_removed_at_any_moment(c: &Client) {
    let script = "for i in $(seq 12); do
            docker run -d --name $n-$i --restart always busybox sh -c \"usleep $((i % 4 * 20000)); false\" >/dev/null
            sleep 0.$((i * 7 % 10))
            timeout 30 docker stop -t 1 $n-$i >/dev/null || echo stop $?
            test $(docker inspect -f '{{.State.Running}}' $n-$i) = false || echo runs
            docker start $n-$i >/dev/null
            sleep 0.$((i * 3 % 10))
            timeout 30 docker rm -f $n-$i >/dev/null || echo rm $?
        done; sleep 0.3; docker ps -aq --filter name=$n-";
    c.says(script, "");
}

fn a_policy_that_is_none_is_refused(c: &Client) {
    let text = c.fails(125, "docker run --restart sometimes --name $n busybox true");
    assert!(text.contains("invalid restart policy: unknown policy 'sometimes'"), "{text}");
    let text = c.fails(125, "docker run --restart always:3 --name $n busybox true");
    assert!(text.contains("maximum retry count can only be used with 'on-failure'"), "{text}");
}

fn rm_and_restart_do_not_mix(c: &Client) {
    c.refuses(
        125,
        "docker run --rm --restart always --name $n busybox true",
        "docker: conflicting options: cannot specify both --restart and --rm",
    );
}
