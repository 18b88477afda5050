//! What a container changed: `diff`, `export`, `commit`.

use serde_json::{Value, json};

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        a_difference_is_added_changed_or_deleted,
        a_replaced_directory_hides_what_was_in_it,
        what_was_only_opened_is_no_difference,
        mounts_are_no_difference,
        an_export_is_the_whole_root,
        an_export_of_a_running_container_has_no_mounts,
        an_export_becomes_an_image,
        a_commit_has_what_the_container_wrote,
        a_commit_takes_instructions,
        a_commit_keeps_its_parent_and_history,
        a_commit_does_not_stop_the_container,
        a_commit_without_changes_adds_no_layer,
        a_commit_without_a_name_is_dangling,
        commits_are_refused_in_docker_s_words.differs_from_old("its texts are others");
    Api:
        a_commit_merges_a_config_that_is_sent,
        changes_are_paths_and_kinds;
];

fn a_difference_is_added_changed_or_deleted(c: &Client) {
    c.says("docker run --name $n busybox true; docker diff $n", "");
    c.ok("docker rm $n; docker run --name $n busybox sh -c 'mkdir -p /new/deep; echo > /new/f; echo >> /etc/passwd; rm /etc/group; chmod 700 /tmp'");
    c.says(
        "docker diff $n | sort -k2",
        "C /etc\nD /etc/group\nC /etc/passwd\nA /new\nA /new/deep\nA /new/f\nC /tmp\n",
    );
    c.refuses(1, "docker diff $n-no", &format!("Error response from daemon: No such container: {}-no", c.n));
}

fn a_replaced_directory_hides_what_was_in_it(c: &Client) {
    c.ok("docker run --name $n-0 busybox sh -c 'mkdir -p /d/sub; echo 1 > /d/a; echo 2 > /d/sub/b'; docker commit $n-0 $n/i");
    c.ok("docker run --name $n $n/i sh -c 'rm -r /d; mkdir /d; echo 3 > /d/c'");
    c.says("docker diff $n | sort -k2", "C /d\nD /d/a\nA /d/c\nD /d/sub\n");
}

fn what_was_only_opened_is_no_difference(c: &Client) {
    c.ok("docker run --name $n busybox sh -c ': >> /etc/passwd; touch /etc/x; rm /etc/x'");
    c.says("docker diff $n", "");
}

fn mounts_are_no_difference(c: &Client) {
    c.ok(
        "docker run --name $n -v $n-v:/v busybox sh -c 'echo > /v/f; echo >> /etc/hosts; echo > /dev/shm/x'",
    );
    c.says("docker diff $n", "A /v\n");
}

fn an_export_is_the_whole_root(c: &Client) {
    c.ok("docker run --name $n -v $n-v:/v busybox sh -c 'echo new > /new; rm /etc/group; echo > /v/f; mkdir /d; chmod 1730 /d; chown 5:6 /d; ln -s new /l'");
    c.ok("docker export $n > a.tar; docker export -o b.tar $n; tar tf a.tar > list");
    for (path, is_there) in [
        ("new", true),
        ("etc/passwd", true),
        ("etc/group", false),
        ("v/", true),
        ("v/f", false),
        ("bin/sh", true),
        ("proc/", true),
    ] {
        let found = c.run(&format!("grep -qx {path} list")).code == 0;
        assert_eq!(found, is_there, "{path}");
    }
    c.says(
        "tar xOf b.tar new; tar tvf b.tar --numeric-owner d/ l | awk '{print $1, $2, $6, $7, $8}'",
        "new\ndrwx-wx--T 5/6 d/  \nlrwxrwxrwx 0/0 l -> new\n",
    );
    c.refuses(
        1,
        "docker export $n-no",
        &format!("Error response from daemon: No such container: {}-no", c.n),
    );
}

fn an_export_of_a_running_container_has_no_mounts(c: &Client) {
    c.ok("docker run -d --name $n -v $n-v:/v --tmpfs /t busybox sh -c 'echo 1 > /f; echo > /v/f; echo > /t/f; while :; do echo > /x; rm /x; done'");
    c.comes_to("docker exec $n sh -c 'cat /f; ls /v /t | grep -c f'", "1\n2");
    c.ok("docker export $n | tar t > list; docker export $n | tar t > list");
    c.says("grep -x 'f\\|v/\\|t/\\|v/f\\|t/f\\|proc/\\|proc/1' list | sort", "f\nproc/\nt/\nv/\n");
    c.says("docker inspect -f '{{.State.Status}}' $n", "running\n");
}

