//! Where files, images and names come from and go to over BuildKit's wire.

use yare_testkit::Registry;

use crate::buildx::{OWN, buildx, dockerfile, fails, names_in_between_are_given_back, ok};
use crate::case::cases;
use crate::client::Client;

cases![
    Docker:
        a_context_comes_from_the_web.differs(OWN),
        an_image_comes_from_the_clients_layout.alone().differs(OWN),
        a_layout_with_other_content_is_refused.alone().differs(OWN),
        extended_attributes_come_with_their_files.differs(OWN),
        what_is_built_is_pushed.differs(OWN),
        tokens_are_got_for_what_is_pushed.differs(OWN);
];

/// Serves `web` over HTTP and `repos` with git, at `$web` and `$git`, until the script ends.
fn served() -> String {
    format!("p={} q={}\n{SERVED}", yare_testkit::free_port(), yare_testkit::free_port())
}

const SERVED: &str = r#"
set -e
(cd ../web && exec python3 -m http.server --bind 127.0.0.1 $p > /dev/null 2>&1) & http=$!
git daemon --reuseaddr --export-all --base-path=../repos --listen=127.0.0.1 --port=$q ../repos > /dev/null 2>&1 & daemon=$!
trap 'kill $http $daemon' EXIT
web=http://127.0.0.1:$p; git=git://127.0.0.1:$q/r.git
for try in $(seq 300); do git ls-remote -q $git > /dev/null 2>&1 && python3 -c "import urllib.request as u; u.urlopen('$web')" 2> /dev/null && break; sleep 0.1; done
"#;

fn a_context_comes_from_the_web(c: &Client) {
    if !buildx(c) || c.run("command -v git python3").code != 0 {
        return;
    }
    ok(
        c,
        "set -e; mkdir -p ../web ../repos ../repo/sub; cd ../repo; git init -q -b main .; git config user.email x@y; git config user.name x
printf 'FROM busybox\\nCOPY f /f\\nCMD cat /f\\n' | tee Dockerfile > sub/Dockerfile; echo top > f; echo sub > sub/f
git add .; git commit -qm one; git tag v1; echo newer > f; git commit -qam two; git clone -q --bare . ../repos/r.git
tar -czf ../web/x.tar.gz -C sub .; printf 'FROM busybox\\nCMD echo alone\\n' > ../web/Dockerfile; echo named > ../web/file",
    );
    dockerfile(
        c,
        "FROM busybox\nCOPY --from=r f /f\nCOPY --from=w x.tar.gz /x\nCOPY --from=w2 file /n\nCMD cat /f /n\n",
    );
    let script = format!(
        "{}
docker buildx build -t $n/a $web/x.tar.gz; docker run --rm $n/a
docker buildx build -t $n/a $web/Dockerfile; docker run --rm $n/a
docker buildx build -t $n/a $git#v1; docker run --rm $n/a
docker buildx build -t $n/a $git; docker run --rm $n/a
docker buildx build -t $n/a $git#main:sub; docker run --rm $n/a
docker buildx build -t $n/a --build-context r=$git#v1:sub --build-context w=$web/x.tar.gz --build-context w2=$web/file .; docker run --rm $n/a
docker rmi $n/a > /dev/null",
        served()
    );
    let said = ok(c, &script);
    assert!(said.starts_with("sub\nalone\ntop\nnewer\nsub\nsub\nnamed\n"), "{said}");
    for (reference, part) in
        [("#--upload-pack=x", "--upload-pack"), ("#main:../..", ".."), ("#nothing", "nothing")]
    {
        let script = format!("{}\ndocker buildx build $git'{reference}'", served());
        let said = fails(c, &script);
        assert!(said.contains(part), "{reference}: {said}");
    }
    let said = fails(c, &format!("{}\ndocker buildx build $web/missing.tar.gz", served()));
    assert!(said.contains("404"), "{said}");
}

/// Makes the OCI layout `../layout` of an image that says `from-layout`.
fn layout(c: &Client) {
    dockerfile(c, "FROM busybox\nRUN echo from-layout > /l\n");
    ok(
        c,
        "docker buildx build -t $n/l . && docker save -o ../l.tar $n/l && docker rmi $n/l && skopeo copy -q --insecure-policy docker-archive:../l.tar oci:../layout:1",
    );
    dockerfile(c, "FROM base\nCOPY --from=base /l /m\nCMD cat /l /m\n");
}

