//! From create to rm.

use std::time::Duration;

use rustix::process::Signal;

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        exit_codes_come_through,
        a_signal_is_128_and_its_number,
        run_rm_leaves_nothing,
        run_d_prints_the_id,
        create_start_stop_rm_echo_names,
        start_attached_gives_output_and_code,
        start_of_several_goes_on_after_an_error,
        wait_prints_exit_codes,
        kill_sends_any_signal,
        kill_refuses_what_it_cannot_do.differs_from_old("texts were others"),
        stop_signal_is_the_containers.differs_from_old("it has no stop --signal"),
        stop_timeout_ends_in_kill,
        stop_of_sleep_is_quick_with_init.alone(),
        stop_of_sleep_is_quick.alone().differs("a built-in init is process 1 by default"),
        init_reaps_zombies.differs("a built-in init is process 1 by default"),
        init_false_runs_the_program_as_process_1,
        an_image_with_its_own_init_keeps_it.differs("the built-in init steps back for images that bring one"),
        rm_of_running_needs_force.differs_from_old("texts were others"),
        rm_takes_anonymous_volumes_along,
        restart_runs_it_again,
        restart_keeps_a_container_that_removes_itself,
        a_signal_that_ends_reaches_a_paused_container,
        pause_stops_time_and_unpause_goes_on,
        rename_frees_the_old_name,
        names_are_taken_once,
        cidfile_holds_the_id,
        inspect_tells_how_it_ended,
        top_lists_processes.differs_from_old("texts were others"),
        update_changes_limits,
        killing_the_client_stops_nothing,
        short_ids_do;
];

fn exit_codes_come_through(c: &Client) {
    for code in [0, 1, 3, 42, 255] {
        c.fails(code, &format!("docker run --rm busybox sh -c 'exit {code}'"));
    }
    c.says("docker run --rm busybox echo hi", "hi\n");
    c.fails(125, "docker run --rm --nosuchflag busybox true");
    c.fails(126, "docker run --rm busybox /etc/passwd");
    c.fails(127, "docker run --rm busybox nosuchprogram");
    c.fails(127, "docker run --rm busybox /bin/nosuchprogram");
    c.fails(126, "docker run --rm busybox /etc");
}

fn a_signal_is_128_and_its_number(c: &Client) {
    c.fails(143, "docker run --rm --init busybox sh -c 'kill -TERM $$; sleep 5'");
    c.fails(129, "docker run --rm --init busybox sh -c 'kill -HUP $$; sleep 5'");
    c.ok("docker run -d --name $n busybox sleep 1000");
    c.says("docker kill $n > /dev/null; docker wait $n", "137\n");
    c.says("docker ps -a --filter name=$n --format '{{.Status}}' | cut -d' ' -f1,2", "Exited (137)\n");
}

fn run_rm_leaves_nothing(c: &Client) {
    c.says("docker run --rm --name $n -v /data busybox sh -c 'mount | grep -c \" /data \"'", "1\n");
    c.comes_to("docker ps -aq --filter name=$n", "");
    c.says("docker volume ls -q --filter label=com.docker.volume.anonymous --filter name=$n", "");
    let id = c.line("docker run -d --rm --name $n busybox sleep 1000");
    c.ok("docker stop -t 1 $n");
    c.comes_to("docker ps -aq --filter name=$n", "");
    c.comes_to(&format!("ls {} 2>/dev/null", c.host.container_folder(&id).display()), "");
    // A start that fails leaves nothing either.
    c.fails(127, "docker run --rm --name $n busybox nosuchprogram");
    c.comes_to("docker ps -aq --filter name=$n", "");
}

fn run_d_prints_the_id(c: &Client) {
    let id = c.line("docker run -d --name $n busybox sleep 1000");
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    c.says("docker ps -q --filter name=$n", &format!("{}\n", &id[..12]));
    c.says(
        "docker inspect -f '{{.Id}} {{.State.Status}} {{.State.Running}}' $n",
        &format!("{id} running true\n"),
    );
    assert_ne!(c.inspect("$n", "{{.State.Pid}}"), "0");
}

