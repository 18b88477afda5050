//! rmi and prune, and the two habits of the trade.

use serde_json::json;

use crate::archive;
use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        rmi_untags_and_then_deletes,
        rmi_takes_short_ids,
        rmi_by_id_wants_force_for_several_repositories,
        rmi_by_id_wants_force_for_several_tags,
        rmi_names_the_stopped_container,
        rmi_names_the_running_container,
        rmi_says_what_to_do.differs("the conflict names every container and the command that resolves it"),
        rmi_by_force_untags_what_is_used,
        rmi_of_several_goes_on_after_an_error,
        rmi_keeps_shared_layers,
        rmi_no_prune_keeps_the_image,
        prune_removes_dangling_images.alone(),
        prune_all_removes_unused_images.alone(),
        habit_rmi_of_dangling_images.alone(),
        habit_rm_of_all_containers.differs_from_old("texts were others").alone(),
        container_prune_removes_stopped_ones.alone(),
        what_was_used_lately_stays.differs("last use is kept, and prunes filter by it").alone(),
        a_prune_keeps_the_newest.differs("prunes keep what is newest, and have a dry run").alone();
    Both:
        a_dry_run_says_what_would_go.differs("prunes have a dry run").alone();
    Api:
        times_of_use_are_told.differs("last use is kept");
];

fn tiny(c: &Client, name: &str, label: &str) -> String {
    c.line(&format!("tar -cT/dev/null | docker import --change \"LABEL own={label}\" - {name}"))
}

/// A small image that runs.
fn runnable(c: &Client, name: &str) -> String {
    c.line(&format!(
        "docker import --change \"LABEL of=$n\" --change 'CMD [\"sleep\",\"1000\"]' $busybox {name}"
    ))
}

fn rmi_untags_and_then_deletes(c: &Client) {
    let id = tiny(c, "$n/a", "$n");
    let n = &c.n;
    c.ok("docker tag $n/a $n/b:2");
    c.says("docker rmi $n/a", &format!("Untagged: {n}/a:latest\n"));
    let said = c.ok("docker rmi $n/b:2");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], [format!("Untagged: {n}/b:2"), format!("Deleted: {id}")]);
    assert!(lines[2..].iter().all(|line| line.starts_with("Deleted: sha256:") && line.len() == 80), "{said}");
    c.refuses(1, "docker rmi $n/a", &format!("Error response from daemon: No such image: {n}/a:latest"));
}

fn rmi_takes_short_ids(c: &Client) {
    let id = tiny(c, "$n/a", "$n");
    let said = c.ok(&format!("docker rmi {}", &id[7..15]));
    assert!(said.starts_with(&format!("Untagged: {}/a:latest\nDeleted: {id}\n", c.n)), "{said}");
    let id = tiny(c, "$n/a", "$n");
    let said = c.ok(&format!("docker rmi {id}"));
    assert!(said.contains(&format!("Deleted: {id}\n")), "{said}");
}

fn rmi_by_id_wants_force_for_several_repositories(c: &Client) {
    let id = tiny(c, "$n/a", "$n");
    c.ok("docker tag $n/a $n/b");
    let short = &id[7..19];
    c.refuses(
        1,
        &format!("docker rmi {short}"),
        &format!("Error response from daemon: conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"),
    );
    let said = c.ok(&format!("docker rmi -f {short} | sort"));
    for line in [
        format!("Deleted: {id}"),
        format!("Untagged: {}/a:latest", c.n),
        format!("Untagged: {}/b:latest", c.n),
    ] {
        assert!(said.lines().any(|have| have == line), "{line} is not in {said}");
    }
}

fn rmi_by_id_wants_force_for_several_tags(c: &Client) {
    let id = tiny(c, "$n/a:1", "$n");
    c.ok("docker tag $n/a:1 $n/a:2");
    let short = &id[7..19];
    c.refuses(
        1,
        &format!("docker rmi {id}"),
        &format!("Error response from daemon: conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"),
    );
    let said = c.ok(&format!("docker rmi --force {id}"));
    assert!(
        said.starts_with(&format!("Untagged: {n}/a:1\nUntagged: {n}/a:2\nDeleted: {id}\n", n = c.n)),
        "{said}"
    );
}

fn rmi_names_the_stopped_container(c: &Client) {
    let id = runnable(c, "$n/a");
    let container = c.line("docker create --name $n-user $n/a");
    let (short, image) = (&container[..12], &id[7..19]);
    c.refuses(
        1,
        "docker rmi $n/a",
        &format!(
            "Error response from daemon: conflict: unable to remove repository reference \"{}/a\" (must force) - container {short} is using its referenced image {image}",
            c.n
        ),
    );
    c.refuses(
        1,
        &format!("docker rmi {image}"),
        &format!("Error response from daemon: conflict: unable to delete {image} (must be forced) - image is being used by stopped container {short}"),
    );
    c.ok("docker rm $n-user && docker rmi $n/a");
}

