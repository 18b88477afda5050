//! Listing, naming and inspecting images.

use crate::archive;
use crate::case::cases;
use crate::client::{Client, table};
use serde_json::{Value, json};

cases![
    Both:
        all_tags_of_an_image_show_one_id,
        untagged_images_show_none,
        columns_are_dockers,
        ids_are_short_unless_asked,
        filters_by_reference,
        filters_by_label,
        filters_by_age.differs_from_old("it has no until filter"),
        filters_by_dangling,
        refuses_unknown_filters.differs_from_old("texts were others"),
        formats_with_templates,
        digests_have_a_column,
        size_counts_distinct_layers,
        tag_refuses_what_is_no_reference,
        inspect_knows_the_config.differs_from_old("it reads changes otherwise"),
        inspect_finds_by_short_id_and_digest,
        inspect_of_nothing_is_an_empty_list.differs_from_old("texts were others");
];

/// An image with nothing but a label, quick to make.
fn tiny(c: &Client, name: &str, label: &str) {
    c.ok(&format!("tar -cT/dev/null | docker import --change \"LABEL {label}\" - {name}"));
}

fn all_tags_of_an_image_show_one_id(c: &Client) {
    tiny(c, "$n/a:1", "x=$n");
    c.says("docker tag $n/a:1 $n/b:2; docker tag $n/a:1 $n/a", "");
    let n = &c.n;
    c.says(
        "docker images --format '{{.Repository}}:{{.Tag}}' --filter reference=$n/* | sort",
        &format!("{n}/a:1\n{n}/a:latest\n{n}/b:2\n"),
    );
    c.says("docker images --no-trunc --format '{{.ID}}' --filter reference=$n/* | sort -u | wc -l", "1\n");
    c.says(
        "docker images -q --filter reference=$n/* | uniq",
        &format!("{}\n", c.line("docker images -q $n/b")),
    );
    c.says("docker images $n/a:1 --format '{{.Tag}}'", "1\n");
}

fn untagged_images_show_none(c: &Client) {
    tiny(c, "$n/a", "x=$n-old");
    let old = c.line("docker images -q $n/a");
    tiny(c, "$n/a", "x=$n-new");
    assert_ne!(old, c.line("docker images -q $n/a"));
    let filter = "--filter label=x=$n-old";
    c.says(
        &format!("docker images {filter} --format '{{{{.Repository}}}}:{{{{.Tag}}}} {{{{.ID}}}}'"),
        &format!("<none>:<none> {old}\n"),
    );
    let table = c.ok(&format!("docker images {filter}"));
    assert!(table.lines().nth(1).unwrap().starts_with("<none>       <none>    "), "{table}");
    c.ok(&format!("docker rmi $(docker images -q {filter}) | grep ^Deleted:"));
}

fn columns_are_dockers(c: &Client) {
    tiny(c, "$n/a:some-long-tag", "x=$n");
    let (id, name) = (c.line("docker images -q $n/a"), format!("{}/a", c.n));
    // The age may change between two questions.
    for _ in 0..3 {
        let age = c.line("docker images $n/a --format '{{.CreatedSince}}'");
        let rows: [&[&str]; 2] = [
            &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"],
            &[&name, "some-long-tag", &id, &age, "0B"],
        ];
        if c.ok("docker images $n/a") == table(&rows) {
            return;
        }
    }
    panic!("the table is another: {}", c.ok("docker images $n/a"));
}

fn ids_are_short_unless_asked(c: &Client) {
    tiny(c, "$n/a", "x=$n");
    let full = c.line("docker images -q --no-trunc $n/a");
    assert!(full.starts_with("sha256:") && full.len() == 71, "{full}");
    assert_eq!(c.line("docker images -q $n/a"), full[7..19]);
    assert_eq!(c.line("docker image inspect -f '{{.Id}}' $n/a"), full);
    let rows = c.ok("docker images --no-trunc $n/a");
    assert!(rows.contains(&full), "{rows}");
}

fn filters_by_reference(c: &Client) {
    for name in ["$n/app:1.0", "$n/app:1.1", "$n/other:1.0"] {
        tiny(c, name, "x=$n");
    }
    let n = &c.n;
    let list = |filters: &str| {
        c.ok(&format!("docker images {filters} --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | sort"))
    };
    assert_eq!(list("--filter reference=$n/app"), format!("{n}/app:1.0\n{n}/app:1.1\n"));
    assert_eq!(list("--filter reference=$n/*:1.0"), format!("{n}/app:1.0\n{n}/other:1.0\n"));
    assert_eq!(
        list("--filter reference=$n/app:1.0 -f reference=$n/other"),
        format!("{n}/app:1.0\n{n}/other:1.0\n")
    );
    assert_eq!(list("--filter reference=$n/nothing"), "");
    assert_eq!(list("$n/o*"), format!("{n}/other:1.0\n"));
}

