//! `ps`.

use serde_json::Value;

use crate::case::cases;
use crate::client::{Client, table};

cases![
    Both:
        ps_shows_dockers_columns,
        ps_quiet_and_no_trunc,
        ps_filters_by_state_and_code,
        ps_filters_by_name_label_and_id,
        ps_filters_by_image_volume_and_network,
        ps_filters_by_age.differs_from_old("texts were others"),
        ps_refuses_unknown_filters.differs_from_old("texts were others"),
        ps_formats,
        ps_last_and_latest.alone(),
        ps_size_counts_what_was_written;
];

fn ps_shows_dockers_columns(c: &Client) {
    let id = c.line(
        "docker run -d --name $n -p 127.0.0.1::80 busybox sh -c 'exec sleep 1000 # a command that is long'",
    );
    let port = c.line("docker port $n 80 | cut -d: -f2");
    let fields = || c.line("docker ps --filter name=$n --format '{{.RunningFor}}|{{.Status}}'");
    let command = "\"sh -c 'exec sleep 1…\"";
    let ports = format!("127.0.0.1:{port}->80/tcp");
    for _ in 0..3 {
        let said = fields();
        let (created, status) = said.split_once('|').unwrap();
        let rows: [&[&str]; 2] = [
            &["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"],
            &[&id[..12], "busybox", command, created, status, &ports, &c.n],
        ];
        if c.ok("docker ps --filter name=$n") == table(&rows) {
            return;
        }
    }
    panic!("another table:\n{}", c.ok("docker ps --filter name=$n"));
}

fn ps_quiet_and_no_trunc(c: &Client) {
    let id = c.line("docker create --name $n busybox echo a rather long command line for a table");
    c.says("docker ps -q --filter name=$n", "");
    c.says("docker ps -aq --filter name=$n", &format!("{}\n", &id[..12]));
    c.says("docker ps --no-trunc -aq --filter name=$n", &format!("{id}\n"));
    c.says(
        "docker ps -a --no-trunc --filter name=$n --format '{{.Command}}'",
        "\"echo a rather long command line for a table\"\n",
    );
    c.says(
        "docker container ls -aq --filter name=$n; docker container list -aq --filter name=$n | wc -l",
        &format!("{}\n1\n", &id[..12]),
    );
}

fn ps_filters_by_state_and_code(c: &Client) {
    let n = &c.n;
    c.ok("docker run -d --name $n-up busybox sleep 1000; docker create --name $n-new busybox true");
    c.ok("docker run --name $n-ok busybox true; docker run --name $n-bad busybox sh -c 'exit 3'; true");
    let list =
        |filters: &str| c.ok(&format!("docker ps -a -f name=$n {filters} --format '{{{{.Names}}}}' | sort"));
    assert_eq!(list("-f status=running"), format!("{n}-up\n"));
    assert_eq!(list("-f status=created"), format!("{n}-new\n"));
    assert_eq!(list("-f status=exited"), format!("{n}-bad\n{n}-ok\n"));
    assert_eq!(list("-f exited=3"), format!("{n}-bad\n"));
    assert_eq!(list("-f status=exited -f exited=0"), format!("{n}-ok\n"));
    assert_eq!(list("-f status=running -f status=created"), format!("{n}-new\n{n}-up\n"));
    c.says("docker ps -f name=$n --format '{{.Names}}'", &format!("{n}-up\n"));
    // A filter by state looks at all by itself.
    c.says("docker ps -f name=$n -f status=created --format '{{.Names}}'", &format!("{n}-new\n"));
    let states = c.ok("docker ps -a -f name=$n --format '{{.Names}} {{.State}} {{.Status}}' | sed \"s/ [0-9].* ago//; s/ Less.* ago//; s/ Up .*/ Up/; s/^$n-//\" | sort");
    assert_eq!(states, "bad exited Exited (3)\nnew created Created\nok exited Exited (0)\nup running Up\n");
}

fn ps_filters_by_name_label_and_id(c: &Client) {
    let n = &c.n;
    let a = c.line("docker create --name $n-alpha --label team=$n-red --label urgent busybox true");
    c.ok("docker create --name $n-beta --label team=$n-blue busybox true");
    let list = |filters: &str| c.ok(&format!("docker ps -a {filters} --format '{{{{.Names}}}}' | sort"));
    assert_eq!(list("-f name=$n-al"), format!("{n}-alpha\n"));
    assert_eq!(list("-f name=^/$n-alpha$"), format!("{n}-alpha\n"));
    assert_eq!(list("-f name=^$n-.*a$"), format!("{n}-alpha\n{n}-beta\n"));
    assert_eq!(list("-f label=team=$n-red"), format!("{n}-alpha\n"));
    assert_eq!(list("-f label=team=$n-red -f label=urgent"), format!("{n}-alpha\n"));
    assert_eq!(list("-f label=team=$n-red -f label=team=$n-blue"), "");
    assert_eq!(list(&format!("-f id={}", &a[..10])), format!("{n}-alpha\n"));
    assert_eq!(list("-f name=$n -f id=ffffffffffff"), "");
}

