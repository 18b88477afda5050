//! Several platforms, attestations and archives, as `docker buildx` asks for them.

use serde_json::Value;
use yare_testkit::Registry;

use crate::buildx::{OWN, buildx, dockerfile, fails, has, ok};
use crate::case::cases;
use crate::client::Client;

cases![
    Docker:
        platforms_share_a_name.differs(OWN),
        archives_come_to_the_client.differs(OWN),
        attestations_lie_beside_plain_files.differs(OWN),
        what_would_have_no_effect_is_refused.differs(OWN),
        one_build_has_several_outputs.alone().differs(OWN),
        what_is_pushed_is_told_and_attested.differs(OWN),
        a_client_names_the_repository.differs(OWN),
        services_stay_while_their_image_does.differs(OWN),
        an_image_that_stays_is_as_it_was_asked_for.differs(OWN);
];

const BOTH: &str = "--platform linux/amd64,linux/arm64";

fn json(c: &Client, script: &str) -> Value {
    let text = ok(c, script);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("$ {script}\n{error}: {text}"))
}

/// A document of a layout that is unpacked in this folder.
fn blob(c: &Client, folder: &str, digest: &Value) -> Value {
    let digest = digest.as_str().unwrap().trim_start_matches("sha256:");
    json(c, &format!("cat {folder}/blobs/sha256/{digest}"))
}

fn index(c: &Client, folder: &str) -> Value {
    let layout = json(c, &format!("cat {folder}/index.json"));
    blob(c, folder, &layout["manifests"][0]["digest"])
}

fn architectures(index: &Value) -> Vec<&str> {
    let manifests = index["manifests"].as_array().unwrap().iter();
    manifests.map(|one| one["platform"]["architecture"].as_str().unwrap()).collect()
}

fn platforms_share_a_name(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM scratch\nARG TARGETARCH\nCOPY file /f-$TARGETARCH\n");
    ok(c, &format!("docker buildx build {BOTH} -t $n/both --metadata-file meta ."));
    let meta = json(c, "cat meta");
    assert_eq!(meta["containerimage.config.digest"], Value::Null, "{meta}");
    let descriptor = &meta["containerimage.descriptor"];
    assert_eq!(descriptor["digest"], meta["containerimage.digest"], "{meta}");
    assert!(descriptor["mediaType"].as_str().unwrap().contains("index"), "{meta}");
    // Without a config of its own, the index is what the client prints as the id.
    let printed =
        format!("docker inspect -f '{{{{.Id}}}}' $n/both $(docker buildx build -q {BOTH} -t $n/both .)");
    let ids = ok(c, &printed);
    let ids: Vec<&str> = ids.lines().collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
    ok(c, "docker save -o both.tar $n/both && mkdir both && tar -xf both.tar -C both && docker rmi $n/both");
    assert_eq!(architectures(&index(c, "both")), ["amd64", "arm64"]);
}