fn filters_by_label(c: &Client) {
    tiny(c, "$n/red", "color$n=red");
    tiny(c, "$n/blue", "color$n=blue");
    let n = &c.n;
    c.says("docker images -f label=color$n=red --format '{{.Repository}}'", &format!("{n}/red\n"));
    c.says(
        "docker images -f label=color$n --format '{{.Repository}}' | sort",
        &format!("{n}/blue\n{n}/red\n"),
    );
    c.says("docker images -f label=color$n=green -q", "");
}

fn filters_by_age(c: &Client) {
    for name in ["$n/one", "$n/two", "$n/three"] {
        tiny(c, name, "x=$n");
        c.ok("sleep 0.02");
    }
    let n = &c.n;
    let list = |filter: &str| {
        c.ok(&format!("docker images -f reference=$n/* -f {filter} --format '{{{{.Repository}}}}' | sort"))
    };
    assert_eq!(list("before=$n/two"), format!("{n}/one\n"));
    assert_eq!(list("since=$n/two"), format!("{n}/three\n"));
    assert_eq!(list("since=$n/one -f before=$n/three"), format!("{n}/two\n"));
    assert_eq!(list("until=24h"), "");
    assert_eq!(list("until=$(date -d '+1 hour' +%s)"), format!("{n}/one\n{n}/three\n{n}/two\n"));
    c.refuses(
        1,
        "docker images -f since=$n/none",
        &format!("Error response from daemon: No such image: {n}/none:latest"),
    );
}

fn filters_by_dangling(c: &Client) {
    tiny(c, "$n/a", "dangle=$n");
    tiny(c, "$n/a", "dangle=$n");
    let filter = "-f label=dangle=$n";
    c.says(&format!("docker images {filter} -q | wc -l"), "2\n");
    c.says(&format!("docker images {filter} -f dangling=true --format '{{{{.Repository}}}}'"), "<none>\n");
    c.says(
        &format!("docker images {filter} -f dangling=false --format '{{{{.Repository}}}}'"),
        &format!("{}/a\n", c.n),
    );
    c.ok(&format!("docker rmi $(docker images {filter} -q -f dangling=true)"));
}

fn refuses_unknown_filters(c: &Client) {
    c.refuses(1, "docker images -f color=red", "Error response from daemon: invalid filter 'color'");
    let text = c.fails(1, "docker images -f dangling=maybe");
    assert!(text.starts_with("Error response from daemon: invalid filter 'dangling=[maybe]'"), "{text}");
}

fn formats_with_templates(c: &Client) {
    tiny(c, "$n/a:t", "x=$n");
    let n = &c.n;
    let id = c.line("docker images -q $n/a");
    c.says("docker images $n/a --format '{{.Repository}}-{{.Tag}}/{{.ID}}'", &format!("{n}/a-t/{id}\n"));
    let name = format!("{n}/a");
    c.says(
        "docker images $n/a --format 'table {{.Repository}}\\t{{.Tag}}'",
        &table(&[&["REPOSITORY", "TAG"], &[&name, "t"]]),
    );
    let row: Value = serde_json::from_str(&c.line("docker images $n/a --format json")).unwrap();
    assert_eq!(
        (row["Repository"].as_str().unwrap(), row["ID"].as_str().unwrap()),
        (format!("{n}/a").as_str(), id.as_str())
    );
    for field in [
        "Containers",
        "CreatedAt",
        "CreatedSince",
        "Digest",
        "SharedSize",
        "Size",
        "UniqueSize",
        "VirtualSize",
    ] {
        assert!(row[field].is_string(), "{field} in {row}");
    }
    c.says(
        "docker images $n/a --format '{{json .Tag}} {{upper .Tag}} {{.Tag | printf \"%5s\"}}'",
        "\"t\" T     t\n",
    );
}

fn digests_have_a_column(c: &Client) {
    tiny(c, "$n/a", "x=$n");
    let table = c.ok("docker images --digests $n/a");
    let columns: Vec<&str> =
        table.lines().next().unwrap().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(columns, ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]);
    assert!(table.lines().nth(1).unwrap().contains("latest    <none>    "), "{table}");
}