fn rmi_names_the_running_container(c: &Client) {
    let id = runnable(c, "$n/a");
    let container = c.line("docker run -d --name $n-user $n/a");
    let (short, image) = (&container[..12], &id[7..19]);
    let text = format!(
        "Error response from daemon: conflict: unable to delete {image} (cannot be forced) - image is being used by running container {short}"
    );
    c.refuses(1, &format!("docker rmi {image}"), &text);
    c.refuses(1, &format!("docker rmi -f {image}"), &text);
    // A second name may go at any time, and by force the last one too.
    c.ok("docker tag $n/a $n/b");
    c.says("docker rmi $n/b", &format!("Untagged: {}/b:latest\n", c.n));
    c.says("docker rmi -f $n/a", &format!("Untagged: {}/a:latest\n", c.n));
    c.says("docker ps --filter name=$n-user --format '{{.Image}}'", &format!("{image}\n"));
    c.ok(&format!("docker rm -f $n-user; docker rmi {image}"));
}

fn rmi_says_what_to_do(c: &Client) {
    runnable(c, "$n/a");
    let stopped = c.line("docker create --name $n-idle $n/a");
    let running = c.line("docker run -d --name $n-busy $n/a");
    let text = c.fails(1, "docker rmi $n/a");
    for (name, id, state, command) in
        [("idle", &stopped, "created", "yare rm"), ("busy", &running, "running", "yare rm -f")]
    {
        let wanted = format!("container {}-{name} ({}, {state} for ", c.n, &id[..12]);
        let line = text
            .lines()
            .find(|line| line.contains(&wanted))
            .unwrap_or_else(|| panic!("no {wanted:?} in {text}"));
        assert!(line.ends_with(&format!(": {command} {}-{name}", c.n)), "{line}");
    }
    // The advice works.
    c.ok("docker rm $n-idle; docker rm -f $n-busy; docker rmi $n/a");
}

fn rmi_by_force_untags_what_is_used(c: &Client) {
    let id = runnable(c, "$n/a");
    c.ok("docker create --name $n-user $n/a echo still here");
    let said = c.ok("docker rmi -f $n/a");
    assert!(said.starts_with(&format!("Untagged: {}/a:latest\n", c.n)), "{said}");
    c.says("docker start -a $n-user", "still here\n");
    c.says("docker ps -a --filter name=$n-user --format '{{.Image}}'", &format!("{}\n", &id[7..19]));
    c.ok("docker rm $n-user");
}

fn rmi_of_several_goes_on_after_an_error(c: &Client) {
    tiny(c, "$n/a", "$n");
    c.ok("docker tag $n/a $n/b");
    let outcome = c.run("docker rmi $n/a $n/none $n/b");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stdout.contains(&format!("Untagged: {}/b:latest\nDeleted: ", c.n)), "{outcome:?}");
    assert_eq!(outcome.stderr, format!("Error response from daemon: No such image: {}/none:latest\n", c.n));
    // Force forgives what is not there.
    c.says("docker rmi -f $n/none; echo $?", "0\n");
}

fn rmi_keeps_shared_layers(c: &Client) {
    let base = archive::layer(&[("base", &c.n)]);
    for (name, more) in [("one", "1"), ("two", "2")] {
        let layers = [base.clone(), archive::layer(&[("own", &format!("{more}{}", c.n))])];
        let tar = archive::docker_archive(&format!("{}/{name}:latest", c.n), &layers, &json!({}));
        std::fs::write(c.folder.join(name), tar).unwrap();
        c.ok(&format!("docker load -i {name}"));
    }
    // The image and its own layer; the shared one stays.
    c.says("docker rmi $n/one | grep -c Deleted", "2\n");
    c.says("docker create --name $n-a $n/two x > /dev/null && docker rm $n-a", &format!("{}-a\n", c.n));
    c.says("docker rmi $n/two | grep -c Deleted", "3\n");
}

fn rmi_no_prune_keeps_the_image(c: &Client) {
    let id = tiny(c, "$n/a", "$n");
    let said = c.ok("docker rmi --no-prune $n/a");
    assert!(said.starts_with(&format!("Untagged: {}/a:latest\n", c.n)), "{said}");
    c.run(&format!("docker rmi {id}"));
}