fn archives_come_to_the_client(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM busybox\nCOPY file /f\nCMD cat /f\n");
    let attested = "--sbom=true --provenance=mode=max";
    ok(c, &format!("docker buildx build {attested} -t $n/a --metadata-file meta -o type=oci,dest=o.tar ."));
    ok(c, "mkdir o && tar -xf o.tar -C o");
    let (found, meta) = (index(c, "o"), json(c, "cat meta"));
    assert_eq!(json(c, "cat o/index.json")["manifests"][0]["digest"], meta["containerimage.digest"]);
    assert_eq!(found["manifests"][1]["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    let manifest = blob(c, "o", &found["manifests"][1]["digest"]);
    let layers = manifest["layers"].as_array().unwrap().iter();
    let kinds: Vec<&Value> = layers.map(|one| &one["annotations"]["in-toto.io/predicate-type"]).collect();
    assert_eq!(kinds, ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]);
    ok(c, "docker buildx build -t $n/a -o type=docker,dest=d.tar .");
    for archive in ["o.tar", "d.tar"] {
        let script =
            format!("docker load -q -i {archive} > loaded; docker run --rm $n/a; docker rmi $n/a > gone");
        assert_eq!(ok(c, &script), "hello\n", "{archive}");
    }
    dockerfile(c, "FROM scratch\nCOPY file /f\n");
    ok(c, &format!("docker buildx build {BOTH} --provenance=false -o type=oci,dest=p.tar ."));
    ok(c, "mkdir p && tar -xf p.tar -C p");
    assert_eq!(architectures(&index(c, "p")), ["amd64", "arm64"]);
    let said = fails(c, "docker buildx build -o type=oci,tar=false,dest=layout .");
    assert!(said.contains("an OCI layout as a folder of the client is not built"), "{said}");
}

fn attestations_lie_beside_plain_files(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM scratch\nARG TARGETARCH\nCOPY file /f-$TARGETARCH\n");
    let attested = "docker buildx build --sbom=true --provenance=mode=max";
    ok(c, &format!("{attested} --platform linux/amd64 -o out ."));
    assert_eq!(ok(c, "ls out"), "f-amd64\nprovenance.json\nsbom.spdx.json\n");
    let statement = json(c, "cat out/provenance.json");
    let sum = ok(c, "sha256sum out/f-amd64");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(statement["subject"][0]["name"], "f-amd64");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], sum.split(' ').next().unwrap());
    assert_eq!(json(c, "cat out/sbom.spdx.json")["predicateType"], "https://spdx.dev/Document");
    // Again, into the folder that is there; a file of the user's in the way is replaced, not written through.
    ok(c, "echo mine > mine; rm out/provenance.json; ln -s ../mine out/provenance.json");
    ok(c, &format!("{attested} --platform linux/amd64 -o out ."));
    assert_eq!(ok(c, "cat mine"), "mine\n");
    ok(c, &format!("{attested} {BOTH} -o several ."));
    assert_eq!(ok(c, "ls several/linux_arm64"), "f-arm64\nprovenance.json\nsbom.spdx.json\n");
    ok(c, &format!("{attested} {BOTH} -o type=local,dest=flat,platform-split=false,attestation-prefix=a- ."));
    let names = "a-provenance.linux_amd64.json\na-provenance.linux_arm64.json\na-sbom.spdx.linux_amd64.json\na-sbom.spdx.linux_arm64.json\nf-amd64\nf-arm64\n";
    assert_eq!(ok(c, "ls flat"), names);
    ok(c, &format!("{attested} {BOTH} -o type=tar,dest=both.tar ."));
    let listed = ok(c, "tar -tf both.tar");
    assert!(
        listed.contains("linux_arm64/sbom.spdx.json") && listed.contains("linux_amd64/f-amd64"),
        "{listed}"
    );
}

fn what_would_have_no_effect_is_refused(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM scratch\nCOPY file /f\n");
    for (attribute, said) in [
        ("store=false", "in the store first"),
        ("compression=zstd", "packed with gzip"),
        ("force-compression=true", "packed with gzip"),
        ("compression-level=9", "packed with gzip"),
        ("oci-artifact=true", "OCI artifacts"),
        ("oci-mediatypes=false", "docker media types"),
        ("dangling-name-prefix=x", "dangling-name-prefix"),
    ] {
        let output = format!("-o type=image,name=127.0.0.1:1/{}/x:v1,push=true,{attribute}", c.n);
        let outcome = c.run(&crate::buildx::with(&format!("docker buildx build {output} . 2>&1")));
        assert!(outcome.code != 0 && outcome.stdout.contains(said), "{attribute}: {}", outcome.stdout);
    }
    // What is so anyway may be asked for.
    ok(
        c,
        "docker buildx build -o type=image,name=$n/x,unpack=true,name-canonical=true,store=true,compression=gzip .",
    );
    ok(c, "docker rmi $n/x");
}

fn one_build_has_several_outputs(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nCMD cat /uuid\n");
    let outputs = "-o type=docker,dest=d.tar -o type=local,dest=out -o type=image -o type=tar,dest=t.tar";
    let build = "docker buildx build -t $n/a";
    ok(c, &format!("{build} {outputs} --cache-to type=local,dest=cache,mode=max ."));
    let uuid = ok(c, "cat out/uuid");
    assert_eq!(ok(c, "tar -xOf t.tar uuid"), uuid);
    assert_eq!(ok(c, "docker run --rm $n/a"), uuid);
    let loaded = "docker rmi $n/a > gone; docker load -q -i d.tar > loaded; docker run --rm $n/a";
    assert_eq!(ok(c, loaded), uuid);
    let again = "docker rmi $n/a > gone; docker builder prune -af > gone";
    ok(c, &format!("{again}; {build} --cache-from type=local,src=cache ."));
    assert_eq!(ok(c, "docker run --rm $n/a; docker rmi $n/a > gone"), uuid);
}

