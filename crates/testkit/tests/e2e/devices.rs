//! Devices by the Container Device Interface, in containers and in steps of builds.

use std::path::PathBuf;

use yare_testkit::Engine;

use crate::buildx::{self, OWN};
use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        a_container_gets_what_its_devices_need.differs(FOLDERS),
        hooks_of_devices_are_run.differs(FOLDERS),
        devices_that_are_not_there_are_named.differs(FOLDERS),
        gpus_are_devices_of_their_kind.differs(FOLDERS),
        steps_of_a_build_get_granted_devices.differs(FOLDERS);
    Docker:
        clients_of_buildkit_see_devices.differs(OWN),
        compose_gives_devices.differs(OWN);
];

/// Why nothing here runs against dockerd.
const FOLDERS: &str = "the reference engine reads the host's own folders";

/// An engine with folders of descriptions, and a client of it.
pub(crate) struct Devices {
    /// Cleans up before its engine ends.
    pub(crate) c: Client,
    folder: PathBuf,
    engine: Engine,
}

impl Devices {
    pub(crate) fn new(c: &Client) -> Self {
        let folder = c.folder.join("cdi");
        std::fs::create_dir_all(folder.join("late")).unwrap();
        let late = folder.join("late");
        let flags = ["--cdi-spec-dir", folder.to_str().unwrap(), "--cdi-spec-dir", late.to_str().unwrap()];
        let engine = Engine::start_with(&flags);
        let own = c.of(&engine);
        own.ok("docker import $busybox busybox >/dev/null");
        Self { c: own, folder, engine }
    }

    pub(crate) fn describe(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }

    pub(crate) fn finish(self) {
        drop(self.c);
        self.engine.finish();
    }
}

/// A node, variables, a bind mount and a group; `gift` is the folder that is mounted.
fn tool(gift: &str) -> String {
    format!(
        "cdiVersion: 0.7.0
kind: vendor.com/tool
containerEdits:
  env: [TOOLS=yes]
devices:
- name: one
  containerEdits:
    env: [TOOL=one, PATH=/bin:/gift]
    deviceNodes:
    - {{path: /dev/tool/one, hostPath: /dev/zero, permissions: rw, fileMode: 0640, gid: 77}}
    mounts:
    - {{hostPath: {gift}, containerPath: /gift, options: [ro, nosuid]}}
    additionalGids: [77]
- name: two
  containerEdits:
    env: [TOOL=two]
"
    )
}

fn a_container_gets_what_its_devices_need(c: &Client) {
    let devices = Devices::new(c);
    let c = &devices.c;
    c.ok("mkdir gift && echo present > gift/file");
    devices.describe("tool.yaml", &tool(&c.folder.join("gift").display().to_string()));
    let look = "echo \\$TOOLS \\$TOOL \\$PATH; stat -c '%a.%g %F' /dev/tool/one; cat /gift/file; \
                touch /gift/x 2>/dev/null && echo writable; id -G; head -c 2 /dev/tool/one | od -An -tx1";
    let right = "yes one /bin:/gift\n640.77 character special file\npresent\n";
    let one = "docker run --rm --device vendor.com/tool=one busybox";
    c.says(&format!("{one} sh -c \"{look}\""), &format!("{right}0 77\n 00 00\n"));
    let as_user = "docker run --rm --user 5:6 --device vendor.com/tool=one busybox";
    c.says(&format!("{as_user} sh -c \"{look}\""), &format!("{right}6 77\n 00 00\n"));
    c.says(
        "docker run --rm --device vendor.com/tool=one --device vendor.com/tool=two busybox sh -c 'echo $TOOLS $TOOL'",
        "yes two\n",
    );
    // What the client asked for is what inspect shows, and the container starts again.
    c.ok("docker create --name $n --device vendor.com/tool=two busybox sh -c 'echo $TOOL'");
    assert_eq!(
        c.inspect("$n", "{{json .HostConfig.DeviceRequests}}"),
        r#"[{"Driver":"cdi","Count":0,"DeviceIDs":["vendor.com/tool=two"],"Capabilities":null,"Options":null}]"#
    );
    // Descriptions are read at each start, and those of the later folder win.
    let later = "cdiVersion: 0.3.0\nkind: vendor.com/tool\ndevices: [{name: two, containerEdits: {env: [TOOL=late]}}]\n";
    c.says("docker start -a $n", "two\n");
    devices.describe("late/tool.json", later);
    c.says("docker start -a $n", "late\n");
    let info = c.ok("docker info 2>/dev/null");
    assert!(
        info.contains("CDI spec directories:") && info.contains("  cdi: vendor.com/tool=one\n"),
        "{info}"
    );
    devices.finish();
}

