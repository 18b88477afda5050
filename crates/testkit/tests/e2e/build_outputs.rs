//! What is made of a build besides an image in the store, and the options that look at a build.

use crate::case::cases;
use crate::client::Client;
use serde_json::Value;

/// Why nothing here runs against dockerd.
const OWN: &str = "the options are those of BuildKit's client, the answers our own";

cases![
    Docker:
        archives_hold_what_was_asked_and_load.differs(OWN),
        files_of_a_result_go_into_folders_and_tars.differs(OWN),
        an_output_takes_its_place_at_the_end.differs(OWN),
        the_frontend_answers_without_building.differs(OWN),
        several_platforms_are_one_archive.differs(OWN),
        a_step_of_another_platform_says_what_is_missing.differs(OWN),
        attestations_are_in_the_archive.differs(OWN),
        a_repository_is_in_the_provenance.differs(OWN),
        a_build_made_again_is_compared.differs(OWN),
        squashed_layers_show_the_same_files.differs(OWN),
        a_cache_in_a_folder_serves_another_engine.differs(OWN),
        a_cache_in_an_image_serves.differs(OWN),
        an_image_is_pushed_and_its_cache_comes_back.differs(OWN),
        what_is_pushed_is_told_as_the_registry_has_it.differs(OWN),
        the_cache_stays_within_its_bound.alone().differs(OWN);
];

/// A script in which `yare` is our client, in a folder with a Dockerfile.
fn yare(c: &Client, script: &str) -> String {
    c.ok(&with_yare(script))
}

fn with_yare(script: &str) -> String {
    format!("yare() {{ '{}' \"$@\"; }}\n{script}", yare_testkit::yare_binary().display())
}

fn dockerfile(c: &Client, lines: &str) {
    std::fs::write(c.folder.join("Dockerfile"), lines).unwrap();
    std::fs::write(c.folder.join(".dockerignore"), "*\n!file\n").unwrap();
    std::fs::write(c.folder.join("file"), format!("{} content\n", c.n)).unwrap();
}

/// Gives another engine the base image, the very same: its time is part of what a step's result depends on.
fn share_busybox(c: &Client, other: &Client) {
    c.ok("docker save -o base.tar busybox");
    other.ok(&format!("docker load -q -i {}/base.tar", c.folder.display()));
}

fn json(c: &Client, script: &str) -> Value {
    let text = yare(c, script);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("$ {script}\n{error}: {text}"))
}

fn archives_hold_what_was_asked_and_load(c: &Client) {
    dockerfile(c, "FROM busybox\nCOPY file /f\nRUN echo more > /more\nCMD [\"cat\",\"/f\",\"/more\"]\n");
    yare(
        c,
        "yare build -q -t $n/app:v1 --annotation a=b -o type=oci,dest=o.tar,compression=zstd,compression-level=3 \
         -o type=docker,dest=d.tar -o type=oci,dest=p.tar,compression=uncompressed .",
    );
    assert_eq!(yare(c, "yare images -q $n/app"), "", "no output asked for an image in the store");
    let manifest = json(
        c,
        "tar -xOf o.tar blobs/sha256/$(tar -xOf o.tar index.json | grep -o 'sha256:[0-9a-f]*' | head -1 | cut -d: -f2)",
    );
    assert_eq!(manifest["annotations"]["a"], "b");
    let types: Vec<&str> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|layer| layer["mediaType"].as_str())
        .collect();
    assert_eq!(types, ["application/vnd.oci.image.layer.v1.tar+zstd"; 3]);
    for archive in ["o.tar", "d.tar", "p.tar"] {
        yare(c, &format!("yare load -q -i {archive}"));
        let said = yare(c, "yare run --rm $n/app:v1");
        assert_eq!(said, format!("{} content\nmore\n", c.n), "{archive}");
        yare(c, "yare rmi $n/app:v1");
    }
    yare(
        c,
        "yare build -q -t $n/app:v1 -o type=oci . > streamed.tar && yare build -q -t $n/app:v1 -o type=oci,dest=again.tar . && cmp streamed.tar again.tar",
    );
    yare(
        c,
        "mkdir old && yare build -q -o type=oci,tar=false,dest=layout . && [ -f layout/index.json ] && [ -d layout/blobs/sha256 ]",
    );
}

