//! Starts that fail, and commands that cannot be.

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        unknown_images_are_named,
        bad_references_are_refused,
        a_bad_request_is_refused_before_its_image_is_looked_for,
        bad_flags_and_commands_are_refused,
        a_missing_program_is_named.differs_from_old("texts were others"),
        a_missing_loader_is_named.differs("the reason of a failed start is named"),
        a_missing_shebang_interpreter_is_named.differs("the reason of a failed start is named"),
        a_shebang_with_crlf_is_named.differs("the reason of a failed start is named"),
        a_wrong_architecture_is_named.differs("the reason of a failed start is named"),
        a_file_without_x_is_named.differs("the reason of a failed start is named"),
        failed_starts_keep_their_code,
        hints_are_said_once.differs("what to do comes with the error"),
        an_engine_that_is_not_there_is_named;
];

/// Runs a program of an image made of busybox and these commands; gives what the failed start says.
fn failed_start(c: &Client, make: &str, program: &str, code: i32) -> String {
    c.ok(&format!(
        "rm -rf r; mkdir r; tar -xf $busybox -C r; (cd r && {make}); tar -C r -c . | docker import - $n/a"
    ));
    c.fails(code, &format!("docker run --rm --name $n $n/a {program}"))
}

fn a_bad_request_is_refused_before_its_image_is_looked_for(c: &Client) {
    let text = c.fails(125, "docker run --rm --memory 1k $n-none true");
    assert!(text.contains("Minimum memory limit allowed is 6MB"), "{text}");
}

fn unknown_images_are_named(c: &Client) {
    let text = c.fails(125, "docker run --pull never $n/none true");
    assert!(text.contains(&format!("No such image: {}/none:latest", c.n)), "{text}");
    c.refuses(
        1,
        "docker create --pull never --name $n $n/none:v1",
        &format!("Error response from daemon: No such image: {}/none:v1", c.n),
    );
    let text = c.fails(125, "docker run --name $n localhost:1/$n/none true");
    assert!(
        text.starts_with(&format!("Unable to find image 'localhost:1/{}/none:latest' locally\n", c.n)),
        "{text}"
    );
    c.says("docker ps -aq --filter name=$n", "");
}

fn bad_references_are_refused(c: &Client) {
    for (reference, reason) in [
        ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
        ("busybox:bad!tag", "invalid reference format"),
        ("busybox::", "invalid reference format"),
        ("-busybox-", "unknown shorthand flag: 'b' in -busybox-"),
    ] {
        let text = c.fails(125, &format!("docker run '{reference}' true"));
        assert!(text.contains(reason), "{reference}: {text}");
    }
    let text = c.fails(125, "docker run '' true");
    assert!(text.contains("invalid reference format"), "{text}");
}

fn bad_flags_and_commands_are_refused(c: &Client) {
    let outcome = c.run("docker run --nosuchflag busybox");
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            125,
            "unknown flag: --nosuchflag\n\nUsage:  docker run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun 'docker run --help' for more information\n"
        )
    );
    let outcome = c.run("docker ps --nosuchflag");
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            125,
            "unknown flag: --nosuchflag\n\nUsage:  docker ps [OPTIONS]\n\nRun 'docker ps --help' for more information\n"
        )
    );
    let outcome = c.run("docker nosuchcommand");
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (1, "docker: unknown command: docker nosuchcommand\n\nRun 'docker --help' for more information\n")
    );
    let outcome = c.run("docker rm");
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (
            1,
            "docker: 'docker rm' requires at least 1 argument\n\nUsage:  docker rm [OPTIONS] CONTAINER [CONTAINER...]\n\nSee 'docker rm --help' for more information\n"
        )
    );
    c.refuses(125, "docker run -e", "flag needs an argument: 'e' in -e");
    c.refuses(125, "docker run --name", "flag needs an argument: --name");
    c.refuses(125, "docker stop -t soon $n", "invalid argument \"soon\" for \"-t, --timeout\" flag: strconv.ParseInt: parsing \"soon\": invalid syntax");
    c.refuses(125, "docker run -z", "unknown shorthand flag: 'z' in -z");
    c.refuses(1, "docker ps extra", "docker: 'docker ps' accepts no arguments");
    // Flags after the image are the program's.
    c.says("docker run --rm busybox echo -n --rm -e x", "--rm -e x");
}