fn create_start_stop_rm_echo_names(c: &Client) {
    let n = &c.n;
    let id = c.line("docker create --name $n busybox sleep 1000");
    assert_eq!(id.len(), 64);
    assert_eq!(c.inspect("$n", "{{.State.Status}}"), "created");
    c.says("docker start $n", &format!("{n}\n"));
    c.says("docker start $n", &format!("{n}\n"));
    c.says("docker stop -t 0 $n", &format!("{n}\n"));
    c.says("docker stop $n", &format!("{n}\n"));
    assert_eq!(c.inspect("$n", "{{.State.Status}}"), "exited");
    c.says(&format!("docker start {}", &id[..6]), &format!("{}\n", &id[..6]));
    c.says("docker restart -t 0 $n", &format!("{n}\n"));
    c.says("docker kill $n", &format!("{n}\n"));
    c.comes_to("docker inspect -f '{{.State.Running}}' $n", "false");
    c.says("docker rm $n", &format!("{n}\n"));
    c.refuses(1, "docker rm $n", &format!("Error response from daemon: No such container: {n}"));
    c.refuses(1, "docker stop $n", &format!("Error response from daemon: No such container: {n}"));
}

fn start_attached_gives_output_and_code(c: &Client) {
    c.ok("docker create --name $n busybox sh -c 'echo out; echo err >&2; exit 9'");
    for _ in 0..2 {
        let outcome = c.run("docker start -a $n");
        assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (9, "out\n", "err\n"));
    }
    c.ok("docker create -i --name $n-cat busybox cat");
    c.says("echo through | docker start -ai $n-cat", "through\n");
}

fn start_of_several_goes_on_after_an_error(c: &Client) {
    let n = &c.n;
    c.ok("docker create --name $n-a busybox true; docker create --name $n-b busybox true");
    let outcome = c.run("docker start $n-a $n-none $n-b");
    assert_eq!((outcome.code, outcome.stdout), (1, format!("{n}-a\n{n}-b\n")));
    assert!(
        outcome.stderr.starts_with(&format!("Error response from daemon: No such container: {n}-none\n")),
        "{}",
        outcome.stderr
    );
    c.ok("docker create --name $n-bad busybox nosuchprogram");
    let text = c.fails(1, "docker start $n-bad");
    assert!(text.contains("exec: \"nosuchprogram\": executable file not found in $PATH"), "{text}");
    assert!(text.contains(&format!("failed to start containers: {n}-bad")), "{text}");
    assert_eq!(c.inspect("$n-bad", "{{.State.ExitCode}}"), "127");
}

fn wait_prints_exit_codes(c: &Client) {
    c.ok("docker run -d --name $n-a busybox sh -c 'sleep 0.3; exit 4'; docker run -d --name $n-b busybox sh -c 'exit 5'");
    c.says("docker wait $n-a $n-b", "4\n5\n");
    c.says("docker wait $n-a", "4\n");
    c.refuses(
        1,
        "docker wait $n-none",
        &format!("Error response from daemon: No such container: {}-none", c.n),
    );
}

fn kill_sends_any_signal(c: &Client) {
    c.ok("docker run -d --name $n busybox sh -c 'trap \"echo usr1\" USR1; trap \"echo hup\" HUP; echo ready; while :; do sleep 0.05; done'");
    c.comes_to("docker logs $n", "ready");
    c.says("docker kill -s USR1 $n; docker kill --signal SIGHUP $n", &format!("{n}\n{n}\n", n = c.n));
    c.comes_to("docker logs $n | sort | tr '\\n' ' '", "hup ready usr1");
    c.says("docker kill -s 10 $n > /dev/null; docker inspect -f '{{.State.Running}}' $n", "true\n");
    c.comes_to("docker logs $n | grep -c usr1", "2");
    c.ok("docker kill $n");
    c.says("docker wait $n", "137\n");
}

fn kill_refuses_what_it_cannot_do(c: &Client) {
    let id = c.line("docker create --name $n busybox true");
    let n = &c.n;
    c.refuses(
        1,
        "docker kill $n",
        &format!("Error response from daemon: cannot kill container: {n}: container {id} is not running"),
    );
    c.refuses(
        1,
        "docker kill -s NONSENSE $n",
        &format!("Error response from daemon: cannot kill container: {n}: invalid signal: NONSENSE"),
    );
}

fn stop_signal_is_the_containers(c: &Client) {
    let program = "trap \"echo got usr2; exit 7\" USR2; trap \"echo got term; exit 8\" TERM; echo ready; while :; do sleep 0.05; done";
    c.ok(&format!("docker run -d --name $n --stop-signal USR2 busybox sh -c '{program}'"));
    c.comes_to("docker logs $n", "ready");
    c.ok("docker stop $n");
    c.says("docker logs $n; docker wait $n", "ready\ngot usr2\n7\n");
    c.ok("docker start $n > /dev/null");
    c.comes_to("docker logs $n | grep -c ready", "2");
    c.ok("docker stop -s TERM $n");
    c.says("docker wait $n", "8\n");
}