fn files_of_a_result_go_into_folders_and_tars(c: &Client) {
    dockerfile(
        c,
        "FROM busybox AS b\nRUN mkdir /d && echo x > /d/x && ln /d/x /d/y && ln -s x /d/z && chmod 640 /d/x\nFROM scratch\nCOPY --from=b /d /d\nCOPY file /\n",
    );
    yare(
        c,
        "mkdir out && echo mine > out/mine && yare build -q -o out . && [ $(cat out/d/z) = x ] && [ $(stat -c %a out/d/y) = 640 ] && [ -f out/file ] && [ -f out/mine ]",
    );
    yare(c, "yare build -q -o type=local,dest=out,mode=delete . && [ ! -e out/mine ] && [ -f out/d/x ]");
    yare(
        c,
        "yare build -q -o - . | tar -t | grep -qx d/x && yare build -q -o type=tar,dest=t.tar . && tar -tf t.tar | grep -qx file",
    );
    yare(
        c,
        "yare build -q -o out2 -o type=tar,dest=t2.tar -t $n/two --load . && cmp t.tar t2.tar && diff -r out out2 && yare image inspect $n/two > inspected",
    );
}

fn an_output_takes_its_place_at_the_end(c: &Client) {
    dockerfile(c, "FROM busybox\nRUN exit 3\n");
    let script = "echo old > o.tar; yare build -q -o type=oci,dest=o.tar .; [ $(cat o.tar) = old ] && [ $(ls -A | grep -c o.tar) = 1 ] && exit 7";
    c.fails(7, &with_yare(script));
    c.fails(1, &with_yare("yare build -q -o type=oci,dest=. ."));
    let text = c.fails(1, &with_yare("yare build -q --push ."));
    assert!(text.contains("tag is needed when pushing to registry"), "{text}");
    let text = c.fails(1, &with_yare("yare build -q -o type=oci,dest=x.tar,what=ever ."));
    assert!(text.contains("unknown attribute \"what\" of an output"), "{text}");
}

fn the_frontend_answers_without_building(c: &Client) {
    dockerfile(
        c,
        "FROM busybox AS Base\nARG TOKEN\nENV A=$NOPE\nCOPY hidden /\nFROM base AS last\nRUN --mount=type=secret,id=s exit 1\n",
    );
    let text = c.run(&with_yare("yare build --check .")).stdout;
    for rule in ["StageNameCasing", "SecretsUsedInArgOrEnv", "UndefinedVar"] {
        assert!(text.contains(rule), "{text}");
    }
    let answer = c.run(&with_yare("yare build --call check,format=json ."));
    assert_eq!(answer.code, 1);
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(answer["warnings"][0]["ruleName"], "StageNameCasing");
    assert_eq!(answer["warnings"][0]["location"]["ranges"][0]["start"]["line"], 1);
    let outline = json(c, "yare build --call outline .");
    assert_eq!((&outline["args"][0]["name"], &outline["secrets"][0]["name"]), (&"TOKEN".into(), &"s".into()));
    let targets = json(c, "yare build --call targets .");
    assert_eq!(targets["targets"][1]["default"], true);
    let text = c.fails(
        1,
        &with_yare("yare build -q --build-arg BUILDKIT_DOCKERFILE_CHECK=error=true --target base ."),
    );
    assert!(text.contains("lint violation found for rules: "), "{text}");
    let skipped = "yare build --check --build-arg 'BUILDKIT_DOCKERFILE_CHECK=skip=all' .";
    assert_eq!(yare(c, skipped), "Check complete, no warnings found.\n");
}

