//! `exec`.

use rustix::process::Signal;

use crate::case::cases;
use crate::client::{Client, Program};
use crate::security::all_capabilities;

cases![
    Both:
        exec_gives_output_and_code,
        exec_has_its_own_environment,
        exec_runs_as_whom_it_is_told,
        exec_is_inside,
        exec_detached_goes_on_alone,
        exec_takes_input,
        exec_says_what_it_cannot_run.differs_from_old("the code was 126"),
        exec_wants_a_running_container.differs_from_old("texts were others"),
        exec_many_at_once,
        exec_ends_with_its_container,
        exec_of_much_output_is_whole,
        exec_privileged_has_everything.differs_from_old("it asks for capabilities that it lacks itself"),
        an_exec_gets_signals;
];

/// With Docker's command line they end the client alone; the API of ours kills what it leaves behind.
fn an_exec_gets_signals(c: &Client) {
    up(c);
    let mut child = c.spawn("exec docker exec $n sh -c 'trap \"echo usr1\" USR1; trap \"echo term; exit 9\" TERM; echo ready; while :; do sleep 0.05; done'");
    child.says("ready\n");
    if c.program == Program::Yare {
        child.signal(Signal::USR1);
        child.says("usr1\n");
        child.signal(Signal::TERM);
        child.says("term\n");
        assert_eq!(child.end().status.code(), Some(9));
        let kill = "docker kill --exec $(docker inspect -f '{{join .ExecIDs \" \"}}' $n)";
        c.ok(&format!(
            "(until {kill} 2> /dev/null; do sleep 0.1; done) & docker exec $n sleep 1000 || test $? = 137"
        ));
    } else if c.is_yare_engine() {
        child.signal(Signal::TERM);
        child.end();
        let id = c.inspect("$n", "{{index .ExecIDs 0}}");
        let killed = c.api("POST", &format!("/yare/exec/{id}/kill?signal=TERM"), None);
        assert_eq!(killed.status, 204, "{killed:?}");
        c.comes_to("docker inspect -f '{{len .ExecIDs}}' $n", "0");
        let again = c.api("POST", &format!("/yare/exec/{id}/kill"), None);
        assert_eq!(again.status, 409, "{again:?}");
    }
}

fn up(c: &Client) {
    c.ok("docker run -d --name $n busybox sleep 1000");
}

fn exec_gives_output_and_code(c: &Client) {
    up(c);
    let outcome = c.run("docker exec $n sh -c 'echo out; echo err >&2; exit 17'");
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (17, "out\n", "err\n"));
    c.fails(137, "docker exec $n sh -c 'kill -9 $$'");
    c.fails(143, "docker exec $n sh -c 'kill -15 $$'");
    c.says("docker logs $n", "");
}

fn exec_has_its_own_environment(c: &Client) {
    c.ok(
        "docker run -d --name $n -e A=run -e B=run -w /tmp -h box busybox sleep 1000; echo F=file > env.txt",
    );
    c.says(
        "docker exec -e A=exec --env-file env.txt $n sh -c 'echo $A $B $F $HOSTNAME $HOME; pwd'",
        "exec run file box /root\n/tmp\n",
    );
    c.says("docker exec -w /etc $n pwd", "/etc\n");
    c.says("docker exec -t $n sh -c 'echo $TERM' | tr -d '\\r'", "xterm\n");
    c.says("docker exec $n sh -c 'echo [$TERM]'", "[]\n");
}

fn exec_runs_as_whom_it_is_told(c: &Client) {
    up(c);
    c.says("docker exec -u app $n sh -c 'id -u; id -g; echo $HOME'", "1000\n1000\n/home\n");
    c.says("docker exec -u 5:6 $n sh -c 'id -u; id -g'", "5\n6\n");
    let text = c.fails(9, "docker exec -u nobodyhome $n true >&2 || exit 9");
    assert!(text.contains("unable to find user nobodyhome: no matching entries in passwd file"), "{text}");
    c.ok("docker run -d --name $n-u -u 1000 busybox sleep 1000");
    c.says("docker exec $n-u id -u", "1000\n");
    c.says("docker exec -u 0 $n-u id -u", "0\n");
}