fn hooks_of_devices_are_run(c: &Client) {
    let devices = Devices::new(c);
    let c = &devices.c;
    let log = c.folder.join("log");
    let hook = c.folder.join("hook");
    // As a vendor's hook does it, the root is found by the bundle of the state.
    let script = format!(
        "#!/bin/sh\nstate=$(cat)\nif [ $1 = createContainer ]; then\n  bundle=$(echo \"$state\" | sed 's/.*\"bundle\":\"//; s/\".*//')\n  \
         test -s $bundle/config.json && echo made > $bundle/rootfs/made\nfi\n[ $1 != fail ] || {{ echo no luck >&2; exit 3; }}\necho $1 >> {}\n",
        log.display()
    );
    std::fs::write(&hook, script).unwrap();
    c.ok("chmod 755 hook");
    let host = |name: &str, argument: &str| {
        format!(
            "    - {{hookName: {name}, path: {}, args: [hook, {argument}], timeout: 20}}\n",
            hook.display()
        )
    };
    let inside = "    - {hookName: startContainer, path: /bin/sh, args: [sh, -c, 'echo inside > /inside']}\n";
    let points = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let hooks = points.map(|name| host(name, name)).concat();
    let spec = format!(
        "cdiVersion: 0.6.0\nkind: vendor.com/hook\nannotations: {{org.mobyproject.buildkit.device.autoallow: true}}\ndevices:\n- name: all\n  containerEdits:\n    hooks:\n{hooks}{inside}\
         - name: bad\n  containerEdits:\n    hooks:\n{}",
        host("createContainer", "fail")
    );
    devices.describe("hooks.yaml", &spec);
    let order = points.join("\n") + "\n";
    c.says("docker run --rm --device vendor.com/hook=all busybox cat /made /inside", "made\ninside\n");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), order);
    // In a step of a build, here over the classic endpoint, which has no grants.
    c.ok("mkdir -p ctx && printf 'FROM busybox\\nRUN --device=vendor.com/hook=all,required cat /made /inside > /seen\\n' > ctx/Dockerfile");
    c.ok("DOCKER_BUILDKIT=0 docker build -t $n/x ctx");
    c.says("docker run --rm $n/x cat /seen", "made\ninside\n");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), order.repeat(2));
    let failed = c.fails(125, "docker run --rm --device vendor.com/hook=bad busybox true");
    assert!(failed.contains("no luck"), "{failed}");
    // A container with hooks that is killed, by an engine that did not start it.
    std::fs::remove_file(&log).unwrap();
    c.ok("docker run -d --name $n --device vendor.com/hook=all busybox sleep 1000 >/dev/null");
    let mut devices = devices;
    devices.engine.kill9();
    devices.engine.restart();
    devices.c.ok("docker kill $n >/dev/null && docker wait $n >/dev/null");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), order);
    devices.finish();
}

