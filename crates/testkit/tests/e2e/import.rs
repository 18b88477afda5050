//! Images in and out: import, load, save.

use serde_json::json;

use crate::archive;
use crate::build_copy::{end, serve};
use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        import_reads_every_compression.differs_from_old("it knows no zstd"),
        import_reads_stdin_and_prints_the_id,
        import_applies_changes_and_message,
        import_keeps_files_as_they_are,
        import_refuses_a_bad_change.differs_from_old("texts were others"),
        import_of_half_an_archive_leaves_nothing,
        import_fetches_an_address,
        save_and_load_keep_the_image,
        save_and_load_go_through_pipes.differs_from_old("it knows no zstd"),
        save_holds_both_formats.differs_from_old("it has no OCI layout"),
        save_of_nothing_says_so,
        load_reads_an_old_archive,
        load_reads_an_oci_layout.differs("dockerd without containerd's image store reads its own archives only"),
        load_takes_the_name_away_from_another,
        load_refuses_what_is_no_archive,
        images_run_after_import.differs_from_old("texts were others");
];

fn import_reads_every_compression(c: &Client) {
    c.ok("echo content > marker; tar -cf plain.tar marker; gzip -k plain.tar; zstd -q plain.tar; xz -k plain.tar");
    for kind in ["tar", "tar.gz", "tar.zst", "tar.xz"] {
        c.ok(&format!("docker import plain.{kind} $n/{kind}"));
    }
    c.says("for kind in tar tar.gz tar.zst tar.xz; do docker image inspect -f '{{json .RootFS.Layers}}' $n/$kind; done | uniq | wc -l", "1\n");
    let layer = c.line("echo sha256:$(sha256sum < plain.tar | cut -d' ' -f1)");
    c.says("docker image inspect -f '{{index .RootFS.Layers 0}}' $n/tar.gz", &format!("{layer}\n"));
}

fn import_reads_stdin_and_prints_the_id(c: &Client) {
    let id = c.line("tar -cT/dev/null | docker import - $n/a");
    assert!(id.len() == 71 && id.starts_with("sha256:"), "{id}");
    c.says("docker image inspect -f '{{.Id}}' $n/a", &format!("{id}\n"));
    let unnamed = c.line("echo $n > f; tar -c f | docker import -");
    c.says(&format!("docker image inspect -f '{{{{len .RepoTags}}}}' {unnamed}"), "0\n");
    c.ok(&format!("docker rmi {unnamed}"));
}

fn import_applies_changes_and_message(c: &Client) {
    c.ok(
        "docker import -c 'CMD [\"echo\",\"from cmd\"]' --change 'ENV WHO=me' -c 'WORKDIR /work' -c 'USER 1000' \
         -m 'made by a test' $busybox $n/a",
    );
    c.says("docker run --rm $n/a", "from cmd\n");
    c.says("docker run --rm $n/a sh -c 'echo $WHO; pwd; id -u'", "me\n/work\n1000\n");
    c.says("docker history --format '{{.Comment}}' $n/a", "made by a test\n");
}

fn import_keeps_files_as_they_are(c: &Client) {
    c.ok(
        "mkdir -p root/d && cd root && tar -xf $busybox && echo x > d/f && ln d/f d/hard && ln -s f d/soft \
         && mkfifo d/fifo && mknod d/null c 1 3 && chown 1234:5678 d/hard && chmod 4751 d/f && touch -d '2001-02-03 04:05:06.789 UTC' d/f \
         && tar --xattrs --format=posix -cf ../root.tar . && cd .. && docker import root.tar $n/a",
    );
    c.says(
        "docker run --rm $n/a stat -c '%a %u %g %h %s %F' /d/f /d/soft /d/fifo /d/null",
        "4751 1234 5678 2 2 regular file\n777 0 0 1 1 symbolic link\n644 0 0 1 0 fifo\n644 0 0 1 0 character special file\n",
    );
    c.says("docker run --rm $n/a stat -c '%y' /d/f", "2001-02-03 04:05:06.789000000 +0000\n");
}

fn import_refuses_a_bad_change(c: &Client) {
    c.refuses(
        1,
        "tar -cT/dev/null | docker import --change 'NONSENSE x' - $n/a",
        "Error response from daemon: NONSENSE is not a valid change command",
    );
    let text = c.fails(1, "tar -cT/dev/null | docker import - $n/Upper");
    assert!(text.contains("invalid reference format"), "{text}");
    c.says("docker images -q $n/*", "");
    let text = c.fails(1, "docker import missing.tar $n/a");
    assert!(text.contains("missing.tar: no such file or directory"), "{text}");
}