fn a_missing_program_is_named(c: &Client) {
    let text = c.fails(127, "docker run --rm busybox nosuchprogram");
    assert!(
        text.starts_with("docker: Error response from daemon: failed to create task for container: "),
        "{text}"
    );
    assert!(text.contains("exec: \"nosuchprogram\": executable file not found in $PATH"), "{text}");
    let text = c.fails(127, "docker run --rm busybox /no/such/program");
    assert!(
        text.contains("exec: \"/no/such/program\": stat /no/such/program: no such file or directory"),
        "{text}"
    );
    let text = c.fails(126, "docker run --rm busybox /etc");
    assert!(
        text.contains("exec: \"/etc\": is a directory") || text.contains("exec: \"/etc\": permission denied"),
        "{text}"
    );
    assert!(text.ends_with("\nRun 'docker run --help' for more information\n"), "{text}");
}

fn a_missing_loader_is_named(c: &Client) {
    // The host's own shell is dynamic; its loader is not in the image.
    let text = failed_start(c, "cp $(readlink -f /bin/bash) dyn", "/dyn", 127);
    let loader = c.line(
        "readelf -l $(readlink -f /bin/bash) 2>/dev/null | grep -o '/[^]]*ld-linux[^]]*' || echo ld-linux",
    );
    assert!(text.contains(&loader), "{text}");
}

fn a_missing_shebang_interpreter_is_named(c: &Client) {
    let text =
        failed_start(c, "printf '#!/usr/bin/python9\\nx\\n' > script && chmod +x script", "/script", 127);
    assert!(text.contains("/usr/bin/python9"), "{text}");
}

fn a_shebang_with_crlf_is_named(c: &Client) {
    let text =
        failed_start(c, "printf '#!/bin/sh\\r\\necho hi\\r\\n' > script && chmod +x script", "/script", 127);
    assert!(
        text.to_lowercase().contains("crlf") || text.to_lowercase().contains("carriage return"),
        "{text}"
    );
}

fn a_wrong_architecture_is_named(c: &Client) {
    // The header says s390x; nothing else matters.
    let text = failed_start(
        c,
        "cp bin/busybox other && printf '\\x16\\x00' | dd of=other bs=1 seek=18 conv=notrunc 2>/dev/null",
        "/other",
        125,
    );
    assert!(text.contains("exec format error"), "{text}");
    let text = failed_start(
        c,
        "cp bin/busybox other && printf '\\xb7\\x00' | dd of=other bs=1 seek=18 conv=notrunc 2>/dev/null",
        "/other",
        125,
    );
    assert!(text.contains("arm64") || text.contains("aarch64"), "{text}");
    assert!(text.contains("amd64") || text.contains("x86_64"), "{text}");
}

fn a_file_without_x_is_named(c: &Client) {
    let text = failed_start(c, "echo x > script", "/script", 126);
    assert!(text.contains("exec: \"/script\": permission denied"), "{text}");
    assert!(text.contains("chmod +x /script"), "{text}");
}

fn failed_starts_keep_their_code(c: &Client) {
    c.fails(127, "docker run --name $n busybox nosuchprogram");
    assert_eq!(c.inspect("$n", "{{.State.Status}} {{.State.ExitCode}}"), "created 127");
    let text = c.inspect("$n", "{{.State.Error}}");
    assert!(text.contains("executable file not found in $PATH"), "{text}");
    c.says("docker rm $n", &format!("{}\n", c.n));
}

fn hints_are_said_once(c: &Client) {
    let text = c.fails(126, "docker run --rm busybox /etc/passwd");
    assert_eq!(text.matches("chmod +x /etc/passwd").count(), 1, "{text}");
    c.ok("docker create --name $n busybox true");
    let text = c.fails(1, "docker create --name $n busybox true");
    assert_eq!(text.matches("remove it with: yare rm").count(), 1, "{text}");
}

fn an_engine_that_is_not_there_is_named(c: &Client) {
    let text = c.fails(1, "DOCKER_HOST=unix://$PWD/none.sock docker ps");
    let socket = c.folder.join("none.sock");
    assert!(
        text.contains(&format!(
            "Cannot connect to the Docker daemon at unix://{}. Is the docker daemon running?",
            socket.display()
        )),
        "{text}"
    );
    let text = c.fails(125, "docker -H unix://$PWD/none.sock run --rm busybox true");
    assert!(text.contains("none.sock"), "{text}");
}