fn devices_that_are_not_there_are_named(c: &Client) {
    let devices = Devices::new(c);
    let c = &devices.c;
    let daemon = |text: &str| format!("docker: Error response from daemon: {text}");
    let missing =
        "CDI device injection failed: unresolvable CDI devices vendor.com/class=dev, vendor.com/class=x";
    c.refuses(
        125,
        "docker run --rm --device vendor.com/class=dev --device vendor.com/class=x busybox true",
        &daemon(missing),
    );
    c.refuses(
        125,
        "docker run --rm --gpus all busybox true",
        &daemon("could not select device driver \"\" with capabilities: [[gpu]]"),
    );
    // As with dockerd, a container may be made before its device is there.
    c.ok("docker create --name $n --device vendor.com/class=dev busybox echo there");
    c.fails(1, "docker start -a $n");
    let spec = |edits: &str| {
        format!(
            "cdiVersion: 1.1.0\nkind: vendor.com/class\ndevices: [{{name: dev, containerEdits: {{{edits}}}}}]\n"
        )
    };
    devices.describe("dev.yaml", &spec("env: [A=1]"));
    c.says("docker start -a $n", "there\n");
    for (edits, right) in [
        ("deviceNodes: [{path: /dev/no-such-node}]", "failed to stat CDI host device \"/dev/no-such-node\""),
        (
            "mounts: [{hostPath: /no/such/path, containerPath: /x}]",
            "bind source path does not exist: /no/such/path",
        ),
        (
            "netDevices: [{hostInterfaceName: eth9, name: a}]",
            "netDevices of a CDI spec (here eth9) are not built",
        ),
        ("intelRdt: {closID: a}", "intelRdt of a CDI spec is not built"),
    ] {
        devices.describe("dev.yaml", &spec(edits));
        let said = c.fails(1, "docker start $n");
        assert!(said.contains(right), "{said}");
    }
    devices.describe("dev.yaml", "kind: [");
    let info = c.ok("docker info 2>&1");
    assert!(info.contains("CDI: Error associated with spec file"), "{info}");
    devices.finish();
}

fn gpus_are_devices_of_their_kind(c: &Client) {
    let devices = Devices::new(c);
    let device = |name: &str| format!("- {{name: '{name}', containerEdits: {{env: [GPU{name}=yes]}}}}\n");
    let spec = format!(
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n{}{}{}",
        device("0"),
        device("1"),
        device("all")
    );
    devices.describe("nvidia.yaml", &spec);
    for (gpus, right) in [("all", "GPUall"), ("2", "GPU0 GPU1"), ("'\"device=1\"'", "GPU1")] {
        let run = format!(
            "docker run --rm --gpus {gpus} busybox sh -c 'env | grep ^GPU | sort | cut -d= -f1 | xargs'"
        );
        devices.c.says(&run, &format!("{right}\n"));
    }
    devices.finish();
}

/// The annotations that BuildKit knows.
const AUTO: &str = "cdiVersion: 0.6.0
kind: vendor.com/auto
annotations: {org.mobyproject.buildkit.device.autoallow: true}
devices:
- {name: a, annotations: {org.mobyproject.buildkit.device.class: fast}, containerEdits: {env: [AUTO=a]}}
- {name: b, annotations: {org.mobyproject.buildkit.device.class: fast}, containerEdits: {env: [AUTOB=b]}}
";