fn an_export_becomes_an_image(c: &Client) {
    c.ok("docker run --name $n busybox sh -c 'echo kept > /kept'; docker export $n | docker import - $n/i");
    c.says("docker run --rm $n/i cat /kept", "kept\n");
    c.ok("docker rmi $n/i");
}

fn a_commit_has_what_the_container_wrote(c: &Client) {
    c.ok("docker run --name $n -e A=1 -w /srv -u 7 -l l=v --entrypoint sh -v $n-v:/v busybox -c 'true'");
    c.ok("docker start -a $n; docker rm $n");
    c.ok("docker run --name $n -e A=1 -w /srv -l l=v -v $n-v:/v busybox sh -c 'echo w > /w; rm -f /etc/group; echo > /v/f; mkdir -p /d/e; ln -f /w /d/hard'");
    let id = c.line("docker commit -a me -m why $n $n/i:1");
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    c.says("docker run --rm --name $n-r $n/i:1 sh -c 'cat /w /d/hard; ls /etc/group /v/f 2>/dev/null; pwd; echo $A'", "w\nw\n/srv\n1\n");
    c.says(
        "docker inspect -f '{{.Author}} {{.Comment}} {{index .Config.Labels \"l\"}} {{.Config.WorkingDir}} {{json .Config.Env}} {{len .RootFS.Layers}}' $n/i:1",
        &format!("me why v /srv {} 2\n", c.line("docker inspect -f '{{json .Config.Env}}' $n")),
    );
    // The container is as it was.
    c.says("docker start $n && docker wait $n && docker rm $n", &format!("{0}\n0\n{0}\n", c.n));
    c.ok("docker rmi $n/i:1");
}

fn a_commit_takes_instructions(c: &Client) {
    c.ok("docker create --name $n busybox sh -c 'exit 3'");
    c.ok("docker commit -c 'CMD [\"echo\",\"hi\"]' -c 'ENV B=2 C=3' -c 'EXPOSE 80' --change 'USER 5' --change 'LABEL x=y' $n $n/i");
    c.says("docker run --rm --name $n-r $n/i", "hi\n");
    c.says(
        "docker inspect -f '{{json .Config.Cmd}} {{.Config.User}} {{json .Config.ExposedPorts}} {{json .Config.Labels}}' $n/i",
        "[\"echo\",\"hi\"] 5 {\"80/tcp\":{}} {\"x\":\"y\"}\n",
    );
    c.says("docker inspect -f '{{json .Config.Env}}' $n/i | grep -c '\"B=2\",\"C=3\"'", "1\n");
}

fn a_commit_keeps_its_parent_and_history(c: &Client) {
    c.ok("docker run --name $n busybox touch /a; docker commit -m first $n $n/one; docker run --name $n-2 $n/one touch /b; docker commit $n-2 $n/two");
    c.says(
        "docker history --format '{{.CreatedBy}}|{{.Comment}}' $n/two | head -2",
        "touch /b|\ntouch /a|first\n",
    );
    let one = c.line("docker inspect -f '{{.Id}}' $n/one");
    c.says("docker inspect -f '{{.Parent}}' $n/two", &format!("{one}\n"));
    c.says("docker run --rm --name $n-3 $n/two ls /a /b", "/a\n/b\n");
    // Layers of the first are in use and stay.
    c.ok("docker rm $n $n-2; docker rmi $n/one; docker run --rm $n/two ls /a; docker rmi $n/two");
    c.fails(1, "docker inspect $n/one");
}

fn a_commit_does_not_stop_the_container(c: &Client) {
    c.ok("docker run -d --name $n busybox sh -c 'echo up > /up; i=0; while :; do i=$((i+1)); echo $i > /count; done'");
    c.comes_to("docker exec $n cat /up", "up");
    for flag in ["", "--pause=false"] {
        c.ok(&format!("docker commit {flag} $n $n/i"));
        c.says("docker inspect -f '{{.State.Status}}' $n", "running\n");
        c.says("docker run --rm --name $n-r $n/i cat /up", "up\n");
    }
    c.ok("docker pause $n; docker commit $n $n/i");
    c.says("docker inspect -f '{{.State.Status}}' $n", "paused\n");
    c.ok("docker unpause $n");
}