fn stop_timeout_ends_in_kill(c: &Client) {
    c.ok("docker run -d --name $n --stop-timeout 1 busybox sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.05; done'");
    c.comes_to("docker logs $n", "ready");
    let took = c.script("docker stop $n").run().took;
    // By default it would be ten seconds.
    assert!((Duration::from_millis(900)..Duration::from_secs(9)).contains(&took), "{took:?}");
    c.says("docker wait $n", "137\n");
    c.ok("docker run -d --name $n-2 --stop-timeout 1000 busybox sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.05; done'");
    c.comes_to("docker logs $n-2", "ready");
    c.ok("docker stop -t 0 $n-2");
    c.says("docker wait $n-2", "137\n");
}

/// Half of what a stop waits for a program that does not end.
const QUICK: Duration = Duration::from_secs(5);

fn stop_of_sleep_is_quick_with_init(c: &Client) {
    c.ok("docker run -d --init --name $n busybox sleep 1000");
    let stopped = c.script("docker stop $n").run();
    assert!(stopped.took < QUICK, "{stopped:?}");
    c.says("docker wait $n", "143\n");
}

fn stop_of_sleep_is_quick(c: &Client) {
    c.ok("docker run -d --name $n busybox sleep 1000");
    let stopped = c.script("docker stop $n").run();
    assert!(stopped.took < QUICK, "{stopped:?}");
    c.says("docker wait $n", "143\n");
}

fn init_reaps_zombies(c: &Client) {
    // Orphans of `sh` go to process 1; a sleep that nobody waits for would stay a zombie.
    c.ok("docker run -d --name $n busybox sh -c '(sh -c \"sleep 0.1 & exec true\"); exec sleep 1000'");
    c.ok("sleep 0.5");
    c.comes_to("docker exec $n ps -o stat,comm | grep -c Z; true", "0");
}

fn init_false_runs_the_program_as_process_1(c: &Client) {
    c.says("docker run --rm --init=false busybox sh -c 'echo $$'", "1\n");
    c.says("docker run --rm --init busybox sh -c 'test $$ -ne 1 && echo another'", "another\n");
    c.ok("docker run -d --init=false --name $n busybox sleep 1000");
    c.ok("docker stop -t 1 $n");
    c.says("docker wait $n", "137\n");
}

fn an_image_with_its_own_init_keeps_it(c: &Client) {
    c.ok("mkdir r; tar -xf $busybox -C r; cp r/bin/busybox r/bin/tini; tar -C r -c . | docker import - $n/a");
    // This one is busybox by another name, which it does not know.
    c.fails(127, "docker run --name $n $n/a tini");
    let processes = c.ok("docker run --rm busybox ps -o pid,args");
    assert!(processes.contains("1 /sbin/yare-init"), "{processes}");
    c.says("docker inspect -f '{{json .HostConfig.Init}}' $n", "null\n");
}

fn rm_of_running_needs_force(c: &Client) {
    let n = &c.n;
    c.ok("docker run -d --name $n busybox sleep 1000");
    c.refuses(
        1,
        "docker rm $n",
        &format!("Error response from daemon: cannot remove container \"{n}\": container is running: stop the container before removing or force remove"),
    );
    c.says("docker rm -f $n", &format!("{n}\n"));
    c.says("docker ps -aq --filter name=$n", "");
    // Force forgives what is not there.
    c.says("docker rm -f $n", "");
    c.ok("docker run -d --name $n busybox sleep 1000; docker pause $n");
    c.refuses(
        1,
        "docker rm $n",
        &format!("Error response from daemon: cannot remove container \"{n}\": container is paused and must be unpaused first"),
    );
    c.says("docker rm -f $n", &format!("{n}\n"));
}

fn rm_takes_anonymous_volumes_along(c: &Client) {
    c.ok("docker create --name $n -v /anonymous -v $n-named:/named busybox true");
    let name =
        c.inspect("$n", "{{range .Mounts}}{{if eq .Destination \"/anonymous\"}}{{.Name}}{{end}}{{end}}");
    assert_eq!(name.len(), 64);
    c.says(&format!("docker volume ls -q | grep -c -e {name} -e {}-named", c.n), "2\n");
    c.ok("docker rm -v $n");
    c.says(&format!("docker volume ls -q | grep -e {name} -e {}-named", c.n), &format!("{}-named\n", c.n));
    c.ok("docker create --name $n -v /anonymous busybox true");
    let name = c.inspect("$n", "{{(index .Mounts 0).Name}}");
    c.ok("docker rm $n");
    c.says(&format!("docker volume rm {name}"), &format!("{name}\n"));
}

