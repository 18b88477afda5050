//! What graphs of a client's own take from its session, and limits of single processes.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;

use crate::buildx::names_in_between_are_given_back;
use crate::case::cases;
use crate::client::Client;
use crate::llb::{BRIDGE, BUSYBOX, Build, Graph, OWN, Output, SOLVE, shell};
use crate::peer::Offers;
use crate::wire::{Message, fields, text};

cases![
    Api:
        images_come_from_the_clients_layouts.differs(OWN),
        layouts_that_lie_are_refused.differs(OWN),
        processes_have_limits_of_their_own.differs(OWN),
        results_of_graphs_are_attested.differs(OWN),
        a_digest_is_pushed_without_a_tag.differs(OWN),
        dockerfiles_of_several_platforms_are_one_result.differs(OWN),
        keys_to_repositories_are_asked_of_the_client.differs(OWN);
];

/// The blobs of an image that the engine has, and the digest of its manifest.
fn layout(c: &Client) -> (BTreeMap<String, Vec<u8>>, String) {
    c.ok("docker save -o saved busybox:latest");
    let archive = std::fs::File::open(c.folder.join("saved")).unwrap();
    let (mut blobs, mut index) = (BTreeMap::new(), Value::Null);
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if path == "index.json" {
            index = serde_json::from_slice(&bytes).unwrap();
        } else if let Some(hex) = path.strip_prefix("blobs/sha256/") {
            blobs.insert(format!("sha256:{hex}"), bytes);
        }
    }
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    (blobs, digest)
}

/// A source with attributes.
fn source(graph: &mut Graph, identifier: &str, attributes: &[(&str, &str)]) -> Output {
    let source = Message::new().text(1, identifier);
    let source = attributes.iter().fold(source, |source, (name, value)| source.pair(2, name, value));
    graph.add(&[], 3, &source)
}

fn images_come_from_the_clients_layouts(c: &Client) {
    let (blobs, digest) = layout(c);
    let build = Build::offering(c, Offers { blobs, ..Offers::default() });
    let mut graph = Graph::default();
    let name = format!("oci-layout://not/real@{digest}");
    let base = source(&mut graph, &name, &[("oci.store", "mine"), ("oci.session", &build.session)]);
    let made = graph.run(&base, &[], "echo from the layout > /said", &[]);
    assert_eq!(build.says(&graph, &made, "cat /said"), "from the layout\n");
    let foreign = source(&mut graph, &name, &[("oci.session", "somebody-elses")]);
    assert_eq!(build.solve(&graph, &foreign, "").unwrap_err().code, 7);
    let strange = source(&mut graph, &name, &[("oci.strange", "x")]);
    assert_eq!(build.solve(&graph, &strange, "").unwrap_err().code, 12);
    // A frontend asks what is in it before it makes its graph.
    let id = build.id();
    let request = Message::new().text(1, &id).text(5, &build.session);
    let wire = build.wire.clone();
    let solving = std::thread::spawn(move || wire.call(SOLVE, "", &request));
    let call =
        |method: &str, question: &Message| build.wire.call(&format!("{BRIDGE}/{method}"), &id, question);
    let question = Message::new().text(1, &format!("not/real@{digest}")).int(5, 1).text(7, "mine");
    let config = call("ResolveImageConfig", &question).unwrap();
    assert!(text(&config, 1) == digest && text(&config, 2).contains("\"rootfs\""), "{config:?}");
    let named = Message::new().text(1, &name).pair(2, "oci.store", "mine");
    let meta = call("ResolveSourceMeta", &Message::new().message(1, &named)).unwrap();
    assert_eq!(text(&fields(&meta, 2)[0], 1), digest);
    call("Return", &Message::new().message(1, &Message::new())).unwrap();
    solving.join().unwrap().unwrap();
    names_in_between_are_given_back(c);
}

