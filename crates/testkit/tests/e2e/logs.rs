//! Logs.

use serde_json::Value;

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        logs_give_what_was_said,
        logs_tail_counts_lines,
        logs_since_and_until_cut,
        logs_carry_times,
        logs_follow_until_the_end,
        logs_follow_several_runs,
        logs_of_long_lines_are_whole,
        logs_without_a_newline_at_the_end,
        logs_none_cannot_be_read,
        logs_details_show_labels,
        rotation_keeps_the_newest,
        following_across_rotation_loses_and_doubles_nothing
            .differs("dockerd loses lines when a reader is slower than the writer"),
        log_options_are_checked;
    Docker:
        the_file_is_dockers,
        rotation_is_the_default.differs("dockerd's logs grow without limit by default");
];

fn logs_give_what_was_said(c: &Client) {
    c.ok("docker run --name $n busybox sh -c 'echo one; echo two >&2; echo three' 2>/dev/null");
    let outcome = c.run("docker logs $n");
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("one\nthree\n", "two\n"));
    c.refuses(
        1,
        "docker logs $n-none",
        &format!("Error response from daemon: No such container: {}-none", c.n),
    );
    c.says("docker create --name $n-new busybox true >/dev/null; docker logs $n-new", "");
}

fn logs_tail_counts_lines(c: &Client) {
    c.ok("docker run --name $n busybox seq 1 2000 > /dev/null");
    c.says("docker logs --tail 3 $n", "1998\n1999\n2000\n");
    c.says("docker logs -n 0 $n", "");
    c.says("docker logs --tail all $n | wc -l", "2000\n");
    c.says("docker logs --tail=-1 $n | wc -l", "2000\n");
    c.says("docker logs --tail 5000 $n | wc -l", "2000\n");
    // What is no number is all.
    c.says("docker logs --tail nonsense $n | wc -l", "2000\n");
}

fn logs_since_and_until_cut(c: &Client) {
    c.ok("docker run --name $n busybox sh -c 'echo early; sleep 1.2; echo late' >/dev/null");
    let times = c.ok("docker logs -t $n");
    let late = times.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    c.says(&format!("docker logs --since {late} $n"), "late\n");
    c.says(&format!("docker logs --until $(date -u -d '{late} - 0.5 seconds' +%s.%N) $n"), "early\n");
    c.says("docker logs --since 1h $n", "early\nlate\n");
    c.says("docker logs --until 1h $n", "");
    c.says("docker logs --since $(date -d '+1 hour' +%s) $n", "");
    let text = c.fails(1, "docker logs --since nonsense $n");
    assert!(text.contains("nonsense"), "{text}");
}

fn logs_carry_times(c: &Client) {
    c.ok("docker run --name $n busybox echo hi > /dev/null");
    let line = c.line("docker logs --timestamps $n");
    let (time, text) = line.split_once(' ').unwrap();
    assert_eq!(text, "hi");
    assert!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    let age: i64 = c.line(&format!("echo $(( $(date +%s) - $(date -d {time} +%s) ))")).parse().unwrap();
    assert!((0..60).contains(&age), "{age}");
}

fn logs_follow_until_the_end(c: &Client) {
    c.ok("docker run -d --name $n busybox sh -c 'for i in 1 2 3 4 5; do echo $i; sleep 0.1; done'");
    c.says("timeout 60 docker logs -f $n", "1\n2\n3\n4\n5\n");
    // Of what ended already, it ends at once.
    c.says("timeout 60 docker logs -f --tail 1 $n", "5\n");
    // What was said before is not shown; what is said from now on is, to the end.
    let program = "echo old; until test -e /go; do echo new; sleep 0.1; done; echo last";
    c.ok(&format!("docker run -d --name $n-2 busybox sh -c '{program}'"));
    c.comes_to("docker logs $n-2 | head -n 1", "old");
    let mut follower = c.spawn("exec docker logs -f --tail 0 $n-2");
    follower.says("new\n");
    c.lets_go("$n-2");
    let said = String::from_utf8(follower.end().stdout).unwrap();
    let (new, last) = said.split_at(said.len().saturating_sub(5));
    assert_eq!((new.replace("new\n", "").as_str(), last), ("", "last\n"), "{said}");
}

fn logs_follow_several_runs(c: &Client) {
    c.ok("docker create --name $n busybox sh -c 'echo run'; docker start -a $n; docker start -a $n");
    c.says("docker logs $n", "run\nrun\n");
}

fn logs_of_long_lines_are_whole(c: &Client) {
    c.ok("docker run --name $n busybox sh -c 'head -c 100000 /dev/zero | tr \"\\0\" x; echo; echo end' > /dev/null");
    c.says("docker logs $n | head -1 | wc -c", "100001\n");
    c.says("docker logs --tail 2 $n | wc -l", "2\n");
    c.says("docker logs --tail 1 $n", "end\n");
}