fn restart_keeps_a_container_that_removes_itself(c: &Client) {
    c.ok("docker run -d --rm --name $n -v /data busybox sh -c 'test -e /data/x && touch /kept; touch /data/x; sleep 1000'");
    let id = c.inspect("$n", "{{.Id}}");
    c.comes_to("docker exec $n ls /data/x", "/data/x");
    c.ok("timeout 60 docker restart -t 1 $n && timeout 60 docker restart -t 1 $n");
    c.comes_to("docker exec $n ls /kept", "/kept");
    assert_eq!(
        c.inspect("$n", "{{.Id}} {{.State.Status}} {{.HostConfig.AutoRemove}}"),
        format!("{id} running true")
    );
    c.ok("docker stop -t 1 $n");
    c.comes_to("docker ps -aq --filter name=$n", "");
}

fn a_signal_that_ends_reaches_a_paused_container(c: &Client) {
    c.ok("docker run -d --name $n busybox sh -c 'trap \"exit 5\" TERM; echo ready; while :; do sleep 0.1; done'");
    c.comes_to("docker logs $n", "ready");
    c.ok("docker pause $n; docker kill -s TERM $n");
    c.says("timeout 60 docker wait $n", "5\n");
}

fn restart_runs_it_again(c: &Client) {
    c.ok("docker run -d --init --name $n busybox sh -c 'echo started; exec sleep 1000'");
    let (pid, at) = (c.inspect("$n", "{{.State.Pid}}"), c.inspect("$n", "{{.State.StartedAt}}"));
    c.says("docker restart $n", &format!("{}\n", c.n));
    assert_ne!((c.inspect("$n", "{{.State.Pid}}"), c.inspect("$n", "{{.State.StartedAt}}")), (pid, at));
    c.comes_to("docker logs $n | grep -c started", "2");
    c.ok("docker stop -t 0 $n; docker restart $n");
    assert_eq!(c.inspect("$n", "{{.State.Status}} {{.RestartCount}}"), "running 0");
}

fn pause_stops_time_and_unpause_goes_on(c: &Client) {
    let id = c.line("docker run -d --name $n busybox sh -c 'while :; do echo tick; sleep 0.05; done'");
    let n = &c.n;
    c.says("docker pause $n", &format!("{n}\n"));
    assert_eq!(c.inspect("$n", "{{.State.Status}} {{.State.Paused}} {{.State.Running}}"), "paused true true");
    c.says(
        "docker ps --filter name=$n --filter status=paused --format '{{.Status}}' | grep -o '(Paused)'",
        "(Paused)\n",
    );
    // What it wrote before may be on its way to the log.
    c.comes_to("a=$(docker logs $n | wc -l); sleep 0.4; b=$(docker logs $n | wc -l); echo $((b - a))", "0");
    c.refuses(1, "docker pause $n", &format!("Error response from daemon: Container {id} is already paused"));
    c.says("docker unpause $n", &format!("{n}\n"));
    assert_eq!(c.inspect("$n", "{{.State.Status}}"), "running");
    c.comes_to(
        "a=$(docker logs $n | wc -l); sleep 0.5; b=$(docker logs $n | wc -l); test $b -gt $a && echo more",
        "more",
    );
    let text = c.fails(1, "docker unpause $n");
    assert_eq!(text, format!("Error response from daemon: Container {id} is not paused\n"));
    c.ok("docker pause $n; docker stop -t 1 $n");
    assert_eq!(c.inspect("$n", "{{.State.Status}}"), "exited");
}

