//! Standard input, output and error, through every door.

use std::io::{Read, Write};
use std::time::Duration;

use rustix::process::Signal;
use yare_testkit::Outcome;

use crate::case::cases;
use crate::client::Client;
use crate::happenings::Happenings;

cases![
    Both:
        output_and_errors_stay_apart,
        input_goes_through_and_ends,
        the_program_goes_on_after_the_end_of_input,
        input_that_nobody_reads_is_no_error,
        without_i_input_is_empty,
        binary_data_stays_as_it_is,
        short_programs_lose_no_output,
        fifty_megabytes_arrive_whole,
        much_input_arrives_whole,
        attach_joins_a_running_container,
        attach_refuses_what_does_not_run,
        attach_without_stdin_only_listens,
        two_attachments_see_the_same,
        attached_input_may_come_later,
        a_slow_reader_slows_the_program,
        a_reader_that_pauses_gets_the_rest,
        output_without_a_newline_arrives_at_once,
        signals_go_to_the_program,
        output_held_by_a_child_ends_the_run;
];

fn output_and_errors_stay_apart(c: &Client) {
    let outcome =
        c.run("docker run --rm busybox sh -c 'for i in 1 2 3; do echo out$i; echo err$i >&2; done'");
    assert_eq!(
        (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()),
        (0, "out1\nout2\nout3\n", "err1\nerr2\nerr3\n")
    );
}

fn input_goes_through_and_ends(c: &Client) {
    c.says("echo hi | docker run -i --rm busybox cat", "hi\n");
    c.says("printf 'a\\nb\\nc' | docker run -i --rm busybox wc -c", "5\n");
    c.says("docker run -i --rm busybox cat < /dev/null", "");
    c.says("docker run -i --rm busybox cat <&- | wc -c", "0\n");
}

fn the_program_goes_on_after_the_end_of_input(c: &Client) {
    c.says(
        "echo in | docker run -i --rm busybox sh -c 'cat; sleep 0.5; echo after the end'",
        "in\nafter the end\n",
    );
    c.says("docker run -d --name $n busybox sleep 1000 >/dev/null; echo in | docker exec -i $n sh -c 'cat; sleep 0.3; echo after'", "in\nafter\n");
}

fn input_that_nobody_reads_is_no_error(c: &Client) {
    c.says("head -c 3000000 /dev/zero | docker run -i --rm busybox echo done", "done\n");
    // Input that stays open holds nobody up when the program has ended.
    let mut child = c.spawn("exec docker run -i --rm busybox head -n1");
    let mut input = child.child().stdin.take().unwrap();
    input.write_all(b"one\n").unwrap();
    assert_eq!(child.end().stdout, b"one\n");
    drop(input);
}

fn without_i_input_is_empty(c: &Client) {
    c.says("echo unseen | docker run --rm busybox cat", "");
}

fn sum(bytes: &[u8]) -> (usize, u64) {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (bytes.len(), hash)
}

fn binary_data_stays_as_it_is(c: &Client) {
    let data: Vec<u8> =
        (0..200_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let Outcome { bytes, code, .. } = c.script("docker run -i --rm busybox cat").input(data.clone()).run();
    assert_eq!((code, sum(&bytes)), (0, sum(&data)));
}

fn short_programs_lose_no_output(c: &Client) {
    for _ in 0..15 {
        c.says("docker run --rm busybox echo quick", "quick\n");
    }
    c.says("docker create --name $n busybox echo quick >/dev/null; for i in 1 2 3 4 5; do docker start -a $n; done", &"quick\n".repeat(5));
}

fn fifty_megabytes_arrive_whole(c: &Client) {
    let program = "yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 50000000";
    let expected = c.line(&format!("{program} | sha256sum"));
    c.says(
        &format!("docker run --name $n --log-opt max-size=1g busybox sh -c '{program}' | sha256sum"),
        &format!("{expected}\n"),
    );
    c.says("docker logs $n | sha256sum", &format!("{expected}\n"));
}

fn much_input_arrives_whole(c: &Client) {
    c.ok("head -c 20000000 /dev/urandom > big");
    let expected = c.line("sha256sum < big | cut -d' ' -f1");
    c.says("docker run -i --rm busybox sha256sum < big | cut -d' ' -f1", &format!("{expected}\n"));
    c.says(
        "docker run -i --rm --log-driver none busybox cat < big | sha256sum | cut -d' ' -f1",
        &format!("{expected}\n"),
    );
}

fn attach_joins_a_running_container(c: &Client) {
    c.ok("docker run -d --name $n busybox sh -c 'until test -e /go; do sleep 0.05; done; echo said; echo cried >&2; exit 5'");
    let mut events = Happenings::of(c, &c.n);
    let child = c.spawn("exec docker attach $n");
    events.come_to("attach", 1);
    c.lets_go("$n");
    let output = child.end();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()),
        (Some(5), b"said\n".as_slice(), b"cried\n".as_slice())
    );
}