fn import_of_half_an_archive_leaves_nothing(c: &Client) {
    c.ok("head -c 300000 /dev/urandom > random; tar -cz random | head -c 100000 > half.tar.gz");
    let text = c.fails(1, "docker import half.tar.gz $n/a");
    assert!(text.contains("unexpected EOF"), "{text}");
    c.says("docker images -q $n/a", "");
}

fn import_fetches_an_address(c: &Client) {
    c.ok("echo content > marker; tar -czf a.tar.gz marker");
    let archive = std::fs::read(c.folder.join("a.tar.gz")).unwrap();
    let (port, thread) = serve(vec![("/a.tar.gz", archive), ("/page", b"<html>no archive</html>".to_vec())]);
    let url = format!("http://127.0.0.1:{port}");
    let said = c.ok(&format!("docker import -c 'ENV A=b' {url}/a.tar.gz $n/a"));
    let id = c.line("docker image inspect -f '{{.Id}}' $n/a");
    assert_eq!(said, format!("Downloading from {url}/a.tar.gz\n{id}\n"));
    c.says("docker history --format '{{.Comment}}' $n/a", &format!("Imported from {url}/a.tar.gz\n"));
    let layer = c.line("echo sha256:$(gzip -dc a.tar.gz | sha256sum | cut -d' ' -f1)");
    c.says(
        "docker image inspect -f '{{index .RootFS.Layers 0}} {{.Config.Env}}' $n/a",
        &format!("{layer} [A=b]\n"),
    );
    let text = c.fails(1, &format!("docker import {url}/none $n/b"));
    assert!(text.contains(&format!("failed to GET {url}/none with status 404 Not Found")), "{text}");
    c.fails(1, &format!("docker import {url}/page $n/b"));
    c.says("docker images -q $n/b", "");
    end(port, thread);
}

fn save_and_load_keep_the_image(c: &Client) {
    c.ok("docker import --change \"LABEL x=$n\" -c 'CMD [\"echo\",\"loaded\"]' $busybox $n/a:1; docker tag $n/a:1 $n/b");
    let id = c.line("docker images -q --no-trunc $n/a:1");
    c.says("docker save -o both.tar $n/a:1 $n/b", "");
    c.ok("docker rmi $n/a:1 $n/b");
    c.says("docker images -q $n/*", "");
    let n = &c.n;
    c.says("docker load -i both.tar | sort", &format!("Loaded image: {n}/a:1\nLoaded image: {n}/b:latest\n"));
    c.says("docker images -q --no-trunc $n/a:1", &format!("{id}\n"));
    c.says("docker run --rm $n/b", "loaded\n");
    // A second time changes nothing.
    c.says(
        "docker load -q -i both.tar | sort",
        &format!("Loaded image: {n}/a:1\nLoaded image: {n}/b:latest\n"),
    );
    c.says("docker images -q $n/* | sort -u | wc -l", "1\n");
}

fn save_and_load_go_through_pipes(c: &Client) {
    c.ok("tar -cT/dev/null | docker import --change \"LABEL x=$n\" - $n/a");
    let id = c.line("docker images -q --no-trunc $n/a");
    c.ok("docker save $n/a | gzip > a.tar.gz; docker save $n/a | zstd -q > a.tar.zst; docker save $n/a | xz > a.tar.xz; docker rmi $n/a");
    for kind in ["gz", "zst", "xz"] {
        c.says(&format!("docker load < a.tar.{kind}"), &format!("Loaded image: {}/a:latest\n", c.n));
        c.says("docker images -q --no-trunc $n/a", &format!("{id}\n"));
        c.ok("docker rmi $n/a");
    }
    // By id: without a name.
    c.ok("tar -cT/dev/null | docker import --change \"LABEL y=$n\" - $n/a");
    let id = c.line("docker images -q --no-trunc $n/a");
    c.ok("docker save -o id.tar $(docker images -q $n/a); docker rmi $n/a");
    c.says("docker load -i id.tar", &format!("Loaded image ID: {id}\n"));
    c.ok(&format!("docker rmi {id}"));
}