fn size_counts_distinct_layers(c: &Client) {
    let big = archive::layer(&[("big", &"x".repeat(1_000_000))]);
    let small = archive::layer(&[("small", &"y".repeat(500_000))]);
    for (name, layers) in [("one", vec![big.clone()]), ("both", vec![big, small])] {
        let tar = archive::docker_archive(&format!("{}/{name}:latest", c.n), &layers, &json!({}));
        std::fs::write(c.folder.join(name), tar).unwrap();
        c.says(&format!("docker load -i {name}"), &format!("Loaded image: {}/{name}:latest\n", c.n));
    }
    c.says("docker images $n/one --format '{{.Size}}'", "1MB\n");
    c.says("docker images $n/both --format '{{.Size}}'", "1.5MB\n");
    c.says("docker image inspect -f '{{.Size}}' $n/both", "1500000\n");
}

fn tag_refuses_what_is_no_reference(c: &Client) {
    c.refuses(
        1,
        "docker tag $n/none $n/a",
        &format!("Error response from daemon: No such image: {}/none:latest", c.n),
    );
    c.refuses(
        1,
        "docker tag busybox Upper",
        "Error parsing reference: \"Upper\" is not a valid repository/tag: invalid reference format: repository name (library/Upper) must be lowercase",
    );
    c.refuses(
        1,
        "docker tag busybox $n/a:sp@ce",
        &format!(
            "Error parsing reference: \"{}/a:sp@ce\" is not a valid repository/tag: invalid reference format",
            c.n
        ),
    );
    let digest = "0".repeat(64);
    c.refuses(
        1,
        &format!("docker tag busybox a@sha256:{digest}"),
        "refusing to create a tag with a digest reference",
    );
    c.refuses(1, "docker tag busybox", "docker: 'docker tag' requires 2 arguments");
}

fn inspect_knows_the_config(c: &Client) {
    c.ok(
        "tar -cT/dev/null | docker import --change 'ENV A=1 B=two' --change 'EXPOSE 80 53/udp' --change 'VOLUME /v' \
         --change 'CMD [\"a\", \"b c\"]' --change 'ENTRYPOINT x y' --change 'USER 12:34' --change 'WORKDIR /w' \
         --change 'LABEL k=\"v w\"' --change 'STOPSIGNAL SIGINT' -m said - $n/a",
    );
    let image: Value = serde_json::from_str(&c.ok("docker image inspect $n/a")).unwrap();
    let config = &image[0]["Config"];
    assert_eq!(
        config["Env"].as_array().unwrap().iter().filter(|env| **env == "A=1" || **env == "B=two").count(),
        2
    );
    assert_eq!(config["ExposedPorts"], json!({"53/udp": {}, "80/tcp": {}}));
    assert_eq!(config["Volumes"], json!({"/v": {}}));
    assert_eq!(config["Cmd"], json!(["a", "b c"]));
    assert_eq!(config["Entrypoint"], json!(["/bin/sh", "-c", "x y"]));
    assert_eq!((&config["User"], &config["WorkingDir"]), (&json!("12:34"), &json!("/w")));
    assert_eq!((&config["Labels"], &config["StopSignal"]), (&json!({"k": "v w"}), &json!("SIGINT")));
    assert_eq!((&image[0]["Comment"], &image[0]["Os"]), (&json!("said"), &json!("linux")));
    assert_eq!(image[0]["RepoTags"], json!([format!("{}/a:latest", c.n)]));
    assert_eq!(image[0]["RootFS"]["Type"], "layers");
    c.says("docker inspect --type image -f '{{join .Config.Cmd \",\"}}' $n/a", "a,b c\n");
}

fn inspect_finds_by_short_id_and_digest(c: &Client) {
    tiny(c, "$n/a", "x=$n");
    let id = c.line("docker image inspect -f '{{.Id}}' $n/a");
    for name in [&id, &id[7..], &id[7..19], &id[..20]] {
        c.says(&format!("docker image inspect -f '{{{{.Id}}}}' {name}"), &format!("{id}\n"));
    }
}

fn inspect_of_nothing_is_an_empty_list(c: &Client) {
    let outcome = c.run("docker image inspect $n/none");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, "[]\n"));
    assert_eq!(outcome.stderr, format!("Error response from daemon: No such image: {}/none:latest\n", c.n));
    let outcome = c.run("docker inspect $n-none");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, "[]\n"));
    assert_eq!(outcome.stderr.to_lowercase(), format!("error: no such object: {}-none\n", c.n));
    let outcome = c.run("docker inspect -f '{{.Id}}' busybox $n-none");
    assert_eq!((outcome.code, outcome.stdout.len()), (1, 72));
}
