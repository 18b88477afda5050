//! `buildx imagetools`: ours and Docker's over the same registry.

use std::fs;

use yare_testkit::Registry;

use crate::archive;
use crate::buildx::{OWN, buildx, dockerfile, ok};
use crate::case::cases;
use crate::client::Client;

cases![
    Docker:
        both_programs_put_the_same_together.differs(OWN),
        both_programs_show_the_same.differs(OWN),
        both_programs_push_the_same.differs(OWN);
];

/// Ours and Docker's, by what they are called with.
fn programs() -> [(&'static str, String); 2] {
    let yare = yare_testkit::yare_binary().display().to_string();
    [
        ("docker", "DOCKER_CONFIG=$PWD/docker docker buildx imagetools".to_owned()),
        ("yare", format!("DOCKER_CONFIG=$PWD/yare {yare} buildx imagetools")),
    ]
}

/// What both print and end with; the same, but for what `told` makes of it.
fn alike(c: &Client, arguments: &str, told: fn(&str) -> String) -> String {
    let [docker, yare] = programs().map(|(_, program)| {
        let run = c.run(&format!("export DOCKER_HOST=unix:///none; {program} {arguments}"));
        // What is not about the command: a context that has no engine, usage.
        let failure = run.stderr.lines().find(|line| line.starts_with("ERROR: ")).unwrap_or_default();
        (told(&run.stdout), failure.to_owned(), run.code)
    });
    assert_eq!(docker, yare, "{arguments}");
    if docker.2 == 0 { docker.0 } else { docker.1 }
}

fn as_it_is(text: &str) -> String {
    text.to_owned()
}

/// Images of several platforms, an index of them, one of a build with its attestations, and files of descriptors.
fn filled(c: &Client) -> Option<(Registry, String)> {
    if !buildx(c) {
        return None;
    }
    let registry = c.registry("registry");
    let base = format!("{}/{}", registry.host(), c.n);
    for (repository, architecture, variant) in
        [("app", "amd64", ""), ("app", "arm64", "v8"), ("app", "arm", "v7"), ("other", "s390x", "")]
    {
        let name = format!("{base}/{repository}:{architecture}");
        let layers = [archive::layer(&[("of", &format!("{} {architecture}", c.n))])];
        let image = archive::docker_archive_for(&name, &layers, (architecture, variant));
        fs::write(c.folder.join("image.tar"), image).unwrap();
        c.ok(&format!("docker load -q -i image.tar && docker push -q {name}; docker rmi {name}"));
    }
    dockerfile(c, "FROM scratch\nCOPY file /f\n");
    ok(
        c,
        &format!(
            "docker buildx build -q --platform linux/amd64,linux/arm64 --provenance mode=max \
             --sbom false --output type=image,name={base}/app:built,push=true,oci-mediatypes=true,\
             annotation-index.of=$n ."
        ),
    );
    let [(_, docker), _] = programs();
    let digest = c.ok(&format!(
        "export DOCKER_HOST=unix:///none; {docker} inspect --format '{{{{json .Manifest.Digest}}}}' {base}/app:arm"
    ));
    let digest = digest.trim().trim_matches('"');
    fs::write(c.folder.join("digest"), digest).unwrap();
    let described = format!(r#"{{"digest":"{digest}","annotations":{{"from":"file"}}}}"#);
    fs::write(c.folder.join("described.json"), described).unwrap();
    Some((registry, base))
}

fn both_programs_put_the_same_together(c: &Client) {
    let Some((_registry, base)) = filled(c) else { return };
    let dry = |arguments: &str| {
        let arguments =
            arguments.replace("A:", &format!("{base}/app:")).replace("O:", &format!("{base}/other:"));
        alike(c, &format!("create --dry-run {arguments}"), as_it_is)
    };
    for arguments in [
        "A:amd64",
        "--prefer-index=false A:amd64",
        "A:amd64 A:arm64 A:arm O:s390x",
        "A:built",
        "A:built A:arm",
        "A:built A:built A:amd64",
        "A:arm A:built --annotation index:a='<b>&' --annotation manifest-descriptor:c=d",
        "A:built --annotation 'manifest-descriptor[linux/amd64]:a=b' --annotation index:of=me",
        "--annotation index:a=b A:amd64",
        "-p linux/arm64 A:built",
        "-p linux/arm64,linux/amd64 A:built",
        "-p linux/amd64 -p linux/arm/v7 A:amd64 A:arm O:s390x",
        "-p linux/arm64 A:built O:s390x",
        "-f digest -t A:x",
        "-f described.json -t A:x A:amd64",
        "-t A:built --append A:arm",
        "A:amd64 \"$(cat digest)\"",
    ] {
        let printed = dry(arguments);
        assert!(printed.starts_with('{'), "{arguments}: {printed}");
    }
    for arguments in [
        "",
        "A:none",
        "A:",
        "-t A:none --append A:amd64",
        "-p linux/riscv64 A:built",
        "-p linux/arm64 --prefer-index=false A:amd64",
        "--annotation manifest:a=b A:built",
        "--annotation a=b A:built",
        "--annotation index-descriptor:a=b A:built",
        "--annotation odd:a=b A:built",
        "--annotation a A:built",
        "-f none A:amd64",
        "\"$(cat digest)\"",
        "-t A:x -t O:x \"$(cat digest)\"",
        "UPPER",
        "-t UPPER A:amd64",
    ] {
        let failure = dry(arguments);
        assert!(failure.starts_with("ERROR: "), "{arguments}: {failure}");
    }
    alike(c, &format!("create {base}/app:amd64"), as_it_is);
}

fn both_programs_show_the_same(c: &Client) {
    let Some((_registry, base)) = filled(c) else { return };
    // Docker's notes of a member come in any order.
    let sorted = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    for image in ["built", "amd64"] {
        let name = format!("{base}/app:{image}");
        alike(c, &format!("inspect {name}"), sorted);
        alike(c, &format!("inspect --format '{{{{.Manifest}}}}' {name}"), sorted);
        alike(c, &format!("inspect --raw {name}"), as_it_is);
        for template in [
            "{{json .}}",
            "{{json .Manifest}}",
            "{{json .Image}}",
            "{{json .SBOM}}",
            "{{json .Provenance}}",
            "{{.Name}} {{printf \"%s\" .Manifest.Digest}}",
            "{{range .Manifest.Manifests}}{{.Digest}} {{.Size}} {{.Platform.OS}}|{{end}}",
            "{{(index .Image \"linux/arm64\").Architecture}}",
            "{{range $name, $image := .Image}}{{$name}}: {{json $image.Config.Env}}{{end}}",
        ] {
            // What is there of an index alone.
            if image == "built" || !template.contains("range") && !template.contains("index") {
                alike(c, &format!("inspect --format '{template}' {name}"), as_it_is);
            }
        }
    }
    assert!(alike(c, &format!("inspect {base}/app:none"), as_it_is).ends_with(":none: not found"));
    alike(c, &format!("inspect --raw --format x {base}/app:amd64"), as_it_is);
}

fn both_programs_push_the_same(c: &Client) {
    let Some((registry, base)) = filled(c) else { return };
    let other = format!("{}/{}", registry.host(), c.n);
    // Copies go on beside each other, in any order.
    let told = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(without_times).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    for (name, sources) in [
        ("index", format!("{base}/app:built")),
        ("merged", format!("-p linux/arm64,linux/s390x {base}/app:built {base}/other:s390x")),
        ("retagged", format!("--prefer-index=false {base}/app:amd64")),
    ] {
        let tag = format!("{other}/{name}:x");
        let printed = alike(c, &format!("create --progress plain -t {tag} {sources} 2>&1"), told);
        assert!(printed.contains(&format!("#1 [internal] pushing {tag}")), "{printed}");
        // Each by itself, in a repository that nobody pushed to.
        let raw = programs().map(|(program, with)| {
            let tag = format!("{other}/{program}-{name}:x");
            c.ok(&format!(
                "export DOCKER_HOST=unix:///none; {with} create --progress none -t {tag} -t {other}/app:{name} {sources} >/dev/null && \
                 {with} inspect --raw {tag} && docker -H unix:///none manifest inspect --insecure {other}/app:{name} >/dev/null"
            ))
        });
        assert_eq!(raw[0], raw[1], "{name}");
    }
    // What was pushed is whole.
    let image = format!("{other}/yare-retagged:x");
    c.ok(&format!("docker pull -q {image} && docker rmi {image}"));
    let refused = c.fails(
        1,
        &format!(
            "export DOCKER_HOST=unix:///none; {} create -t 127.0.0.1:1/x {base}/app:amd64",
            programs()[1].1
        ),
    );
    assert!(refused.contains("#1 ERROR: ") && refused.contains("\nERROR: "), "{refused}");
}

fn without_times(line: &str) -> String {
    let is_time =
        |word: &&str| word.starts_with(|letter: char| letter.is_ascii_digit()) && !word.contains(':');
    line.split(' ').filter(|word| !is_time(word)).collect::<Vec<_>>().join(" ")
}
