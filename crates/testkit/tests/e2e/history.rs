//! What images are made of.

use serde_json::json;

use crate::archive;
use crate::case::cases;
use crate::client::{Client, table};

cases![
    Both:
        history_of_an_import_is_one_step,
        history_shows_steps_newest_first;
];

fn history_of_an_import_is_one_step(c: &Client) {
    let id = c.line("tar -cT/dev/null | docker import -m words - $n/a");
    c.says("docker history -q $n/a", &format!("{}\n", &id[7..19]));
    c.says("docker history -q --no-trunc $n/a", &format!("{id}\n"));
    c.says("docker history --format '{{.Size}} {{.Comment}}|{{.CreatedBy}}' $n/a", "0B words|\n");
    let head = c.ok("docker history $n/a");
    assert!(head.starts_with("IMAGE          CREATED "), "{head}");
    c.refuses(
        1,
        "docker history $n/none",
        &format!("Error response from daemon: No such image: {}/none:latest", c.n),
    );
}

fn history_shows_steps_newest_first(c: &Client) {
    let layers = [archive::layer(&[("a", &"x".repeat(2000))]), archive::layer(&[("b", "y")])];
    let tag = format!("{}/a:latest", c.n);
    std::fs::write(c.folder.join("a.tar"), archive::docker_archive(&tag, &layers, &json!({}))).unwrap();
    c.ok("docker load -i a.tar");
    let id = c.line("docker images -q $n/a");
    let age = c.line("docker history --format '{{.CreatedSince}}' $n/a | head -1");
    c.says(
        "docker history $n/a",
        &table(&[
            &["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
            &[&id, &age, "step 2", "1B", ""],
            &["<missing>", &age, "step 1", "2kB", ""],
        ]),
    );
    c.says(
        "docker history --human=false --format '{{.CreatedAt}} {{.CreatedBy}}' $n/a | head -1",
        "2024-01-02T03:04:05Z step 2\n",
    );
}