fn layouts_that_lie_are_refused(c: &Client) {
    let (blobs, digest) = layout(c);
    let refused = |blobs: BTreeMap<String, Vec<u8>>, digest: &str, said: &str| {
        let build = Build::offering(c, Offers { blobs, ..Offers::default() });
        let mut graph = Graph::default();
        let base = source(&mut graph, &format!("oci-layout://store@{digest}"), &[]);
        let refused = build.solve(&graph, &base, "").unwrap_err();
        assert!(refused.message.contains(said), "{refused:?}");
    };
    let mut other = blobs.clone();
    other.insert(digest.clone(), b"{}".to_vec());
    refused(other, &digest, "has another content");
    let mut long = blobs.clone();
    long.insert(digest.clone(), vec![b' '; 20 << 20]);
    refused(long, &digest, "longer than told");
    let manifest: Value = serde_json::from_slice(&blobs[&digest]).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let mut short = blobs.clone();
    short.get_mut(layer).unwrap().truncate(100);
    refused(short, &digest, "ends early");
    let mut lacking = blobs;
    lacking.remove(layer);
    refused(lacking, &digest, "from the client's OCI layout");
    let build = Build::offering(c, Offers::default());
    let mut graph = Graph::default();
    for name in ["oci-layout://store", "oci-layout://a\nb@sha256:0", "oci-layout://../x@sha256:0"] {
        let base = source(&mut graph, name, &[]);
        assert_eq!(build.solve(&graph, &base, "").unwrap_err().code, 3, "{name}");
    }
}

fn processes_have_limits_of_their_own(c: &Client) {
    let build = Build::offering(c, Offers::default());
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let limit = |name: &str, soft: i64, hard: i64| Message::new().text(1, name).int(2, soft).int(3, hard);
    let mut exec = |script: &str, meta: &dyn Fn(Message) -> Message| {
        let root = Message::new().int(1, 0).text(3, "/").int(4, 0);
        let exec = Message::new().message(1, &meta(shell(script))).message(2, &root);
        graph.add(&[&base], 2, &exec)
    };
    let script = "ulimit -Sn > /n; ulimit -Hn >> /n; ulimit -Sc >> /n";
    let few =
        exec(script, &|meta| meta.message(9, &limit("nofile", 77, 99)).message(9, &limit("core", 0, 0)));
    let more = exec(script, &|meta| meta.message(9, &limit("nofile", 78, 99)));
    let strange = exec("true", &|meta| meta.message(9, &limit("flights", 1, 1)));
    assert_eq!(build.says(&graph, &few, "cat /n"), "77\n99\n0\n");
    assert!(build.says(&graph, &more, "cat /n").starts_with("78\n99\n"), "no result of other limits");
    assert!(build.solve(&graph, &strange, "").unwrap_err().message.contains("flights"));
}

fn results_of_graphs_are_attested(c: &Client) {
    let build = Build::offering(c, Offers::default());
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let made = graph.run(&base, &[], "echo made > /made", &[]);
    let name = format!("{}:attested", c.n);
    let request = build.request(&build.id(), &graph.definition(&made), &name);
    let request = request.pair(7, "attest:sbom", "").pair(7, "attest:provenance", "mode=max");
    build.wire.call(SOLVE, "", &request).unwrap();
    c.ok(&format!("docker save -o attested {name} && tar -xf attested"));
    let statements = c.ok("grep -lE 'in-toto.io/Statement' blobs/sha256/* | xargs cat");
    for kind in ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"] {
        assert!(statements.contains(kind), "{kind}: {statements}");
    }
}

fn a_digest_is_pushed_without_a_tag(c: &Client) {
    let registry = yare_testkit::Registry::start(&c.folder.join("registry"));
    let build = Build::offering(c, Offers::default());
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let definition = graph.definition(&base);
    let push = |name: &str| {
        let exporter = Message::new().text(1, "image").pair(2, "name", name).pair(2, "push", "true");
        let exporter = exporter.pair(2, "push-by-digest", "true");
        let request = Message::new().text(1, &build.id()).message(2, &definition).text(5, &build.session);
        build.wire.call(SOLVE, "", &request.message(13, &exporter))
    };
    let name = format!("{}/{}/app", registry.host(), c.n);
    let tagged = push(&format!("{name}:v1")).unwrap_err();
    assert!(tagged.message.contains("can't push tagged ref"), "{tagged:?}");
    let answer = push(&name).unwrap();
    let rows = fields(&answer, 1).into_iter().map(|row| (text(&row, 1), text(&row, 2)));
    let rows: BTreeMap<_, _> = rows.collect();
    let digest = &rows["containerimage.digest"];
    let tags = c.run(&format!("curl -sS http://{}/v2/{}/app/tags/list", registry.host(), c.n)).stdout;
    assert!(!tags.contains("latest"), "{tags}");
    c.ok(&format!("docker rmi {name}; docker pull -q {name}@{digest}; docker rmi {name}@{digest}"));
}