fn ps_filters_by_image_volume_and_network(c: &Client) {
    let n = &c.n;
    c.ok("docker import --change \"LABEL x=$n\" $busybox $n/a:t");
    c.ok("docker create --name $n-image $n/a:t true; docker create --name $n-volume -v $n-v:/data busybox true");
    c.ok("docker create --name $n-none --network none busybox true");
    let list =
        |filters: &str| c.ok(&format!("docker ps -a -f name=$n {filters} --format '{{{{.Names}}}}' | sort"));
    assert_eq!(list("-f ancestor=$n/a:t"), format!("{n}-image\n"));
    assert_eq!(list("-f ancestor=$(docker images -q $n/a:t)"), format!("{n}-image\n"));
    assert_eq!(list("-f ancestor=busybox"), format!("{n}-none\n{n}-volume\n"));
    assert_eq!(list("-f volume=$n-v"), format!("{n}-volume\n"));
    assert_eq!(list("-f volume=/data"), format!("{n}-volume\n"));
    assert_eq!(list("-f network=none"), format!("{n}-none\n"));
    c.ok("docker rm $n-image");
}

fn ps_filters_by_age(c: &Client) {
    let n = &c.n;
    for name in ["one", "two", "three"] {
        c.ok(&format!("docker create --name $n-{name} busybox true"));
    }
    c.says("docker ps -a -f name=$n -f before=$n-two --format '{{.Names}}'", &format!("{n}-one\n"));
    c.says("docker ps -a -f name=$n -f since=$n-two --format '{{.Names}}'", &format!("{n}-three\n"));
    // Newest first.
    c.says("docker ps -a -f name=$n --format '{{.Names}}'", &format!("{n}-three\n{n}-two\n{n}-one\n"));
    let text = c.fails(1, "docker ps -a -f since=$n-none");
    assert!(text.contains(&format!("No such container: {n}-none")), "{text}");
}

fn ps_refuses_unknown_filters(c: &Client) {
    c.refuses(1, "docker ps -f color=red", "Error response from daemon: invalid filter 'color'");
    let text = c.fails(1, "docker ps -f status=bored");
    assert!(text.contains("invalid filter 'status=bored'"), "{text}");
    let text = c.fails(1, "docker ps -f exited=many");
    assert!(text.contains("invalid filter 'exited=many'") || text.contains("parsing \"many\""), "{text}");
    c.refuses(
        125,
        "docker ps -f nonsense",
        "invalid argument \"nonsense\" for \"-f, --filter\" flag: bad format of filter (expected name=value)",
    );
}

fn ps_formats(c: &Client) {
    let n = &c.n;
    c.ok("docker create --name $n --label a=1 --label b=2 -v $n-v:/v busybox echo hi");
    c.says(
        "docker ps -a -f name=$n --format '{{.Names}} {{.Image}} {{.Command}} {{.Label \"b\"}} {{.State}}'",
        &format!("{n} busybox \"echo hi\" 2 created\n"),
    );
    c.says(
        "docker ps -a -f name=$n --format 'table {{.Names}}\\t{{.Networks}}'",
        &table(&[&["NAMES", "NETWORKS"], &[n, "bridge"]]),
    );
    c.says("docker ps -a -f name=$n --format '{{.Mounts}} {{.LocalVolumes}}'", &format!("{n}-v 1\n"));
    let row: Value = serde_json::from_str(&c.line("docker ps -a -f name=$n --format json")).unwrap();
    assert_eq!(
        (row["Names"].as_str().unwrap(), row["Image"].as_str().unwrap(), row["State"].as_str().unwrap()),
        (n.as_str(), "busybox", "created")
    );
    let mut labels: Vec<&str> = row["Labels"].as_str().unwrap().split(',').collect();
    labels.sort_unstable();
    assert_eq!(labels, ["a=1", "b=2"]);
    let whole: Value =
        serde_json::from_str(&c.line("docker ps -a -f name=$n --format '{{json .}}'")).unwrap();
    assert_eq!(whole["ID"], row["ID"]);
    let text = c.fails(1, "docker ps --format '{{.Nonsense}}' -a");
    assert!(text.contains("Nonsense"), "{text}");
    c.fails(64, "docker ps --format '{{' ; test $? -ne 0 && exit 64");
}

fn ps_last_and_latest(c: &Client) {
    let n = &c.n;
    for name in ["a", "b", "c"] {
        c.ok(&format!("docker create --name $n-{name} busybox true"));
    }
    c.says("docker ps -l --format '{{.Names}}'", &format!("{n}-c\n"));
    c.says("docker ps -n 2 --format '{{.Names}}'", &format!("{n}-c\n{n}-b\n"));
    c.says("docker ps --last 1 -q | wc -l", "1\n");
    c.says("docker ps -aq | wc -l", "3\n");
}

fn ps_size_counts_what_was_written(c: &Client) {
    c.ok("docker run --name $n busybox sh -c 'head -c 1000000 /dev/zero > /file'");
    let said = c.line("docker ps -a -s -f name=$n --format '{{.Size}}'");
    let (written, whole) = said.split_once(" (virtual ").unwrap();
    assert!(written.starts_with("1MB") || written.starts_with("1.0"), "{said}");
    assert!(whole.ends_with("MB)"), "{said}");
    assert!(c.ok("docker ps -as -f name=$n").lines().next().unwrap().ends_with("NAMES     SIZE"));
}