fn prune_removes_dangling_images(c: &Client) {
    c.ok("docker image prune -f");
    c.says("docker image prune -f", "Total reclaimed space: 0B\n");
    let old = tiny(c, "$n/a", "1-$n");
    let new = tiny(c, "$n/a", "2-$n");
    let said = c.ok("docker image prune --force");
    assert!(said.starts_with(&format!("Deleted Images:\ndeleted: {old}\n")), "{said}");
    assert!(said.ends_with("\nTotal reclaimed space: 0B\n"), "{said}");
    c.says("docker images -q --no-trunc $n/a", &format!("{new}\n"));
    c.says(
        "echo n | docker image prune",
        "WARNING! This will remove all dangling images.\nAre you sure you want to continue? [y/N] ",
    );
}

fn prune_all_removes_unused_images(c: &Client) {
    tiny(c, "$n/unused", "$n");
    c.ok(
        "docker import --change \"LABEL own=$n\" $busybox $n/used; docker create --name $n-user $n/used true",
    );
    let said = c.ok("docker image prune -a -f --filter label=own=$n");
    assert!(said.contains(&format!("untagged: {}/unused:latest\n", c.n)), "{said}");
    assert!(!said.contains("/used:"), "{said}");
    c.says("docker images -q $n/used | wc -l", "1\n");
    c.says("docker image prune -a -f --filter label=own=other", "Total reclaimed space: 0B\n");
}

fn habit_rmi_of_dangling_images(c: &Client) {
    c.ok("docker image prune -f");
    let old = tiny(c, "$n/a", "1-$n");
    let new = tiny(c, "$n/a", "2-$n");
    let said = c.ok("docker images -q --filter \"dangling=true\" | xargs docker rmi");
    assert!(said.starts_with(&format!("Deleted: {old}\n")), "{said}");
    c.says("docker images -q --no-trunc $n/a", &format!("{new}\n"));
    // With nothing to do, xargs still runs the command, which says what it wants.
    let text = c.fails(123, "docker images -q --filter \"dangling=true\" | xargs docker rmi");
    assert!(text.contains("'docker rmi' requires at least 1 argument"), "{text}");
    c.says("docker images -q --filter \"dangling=true\" | xargs -r docker rmi", "");
}

fn habit_rm_of_all_containers(c: &Client) {
    c.ok("docker create --name $n-a busybox true; docker run --name $n-b busybox true; docker run -d --name $n-c busybox sleep 1000");
    let ids = c.ok("docker ps --no-trunc -aq");
    assert!(ids.lines().count() == 3 && ids.lines().all(|id| id.len() == 64), "{ids}");
    let outcome = c.run("docker rm `docker ps --no-trunc -aq`");
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.stdout.lines().count(), 2, "{outcome:?}");
    assert!(
        outcome.stderr.contains("container is running: stop the container before removing or force remove"),
        "{outcome:?}"
    );
    c.says("docker ps -a --format '{{.Names}}'", &format!("{}-c\n", c.n));
    c.says("docker kill $(docker ps -q) > /dev/null; docker rm `docker ps --no-trunc -aq` | wc -c", "65\n");
    let text = c.fails(1, "docker rm `docker ps --no-trunc -aq`");
    assert!(text.contains("'docker rm' requires at least 1 argument"), "{text}");
    c.says("docker ps --no-trunc -aq | xargs -r docker rm", "");
}

fn container_prune_removes_stopped_ones(c: &Client) {
    c.says("docker container prune -f", "Total reclaimed space: 0B\n");
    let stopped = c.line("docker create --name $n-a --label keep=no busybox true");
    let labelled = c.line("docker create --name $n-b --label keep=yes busybox true");
    c.ok("docker run -d --name $n-c busybox sleep 1000");
    c.says(
        "docker container prune -f --filter label!=keep=yes",
        &format!("Deleted Containers:\n{stopped}\n\nTotal reclaimed space: 0B\n"),
    );
    c.says(
        "docker container prune -f",
        &format!("Deleted Containers:\n{labelled}\n\nTotal reclaimed space: 0B\n"),
    );
    c.says("docker ps -a --format '{{.Names}}'", &format!("{}-c\n", c.n));
}

