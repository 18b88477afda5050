//! The build cache in other places: from one engine into a registry, a folder, an image, and out of there
//! into another engine.

use crate::case::cases;
use crate::client::Client;
use yare_testkit::{Engine, Registry};

/// Why nothing here runs against dockerd.
const OWN: &str = "the options are those of BuildKit's client, the answers our own";

cases![
    Docker:
        a_cache_in_a_registry_serves_another_engine.differs(OWN),
        what_the_registry_has_is_not_sent_again.differs(OWN),
        a_cache_that_cannot_be_had_stops_nobody.differs(OWN),
        a_cache_in_a_pushed_image_is_fetched_step_by_step.differs(OWN),
        cache_mounts_go_along_when_asked_for.differs(OWN),
        a_folder_written_again_keeps_what_its_tags_need.differs(OWN),
        a_hostile_cache_costs_nothing_but_the_steps.differs(OWN),
        the_classic_endpoint_takes_steps_of_images.differs(OWN);
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

/// Two stages with something that no second run makes again.
fn two_stages(c: &Client) {
    dockerfile(
        c,
        "FROM busybox AS b\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /uuid\n\
         FROM busybox\nCOPY --from=b /uuid /uuid\nRUN cat /uuid /proc/sys/kernel/random/uuid > /both && rm /etc/passwd\n",
    );
}

/// Another engine, with the very same base image.
fn another(c: &Client, work: impl FnOnce(&Client)) {
    let engine = Engine::start();
    let other = c.of(&engine);
    c.ok("docker save -o base.tar busybox");
    other.ok(&format!("docker load -q -i {}/base.tar", c.folder.display()));
    std::fs::copy(c.folder.join("Dockerfile"), other.folder.join("Dockerfile")).unwrap();
    std::fs::copy(c.folder.join(".dockerignore"), other.folder.join(".dockerignore")).unwrap();
    std::fs::copy(c.folder.join("file"), other.folder.join("file")).unwrap();
    work(&other);
    drop(other);
    engine.finish();
}

fn registries(c: &Client) -> [(&'static str, Registry); 2] {
    let folder = |name: &str| c.folder.join(name);
    [("theirs", Registry::start(&folder("theirs"))), ("ours", Registry::of_yare(&folder("ours")))]
}

const BUILD: &str = "yare build -q --build-arg N=$n -t $n/a";

fn a_cache_in_a_registry_serves_another_engine(c: &Client) {
    two_stages(c);
    for (name, registry) in registries(c) {
        let place = format!("type=registry,ref={}/{name}/cache:1", registry.host());
        yare(c, &format!("{BUILD} --cache-to {place},mode=max . && yare run --rm $n/a cat /both > both"));
        another(c, |other| {
            yare(other, &format!("{BUILD} --cache-from {place} ."));
            assert_eq!(yare(other, "yare run --rm $n/a cat /both"), yare(c, "cat both"), "{name}");
            yare(other, "yare run --rm $n/a sh -c '[ ! -e /etc/passwd ]'");
        });
    }
}

fn what_the_registry_has_is_not_sent_again(c: &Client) {
    two_stages(c);
    let folder = c.folder.join("registry");
    let registry = Registry::start(&folder);
    let place = format!("type=registry,ref={}/some/cache,mode=max", registry.host());
    let blobs = || {
        let script = "find registry/data -path '*sha256/*/data' -printf '%i %T@ %p\\n' | sort";
        c.ok(script)
    };
    yare(c, &format!("{BUILD} --cache-to {place} ."));
    let first = blobs();
    assert!(first.lines().count() >= 4, "two layers, a config and a manifest: {first}");
    yare(c, &format!("{BUILD} --cache-to {place} ."));
    assert_eq!(blobs(), first, "the same build gives the same cache");
    let uploads = c.ok("find registry/data -path '*_uploads/*' | wc -l");
    assert_eq!(uploads.trim(), "0");
    // What is compressed otherwise is made again only when that is asked for.
    yare(c, &format!("{BUILD} --cache-to {place},compression=gzip ."));
    assert_eq!(blobs(), first);
    yare(c, &format!("{BUILD} --cache-to {place},compression=gzip,force-compression=true ."));
    assert!(blobs().lines().count() > first.lines().count());
}

fn a_cache_that_cannot_be_had_stops_nobody(c: &Client) {
    two_stages(c);
    let registry = Registry::start(&c.folder.join("registry"));
    let host = registry.host();
    let nowhere = format!("type=registry,ref={host}/not/there");
    let text = yare(c, &format!("yare build --progress plain -t $n/a --cache-from {nowhere} . 2>&1"));
    assert!(text.contains("importing cache manifest from"), "{text}");
    assert!(text.contains("not found") || text.contains("unknown"), "it says so: {text}");
    drop(registry);
    let text = c.fails(1, &with_yare(&format!("{BUILD} --cache-to type=registry,ref={host}/a/b .")));
    assert!(text.contains("cannot export the build cache"), "{text}");
    yare(c, "yare rmi -f $n/a");
    yare(c, &format!("{BUILD} --cache-to type=registry,ref={host}/a/b,ignore-error=true ."));
    yare(c, "yare run --rm $n/a cat /both");
    for kind in ["gha", "s3", "azblob"] {
        let text = c.fails(1, &with_yare(&format!("{BUILD} --cache-to type={kind} .")));
        assert!(text.contains(&format!("type={kind} is not supported")), "{text}");
        assert!(text.contains("the types are registry, local and inline"), "{text}");
    }
}

fn a_cache_in_a_pushed_image_is_fetched_step_by_step(c: &Client) {
    let registry = Registry::start(&c.folder.join("registry"));
    let name = format!("{}/{}/app:1", registry.host(), c.n);
    dockerfile(
        c,
        "FROM busybox\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /uuid\n\
         RUN cat /proc/sys/kernel/random/uuid > /late\n",
    );
    yare(c, &format!("yare build -q --push --cache-to type=inline --build-arg N=$n -t {name} ."));
    let uuid = yare(c, &format!("yare run --rm {name} cat /uuid"));
    another(c, |other| {
        let lines =
            "FROM busybox\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /uuid\nRUN echo other\n";
        std::fs::write(other.folder.join("Dockerfile"), lines).unwrap();
        yare(other, &format!("{BUILD} --cache-from {name} ."));
        assert_eq!(yare(other, "yare run --rm $n/a cat /uuid"), uuid);
        let here = yare(other, &format!("yare images -q {name}"));
        assert_eq!(here, "", "the image itself is not pulled");
    });
    yare(c, &format!("yare rmi {name}"));
}

fn cache_mounts_go_along_when_asked_for(c: &Client) {
    let mounted = "RUN --mount=type=cache,id=$ID,target=/c,mode=0711,uid=5 ";
    let lines = |what: &str| format!("FROM busybox\nARG N\n{}{what}\n", mounted.replace("$ID", &c.n));
    dockerfile(
        c,
        &lines(
            "echo $N > /c/.wh.name && mkdir /c/d && echo deep > /c/d/f && ln -s /etc/passwd /c/link && chown 7 /c/d",
        ),
    );
    let registry = Registry::start(&c.folder.join("registry"));
    // A value with a comma needs quotes of its own.
    let flags = format!(
        "--cache-to type=local,dest=with,mounts=true --cache-to 'type=local,dest=named,\"mounts={n},{n}\"' \
         --cache-to type=registry,ref={}/m,mounts=true --cache-to type=local,dest=without",
        registry.host(),
        n = c.n,
    );
    yare(c, &format!("{BUILD} {flags} ."));
    let text = c.fails(1, &with_yare(&format!("{BUILD} --cache-to type=local,dest=x,mounts=nobodys .")));
    assert!(text.contains("cannot export the cache mount nobodys: there is none"), "{text}");
    let folder = c.folder.display();
    let look = "stat -c '%n %a %u' /c /c/d /c/d/f && cat /c/.wh.name /c/d/f && readlink /c/link";
    for (place, there) in [
        (format!("type=local,src={folder}/with"), true),
        (format!("type=local,src={folder}/named"), true),
        (format!("type=registry,ref={}/m", registry.host()), true),
        (format!("type=local,src={folder}/without"), false),
    ] {
        another(c, |other| {
            let look =
                format!("echo $N-again; ls /c; [ ! -e /c/d ] || ( {look} ) > /seen; echo end >> /seen");
            std::fs::write(other.folder.join("Dockerfile"), lines(&look)).unwrap();
            yare(other, &format!("{BUILD} --cache-from {place} ."));
            let seen = yare(other, "yare run --rm $n/a cat /seen");
            let full = format!("/c 711 5\n/c/d 755 7\n/c/d/f 644 0\n{}\ndeep\n/etc/passwd\nend\n", c.n);
            assert_eq!(seen, if there { full } else { "end\n".to_owned() }, "{place}");
            // One that is here is not replaced.
            std::fs::write(other.folder.join("Dockerfile"), lines("rm -rf /c/d && echo mine > /c/mine"))
                .unwrap();
            yare(other, &format!("{BUILD} --cache-from {place} ."));
            std::fs::write(other.folder.join("Dockerfile"), lines("ls /c > /seen")).unwrap();
            yare(other, &format!("{BUILD} --cache-from {place} ."));
            let seen = yare(other, "yare run --rm $n/a cat /seen");
            assert!(seen.contains("mine") && !seen.contains("\nd\n"), "{seen}");
        });
    }
}

fn a_folder_written_again_keeps_what_its_tags_need(c: &Client) {
    let lines = |what: &str| format!("FROM busybox\nARG N\nRUN echo $N {what} > /made\n");
    let build = |tag: &str| format!("{BUILD} --cache-to type=local,dest=cache,tag={tag} .");
    let count = || yare(c, "ls -A cache/blobs/sha256 | wc -l").trim().parse::<u32>().unwrap();
    dockerfile(c, &lines("one"));
    yare(c, &build("one"));
    assert_eq!(count(), 3, "a layer, a config, a manifest");
    dockerfile(c, &lines("two"));
    yare(c, &build("two"));
    assert_eq!(count(), 6);
    for what in ["three", "four"] {
        dockerfile(c, &lines(what));
        yare(c, &build("two"));
        assert_eq!(count(), 6, "what was there of it is gone, and nothing of the other tag");
    }
    another(c, |other| {
        let from = format!("--cache-from type=local,src={}/cache,tag=one", c.folder.display());
        std::fs::write(other.folder.join("Dockerfile"), lines("one")).unwrap();
        let text = yare(other, &format!("yare build --progress plain --build-arg N=$n {from} . 2>&1"));
        assert!(text.contains("CACHED"), "{text}");
    });
}

fn a_hostile_cache_costs_nothing_but_the_steps(c: &Client) {
    two_stages(c);
    yare(
        c,
        &format!("{BUILD} --cache-to type=local,dest=good,mode=max . && yare run --rm $n/a cat /both > both"),
    );
    // Every kind of damage to a copy: bytes, sizes, names, the tar itself, the documents.
    let damage = [
        "for blob in bad/blobs/sha256/*; do [ $(stat -c %s $blob) -gt 2000 ] || printf x >> $blob; done",
        "for blob in bad/blobs/sha256/*; do : > $blob; done",
        "for blob in bad/blobs/sha256/*; do rm $blob; ln -s /etc/passwd $blob; done",
        "for blob in bad/blobs/sha256/*; do rm $blob; mkfifo $blob; done",
        "rm -r bad/blobs",
        "head -c 9000000 /dev/zero | tr '\\0' '[' > bad/index.json",
        "rm bad/index.json && mkdir bad/index.json",
    ];
    another(c, |other| {
        for what in damage {
            c.ok(&format!("rm -rf bad && cp -r good bad && {what}"));
            yare(other, "yare rmi -f $n/a > removed 2>&1; yare builder prune -af > pruned 2>&1");
            let from = format!("--cache-from type=local,src={}/bad", c.folder.display());
            yare(other, &format!("{BUILD} {from} ."));
            assert_ne!(yare(other, "yare run --rm $n/a cat /both"), yare(c, "cat both"), "{what}");
        }
    });
}

fn the_classic_endpoint_takes_steps_of_images(c: &Client) {
    dockerfile(
        c,
        "FROM busybox\nENV A=b\nARG N\nRUN echo $N && cat /proc/sys/kernel/random/uuid > /one\nCOPY file /f\n\
         RUN cat /proc/sys/kernel/random/uuid > /two\n",
    );
    let classic = "DOCKER_BUILDKIT=0 docker build -q --build-arg N=$n -t $n/a";
    c.ok(&format!(
        "{classic} . 2>&1 && docker save -o image.tar $n/a && docker run --rm $n/a cat /one /two > both"
    ));
    let folder = c.folder.display();
    another(c, |other| {
        other.ok(&format!(
            "docker load -q -i {folder}/image.tar && docker tag $n/a $n/old && docker rmi $n/a"
        ));
        other.ok(&format!("{classic} --cache-from $n/old --cache-from $n/nope . 2>&1"));
        assert_eq!(other.ok("docker run --rm $n/a cat /one /two"), c.ok("cat both"));
        // What a COPY takes decides what comes after it, and a variable what comes after that.
        std::fs::write(other.folder.join("file"), "changed").unwrap();
        other.ok(&format!("docker builder prune -af > pruned; {classic} --cache-from $n/old . 2>&1"));
        let [one, two] = ["one", "two"].map(|name| other.ok(&format!("docker run --rm $n/a cat /{name}")));
        let before = c.ok("cat both");
        assert!(before.starts_with(&one) && !before.ends_with(&two), "{before}{one}{two}");
        other.ok(&format!(
            "docker rmi -f $n/a > removed; docker builder prune -af > pruned; {classic} . 2>&1"
        ));
        assert!(!before.starts_with(&other.ok("docker run --rm $n/a cat /one")), "without the flag it runs");
    });
}
