//! What builds get from outside: keys of an agent, newer base images.

use yare_testkit::{Registry, yare_binary};

use crate::build_table::{ok, script};
use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        base_images_are_pulled_as_asked.differs("its classic builder writes other texts");
    Docker:
        an_agent_signs_for_a_step.differs("its classic builder knows no mounts");
];

/// The programs of this machine in an image; a step asks the client's agent for its keys and for a signature.
fn an_agent_signs_for_a_step(c: &Client) {
    if c.run("command -v ssh-agent && command -v ssh-add && command -v ssh-keygen").code != 0 {
        eprintln!("SKIP {}: no ssh-agent", c.n);
        return;
    }
    let yare = yare_binary().display();
    ok(c, "mkdir -p ctx/root; for f in /usr/bin/ssh-add $(ldd /usr/bin/ssh-add | grep -o '/[^ ]*'); do mkdir -p ctx/root/$(dirname $f); cp -L $f ctx/root/$f; done
ssh-keygen -q -t ed25519 -N '' -C of-$n -f key; ssh-keygen -q -t ed25519 -N '' -f other; cp key.pub other.pub ctx/
cat > ctx/Dockerfile <<'EOF'
FROM busybox
COPY root /
COPY *.pub /
RUN --mount=type=ssh,required ssh-add -L > /keys && ssh-add -T /key.pub && ! ssh-add -T /other.pub
RUN --mount=type=ssh,uid=1000,mode=0600 su app -c 'ssh-add -T /key.pub'
RUN ! ssh-add -L
EOF");
    let agent =
        "eval $(ssh-agent -a $PWD/agent) > /dev/null; trap 'kill $SSH_AGENT_PID' EXIT; ssh-add -q key";
    let build = format!("{yare} build --progress=plain -t $n/x");
    ok(c, &format!("{agent}; {build} --ssh default ctx > out 2>&1 || {{ cat out; exit 1; }}"));
    c.ok("[ \"$(docker run --rm $n/x cat /keys)\" = \"$(cat key.pub)\" ]");
    ok(
        c,
        &format!(
            "{agent}; unset SSH_AUTH_SOCK; {build} --no-cache --ssh default=$PWD/agent ctx > out 2>&1 || {{ cat out; exit 1; }}"
        ),
    );
    // Without one, and with one that has ended.
    for flags in ["", "--ssh default=$PWD/agent"] {
        let said =
            ok(c, &format!("unset SSH_AUTH_SOCK; if {build} --no-cache {flags} ctx 2>&1; then exit 1; fi"));
        assert!(said.contains("ssh") || said.contains("agent"), "{said}");
    }
}

/// A base that is here is taken, a newer one only with `--pull`; what is missing is always pulled.
fn base_images_are_pulled_as_asked(c: &Client) {
    let registry = Registry::start(&c.folder.join("registry"));
    let base = format!("{}/{}/base:1", registry.host(), c.n);
    let push = |number: u32| {
        c.ok(&format!(
            "printf 'FROM busybox\\nRUN echo {number} > /number\\n' | DOCKER_BUILDKIT=0 docker build -t {base} - >/dev/null 2>&1 \
             && docker push -q {base} >/dev/null"
        ));
    };
    let built = |flags: &str| {
        let text = format!(
            "printf 'FROM {base}\\nRUN cat /number > /seen\\n' | build {flags} -t $n/x - > out 2>&1 || {{ cat out; exit 1; }}; docker run --rm $n/x cat /seen"
        );
        ok(c, &text)
    };
    push(2);
    c.ok(&format!("docker tag {base} $n/newer; docker rmi {base}"));
    push(1);
    assert_eq!(built(""), "1\n");
    c.ok(&format!("docker tag $n/newer {base} && docker push -q {base} && docker rmi {base}"));
    assert_eq!(built(""), "2\n", "a missing base is pulled");
    push(3);
    c.ok(&format!("docker rmi {base}; docker pull -q {base}; docker tag {base} $n/third"));
    c.ok(&format!("docker tag $n/newer {base}"));
    assert_eq!(built(""), "2\n", "what is here is taken");
    assert_eq!(built("--pull"), "3\n", "a newer one is pulled");
    drop(registry);
    assert_eq!(built(""), "3\n", "nobody is asked");
    let said = c.run(&script(c, &format!("printf 'FROM {base}\\n' | build --pull - 2>&1")));
    assert!(said.code != 0 && said.stdout.contains(&base), "{said:?}");
    c.ok(&format!("docker rmi -f {base}"));
}