fn logs_without_a_newline_at_the_end(c: &Client) {
    c.ok("docker run --name $n busybox printf 'a\\nb' > /dev/null");
    c.says("docker logs $n", "a\nb");
    c.says("docker logs --tail 1 $n", "b");
}

fn logs_none_cannot_be_read(c: &Client) {
    c.says("docker run --name $n --log-driver none busybox echo hi", "hi\n");
    c.refuses(
        1,
        "docker logs $n",
        "Error response from daemon: configured logging driver does not support reading",
    );
    assert_eq!(c.inspect("$n", "{{.HostConfig.LogConfig.Type}} {{.LogPath}}|"), "none |");
}

fn logs_details_show_labels(c: &Client) {
    c.ok("docker run --name $n --log-opt labels=team --label team=red --log-opt env=WHO -e WHO=me busybox echo hi > /dev/null");
    c.says("docker logs --details $n", "WHO=me,team=red hi\n");
    c.says("docker logs $n", "hi\n");
}

fn rotation_keeps_the_newest(c: &Client) {
    c.ok("docker run --name $n --log-opt max-size=20k --log-opt max-file=3 busybox seq 1 5000 > /dev/null");
    let kept = c.ok("docker logs $n");
    let numbers: Vec<u32> = kept.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&5000));
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "lines are lost or doubled");
    assert!((200..4000).contains(&numbers.len()), "{}", numbers.len());
    c.says("docker logs --tail 400 $n | head -1", "4601\n");
    let path = c.inspect("$n", "{{.LogPath}}");
    c.says(&format!("ls {path}* | wc -l"), "3\n");
}

fn following_across_rotation_loses_and_doubles_nothing(c: &Client) {
    c.ok("docker run -d --name $n --log-opt max-size=900k --log-opt max-file=5 busybox sh -c 'echo begun; until test -e /go; do sleep 0.05; done; seq 1 30000'");
    let mut child = c.spawn("exec docker logs -f $n");
    child.says("begun\n");
    c.lets_go("$n");
    let output = child.end();
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    let gap = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
    assert_eq!((numbers.len(), gap, numbers.last()), (30_000, None, Some(&30_000)));
}

fn log_options_are_checked(c: &Client) {
    let text = c.fails(125, "docker run --rm --log-driver nonsense busybox true");
    assert!(
        text.contains("logger: no log driver named 'nonsense' is registered") || text.contains("nonsense"),
        "{text}"
    );
    let text = c.fails(125, "docker run --rm --log-opt nonsense=1 busybox true");
    assert!(text.contains("unknown log opt 'nonsense' for json-file log driver"), "{text}");
    let text = c.fails(125, "docker run --rm --log-opt max-file=0 busybox true");
    assert!(text.contains("max-file"), "{text}");
}

fn the_file_is_dockers(c: &Client) {
    c.ok(
        "docker run --name $n busybox sh -c 'echo out; printf \"\\\"q\\\" \\\\ \\t<&>\\n\" >&2' 2>/dev/null",
    );
    let path = c.inspect("$n", "{{.LogPath}}");
    let id = c.inspect("$n", "{{.Id}}");
    assert!(path.ends_with(&format!("/containers/{id}/{id}-json.log")), "{path}");
    let file = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = file.lines().collect();
    lines.sort_by_key(|line| !line.contains("stdout"));
    assert!(lines[0].starts_with("{\"log\":\"out\\n\",\"stream\":\"stdout\",\"time\":\"20"), "{file}");
    assert!(
        lines[1].starts_with(
            "{\"log\":\"\\\"q\\\" \\\\ \\u0009\\u003c\\u0026\\u003e\\n\",\"stream\":\"stderr\",\"time\":\"20"
        ),
        "{file}"
    );
    assert!(lines.iter().all(|line| line.ends_with("Z\"}")), "{file}");
    let entry: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(entry.as_object().unwrap().len(), 3);
}

fn rotation_is_the_default(c: &Client) {
    c.ok("docker run --name $n busybox sh -c 'yes 0123456789012345678901234567890123456789 | head -c 24600000' > /dev/null");
    let path = c.inspect("$n", "{{.LogPath}}");
    // Only the file in use: the others are being compressed meanwhile.
    let sizes = c.ok(&format!("stat -c '%s %n' {path}"));
    let live: u64 = sizes.split(' ').next().unwrap().parse().unwrap();
    assert!(live <= 10_000_000, "{sizes}");
    c.comes_to(&format!("ls {path}* | sed 's/.*json.log//' | tr '\\n' ' '"), " .1.gz .2.gz");
    c.says("docker logs --tail 1 $n | wc -c", "41\n");
}