fn what_is_pushed_is_told_and_attested(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM scratch\nARG TARGETARCH\nCOPY file /f-$TARGETARCH\n");
    let registry = Registry::start(&c.folder.join("registry"));
    let (host, name) = (registry.host(), format!("{}/{}/app", registry.host(), c.n));
    ok(c, &format!("docker buildx build {BOTH} --push -t {name} --metadata-file meta ."));
    let meta = json(c, "cat meta");
    let digest = meta["containerimage.digest"].as_str().unwrap();
    let accept = "-H 'Accept: application/vnd.oci.image.index.v1+json'";
    let get = format!("curl -sf {accept} http://{host}/v2/{}/app/manifests", c.n);
    let (by_tag, by_digest) = (json(c, &format!("{get}/latest")), json(c, &format!("{get}/{digest}")));
    assert_eq!(by_tag, by_digest);
    // Buildx asks for a provenance by itself.
    assert_eq!(architectures(&by_tag), ["amd64", "arm64", "unknown", "unknown"]);
    assert_eq!(
        by_tag["manifests"][2]["annotations"]["vnd.docker.reference.digest"],
        by_tag["manifests"][0]["digest"]
    );
    ok(c, &format!("docker rmi {name}"));
    let one = format!("docker buildx build --provenance=false -o type=image,push=true -t {name}:one");
    ok(c, &format!("{one} --metadata-file meta . && docker rmi {name}:one"));
    let meta = json(c, "cat meta");
    let digest = meta["containerimage.digest"].as_str().unwrap();
    ok(c, &format!("docker pull -q {name}@{digest}"));
    let id = c.inspect(&format!("{name}@{digest}"), "{{.Id}}");
    assert_eq!(meta["containerimage.config.digest"], id.trim());
    ok(c, &format!("docker rmi {id}"));
}

fn a_client_names_the_repository(c: &Client) {
    if !buildx(c) || c.run("command -v git").code != 0 {
        return;
    }
    let port = yare_testkit::free_port();
    let statement = json(
        c,
        &format!(
            "set -e; git init -q -b main repo; cd repo; git config user.email x@y; git config user.name x
             printf 'FROM busybox\\nCOPY f /f\\n' > Dockerfile; echo f > f; git add .; git commit -qm one
             git rev-parse HEAD > ../commit; cd ..; mkdir served; git clone -q --bare repo served/r.git
             git daemon --reuseaddr --export-all --base-path=served --listen=127.0.0.1 --port={port} served > /dev/null 2>&1 & daemon=$!
             trap 'kill $daemon' EXIT; u=git://127.0.0.1:{port}/r.git#main
             for try in $(seq 300); do git ls-remote -q ${{u%#*}} > /dev/null 2>&1 && break; sleep 0.1; done
             docker buildx build --provenance=true -o type=oci,dest=o.tar $u > log 2>&1 || {{ cat log >&2; exit 1; }}
             mkdir o; tar -xf o.tar -C o; cat $(grep -l in-toto.io/Statement o/blobs/sha256/*)"
        ),
    );
    let source = &statement["predicate"]["buildDefinition"]["externalParameters"]["configSource"];
    assert_eq!(source["uri"], format!("git://127.0.0.1:{port}/r.git#main"), "{statement}");
    assert_eq!(source["digest"]["sha1"], ok(c, "cat commit").trim());
}

fn services_stay_while_their_image_does(c: &Client) {
    if !has(c, &["docker-buildx", "docker-compose"]) {
        return;
    }
    dockerfile(c, "FROM busybox\nCOPY file /f\nCMD sleep 1000\n");
    let text = format!("name: {n}\nservices: {{a: {{image: {n}/a, init: true, build: .}}}}\n", n = c.n);
    std::fs::write(c.folder.join("ctx/compose.yaml"), text).unwrap();
    ok(c, "docker compose up -d --build");
    let first = ok(c, "docker compose ps -q");
    // Compose compares the digest that the build told of with the id of the image.
    ok(c, "docker compose up -d && docker compose up -d --build");
    assert_eq!(ok(c, "docker compose ps -q"), first);
    ok(c, "docker compose down -t 0 --rmi all");
}

fn an_image_that_stays_is_as_it_was_asked_for(c: &Client) {
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM busybox\nCOPY file /f\nCMD cat /f\n");
    let manifests = |tag: &str| {
        ok(c, &format!("rm -rf s && mkdir s && docker save $n/{tag} | tar -x -C s"));
        let layout = json(c, "cat s/index.json");
        blob(c, "s", &layout["manifests"][0]["digest"])["manifests"].as_array().map_or(1, Vec::len)
    };
    ok(c, "docker buildx build -t $n/plain --iidfile id --metadata-file meta .");
    assert_eq!(manifests("plain"), 1);
    assert_eq!(c.inspect(&format!("{}/plain", c.n), "{{.Id}}").trim(), ok(c, "cat id").trim());
    let meta = json(c, "cat meta");
    assert_eq!(meta["containerimage.digest"], meta["containerimage.config.digest"]);
    ok(c, "docker buildx build --sbom=true -t $n/told --iidfile id .");
    assert_eq!(manifests("told"), 2);
    assert_eq!(ok(c, "docker run --rm $(cat id); docker rmi $n/plain $n/told > gone"), "hello\n");
}
