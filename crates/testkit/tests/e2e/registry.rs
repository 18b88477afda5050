//! Pull, push and login, against Debian's `docker-registry` and our own, each on a port of its own.

use std::fs;

use serde_json::Value;
use yare_testkit::Registry;

use crate::archive;
use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        what_is_pushed_can_be_pulled_and_run.with_either_registry(),
        a_pulled_image_has_the_digest_it_was_pushed_with.with_either_registry(),
        a_pull_says_what_it_does.with_either_registry(),
        all_tags_go_and_come.with_either_registry(),
        a_digest_is_a_name.with_either_registry(),
        layers_that_are_there_are_not_sent_again.with_either_registry().differs_from_old("it has another order of lines"),
        missing_things_are_named.with_either_registry(),
        an_image_for_another_platform_is_refused.differs("it warns and pulls it"),
        a_registry_with_a_password.with_either_registry().differs_from_old("the login's text was another"),
        create_pulls_what_is_missing.with_either_registry();
    Docker:
        credentials_of_a_helper_are_used.with_either_registry(),
        both_clients_keep_logins_in_one_file.with_either_registry(),
        registries_are_looked_into_without_an_engine.with_either_registry();
    Api:
        the_registry_is_asked_what_a_name_stands_for
            .with_either_registry()
            .differs("it searches by the first protocol of registries alone");
];

/// An image of two layers in the engine, under this name.
fn load(c: &Client, name: &str, text: &str) {
    let layers = [
        archive::layer(&[("a", &format!("{text} {} {}", c.n, "x".repeat(200_000)))]),
        archive::layer(&[("b", &format!("{} {name}", c.n))]),
    ];
    let settings = serde_json::json!({"Labels": {"of": c.n}});
    fs::write(c.folder.join("image.tar"), archive::docker_archive(name, &layers, &settings)).unwrap();
    c.ok("docker load -q -i image.tar");
}

fn forget(c: &Client, registry: &Registry) {
    c.ok(&format!(
        "docker images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep '^{0}/.*[^>]$' | xargs -r docker rmi -f >/dev/null; \
         docker images -q '{0}/*/*' | sort -u | xargs -r docker rmi -f >/dev/null",
        registry.host()
    ));
}

fn what_is_pushed_can_be_pulled_and_run(c: &Client) {
    let registry = c.registry("registry");
    let name = format!("{}/{}/box:1", registry.host(), c.n);
    // A file of its own, so that no other case has this layer.
    c.ok(&format!(
        "mkdir x; echo {0} > x/{0}; cp $busybox x.tar; tar -C x -rf x.tar {0}; \
         docker import --change 'CMD [\"echo\", \"from the registry\"]' - {name} < x.tar",
        c.n
    ));
    let id = c.line(&format!("docker images -q --no-trunc {name}"));
    let pushed = c.ok(&format!("docker push {name}"));
    let first = format!("The push refers to repository [{}/{}/box]", registry.host(), c.n);
    assert_eq!(pushed.lines().next(), Some(first.as_str()));
    assert!(pushed.contains(": Pushed\n") && pushed.contains("1: digest: sha256:"), "{pushed}");
    c.ok(&format!("docker rmi {name}"));
    // `run` brings it in; what it says about that goes to standard error.
    let outcome = c.run(&format!("docker run --rm --network none {name}"));
    assert_eq!(outcome.stdout, "from the registry\n", "{}", outcome.stderr);
    assert!(
        outcome.stderr.starts_with(&format!("Unable to find image '{name}' locally\n")),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("Pull complete"), "{}", outcome.stderr);
    assert_eq!(c.line(&format!("docker images -q --no-trunc {name}")), id);
    forget(c, &registry);
}