fn several_platforms_are_one_archive(c: &Client) {
    dockerfile(c, "FROM scratch\nARG TARGETARCH\nCOPY file /f-$TARGETARCH\n");
    let both = "--platform linux/amd64,linux/arm64";
    yare(
        c,
        &format!("yare build -q {both} -t $n/both -o type=oci,dest=o.tar . && yare build -q {both} -o out ."),
    );
    yare(c, "[ -f out/linux_amd64/f-amd64 ] && [ -f out/linux_arm64/f-arm64 ]");
    let index = json(
        c,
        "tar -xOf o.tar blobs/sha256/$(tar -xOf o.tar index.json | grep -o 'sha256:[0-9a-f]*' | head -1 | cut -d: -f2)",
    );
    let architectures: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|manifest| manifest["platform"]["architecture"].as_str())
        .collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    yare(c, &format!("yare build -q {both} -t $n/both . && yare image inspect $n/both > inspected"));
    let other = "--platform linux/arm64 $n/both";
    yare(c, &format!("yare image inspect {other} | grep -q '\"Architecture\": \"arm64\"'"));
    yare(c, "yare save -o both.tar $n/both && yare rmi $n/both && yare load -i both.tar");
    yare(c, &format!("yare history -q {other} && yare rmi {other} && yare rmi $n/both"));
    let text = c.fails(1, &with_yare(&format!("yare build -q {both} -o type=docker,dest=d.tar .")));
    assert!(text.contains("does not currently support exporting manifest lists"), "{text}");
}

fn a_step_of_another_platform_says_what_is_missing(c: &Client) {
    dockerfile(c, "FROM scratch\nCOPY file /f\nRUN [\"/f\"]\n");
    let text = c.fails(1, &with_yare("yare build -q --platform linux/mips64 ."));
    assert!(text.contains("a step for linux/mips64 cannot run on this host"), "{text}");
    assert!(text.contains("binfmt-support") && text.contains("Dockerfile:3"), "{text}");
}