fn an_image_comes_from_the_clients_layout(c: &Client) {
    if !buildx(c) {
        return;
    }
    layout(c);
    ok(c, "docker buildx build -t $n/x --build-context base=oci-layout://$PWD/../layout:1 .");
    assert_eq!(ok(c, "docker run --rm $n/x"), "from-layout\nfrom-layout\n");
    names_in_between_are_given_back(c);
    ok(c, "docker rmi $n/x");
}

fn a_layout_with_other_content_is_refused(c: &Client) {
    if !buildx(c) {
        return;
    }
    layout(c);
    // The largest blob is a layer; it gets another byte in its middle.
    ok(
        c,
        "b=$(ls -S ../layout/blobs/sha256/* | head -1); chmod u+w $b; printf X | dd of=$b bs=1 seek=3000 conv=notrunc status=none",
    );
    let said = fails(c, "docker buildx build --build-context base=oci-layout://$PWD/../layout:1 .");
    assert!(said.contains("has another content"), "{said}");
    names_in_between_are_given_back(c);
}

fn extended_attributes_come_with_their_files(c: &Client) {
    if !buildx(c) || c.run("command -v setfattr getfattr").code != 0 {
        return;
    }
    ok(c, "mkdir -p d/s; echo x > d/f; setfattr -n user.a -v one d/f; setfattr -n user.b -v dir d/s");
    dockerfile(c, "FROM scratch\nCOPY d /d\n");
    let attribute = |name: &str| {
        ok(
            c,
            "rm -rf ../o; docker buildx build -o type=tar,dest=../o.tar . && mkdir ../o && tar --xattrs -xf ../o.tar -C ../o",
        );
        ok(c, &format!("cd ../o && getfattr --only-values -n {name}"))
    };
    assert_eq!(attribute("user.a d/f"), "one");
    assert_eq!(attribute("user.b d/s"), "dir");
    ok(c, "setfattr -n user.a -v two d/f");
    assert_eq!(attribute("user.a d/f"), "two");
}

fn what_is_built_is_pushed(c: &Client) {
    if buildx(c) {
        push_and_run(c, &Registry::with_password(&c.folder.join("registry")));
    }
}

fn tokens_are_got_for_what_is_pushed(c: &Client) {
    if buildx(c) {
        push_and_run(c, &Registry::with_tokens(&c.folder.join("registry")));
    }
}

/// Builds into a registry that wants to know who comes, and from what is there.
fn push_and_run(c: &Client, registry: &Registry) {
    let name = format!("{}/{}/app", registry.host(), c.n);
    dockerfile(c, &format!("FROM busybox\nRUN echo {} > /n\nCMD cat /n\n", c.n));
    let said = fails(c, &format!("docker buildx build --push -t {name}:1 ."));
    assert!(said.contains("no basic auth credentials") || said.contains("authoriz"), "{said}");
    ok(c, &format!("echo secret | docker login -u user --password-stdin {} 2>&1", registry.host()));
    for (flags, tag) in [("--push", "1"), ("-o type=registry", "2"), ("-o type=image,push=true", "3")] {
        ok(c, &format!("docker buildx build {flags} -t {name}:{tag} ."));
        ok(c, &format!("docker rmi {name}:{tag}"));
        assert_eq!(ok(c, &format!("docker run --rm {name}:{tag}")), format!("{}\n", c.n), "{flags}");
        ok(c, &format!("docker rmi {name}:{tag}"));
    }
    dockerfile(c, &format!("FROM {name}:1\nRUN cat /n\n"));
    ok(c, &format!("docker buildx build --cache-to type=registry,ref={name}:cache -t $n/on ."));
    ok(c, &format!("docker buildx build --pull --cache-from type=registry,ref={name}:cache -t $n/on ."));
    ok(c, &format!("docker rmi $n/on {name}:1"));
    // A login at a registry with tokens leaves a refresh token beside the name.
    let wrong = "sed -i -e 's/\"auth\": *\"[^\"]*\"/\"auth\": \"dXNlcjp3cm9uZw==\"/' -e 's/\"identitytoken\": *\"[^\"]*\"/\"identitytoken\": \"wrong\"/' $DOCKER_CONFIG/config.json";
    ok(c, wrong);
    fails(c, "docker buildx build --pull -t $n/on .");
}