fn dockerfiles_of_several_platforms_are_one_result(c: &Client) {
    const FILES: &[(&str, &str)] = &[
        ("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /f-$TARGETARCH\nENV FOR=$TARGETARCH\n"),
        ("f", "hello\n"),
    ];
    let build = Build::offering(c, Offers { files: FILES, ..Offers::default() });
    let id = build.id();
    let name = format!("{}:several", c.n);
    let exporter = Message::new().text(1, "moby").pair(2, "name", &name);
    let request = Message::new().text(1, &id).text(5, &build.session).message(13, &exporter);
    let wire = build.wire.clone();
    let solving = std::thread::spawn(move || wire.call(SOLVE, "", &request));
    let call =
        |method: &str, question: &Message| build.wire.call(&format!("{BRIDGE}/{method}"), &id, question);
    let mut refs = Message::new();
    for platform in ["linux/amd64", "linux/arm64"] {
        let question = Message::new().text(2, "dockerfile.v0").pair(3, "platform", platform);
        let solved = call("Solve", &question).unwrap();
        let reference = text(&fields(&fields(&solved, 3)[0], 3)[0], 1);
        let named = Message::new().text(1, platform).message(2, &Message::new().text(1, &reference));
        refs = refs.message(1, &named);
    }
    let platforms = r#"{"Platforms":[{"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}},{"ID":"linux/arm64","Platform":{"architecture":"arm64","os":"linux"}}]}"#;
    let result = Message::new().message(4, &refs);
    let result = result.message(10, &Message::new().text(1, "refs.platforms").text(2, platforms));
    call("Return", &Message::new().message(1, &result)).unwrap();
    let answer = solving.join().unwrap().unwrap();
    let rows: Vec<_> = fields(&answer, 1).iter().map(|row| text(row, 1)).collect();
    assert!(rows.contains(&"containerimage.descriptor".to_owned()), "{rows:?}");
    c.ok(&format!("docker save -o several.tar {name} && mkdir several && tar -xf several.tar -C several"));
    let configs = c.ok("cd several/blobs/sha256 && grep -l '\"FOR=' * | sort | xargs cat");
    for arch in ["amd64", "arm64"] {
        assert!(configs.contains(&format!("FOR={arch}")), "{configs}");
        assert!(configs.contains(&format!("\"architecture\":\"{arch}\"")), "{configs}");
        let files = c.ok("cd several/blobs/sha256 && for f in *; do tar -tf $f 2>/dev/null || true; done");
        assert!(files.contains(&format!("f-{arch}")), "{files}");
    }
    names_in_between_are_given_back(c);
}

fn keys_to_repositories_are_asked_of_the_client(c: &Client) {
    let secrets = BTreeMap::from([("own-token".to_owned(), "a token".to_owned())]);
    let build = Build::offering(c, Offers { secrets, ..Offers::default() });
    let mut graph = Graph::default();
    let url = "https://127.0.0.1:1/x.git";
    let keys =
        [("git.fullurl", url), ("git.authtokensecret", "own-token"), ("git.authheadersecret", "own-header")];
    let with = source(&mut graph, "git://127.0.0.1:1/x.git", &keys);
    let without = source(&mut graph, "git://127.0.0.1:1/x.git", &[("git.fullurl", url)]);
    assert!(build.solve(&graph, &without, "").is_err());
    assert!(build.open.asked.lock().unwrap().is_empty(), "nothing was named");
    assert!(build.solve(&graph, &with, "").is_err(), "nobody listens there");
    let asked = build.open.asked.lock().unwrap().clone();
    let expected = ["own-header.127.0.0.1:1", "own-token.127.0.0.1:1", "own-header", "own-token"];
    assert_eq!(asked, expected);
}
