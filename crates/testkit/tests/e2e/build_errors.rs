//! What is wrong with a Dockerfile or its context is said with the line, the reason and what to do.

use crate::build_table::{context, script};
use crate::case::cases;
use crate::client::{Client, Program, shown};

cases![
    Both:
        mistakes_are_named_with_their_line.differs("the texts are our own"),
        hostile_archives_stay_inside.differs("the texts are our own"),
        files_that_cannot_be_read_are_named.differs("the texts are our own");
];

/// Name, flags, Dockerfile, what must be said (each piece).
type Mistake = (&'static str, &'static str, &'static str, &'static [&'static str]);

const MISTAKES: &[Mistake] = &[
    (
        "unknown-instruction",
        "",
        "FROM busybox\nRUNN true\n",
        &[">>> RUNN true", "line 2: unknown instruction: RUNN", "RUN"],
    ),
    (
        "unknown-flag",
        "",
        "FROM busybox\nCOPY --form=x a b\n",
        &[">>> COPY --form", "unknown flag: --form", "from"],
    ),
    (
        "no-source",
        "",
        "FROM busybox\nCOPY a.txt\n",
        &["COPY requires at least two arguments", ">>> COPY a.txt"],
    ),
    ("no-from", "", "RUN true\n", &["no build stage in current context"]),
    ("empty", "", "\n", &["file with no instructions"]),
    ("heredoc-open", "", "FROM busybox\nRUN <<EOF\nx\n", &["unterminated heredoc"]),
    (
        "bad-json",
        "",
        "FROM busybox\nSHELL /bin/sh\n",
        &["SHELL requires the arguments to be in JSON form", ">>> SHELL"],
    ),
    (
        "bad-variable",
        "",
        "FROM busybox\nENV A=${B:?no B}\nRUN true\n",
        &["can't find =", "double quotes", ">>> ENV"],
    ),
    ("bad-port", "", "FROM busybox\nEXPOSE 80/foo\n", &["invalid proto: foo", ">>> EXPOSE"]),
    ("bad-signal", "", "FROM busybox\nSTOPSIGNAL NOPE\n", &["invalid signal: NOPE", ">>> STOPSIGNAL"]),
    (
        "bad-mount",
        "",
        "FROM busybox\nRUN --mount=type=cahce,target=/x true\n",
        &["unsupported mount type \"cahce\"", "cache", ">>> RUN"],
    ),
    (
        "bad-chmod",
        "",
        "FROM busybox\nCOPY --chmod=9 a.txt /\n",
        &["invalid chmod parameter", "0755", ">>> COPY"],
    ),
    (
        "bad-user",
        "",
        "FROM busybox\nCOPY --chown=nobodyatall a.txt /\n",
        &["unable to find user nobodyatall", "use its number", ">>> COPY"],
    ),
    ("bad-image", "", "FROM BusyBox\n", &["must be lowercase", ">>> FROM BusyBox"]),
    (
        "bad-epoch",
        "--build-arg SOURCE_DATE_EPOCH=never",
        "FROM busybox\nRUN true\n",
        &["invalid SOURCE_DATE_EPOCH"],
    ),
    (
        "bad-syntax-line",
        "",
        "# syntax=none.invalid/other:1\nFROM busybox\n",
        &["cannot get the frontend none.invalid/other:1", ">>> # syntax=none.invalid/other:1"],
    ),
    ("blank-base", "", "ARG BASE\nFROM $BASE\n", &["should not be blank", "ARG BASE", ">>> FROM $BASE"]),
    ("missing-base", "", "FROM none.invalid/x:1\n", &["none.invalid/x", ">>> FROM none.invalid/x:1"]),
    (
        "missing-platform",
        "--platform linux/s390x",
        "FROM busybox\nRUN true\n",
        &["busybox", "linux/s390x", ">>> FROM busybox"],
    ),
    (
        "missing-file",
        "",
        "FROM busybox\nCOPY A.TXT /\n",
        &["\"/A.TXT\": not found", "did you mean /a.txt?", ">>> COPY A.TXT"],
    ),
    (
        "missing-in-stage",
        "",
        "FROM busybox AS s\nFROM busybox\nCOPY --from=s /none /\n",
        &["\"/none\": not found", ">>> COPY --from=s"],
    ),
    (
        "ignored-file",
        "",
        "FROM busybox\nCOPY debug.log /\n",
        &["\"/debug.log\": not found", "the ignore pattern \"*.log\"", ">>> COPY debug.log"],
    ),
    (
        "link-out",
        "",
        "FROM busybox\nCOPY passwd /\n",
        &["\"/passwd\": not found", "links do not lead out of the build context"],
    ),
    (
        "link-up",
        "",
        "FROM busybox\nCOPY up/x /\n",
        &["not found", "links do not lead out of the build context"],
    ),
    (
        "unknown-target",
        "--target biuld",
        "FROM busybox AS build\nRUN true\n",
        &["target stage \"biuld\" could not be found", "build"],
    ),
    ("own-stage", "", "FROM busybox AS s\nCOPY --from=s /a /\n", &["circular dependency", ">>> "]),
    (
        "later-stage-cycle",
        "",
        "FROM busybox AS a\nCOPY --from=b /x /\nFROM busybox AS b\nCOPY --from=a /x /\n",
        &["circular dependency"],
    ),
    (
        "missing-secret",
        "",
        "FROM busybox\nRUN --mount=type=secret,id=token,required true\n",
        &["secret token: not found", "--secret id=token", ">>> RUN"],
    ),
    ("missing-agent", "", "FROM busybox\nRUN --mount=type=ssh,required true\n", &["ssh", "--ssh", ">>> RUN"]),
    (
        "no-right",
        "",
        "FROM busybox\nRUN --security=insecure true\n",
        &["security.insecure is not allowed", "--allow security.insecure", ">>> RUN"],
    ),
    (
        "program-missing",
        "",
        "FROM busybox\nRUN nonesuch --x\n",
        &["exit code: 127", "127 means that a program was not found", ">>> RUN nonesuch"],
    ),
    (
        "program-no-shell",
        "",
        "FROM busybox\nRUN [\"/none/such\"]\n",
        &["process \"/none/such\" did not complete successfully", ">>> RUN"],
    ),
    (
        "step-fails",
        "",
        "FROM busybox\nRUN echo said; exit 3\n",
        &["said", "exit code: 3", ">>> RUN echo said"],
    ),
    (
        "copy-over-directory",
        "",
        "FROM busybox\nRUN mkdir -p /d/a.txt\nCOPY a.txt /d/\n",
        &["a.txt", "directory", ">>> COPY"],
    ),
    (
        "several-to-a-file",
        "",
        "FROM busybox\nRUN touch /f\nCOPY a.txt b.txt /f/\n",
        &["/f", "not a directory", ">>> COPY"],
    ),
    (
        "mount-missing",
        "",
        "FROM busybox\nRUN --mount=type=bind,source=none,target=/x true\n",
        &["\"/none\": not found", ">>> RUN"],
    ),
    (
        "workdir-on-file",
        "",
        "FROM busybox\nRUN touch /w\nWORKDIR /w/x\n",
        &["/w", "not a directory", ">>> WORKDIR"],
    ),
    ("chained-onbuild", "", "FROM busybox\nONBUILD ONBUILD RUN x\n", &["Chaining ONBUILD", ">>> ONBUILD"]),
    ("copy-reserved-name", "", "FROM busybox\nCOPY .wh.x /\n", &[".wh.", "rename it", ">>> COPY"]),
];

fn mistakes_are_named_with_their_line(c: &Client) {
    context(c);
    c.ok("cd ctx && ln -s /etc/passwd passwd && ln -s ../../.. up && echo '*.log' > .dockerignore && touch .wh.x");
    let mut failures = Vec::new();
    for (name, flags, dockerfile, pieces) in MISTAKES {
        std::fs::write(c.folder.join("ctx/Dockerfile"), dockerfile).unwrap();
        let outcome = c.run(&script(c, &format!("build {flags} ctx 2>&1")));
        let missing: Vec<_> = pieces.iter().filter(|piece| !outcome.stdout.contains(**piece)).collect();
        if outcome.code == 0 || !missing.is_empty() {
            failures.push(format!("== {name}: not said: {missing:?}\n{dockerfile}{}", shown(&outcome)));
        }
    }
    for (flags, piece) in [
        ("-t case/UPPER", "invalid"),
        ("-t a:b:c", "invalid"),
        ("--ulimit x", "invalid ulimit"),
        ("-f none", "none"),
    ] {
        c.ok("echo FROM busybox > ctx/Dockerfile");
        let outcome = c.run(&script(c, &format!("build {flags} ctx 2>&1")));
        if outcome.code == 0 || !outcome.stdout.contains(piece) {
            failures.push(format!("== {flags}: not said: {piece:?}\n{}", shown(&outcome)));
        }
    }
    c.ok("(echo FROM busybox; yes '# far too long' | head -c 9m) > ctx/Dockerfile");
    let outcome = c.run(&script(c, "build ctx 2>&1"));
    if outcome.code == 0 || !outcome.stdout.contains("larger than") {
        failures.push(format!("== huge: {}", shown(&outcome)));
    }
    // Chains are refused before they fill a stack.
    let from: String = (1..=300).map(|stage| format!("FROM s{} AS s{stage}\n", stage - 1)).collect();
    let copy = |stage| format!("FROM busybox AS c{stage}\nCOPY --from=c{} /bin/sh /x\n", stage + 1);
    let copy: String = (1..=300).map(copy).collect();
    for (chain, target) in
        [(format!("FROM busybox AS s0\n{from}"), "s300"), (format!("{copy}FROM busybox AS c301\n"), "c1")]
    {
        std::fs::write(c.folder.join("ctx/Dockerfile"), chain).unwrap();
        let outcome = c.run(&script(c, &format!("build --target {target} ctx 2>&1")));
        if outcome.code == 0 || !outcome.stdout.contains("more than 200 deep") {
            failures.push(format!("== chain to {target}: {}", shown(&outcome)));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} went wrong\n{}",
        failures.len(),
        MISTAKES.len(),
        failures.join("\n")
    );
}

fn hostile_archives_stay_inside(c: &Client) {
    c.ok(r#"mkdir -p ctx && python3 - <<'P'
import tarfile, io
def add(tar, name, data=b'', kind=tarfile.REGTYPE, link=''):
    info = tarfile.TarInfo(name); info.size = len(data); info.type = kind; info.linkname = link
    tar.addfile(info, io.BytesIO(data))
with tarfile.open('ctx/up.tar', 'w') as tar: add(tar, '../../../../escaped', b'x')
with tarfile.open('ctx/abs.tar', 'w') as tar: add(tar, '/inside', b'x')
with tarfile.open('ctx/link.tar', 'w') as tar:
    add(tar, 'l', kind=tarfile.SYMTYPE, link='../../../../../../../tmp'); add(tar, 'l/escaped-of-link', b'x')
with tarfile.open('ctx/hard.tar', 'w') as tar: add(tar, 'h', kind=tarfile.LNKTYPE, link='../../../../etc/shadow')
with tarfile.open('ctx/cut.tar', 'w') as tar: add(tar, 'f', b'x' * 5000)
open('ctx/cut.tar', 'r+b').truncate(3000)
P
head -c 1g /dev/zero | gzip -1 > ctx/zeros.tar.gz"#);
    // A tar that would lead out is refused or stays below the destination.
    for tar in ["up", "abs", "link", "hard", "cut"] {
        std::fs::write(c.folder.join("ctx/Dockerfile"), format!("FROM busybox\nADD {tar}.tar /d/\n"))
            .unwrap();
        let outcome = c.run(&script(c, &format!("build -t $n/{tar} ctx 2>&1")));
        assert!(tar != "cut" || outcome.code != 0, "{}", shown(&outcome));
        if outcome.code != 0 {
            assert!(
                outcome.stdout.contains(&format!("{tar}.tar")) && outcome.stdout.contains(">>> ADD"),
                "{tar}: {}",
                shown(&outcome)
            );
        } else {
            c.says(&format!("docker run --rm $n/{tar} sh -c 'ls /escaped /tmp/escaped-of-link /etc/shadow 2>/dev/null'; true"), "");
        }
    }
    c.ok("! ls /escaped /tmp/escaped-of-link 2> /dev/null");
    // No tar, though it is compressed: copied as it is.
    std::fs::write(
        c.folder.join("ctx/Dockerfile"),
        "FROM busybox\nADD zeros.tar.gz /d/\nRUN ls -l /d && [ $(du -sk /d | cut -f1) -lt 20000 ]\n",
    )
    .unwrap();
    crate::build_table::ok(c, "build ctx > out 2>&1 || { cat out; exit 1; }");
}

fn files_that_cannot_be_read_are_named(c: &Client) {
    context(c);
    // A file that is there and cannot be opened for reading, whoever asks.
    c.ok("cd ctx && ln -s loop loop && mkfifo pipe && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'");
    for (source, said) in [("loop", "loop"), ("sock", "sock")] {
        std::fs::write(c.folder.join("ctx/Dockerfile"), format!("FROM busybox\nCOPY {source} /x\n")).unwrap();
        let outcome = c.run(&script(c, "build ctx 2>&1"));
        let classic_has_no_sockets = c.program == Program::Docker && source == "sock";
        assert!(
            outcome.code != 0 && (outcome.stdout.contains(said) || classic_has_no_sockets),
            "{}",
            shown(&outcome)
        );
    }
    // A pipe is copied as one, and nobody waits for who would write into it.
    std::fs::write(c.folder.join("ctx/Dockerfile"), "FROM busybox\nCOPY pipe /x\nRUN [ -p /x ]\n").unwrap();
    crate::build_table::ok(
        c,
        "rm ctx/sock; timeout 100 bash -c \"$(declare -f build); client=$client build ctx\"",
    );
}