fn attach_refuses_what_does_not_run(c: &Client) {
    c.ok("docker create --name $n busybox true");
    let text = c.fails(1, "docker attach $n");
    assert!(text.contains("cannot attach to a stopped container, start it first"), "{text}");
    c.ok("docker run -d --name $n-p busybox sleep 1000; docker pause $n-p");
    let text = c.fails(1, "docker attach $n-p");
    assert!(text.contains("cannot attach to a paused container, unpause it first"), "{text}");
    c.refuses(
        1,
        "docker attach $n-none",
        &format!("Error response from daemon: No such container: {}-none", c.n),
    );
}

fn attach_without_stdin_only_listens(c: &Client) {
    c.ok("docker run -d -i --name $n busybox sh -c 'while read line; do echo got $line; done; echo end'");
    let mut events = Happenings::of(c, &c.n);
    let mut deaf = c.spawn("exec docker attach --no-stdin $n");
    events.come_to("attach", 1);
    drop(deaf.child().stdin.take());
    // The input of what was started detached stays open for whoever comes next.
    for (word, all) in [("one", "got one"), ("two", "got one\ngot two")] {
        let _talks = c.spawn(&format!("echo {word} > word; exec docker attach $n < word"));
        c.comes_to("docker logs $n", all);
    }
    c.ok("docker kill $n");
    let mut said = String::new();
    deaf.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "got one\ngot two\n");
    deaf.end();
}

fn two_attachments_see_the_same(c: &Client) {
    c.ok("docker run -d --name $n busybox sh -c 'until test -e /go; do sleep 0.05; done; seq 1 20000'");
    let mut events = Happenings::of(c, &c.n);
    let children: Vec<_> = (0..3).map(|_| c.spawn("exec docker attach $n")).collect();
    events.come_to("attach", 3);
    c.lets_go("$n");
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    for child in children {
        let output = child.end();
        assert_eq!(sum(&output.stdout), sum(expected.as_bytes()));
    }
}

fn attached_input_may_come_later(c: &Client) {
    let mut child =
        c.spawn("exec docker run -i --rm busybox sh -c 'read a; echo first $a; read b; echo second $b'");
    let mut input = child.child().stdin.take().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    input.write_all(b"x\n").unwrap();
    child.says("first x\n");
    input.write_all(b"y\n").unwrap();
    child.says("second y\n");
    assert_eq!(child.end().status.code(), Some(0));
}

/// As a pager does, longer than anybody would wait for it.
fn a_reader_that_pauses_gets_the_rest(c: &Client) {
    c.says("docker run --rm busybox seq 1 150000 | (sleep 13; tail -n 1)", "150000\n");
    c.ok("docker run -d --name $n busybox sleep 1000");
    c.says("docker exec $n seq 1 150000 | (sleep 13; tail -n 1)", "150000\n");
}

fn a_slow_reader_slows_the_program(c: &Client) {
    // More than any buffer on the way holds; the reader sleeps first.
    let size = 30_000_000;
    c.says(
        &format!("docker run --rm --log-driver none busybox head -c {size} /dev/zero | (sleep 1; wc -c)"),
        &format!("{size}\n"),
    );
    // A reader that goes away does not hang the client.
    c.says("docker run --rm --log-driver none --name $n busybox yes | head -n 1; docker kill $n >/dev/null 2>&1; true", "y\n");
}

fn output_without_a_newline_arrives_at_once(c: &Client) {
    let mut child = c.spawn("exec docker run --rm --name $n busybox sh -c 'printf prompt; sleep 1000'");
    let mut bytes = [0; 6];
    child.child().stdout.take().unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"prompt");
    c.ok("docker kill $n");
    child.end();
}

fn signals_go_to_the_program(c: &Client) {
    let mut child = c.spawn("exec docker run --rm --name $n busybox sh -c 'trap \"echo term; exit 9\" TERM; trap \"echo usr1\" USR1; echo ready; while :; do sleep 0.05; done'");
    child.says("ready\n");
    child.signal(Signal::USR1);
    child.says("usr1\n");
    child.signal(Signal::TERM);
    child.says("term\n");
    assert_eq!(child.end().status.code(), Some(9));
    // --sig-proxy=false: the program sees nothing of it.
    let mut child =
        c.spawn("exec docker run --sig-proxy=false --name $n-2 busybox sh -c 'echo ready; sleep 1000'");
    let mut bytes = [0; 6];
    child.child().stdout.take().unwrap().read_exact(&mut bytes).unwrap();
    child.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(c.inspect("$n-2", "{{.State.Running}}"), "true");
}

fn output_held_by_a_child_ends_the_run(c: &Client) {
    // The program ends; a child that it left behind keeps the pipe open, and is killed with the rest.
    c.says("timeout 60 docker run --rm busybox sh -c 'sleep 1000 & echo ended'", "ended\n");
}