fn exec_is_inside(c: &Client) {
    c.ok("docker run -d --name $n -m 64m --pids-limit 40 --cap-drop NET_RAW busybox sleep 1000");
    for kind in ["pid", "net", "ipc", "uts", "mnt"] {
        let sleeper = c.line(&format!("docker exec $n sh -c 'readlink /proc/$(pidof sleep)/ns/{kind}'"));
        c.says(&format!("docker exec $n readlink /proc/self/ns/{kind}"), &format!("{sleeper}\n"));
    }
    c.says("docker exec $n sh -c 'diff /proc/self/cgroup /proc/1/cgroup && echo same'", "same\n");
    c.says(
        "docker exec $n grep -E 'CapEff|Seccomp:' /proc/self/status",
        "CapEff:\t00000000a80405fb\nSeccomp:\t2\n",
    );
    c.says("docker exec $n touch /made; docker exec $n ls /made", "/made\n");
}

fn exec_detached_goes_on_alone(c: &Client) {
    up(c);
    c.says("docker exec -d $n sh -c 'sleep 0.2; echo later > /f'", "");
    c.comes_to("docker exec $n cat /f 2>/dev/null", "later");
    let text = c.fails(127, "docker exec -d $n nosuchprogram || exit 127");
    assert!(text.contains("nosuchprogram"), "{text}");
}

fn exec_takes_input(c: &Client) {
    up(c);
    c.says("echo through | docker exec -i $n cat", "through\n");
    c.says("echo unseen | docker exec $n cat", "");
    c.ok("head -c 3000000 /dev/urandom > big");
    c.says(
        "docker exec -i $n sha256sum < big | cut -d' ' -f1",
        &format!("{}\n", c.line("sha256sum < big | cut -d' ' -f1")),
    );
}

fn exec_says_what_it_cannot_run(c: &Client) {
    up(c);
    let text = c.fails(127, "docker exec $n nosuchprogram >&2");
    assert!(text.contains("exec: \"nosuchprogram\": executable file not found in $PATH"), "{text}");
    let text = c.fails(126, "docker exec $n /etc/passwd >&2");
    assert!(text.contains("exec: \"/etc/passwd\": permission denied"), "{text}");
    let text = c.fails(127, "docker exec $n /nosuch/program >&2");
    assert!(text.contains("stat /nosuch/program: no such file or directory"), "{text}");
    let text = c.fails(127, "docker exec -w /nosuch $n true >&2");
    assert!(text.contains("/nosuch"), "{text}");
    let text = c.fails(1, "docker exec $n");
    assert!(text.contains("'docker exec' requires at least 2 arguments"), "{text}");
}

fn exec_wants_a_running_container(c: &Client) {
    let id = c.line("docker create --name $n busybox true");
    c.refuses(
        1,
        "docker exec $n true",
        &format!("Error response from daemon: container {id} is not running"),
    );
    c.refuses(
        1,
        "docker exec $n-none true",
        &format!("Error response from daemon: No such container: {}-none", c.n),
    );
    c.ok("docker run -d --name $n-p busybox sleep 1000; docker pause $n-p");
    let text = c.fails(1, "docker exec $n-p true").to_lowercase();
    assert_eq!(
        text,
        format!(
            "error response from daemon: container {}-p is paused, unpause the container before exec\n",
            c.n
        )
    );
}

fn exec_many_at_once(c: &Client) {
    up(c);
    c.says(
        "for i in $(seq 20); do docker exec $n echo $i & done | sort -n | tr '\\n' ' '",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 ",
    );
    // Each is gone when it has ended.
    c.comes_to("docker inspect -f '{{.ExecIDs}}' $n", "[]");
}

fn exec_ends_with_its_container(c: &Client) {
    up(c);
    let child = c.spawn("exec docker exec $n sleep 1000");
    c.comes_to("docker top $n -o pid,args | grep -c 'sleep 1000'", "2");
    c.ok("docker rm -f $n");
    let output = child.end();
    assert_eq!(output.status.code(), Some(137), "{output:?}");
}

fn exec_of_much_output_is_whole(c: &Client) {
    up(c);
    c.says("docker exec $n sh -c 'yes | head -c 10000000' | wc -c", "10000000\n");
    for _ in 0..10 {
        c.says("docker exec $n echo quick", "quick\n");
    }
}

fn exec_privileged_has_everything(c: &Client) {
    up(c);
    let all = all_capabilities(c);
    c.says("docker exec --privileged $n grep CapEff /proc/self/status", &format!("CapEff:\t{all}\n"));
    c.says("docker exec $n grep CapEff /proc/self/status", "CapEff:\t00000000a80425fb\n");
}