fn attestations_are_in_the_archive(c: &Client) {
    dockerfile(c, "FROM busybox\nARG V=1\nCOPY file /f\n");
    let flags = "--sbom true --provenance mode=max -t $n/a --build-arg V=2";
    yare(
        c,
        &format!(
            "yare build -q {flags} -o type=oci,dest=one.tar . && yare build -q --no-cache {flags} -o type=oci,dest=two.tar . && cmp one.tar two.tar"
        ),
    );
    let index = json(
        c,
        "tar -xOf one.tar blobs/sha256/$(tar -xOf one.tar index.json | grep -o 'sha256:[0-9a-f]*' | head -1 | cut -d: -f2)",
    );
    let attested = &index["manifests"][1];
    assert_eq!(attested["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attested["annotations"]["vnd.docker.reference.digest"], index["manifests"][0]["digest"]);
    let digest = attested["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let manifest = json(c, &format!("tar -xOf one.tar blobs/sha256/{digest}"));
    let kinds: Vec<&str> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|layer| layer["annotations"]["in-toto.io/predicate-type"].as_str())
        .collect();
    assert_eq!(kinds, ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]);
    let digest = manifest["layers"][1]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let statement = json(c, &format!("tar -xOf one.tar blobs/sha256/{digest}"));
    let request = &statement["predicate"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:V"], "2");
    yare(c, "yare build -q --provenance true -o type=tar,dest=files.tar .");
    let statement = json(c, "tar -xOf files.tar provenance.json");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    yare(c, "yare build -q --provenance true -t $n/a . && yare save -o a.tar $n/a && yare rmi $n/a");
    let layout = json(c, "tar -xOf a.tar index.json");
    assert!(layout["manifests"][0]["mediaType"].as_str().unwrap().contains("index"), "{layout}");
}

fn a_repository_is_in_the_provenance(c: &Client) {
    let port = yare_testkit::free_port();
    let statements = yare(
        c,
        &format!(
            "set -e; git init -q -b main repo; cd repo; git config user.email x@y; git config user.name x
             mkdir sub; printf 'FROM busybox\\nCOPY f /f\\n' > sub/Dockerfile; echo f > sub/f; git add .; git commit -qm one
             git rev-parse HEAD > ../commit; cd ..; mkdir served; git clone -q --bare repo served/r.git
             git daemon --reuseaddr --export-all --base-path=served --listen=127.0.0.1 --port={port} served > /dev/null 2>&1 & daemon=$!
             trap 'kill $daemon' EXIT; u=git://127.0.0.1:{port}/r.git#main:sub
             for try in $(seq 300); do git ls-remote -q ${{u%#*}} > /dev/null 2>&1 && break; sleep 0.1; done
             yare build -q --provenance mode=min -o type=oci,dest=o.tar $u > /dev/null
             mkdir o; tar -xf o.tar -C o; cat $(grep -l in-toto.io/Statement o/blobs/sha256/*)"
        ),
    );
    let statement: Value = serde_json::from_str(&statements).unwrap();
    let definition = &statement["predicate"]["buildDefinition"];
    let source = &definition["externalParameters"]["configSource"];
    assert_eq!(source["uri"], format!("git://127.0.0.1:{port}/r.git#main:sub"));
    assert_eq!(source["digest"]["sha1"], yare(c, "cat commit").trim());
    assert_eq!(source["path"], "Dockerfile");
    let materials = definition["resolvedDependencies"].as_array().unwrap();
    assert!(materials.iter().any(|one| one["uri"] == source["uri"]), "{materials:?}");
    assert_eq!(definition["externalParameters"]["request"]["locals"], Value::Null);
}

fn a_build_made_again_is_compared(c: &Client) {
    dockerfile(c, "FROM busybox\nCOPY file /f\nRUN echo same > /same\n");
    yare(c, "yare build -q --verify -t $n/same . && yare image inspect $n/same > inspected");
    dockerfile(c, "FROM busybox\nRUN echo same > /same; cat /proc/sys/kernel/random/uuid > /uuid\n");
    let text = c.fails(1, &with_yare("yare build -q --verify -t $n/other ."));
    assert!(text.contains("the second build came out differently"), "{text}");
    assert!(text.contains("/uuid: content differs from byte ") && !text.contains("  /same:"), "{text}");
    assert_eq!(yare(c, "yare images -q $n/other"), "");
}

fn squashed_layers_show_the_same_files(c: &Client) {
    dockerfile(
        c,
        "FROM busybox AS base\nRUN mkdir -p /x/a /x/b /gone && echo 1 > /x/a/1 && echo 2 > /x/b/2 && echo g > /gone/g && echo f > /plain\n\
         FROM base\nRUN rm /x/a/1 /plain && echo new > /x/a/new\nRUN rm -r /x/b && mkdir /x/b && echo other > /x/b/other\n\
         RUN rm -r /gone && echo file > /gone && mkdir /plain && echo in > /plain/in\nRUN echo tmp > /tmp-file && ln /tmp-file /linked\nRUN rm /tmp-file && chmod 700 /x/b\n",
    );
    yare(c, "yare build -q -t $n/plain . && yare build -q --squash -t $n/squashed .");
    let list = "sh -c 'cd / && find x gone plain linked tmp-file 2>/dev/null | sort | while read f; do stat -c \"%n %F %a %s\" $f; [ -f $f ] && cat $f; done; true'";
    let [plain, squashed] =
        ["plain", "squashed"].map(|name| yare(c, &format!("yare run --rm $n/{name} {list}")));
    assert_eq!(plain, squashed);
    assert!(
        squashed.contains("x/b/other") && !squashed.contains("x/b/2") && !squashed.contains("tmp-file"),
        "{squashed}"
    );
    let layers = "yare image inspect -f '{{len .RootFS.Layers}}' $n/";
    let [base, all, one] = [
        yare(c, "yare build -q -t $n/base --target base . && yare image inspect -f '{{len .RootFS.Layers}}' $n/base | tail -1"),
        yare(c, &format!("{layers}plain")),
        yare(c, &format!("{layers}squashed")),
    ]
    .map(|text| text.lines().last().unwrap_or_default().parse::<u32>().unwrap());
    assert_eq!((base, all, one), (2, 7, 2), "all that the build added is one layer, its own base too");
    yare(c, "yare save -o s.tar $n/squashed && yare rmi $n/squashed && yare load -q -i s.tar");
    assert_eq!(yare(c, &format!("yare run --rm $n/squashed {list}")), plain);
}

fn a_cache_in_a_folder_serves_another_engine(c: &Client) {
    dockerfile(
        c,
        "FROM busybox AS b\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nFROM busybox\nCOPY --from=b /uuid /uuid\nRUN rm /etc/passwd\n",
    );
    yare(
        c,
        "yare build -q -t $n/a --cache-to type=local,dest=cache,mode=max . && yare run --rm $n/a cat /uuid > uuid",
    );
    let engine = yare_testkit::Engine::start();
    let other = c.of(&engine);
    share_busybox(c, &other);
    let import = format!("--cache-from type=local,src={}/cache", c.folder.display());
    dockerfile(
        &other,
        "FROM busybox AS b\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nFROM busybox\nCOPY --from=b /uuid /uuid\nRUN rm /etc/passwd\n",
    );
    yare(&other, &format!("yare build -q -t $n/a {import} ."));
    assert_eq!(yare(&other, "yare run --rm $n/a cat /uuid"), yare(c, "cat uuid"));
    yare(&other, "yare run --rm $n/a sh -c '[ ! -e /etc/passwd ]'");
    // What is damaged is not believed: the step runs.
    yare(&other, "yare rmi -f $n/a > removed; yare builder prune -af > pruned 2>&1");
    yare(
        c,
        "for blob in cache/blobs/sha256/*; do [ $(stat -c %s $blob) -gt 2000 ] || printf x >> $blob; done",
    );
    yare(&other, &format!("yare build -q -t $n/a {import} ."));
    assert_ne!(yare(&other, "yare run --rm $n/a cat /uuid"), yare(c, "cat uuid"));
    drop(other);
    engine.finish();
}

fn a_cache_in_an_image_serves(c: &Client) {
    dockerfile(
        c,
        "FROM busybox\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /uuid\nCOPY file /f\n",
    );
    yare(
        c,
        "yare build -q -t $n/in --build-arg N=$n --cache-to type=inline . && yare save -o in.tar $n/in && yare run --rm $n/in cat /uuid > uuid",
    );
    let engine = yare_testkit::Engine::start();
    let other = c.of(&engine);
    share_busybox(c, &other);
    yare(&other, &format!("yare load -q -i {}/in.tar", c.folder.display()));
    let folder = c.folder.display();
    yare(&other, &format!("yare build -q -t $n/again --build-arg N=$n --cache-from $n/in {folder}"));
    assert_eq!(yare(&other, "yare run --rm $n/again cat /uuid"), yare(c, "cat uuid"));
    drop(other);
    engine.finish();
}

fn an_image_is_pushed_and_its_cache_comes_back(c: &Client) {
    let registry = yare_testkit::Registry::start(&c.folder.join("registry"));
    let name = format!("{}/{}/app:1", registry.host(), c.n);
    dockerfile(c, "FROM busybox\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /uuid\n");
    yare(c, &format!("yare build -q --push --cache-to type=inline --build-arg N=$n -t {name} ."));
    let uuid = yare(c, &format!("yare run --rm {name} cat /uuid"));
    let engine = yare_testkit::Engine::start();
    let other = c.of(&engine);
    share_busybox(c, &other);
    let (folder, build) = (c.folder.display(), "yare build -q --build-arg N=$n -t $n/again");
    yare(&other, &format!("{build} --cache-from {name} {folder}"));
    assert_eq!(yare(&other, "yare run --rm $n/again cat /uuid"), uuid);
    // A cache that is not there does not stop a build.
    yare(&other, &format!("{build} --no-cache --cache-from {}/{}/nope:1 {folder}", registry.host(), c.n));
    drop(other);
    engine.finish();
    yare(c, &format!("yare rmi {name}"));
}

fn what_is_pushed_is_told_as_the_registry_has_it(c: &Client) {
    let registry = yare_testkit::Registry::start(&c.folder.join("registry"));
    let (host, repository) = (registry.host(), format!("{}/app", c.n));
    let name = format!("{host}/{repository}");
    dockerfile(c, "FROM scratch\nARG TARGETARCH\nCOPY file /f-$TARGETARCH\n");
    let both = "--platform linux/amd64,linux/arm64";
    for (tag, flags, is_index) in [
        ("one", "", false),
        ("two", both, true),
        ("told", "--provenance mode=min", true),
        ("squashed", "--squash", false),
    ] {
        yare(
            c,
            &format!(
                "rm -f meta id; yare build -q {flags} --push -t {name}:{tag} --metadata-file meta --iidfile id ."
            ),
        );
        let meta = json(c, "cat meta");
        let accept = "-H 'Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json'";
        let get = format!("curl -sf {accept} http://{host}/v2/{repository}/manifests/{tag}");
        // The digest of the bytes that the registry gives, and not only what it says.
        let digest = yare(c, &format!("{get} | sha256sum | sed 's/ .*//; s/^/sha256:/'"));
        let digest = digest.trim();
        assert_eq!(meta["containerimage.digest"], digest, "{tag}: {meta}");
        let descriptor = &meta["containerimage.descriptor"];
        let size = yare(c, &format!("{get} | wc -c"));
        assert_eq!(descriptor["digest"], digest, "{tag}: {meta}");
        assert_eq!(descriptor["size"].to_string(), size.trim(), "{tag}: {meta}");
        let manifest = json(c, &get);
        assert_eq!(descriptor["mediaType"], manifest["mediaType"], "{tag}: {meta}");
        assert_eq!(manifest["manifests"].is_array(), is_index, "{tag}: {manifest}");
        assert_eq!(meta["image.name"], format!("{name}:{tag}"));
        // The digest of the config, where there is one.
        let id = yare(c, "cat id");
        let own = match (is_index, tag) {
            (true, "two") => Value::from(digest),
            (true, _) => {
                let own = manifest["manifests"][0]["digest"].as_str().unwrap();
                json(c, &format!("curl -sf {accept} http://{host}/v2/{repository}/manifests/{own}"))["config"]
                    ["digest"]
                    .clone()
            }
            (false, _) => manifest["config"]["digest"].clone(),
        };
        assert_eq!(own, id.as_str(), "{tag}");
        let config = if tag == "two" { Value::Null } else { own };
        assert_eq!(meta["containerimage.config.digest"], config, "{tag}: {meta}");
        yare(c, &format!("yare rmi {name}:{tag}"));
    }
}

fn the_cache_stays_within_its_bound(c: &Client) {
    let engine = yare_testkit::Engine::start_with(&["--build-cache-max", "1k"]);
    let other = c.of(&engine);
    share_busybox(c, &other);
    dockerfile(
        &other,
        "FROM busybox\nRUN dd if=/dev/zero of=/a bs=1k count=300 2>/dev/null\nRUN rm /a && echo > /b\n",
    );
    assert!(yare(&other, "yare info").contains("Build cache bound: 1024 bytes"));
    yare(&other, "yare build -q -o out .");
    let patience = std::time::Duration::from_secs(20);
    yare_testkit::eventually("the cache is collected", patience, || {
        engine.log().contains("results of old builds were removed")
    });
    assert!(!yare(&other, "yare builder du").contains("kB"));
    drop(other);
    engine.finish();
}