fn steps_of_a_build_get_granted_devices(c: &Client) {
    let devices = Devices::new(c);
    let c = &devices.c;
    if c.program == Program::Docker && !buildx::buildx(c) {
        return devices.finish();
    }
    c.ok("mkdir -p ctx gift && echo present > gift/file");
    devices.describe("tool.yaml", &tool(&c.folder.join("gift").display().to_string()));
    devices.describe("auto.yaml", AUTO);
    let command = if c.program == Program::Docker {
        "docker buildx build --load"
    } else {
        "docker build --progress=plain"
    };
    let build = |lines: &str, flags: &str| {
        buildx::dockerfile(c, lines);
        c.run(&buildx::with(&format!("{command} -t $n/x {flags} . 2>&1")))
    };
    let works = |lines: &str, flags: &str| {
        let built = build(lines, flags);
        assert_eq!(built.code, 0, "{lines}\n{}", built.stdout);
        built.stdout
    };
    let fails = |lines: &str, flags: &str, right: &str| {
        let said = build(lines, flags).stdout;
        assert!(said.contains(right), "{lines}\n{said}");
    };
    let step = "RUN --device=vendor.com/tool=one,required echo $TOOL > /tool && cat /gift/file >> /tool && test -c /dev/tool/one && id -G >> /tool\n";
    let lines = format!("FROM busybox\n{step}RUN [ ! -e /dev/tool ] && [ ! -e /gift ] && [ -z \"$TOOL\" ]\n");
    fails(&lines, "", "device vendor.com/tool=one is requested by the build but not allowed");
    fails(
        &lines,
        "--allow device=vendor.com/tool=two",
        "device vendor.com/tool=one is requested by the build",
    );
    works(&lines, "--allow device=vendor.com/tool=one");
    c.says("docker run --rm $n/x cat /tool", "one\npresent\n0 77\n");
    // The grant is no part of the key, and the device is.
    let again = works(&lines, "--allow device");
    assert_eq!(again.matches("CACHED").count(), 3, "{again}");
    let aliased = lines.replace("tool=one", "thing=x");
    works(&aliased, "--allow 'device=vendor.com/tool=one,alias=vendor.com/thing=x'");
    works("FROM busybox\nRUN --device=vendor.com/auto=fast [ $AUTO$AUTOB = ab ]\n", "");
    works("FROM busybox\nRUN --device=vendor.com/auto [ $AUTO$AUTOB = a ]\n", "");
    // An optional one that is not there is none, until it is there.
    let optional = "FROM busybox\nRUN --device=vendor.com/new=x echo \"got:$NEW\" > /new\n";
    works(optional, "");
    c.says("docker run --rm $n/x cat /new", "got:\n");
    fails(
        &optional.replace("=x", "=x,required"),
        "--allow device",
        "required device \"vendor.com/new=x\" is not registered",
    );
    devices.describe(
        "new.yaml",
        "cdiVersion: 0.3.0\nkind: vendor.com/new\ndevices: [{name: x, containerEdits: {env: [NEW=new]}}]\n",
    );
    works(optional, "--allow device");
    c.says("docker run --rm $n/x cat /new", "got:new\n");
    for hostile in ["../../etc/passwd", "/etc/cdi/x=y", "vendor.com/../tool=one"] {
        let lines = format!("FROM busybox\nRUN --device={hostile} true\n");
        fails(&lines, "--allow device", &format!("invalid device \"{hostile}\""));
    }
    devices.finish();
}

fn clients_of_buildkit_see_devices(c: &Client) {
    let devices = Devices::new(c);
    let c = &devices.c;
    if !buildx::buildx(c) {
        return devices.finish();
    }
    devices.describe("tool.yaml", &tool("/"));
    devices.describe("auto.yaml", AUTO);
    let inspected = buildx::ok(c, "docker buildx inspect");
    let lines: Vec<String> =
        inspected.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let all = lines.join("\n");
    for right in [
        "Name: vendor.com/auto=a\nAutomatically allowed: true",
        "org.mobyproject.buildkit.device.class: fast",
        "Name: vendor.com/tool=two\nAutomatically allowed: false",
    ] {
        assert!(all.contains(right), "{right}\nis not in\n{all}");
    }
    devices.finish();
}

fn compose_gives_devices(c: &Client) {
    let devices = Devices::new(c);
    let c = &devices.c;
    if !buildx::has(c, &["docker-compose"]) {
        return devices.finish();
    }
    devices.describe("auto.yaml", AUTO);
    let file = "services:\n  it:\n    image: busybox\n    command: sh -c 'echo got $$AUTO'\n    network_mode: none\n    devices: ['vendor.com/auto=a']\n";
    std::fs::write(c.folder.join("ctx/compose.yaml"), file).unwrap();
    let said = buildx::ok(c, "docker compose -p $n up --no-log-prefix 2>&1; docker compose -p $n down 2>&1");
    assert!(said.contains("got a"), "{said}");
    devices.finish();
}