fn rename_frees_the_old_name(c: &Client) {
    let n = &c.n;
    c.ok("docker create --name $n-a busybox true; docker create --name $n-b busybox true");
    c.says("docker rename $n-a $n-c", "");
    c.says("docker ps -a --filter name=$n --format '{{.Names}}' | sort", &format!("{n}-b\n{n}-c\n"));
    let id = c.line("docker ps -aq --no-trunc --filter name=$n-b");
    let text = c.fails(1, "docker rename $n-c $n-b");
    assert!(
        text.contains(&format!(
            "Conflict. The container name \"/{n}-b\" is already in use by container \"{id}\""
        )),
        "{text}"
    );
    c.ok("docker create --name $n-a busybox true");
    let text = c.fails(1, "docker rename $n-a 'no good'");
    assert!(
        text.contains("Invalid container name (/no good), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        "{text}"
    );
    c.refuses(
        1,
        "docker rename $n-none $n-x",
        &format!("Error response from daemon: No such container: {n}-none"),
    );
}

fn names_are_taken_once(c: &Client) {
    let id = c.line("docker create --name $n busybox true");
    let text = format!(
        "docker: Error response from daemon: Conflict. The container name \"/{}\" is already in use by container \"{id}\". \
         You have to remove (or rename) that container to be able to reuse that name.",
        c.n
    );
    c.refuses(125, "docker run --name $n busybox true", &text);
    c.refuses(1, "docker create --name $n busybox true", text.trim_start_matches("docker: "));
    let text = c.fails(125, "docker run --name '-bad' busybox true");
    assert!(
        text.contains("Invalid container name (-bad), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        "{text}"
    );
    c.ok("docker rm $n; docker create --name $n busybox true");
}

fn cidfile_holds_the_id(c: &Client) {
    let id = c.line("docker create --cidfile id.txt --name $n busybox true");
    c.says("cat id.txt", &id);
    let text = c.fails(125, "docker run --cidfile id.txt busybox true");
    assert!(
        text.starts_with(
            "docker: container ID file found, make sure the other container isn't running or delete id.txt"
        ),
        "{text}"
    );
    // Of a create that failed none is left.
    c.fails(125, "docker run --cidfile other.txt --name $n busybox true");
    c.says("ls other.txt 2>/dev/null | wc -l", "0\n");
}

fn inspect_tells_how_it_ended(c: &Client) {
    c.fails(6, "docker run --name $n busybox sh -c 'exit 6'");
    c.says(
        "docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Pid}} {{.State.Dead}} {{.RestartCount}} {{.Path}} {{.Args}}' $n",
        "exited 6 false 0 false 0 sh [-c exit 6]\n",
    );
    c.says("docker inspect -f '{{.State.StartedAt}} {{.State.FinishedAt}}' $n | grep -cE '^20[0-9-]+T[0-9:.]+Z 20[0-9-]+T[0-9:.]+Z$'", "1\n");
    c.says(
        "docker inspect -f '{{.Name}} {{.Config.Image}} {{.Driver}}' $n",
        &format!("/{} busybox overlay2\n", c.n),
    );
    c.says("docker inspect $n | head -2 | tail -1", "    {\n");
    c.says("docker container inspect -s -f '{{.SizeRw}}' $n", "0\n");
    let text = c.fails(1, "docker container inspect $n-none");
    assert!(text.contains(&format!("No such container: {}-none", c.n)), "{text}");
}

fn top_lists_processes(c: &Client) {
    c.ok("docker run -d --init=false --name $n busybox sleep 1234");
    let table = c.ok("docker top $n");
    let words = |line: usize| table.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(words(1)[7..], ["sleep", "1234"]);
    assert_eq!(words(1)[1], c.inspect("$n", "{{.State.Pid}}"));
    c.says("docker top $n -o pid,comm | tail -1 | awk '{print $2}'", "sleep\n");
    c.ok("docker stop -t 0 $n");
    let id = c.inspect("$n", "{{.Id}}");
    c.refuses(1, "docker top $n", &format!("Error response from daemon: container {id} is not running"));
}

fn update_changes_limits(c: &Client) {
    c.ok("docker run -d --name $n -m 64m busybox sleep 1000");
    c.says(
        "docker update -m 128m --memory-swap 128m --pids-limit 99 --restart on-failure:3 $n",
        &format!("{}\n", c.n),
    );
    c.says(
        "docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}' $n",
        "134217728 99 on-failure\n",
    );
    c.says("docker exec $n sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'", "134217728\n");
}

fn killing_the_client_stops_nothing(c: &Client) {
    let program = "until test -e /go; do sleep 0.05; done; echo done";
    let child = c.spawn(&format!("exec docker run --name $n busybox sh -c '{program}'"));
    c.comes_to("docker inspect -f '{{.State.Running}}' $n 2>/dev/null", "true");
    child.signal(Signal::KILL);
    child.end();
    c.lets_go("$n");
    c.says("docker wait $n; docker logs $n", "0\ndone\n");
}

fn short_ids_do(c: &Client) {
    let id = c.line("docker create --name $n busybox true");
    for length in [6, 12, 40] {
        c.says(&format!("docker inspect -f '{{{{.Name}}}}' {}", &id[..length]), &format!("/{}\n", c.n));
    }
    c.says(&format!("docker rm {}", &id[..12]), &format!("{}\n", &id[..12]));
}