fn what_was_used_lately_stays(c: &Client) {
    runnable(c, "$n/idle");
    runnable(c, "$n/busy");
    // Between the two uses there is a moment, and what was used before it is meant, whenever that is asked for.
    let moment = c.line("docker run --name $n-old $n/idle true; sleep 1.2; date +%s.%N; sleep 3; docker run --name $n-new $n/busy true");
    let before = format!("unused-for=$(awk \"BEGIN {{ print $(date +%s.%N) - {moment} }}\")s");
    c.says(
        &format!("docker images --filter {before} --filter reference=$n/* --format '{{{{.Repository}}}}'"),
        &format!("{}/idle\n", c.n),
    );
    for (what, text) in
        [("soon", "invalid filter 'unused-for=soon'"), ("-1h", "invalid filter 'unused-for=-1h'")]
    {
        let said = c.fails(1, &format!("docker image prune -f --filter unused-for={what}"));
        assert!(said.contains(text), "{said}");
    }
    let filters = format!("--filter label=of=$n --filter {before}");
    c.ok("docker container prune -f --filter unused-for=1w");
    c.says("docker ps -aq --filter name=$n- | wc -l", "2\n");
    c.ok(&format!("docker container prune -f --filter {before}"));
    c.says("docker ps -a --filter name=$n- --format '{{.Names}}'", &format!("{}-new\n", c.n));
    c.ok("docker rm $n-new");
    c.ok("docker system prune -af --filter unused-for=1d");
    c.says("docker images -q $n/idle | wc -l", "1\n");
    c.ok(&format!("docker image prune -af {filters}"));
    c.says("docker images --filter reference=$n/* --format '{{.Repository}}'", &format!("{}/busy\n", c.n));
    c.ok("docker rmi $n/busy");
}

fn times_of_use_are_told(c: &Client) {
    runnable(c, "$n/app");
    let path = format!("/v1.51/images/{}/app/json", c.n);
    let told = |c: &Client| c.api("GET", &path, None).json()["Metadata"]["LastUsed"].to_string();
    let came = told(c);
    assert!(came.starts_with("\"20"), "{came}");
    c.ok("sleep 1.1; docker run --rm $n/app true");
    assert!(told(c) > came);
    let listed = c.api("GET", "/v1.51/images/json", None).json();
    let name = format!("{}/app:latest", c.n);
    let row = listed.as_array().expect("a list").iter().find(|row| row["RepoTags"][0] == name.as_str());
    assert!(row.expect("a row")["LastUsed"].as_i64().is_some_and(|second| second > 1_700_000_000));
}

fn a_prune_keeps_the_newest(c: &Client) {
    for tag in ["1", "2", "3"] {
        runnable(c, &format!("$n/app:{tag}"));
        c.ok("sleep 0.01");
    }
    runnable(c, "$n/other");
    let left = "docker images --filter reference=$n/* --format '{{.Repository}}:{{.Tag}}' | sort";
    let all = c.ok(left);
    let filters = "--filter label=of=$n --filter keep=2 --filter reference=$n/*";
    let said = c.ok(&format!("docker image prune -af {filters} --filter dry-run=true"));
    assert!(said.contains(&format!("{}/app:1", c.n)) && !said.contains("app:2"), "{said}");
    c.says(left, &all);
    let done = c.ok(&format!("docker image prune -af {filters}"));
    assert!(done == said || c.program == Program::Yare, "docker has no other words for it: {done}");
    c.says(
        left,
        &all.lines()
            .filter(|name| !name.ends_with("app:1"))
            .map(|name| format!("{name}\n"))
            .collect::<String>(),
    );
    c.ok("docker image prune -af --filter label=of=$n --filter keep-storage=1TB");
    let said = c.fails(1, "docker image prune -af --filter keep-storage=much");
    assert!(said.contains("invalid filter 'keep-storage=much'"), "{said}");
    c.ok("docker image prune -af --filter label=of=$n --filter keep-storage=0");
    c.says(left, "");
}

fn a_dry_run_says_what_would_go(c: &Client) {
    // The flags are those of our own command line.
    if c.program != Program::Yare {
        return;
    }
    runnable(c, "$n/app:1");
    c.ok("sleep 0.01");
    runnable(c, "$n/app:2");
    c.ok("docker run --name $n $n/app:1 true");
    let said = c.ok("docker container prune --dry-run --filter label=of=$n");
    assert!(
        said.starts_with(&format!("Would delete containers:\n{} (", c.n))
            && said.contains("it is exited since"),
        "{said}"
    );
    let said = c.ok("docker image prune -a --dry-run --keep 1 --filter label=of=$n");
    assert_eq!(said, "Space that would be reclaimed: 0B\n", "a container has it");
    let said = c.ok("docker system prune -a --dry-run --keep 1 --keep-storage 1k");
    assert!(
        said.contains(&format!("is not among the 1 newest of {}/app", c.n)),
        "the container would be gone: {said}"
    );
    c.fails(1, "docker system prune --dry-run --volumes");
    c.says("docker ps -aq --filter name=$n | wc -l", "1\n");
    c.says("docker images -q $n/app | wc -l", "2\n");
}