fn save_holds_both_formats(c: &Client) {
    c.ok("tar -cT/dev/null | docker import --change \"LABEL x=$n\" - $n/a:t; docker save $n/a:t > a.tar");
    c.says("tar -tf a.tar | grep -v / | sort", "index.json\nmanifest.json\noci-layout\nrepositories\n");
    c.says("tar -xOf a.tar oci-layout | tr -d ' \\n'", "{\"imageLayoutVersion\":\"1.0.0\"}");
    let manifest: serde_json::Value = serde_json::from_str(&c.ok("tar -xOf a.tar manifest.json")).unwrap();
    assert_eq!(manifest[0]["RepoTags"], json!([format!("{}/a:t", c.n)]));
    let id = c.line("docker images -q --no-trunc $n/a:t");
    assert_eq!(manifest[0]["Config"], format!("blobs/sha256/{}", &id[7..]));
    c.says(
        &format!("tar -xOf a.tar blobs/sha256/{} | sha256sum | cut -d' ' -f1", &id[7..]),
        &format!("{}\n", &id[7..]),
    );
    let name = c.line("tar -xOf a.tar index.json | tr ',{}' '\\n' | grep containerd.image.name");
    assert!(name.contains(&format!("docker.io/{}/a:t", c.n)), "{name}");
}

fn save_of_nothing_says_so(c: &Client) {
    let text = c.fails(1, "docker save -o none.tar $n/none");
    assert!(text.contains(&format!("No such image: {}/none", c.n)), "{text}");
    c.says("ls none.tar 2>/dev/null | wc -l", "0\n");
    let text = c.fails(1, "docker save");
    assert!(text.contains("'docker save' requires at least 1 argument"), "{text}");
}

fn load_reads_an_old_archive(c: &Client) {
    let layers = [
        archive::layer(&[("a", "one"), ("gone", "x"), ("d/x", "x")]),
        archive::layer(&[(".wh.gone", ""), ("d/.wh..wh..opq", ""), ("d/y", "y")]),
    ];
    let tag = format!("{}/a:old", c.n);
    std::fs::write(c.folder.join("a.tar"), archive::docker_archive(&tag, &layers, &json!({"Cmd": ["/x"]})))
        .unwrap();
    c.says("docker load < a.tar", &format!("Loaded image: {tag}\n"));
    c.says("docker image inspect -f '{{len .RootFS.Layers}} {{.Config.Cmd}}' $n/a:old", "2 [/x]\n");
    c.says("docker history --format '{{.CreatedBy}}' $n/a:old", "step 2\nstep 1\n");
    assert_eq!(
        &c.line("docker images -q --no-trunc $n/a:old")[7..],
        c.line("tar -tf a.tar | grep json$ | head -1").trim_end_matches(".json")
    );
}

fn load_reads_an_oci_layout(c: &Client) {
    let layers = [archive::layer(&[("a", "one")])];
    let tag = format!("docker.io/{}/a:oci", c.n);
    std::fs::write(c.folder.join("a.tar"), archive::oci_layout(&tag, &layers, &json!({"Cmd": ["/y"]})))
        .unwrap();
    c.says("docker load < a.tar", &format!("Loaded image: {}/a:oci\n", c.n));
    c.says("docker image inspect -f '{{.Config.Cmd}}' $n/a:oci", "[/y]\n");
}

fn load_takes_the_name_away_from_another(c: &Client) {
    c.ok("tar -cT/dev/null | docker import --change \"LABEL v=1-$n\" - $n/a; docker save -o a.tar $n/a");
    c.ok("tar -cT/dev/null | docker import --change \"LABEL v=2-$n\" - $n/a");
    let newer = c.line("docker images -q --no-trunc $n/a");
    let said = c.ok("docker load -i a.tar");
    let wanted = format!(
        "The image {n}/a:latest already exists, renaming the old one with ID {newer} to empty string\nLoaded image: {n}/a:latest\n",
        n = c.n
    );
    assert_eq!(said, wanted);
    c.says(&format!("docker image inspect -f '{{{{len .RepoTags}}}}' {newer}"), "0\n");
    c.ok(&format!("docker rmi {newer}"));
}

fn load_refuses_what_is_no_archive(c: &Client) {
    for (content, what) in
        [("head -c 5000 /dev/urandom", "noise"), ("echo words", "text"), ("true", "nothing")]
    {
        let text = c.fails(1, &format!("{content} > file; docker load -i file"));
        assert!(!text.is_empty(), "{what}");
    }
    let text = c.fails(1, "echo x > f; tar -cf other.tar f; docker load -i other.tar");
    assert!(!c.is_yare_engine() || text.contains("manifest.json"), "{text}");
    let text = c.fails(1, "docker load -i missing");
    assert!(text.contains("open missing: no such file or directory"), "{text}");
}

fn images_run_after_import(c: &Client) {
    c.ok("docker import $busybox $n/a");
    c.says("docker run --rm $n/a /bin/echo hello", "hello\n");
    let text = c.fails(125, "docker run --rm $n/a");
    assert!(text.contains("no command specified"), "{text}");
}