fn a_commit_without_changes_adds_no_layer(c: &Client) {
    c.ok("docker create --name $n busybox sh; docker commit -m nothing $n $n/i");
    let layers = c.line("docker inspect -f '{{json .RootFS.Layers}}' busybox");
    c.says("docker inspect -f '{{json .RootFS.Layers}}' $n/i", &format!("{layers}\n"));
    c.says("docker history --format '{{.Comment}} {{.Size}}' $n/i | head -1", "nothing 0B\n");
}

fn a_commit_without_a_name_is_dangling(c: &Client) {
    c.ok("docker run --name $n busybox sh -c 'echo $RANDOM$RANDOM > /r'");
    let id = c.line("docker commit $n");
    c.says(&format!("docker inspect -f '{{{{len .RepoTags}}}}' {id}"), "0\n");
    let dangling = c.ok("docker images -qf dangling=true --no-trunc");
    assert!(dangling.lines().any(|line| line == id), "{id} is not in {dangling}");
    c.ok(&format!("docker rm $n; docker rmi {id}"));
    c.fails(1, &format!("docker inspect {id}"));
}

fn commits_are_refused_in_docker_s_words(c: &Client) {
    c.ok("docker create --name $n busybox");
    c.refuses(
        1,
        "docker commit $n-no",
        &format!("Error response from daemon: No such container: {}-no", c.n),
    );
    c.refuses(
        1,
        "docker commit -c 'FROM x' $n",
        "Error response from daemon: FROM is not a valid change command",
    );
    let text = c.fails(1, "docker commit $n BAD");
    assert!(text.contains("must be lowercase"), "{text}");
    let response = c.api("POST", "/v1.51/commit?repo=x", None);
    assert_eq!((response.status, response.message().as_str()), (400, "invalid name or ID supplied: \"\""));
}

fn a_commit_merges_a_config_that_is_sent(c: &Client) {
    c.ok("docker create --name $n -u bob -e A=1 busybox sleep 1000");
    let sent = json!({"Env": ["Z=1"], "Cmd": ["x"], "Labels": {"k": "v"}});
    let response =
        c.api("POST", &format!("/v1.51/commit?container={0}&repo={0}/i&comment=c", c.n), Some(&sent));
    assert_eq!(response.status, 201, "{}", response.text());
    let image = c.api("GET", &format!("/v1.51/images/{}/i/json", c.n), None).json();
    assert_eq!(image["Id"], response.json()["Id"]);
    let config = &image["Config"];
    assert_eq!(
        (&config["User"], &config["Cmd"], &config["Labels"]),
        (&json!("bob"), &json!(["x"]), &json!({"k": "v"}))
    );
    let env: Vec<&str> = config["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(env.starts_with(&["Z=1"]) && env.contains(&"A=1"), "{env:?}");
    let events = c.ok(&format!("curl -s --unix-socket {} 'http://docker/events?since=0&until='$(($(date +%s) + 1)) | grep '\"Action\":\"commit\"' | grep -c '\"name\":\"{}\"'", c.host.socket.display(), c.n));
    assert_eq!(events, "1\n");
}

fn changes_are_paths_and_kinds(c: &Client) {
    c.ok("docker create --name $n-0 busybox");
    assert!(c.api("GET", &format!("/v1.51/containers/{}-0/changes", c.n), None).json().is_null());
    c.ok("docker run --name $n busybox sh -c 'echo > /a; rm /etc/group'");
    let mut changes = c.api("GET", &format!("/v1.51/containers/{}/changes", c.n), None).json();
    changes.as_array_mut().unwrap().sort_by_key(|change| change["Path"].to_string());
    let change = |path: &str, kind: u8| json!({"Path": path, "Kind": kind});
    assert_eq!(changes, json!([change("/a", 1), change("/etc", 0), change("/etc/group", 2)]));
}
