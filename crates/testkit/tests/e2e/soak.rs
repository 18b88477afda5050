//! Long forms, run by `make soak`.

use std::time::Duration;

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        hundreds_of_runs_at_once_lose_no_output.long().alone(),
        a_gigabyte_arrives_whole.long().alone();
    Docker:
        a_follower_keeps_up_with_a_fast_writer
            .long()
            .alone()
            .differs("dockerd loses lines when a reader is slower than the writer"),
        a_container_starts_hundreds_of_times.long().alone();
];

fn hundreds_of_runs_at_once_lose_no_output(c: &Client) {
    let script = "for i in $(seq 400); do echo $i; done | xargs -P 16 -I% sh -c \
                  'test \"$(docker run --rm busybox echo out%)\" = out% && echo good' | grep -c good";
    let count = c.script(script).patience(Duration::from_secs(600)).ok();
    assert_eq!(count, "400\n");
    c.comes_to("docker ps -aq", "");
}

fn a_gigabyte_arrives_whole(c: &Client) {
    let program = "yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 1000000000";
    let patience = Duration::from_secs(600);
    let expected = c.script(&format!("{program} | sha256sum")).patience(patience).ok();
    let run = format!("docker run --rm --log-driver none busybox sh -c '{program}' | sha256sum");
    assert_eq!(c.script(&run).patience(patience).ok(), expected);
}

fn a_follower_keeps_up_with_a_fast_writer(c: &Client) {
    c.ok("docker run -d --name $n --log-opt max-size=20m --log-opt max-file=5 busybox sh -c 'until test -e /go; do sleep 0.05; done; seq 1 3000000'");
    let script = "(sleep 0.5; docker exec $n touch /go) & docker logs -f $n | awk '$1 != NR {bad = 1} END {print NR, bad + 0}'";
    assert_eq!(c.script(script).patience(Duration::from_secs(600)).ok(), "3000000 0\n");
}

fn a_container_starts_hundreds_of_times(c: &Client) {
    c.ok("docker create --name $n busybox echo quick");
    let script = "for i in $(seq 300); do docker start -a $n; done | sort | uniq -c | tr -s ' '";
    assert_eq!(c.script(script).patience(Duration::from_secs(600)).ok(), " 300 quick\n");
}