fn a_pulled_image_has_the_digest_it_was_pushed_with(c: &Client) {
    let (one, two) = (c.registry("one"), c.registry("two"));
    let name = |registry: &Registry| format!("{}/{}/a:1", registry.host(), c.n);
    load(c, &name(&one), "digest");
    let digest =
        |output: &str| output.split("digest: ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let first = digest(&c.ok(&format!("docker push {}", name(&one))));
    c.ok(&format!("docker rmi {0}; docker pull -q {0}; docker tag {0} {1}", name(&one), name(&two)));
    let format = "'{{range .RepoDigests}}{{println .}}{{end}}'";
    let known = c.ok(&format!("docker image inspect -f {format} {}", name(&one)));
    assert!(known.contains(&format!("{}/{}/a@{first}", one.host(), c.n)), "{known}");
    // The second registry gets the very bytes of the first.
    assert_eq!(digest(&c.ok(&format!("docker push {}", name(&two)))), first);
    forget(c, &one);
    forget(c, &two);
}

fn a_pull_says_what_it_does(c: &Client) {
    let registry = c.registry("registry");
    let name = format!("{}/{}/a:1", registry.host(), c.n);
    load(c, &name, "says");
    c.ok(&format!("docker push -q {name}"));
    let digest = c.ok(&format!("docker image inspect -f '{{{{index .RepoDigests 0}}}}' {name}"));
    let digest = digest.trim().split('@').nth(1).unwrap().to_owned();
    c.ok(&format!("docker rmi {name}"));
    let lines = |output: String| output.lines().map(str::to_owned).collect::<Vec<_>>();
    let pulled = lines(c.ok(&format!("docker pull {name}")));
    assert_eq!(pulled[0], format!("1: Pulling from {}/a", c.n));
    assert_eq!(pulled.iter().filter(|line| line.ends_with(": Pull complete")).count(), 2, "{pulled:?}");
    let end = |state: &str| [format!("Digest: {digest}"), format!("Status: {state} {name}"), name.clone()];
    assert_eq!(pulled[pulled.len() - 3..], end("Downloaded newer image for"));
    let again = lines(c.ok(&format!("docker pull {name}")));
    assert_eq!(again[1..], end("Image is up to date for"));
    c.says(&format!("docker pull -q {name}"), &format!("{name}\n"));
    // A name that another image has is taken from it.
    load(c, &name, "other");
    let again = lines(c.ok(&format!("docker pull {name}")));
    assert_eq!(again[again.len() - 3..], end("Downloaded newer image for"));
    forget(c, &registry);
}

fn all_tags_go_and_come(c: &Client) {
    let registry = c.registry("registry");
    let repository = format!("{}/{}/a", registry.host(), c.n);
    load(c, &format!("{repository}:1"), "tags");
    c.ok(&format!("docker tag {repository}:1 {repository}:2"));
    let pushed = c.ok(&format!("docker push -a {repository}"));
    assert!(pushed.contains("1: digest: ") && pushed.contains("2: digest: "), "{pushed}");
    c.ok(&format!("docker rmi {repository}:1 {repository}:2; docker pull -a {repository}"));
    c.says(&format!("docker images --format '{{{{.Tag}}}}' {repository} | sort"), "1\n2\n");
    forget(c, &registry);
}

fn a_digest_is_a_name(c: &Client) {
    let registry = c.registry("registry");
    let repository = format!("{}/{}/a", registry.host(), c.n);
    load(c, &format!("{repository}:1"), "digest name");
    c.ok(&format!("docker push -q {repository}:1"));
    let name = c.line(&format!("docker image inspect -f '{{{{index .RepoDigests 0}}}}' {repository}:1"));
    let id = c.line(&format!("docker images -q {repository}:1"));
    c.ok(&format!("docker rmi {repository}:1"));
    let pulled = c.ok(&format!("docker pull {name}"));
    assert!(pulled.ends_with(&format!("{name}\n")), "{pulled}");
    assert_eq!(
        c.line(&format!("docker images --digests --format '{{{{.ID}}}} {{{{.Tag}}}}' {repository}")),
        format!("{id} <none>")
    );
    c.ok(&format!("docker rmi -f {id}"));
}

fn layers_that_are_there_are_not_sent_again(c: &Client) {
    let registry = c.registry("registry");
    let name = |path: &str| format!("{}/{}/{path}:1", registry.host(), c.n);
    load(c, &name("a"), "again");
    c.ok(&format!("docker push {}", name("a")));
    let again = c.ok(&format!("docker push {}", name("a")));
    assert_eq!(again.matches(": Layer already exists").count(), 2, "{again}");
    c.ok(&format!("docker tag {} {}", name("a"), name("b")));
    let borrowed = c.ok(&format!("docker push {}", name("b")));
    assert_eq!(borrowed.matches(&format!(": Mounted from {}/a", c.n)).count(), 2, "{borrowed}");
    forget(c, &registry);
}

fn missing_things_are_named(c: &Client) {
    let registry = c.registry("registry");
    let (host, n) = (registry.host(), &c.n);
    let name = format!("{host}/{n}/a");
    load(c, &format!("{name}:1"), "missing");
    c.ok(&format!("docker push -q {name}:1"));
    c.refuses(
        1,
        &format!("docker pull {name}:2"),
        &format!(
            "Error response from daemon: manifest for {name}:2 not found: manifest unknown: manifest unknown"
        ),
    );
    forget(c, &registry);
    // Debian's says of a repository, too, that it lacks the manifest.
    let refused = c.fails(1, &format!("docker pull {host}/$n/none:1"));
    assert!(refused.contains(&format!("{host}/{n}/none")) && refused.contains(" not found: "), "{refused}");
    let outcome = c.run(&format!("docker push {host}/$n/none:1"));
    let text = format!("An image does not exist locally with the tag: {host}/{n}/none");
    assert!(outcome.code == 1 && outcome.stderr.contains(&text), "{}", outcome.stderr);
    drop(registry);
    let refused = c.fails(1, &format!("docker pull {host}/$n/none:1"));
    assert!(refused.contains("refused"), "{refused}");
}

fn an_image_for_another_platform_is_refused(c: &Client) {
    let registry = c.registry("registry");
    let name = format!("{}/{}/a:1", registry.host(), c.n);
    load(c, &name, "platform");
    c.ok(&format!("docker push -q {name}; docker rmi {name}"));
    let refused = c.fails(1, &format!("docker pull --platform linux/s390x {name}"));
    assert!(refused.contains("linux/amd64") && refused.contains("linux/s390x"), "{refused}");
    c.ok(&format!("docker pull --platform linux/amd64 {name}"));
    forget(c, &registry);
}

fn a_registry_with_a_password(c: &Client) {
    let registry = c.registry_with_password("registry");
    let host = registry.host();
    let name = format!("{host}/{}/a:1", c.n);
    let with = |script: &str| format!("export DOCKER_CONFIG=$PWD/config; {script}");
    load(c, &name, "password");
    let refused = c.fails(1, &with(&format!("docker push {name}")));
    assert!(refused.contains("no basic auth credentials"), "{refused}");
    let refused = c.fails(1, &with(&format!("echo wrong | docker login -u user --password-stdin {host}")));
    assert!(refused.contains("401 Unauthorized") && !refused.contains("wrong"), "{refused}");
    let login =
        c.ok(&with(&format!("echo secret | docker login -u user --password-stdin {host} 2>/dev/null")));
    assert!(login.contains("Login Succeeded\n"), "{login}");
    c.ok(&with(&format!("docker push -q {name}; docker rmi {name}; docker pull -q {name}")));
    let modes = c.line(&with("stat -c %a config/config.json"));
    assert_eq!(modes, "600");
    c.ok(&with(&format!("docker logout {host}")));
    let refused = c.run(&with(&format!("docker rmi {name}; docker pull {name}")));
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    assert!(
        !fs::read_to_string(&c.host.log).unwrap_or_default().contains("secret"),
        "the log tells the password"
    );
    forget(c, &registry);
}

fn credentials_of_a_helper_are_used(c: &Client) {
    let registry = c.registry_with_password("registry");
    let host = registry.host();
    let name = format!("{host}/{}/a:1", c.n);
    load(c, &name, "helper");
    let helper = "#!/bin/sh\nd=$(dirname \"$0\")/kept\ncase $1 in\n\
                  store) cat > \"$d\";;\n\
                  get) cat >/dev/null; [ -e \"$d\" ] && cat \"$d\" || { echo 'credentials not found in native keychain'; exit 1; };;\n\
                  erase) cat >/dev/null; rm -f \"$d\";;\nesac\n";
    fs::create_dir_all(c.folder.join("bin")).unwrap();
    fs::create_dir_all(c.folder.join("config")).unwrap();
    fs::write(c.folder.join("bin/docker-credential-test"), helper).unwrap();
    fs::write(c.folder.join("config/config.json"), r#"{"credsStore":"test"}"#).unwrap();
    c.ok("chmod +x bin/docker-credential-test");
    // What one client's login kept, the other uses.
    let yare = yare_testkit::yare_binary().display().to_string();
    for (login, push) in [("docker", yare.as_str()), (yare.as_str(), "docker")] {
        let script = format!(
            "export PATH=$PWD/bin:$PATH DOCKER_CONFIG=$PWD/config; \
             {push} push -q {name} 2>&1 && exit 9; \
             echo secret | {login} login -u user --password-stdin {host} && {push} push -q {name} && ! grep -q c2VjcmV0 config/config.json && {login} logout {host} && [ ! -e bin/kept ]"
        );
        c.ok(&script);
    }
    forget(c, &registry);
}

/// The file is a link into somebody's dotfiles, with members that neither program knows.
fn both_clients_keep_logins_in_one_file(c: &Client) {
    let registry = c.registry_with_password("registry");
    let host = registry.host();
    let name = format!("{host}/{}/a:1", c.n);
    load(c, &name, "alternating");
    fs::create_dir_all(c.folder.join("config")).unwrap();
    let before = r#"{"auths": {"https://other.example/v1/": {"auth": "YTpi"}}, "psFormat": "{{.ID}}", "plugins": {"x": {"y": "z"}}}"#;
    fs::write(c.folder.join("dotfile"), before).unwrap();
    c.ok("ln -s ../dotfile config/config.json; chmod 640 dotfile");
    let yare = yare_testkit::yare_binary().display().to_string();
    for (login, other) in [("docker", yare.as_str()), (yare.as_str(), "docker")] {
        c.ok(&format!(
            "export DOCKER_CONFIG=$PWD/config; \
             {other} push -q {name} 2>&1 && exit 9; \
             echo secret | {login} login -u user --password-stdin https://{host}/v1/ 2>&1 && \
             {other} push -q {name} && {login} push -q {name} && {other} logout {host} && \
             [ -L config/config.json ] && [ $(stat -c %a dotfile) = 640 ] || exit 8"
        ));
        let after: Value = serde_json::from_slice(&fs::read(c.folder.join("dotfile")).unwrap()).unwrap();
        let before: Value = serde_json::from_str(before).unwrap();
        for member in ["auths", "psFormat", "plugins"] {
            assert_eq!(after[member], before[member], "{login}: {member}");
        }
    }
    // What is not understood is not written over.
    fs::write(c.folder.join("dotfile"), "{\"auths\"").unwrap();
    let login = format!(
        "export DOCKER_CONFIG=$PWD/config; echo secret | {yare} login -u user --password-stdin {host}"
    );
    assert!(c.fails(1, &login).contains("nothing was written"));
    assert_eq!(fs::read_to_string(c.folder.join("dotfile")).unwrap(), "{\"auths\"");
    forget(c, &registry);
}

fn create_pulls_what_is_missing(c: &Client) {
    let registry = c.registry("registry");
    let name = format!("{}/{}/box:1", registry.host(), c.n);
    c.ok(&format!("docker import - {name} < $busybox; docker push -q {name}; docker rmi {name}"));
    c.refuses(
        125,
        &format!("docker run --pull never --rm {name} true"),
        &format!("docker: Error response from daemon: No such image: {name}"),
    );
    c.ok(&format!("docker create --name $n-c {name} true && docker rm $n-c"));
    let again = c.run(&format!("docker run --pull always --rm --network none {name} true"));
    assert!(again.code == 0 && again.stderr.contains("Image is up to date"), "{}", again.stderr);
    forget(c, &registry);
}

fn the_registry_is_asked_what_a_name_stands_for(c: &Client) {
    let registry = c.registry("registry");
    let name = format!("{}/{}/a:1", registry.host(), c.n);
    load(c, &name, "asked");
    c.ok(&format!("docker push -q {name}"));
    let found = c.api("GET", &format!("/distribution/{name}/json"), None).json();
    let digest = c.line(&format!("docker image inspect -f '{{{{index .RepoDigests 0}}}}' {name}"));
    assert_eq!(found["Descriptor"]["digest"].as_str(), digest.split('@').nth(1));
    assert_eq!(found["Platforms"][0]["architecture"], "amd64");
    let found = c.api("GET", &format!("/images/search?term={}/a&limit=5", registry.host()), None).json();
    assert_eq!(found[0]["name"], format!("{}/{}/a", registry.host(), c.n));
    forget(c, &registry);
}

fn registries_are_looked_into_without_an_engine(c: &Client) {
    let (one, two) = (c.registry("one"), c.registry("two"));
    let name = |registry: &Registry| format!("{}/{}/a:1", registry.host(), c.n);
    load(c, &name(&one), "copy");
    c.ok(&format!("docker push -q {}", name(&one)));
    // No engine listens at this address.
    let yare = format!("{} -H unix:///none", yare_testkit::yare_binary().display());
    let manifest = c.ok(&format!("{yare} manifest inspect {}", name(&one)));
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(2), "{manifest}");
    let copied = c.ok(&format!("{yare} image copy {} {}", name(&one), name(&two)));
    let digest = c.line(&format!("docker image inspect -f '{{{{index .RepoDigests 0}}}}' {}", name(&one)));
    let digest = digest.split('@').nth(1).unwrap();
    assert_eq!(copied, format!("{}: 3 blobs sent, 0 were there\nDigest: {digest}\n", name(&two)));
    c.says(&format!("{yare} image-copy -q {} {}", name(&one), name(&two)), &format!("Digest: {digest}\n"));
    c.ok(&format!("docker rmi {0}; docker pull -q {0}", name(&two)));
    c.says(&format!("{yare} image referrers {}", name(&two)), "");
    forget(c, &one);
    forget(c, &two);
}
