//! Flags of create and run, each as the program in the container sees it.

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        env_is_set_merged_and_passed_on,
        env_file_is_read,
        labels_come_from_flags_and_files,
        workdir_is_made,
        user_takes_every_form,
        user_that_is_unknown_is_named,
        group_add_adds,
        entrypoint_is_replaced,
        hostname_and_domainname_are_set,
        tmpfs_is_mounted_with_its_options,
        read_only_is_read_only,
        devices_are_passed,
        sysctls_are_set,
        namespaces_are_shared_on_request,
        oom_score_is_adjusted,
        mac_address_is_set.differs_from_old("addresses of networks came with API 1.44"),
        attach_chooses_streams,
        pull_never_does_not_ask_a_registry,
        platform_must_fit,
        annotations_and_more_are_kept.differs_from_old("annotations came with API 1.43"),
        root_looks_as_programs_expect;
];

fn env_is_set_merged_and_passed_on(c: &Client) {
    c.ok("docker import --change 'ENV FROM=image KEEP=kept' $busybox $n/a");
    c.says(
        "PASSED='on us' docker run --rm -e FROM=flag --env EMPTY= -e PASSED -e MISSING_$n $n/a sh -c 'echo $FROM $KEEP [$EMPTY] $PASSED; env | grep -c MISSING; true'",
        "flag kept [] on us\n0\n",
    );
    c.says(
        "docker run --rm --hostname h busybox env | grep -v ^SHLVL | sort",
        "HOME=/root\nHOSTNAME=h\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    );
    c.says("docker run --rm -t busybox env | tr -d '\\r' | grep ^TERM", "TERM=xterm\n");
    c.says("docker run --rm -e 'A=x=y z' busybox sh -c 'echo \"$A\"'", "x=y z\n");
}

fn env_file_is_read(c: &Client) {
    c.ok("printf '# words\\nA=1\\n\\nB=two words\\nC=\\nHOME_OF\\n  D=4\\n' > env.txt");
    c.says(
        "HOME_OF=here docker run --rm --env-file env.txt -e A=over busybox sh -c 'echo $A/$B/$C/$HOME_OF/$D'",
        "over/two words//here/4\n",
    );
    let text = c.fails(125, "docker run --rm --env-file none.txt busybox true");
    assert!(text.contains("open none.txt: no such file or directory"), "{text}");
    let text = c.fails(125, "echo 'not a name=1' > bad.txt; docker run --rm --env-file bad.txt busybox true");
    assert!(text.contains("variable 'not a name' contains whitespaces"), "{text}");
}

fn labels_come_from_flags_and_files(c: &Client) {
    c.ok("printf 'file=yes\\nboth=file\\n' > labels.txt");
    c.ok("docker import --change 'LABEL image=yes both=image' $busybox $n/a");
    c.ok("docker create --name $n -l both=flag --label bare --label-file labels.txt $n/a true");
    c.says(
        "docker inspect -f '{{json .Config.Labels}}' $n",
        "{\"bare\":\"\",\"both\":\"flag\",\"file\":\"yes\",\"image\":\"yes\"}\n",
    );
}

fn workdir_is_made(c: &Client) {
    c.says(
        "docker run --rm -w /made/on/the/way busybox sh -c 'pwd; ls -ld . | cut -c1-10'",
        "/made/on/the/way\ndrwxr-xr-x\n",
    );
    c.refuses(
        125,
        "docker run --rm --name $n --workdir relative busybox pwd",
        "docker: Error response from daemon: the working directory 'relative' is invalid, it needs to be an absolute path",
    );
    let text = c.fails(125, "docker run --rm -w /etc/passwd busybox pwd");
    assert!(text.contains("/etc/passwd") && text.contains("not a directory"), "{text}");
}

fn user_takes_every_form(c: &Client) {
    let id = |user: &str| {
        c.line(&format!("docker run --rm -u {user} busybox sh -c 'echo $(id -u) $(id -g) $(id -G) $HOME'"))
    };
    assert_eq!(id("app"), "1000 1000 1000 2000 /home");
    assert_eq!(id("1000"), "1000 1000 1000 2000 /home");
    assert_eq!(id("app:extra"), "1000 2000 2000 /home");
    assert_eq!(id("app:7"), "1000 7 7 /home");
    assert_eq!(id("4242"), "4242 0 0 /");
    assert_eq!(id("4242:4343"), "4242 4343 4343 /");
    assert_eq!(id("root"), "0 0 0 /root");
    c.ok("docker import --change 'USER app' $busybox $n/a");
    c.says("docker run --rm $n/a id -un", "app\n");
    c.says("docker run --rm --user 0 $n/a id -u", "0\n");
}

fn user_that_is_unknown_is_named(c: &Client) {
    let text = c.fails(125, "docker run --rm -u nobodyhome busybox true");
    assert!(text.contains("unable to find user nobodyhome: no matching entries in passwd file"), "{text}");
    let text = c.fails(125, "docker run --rm -u app:nogroupatall busybox true");
    assert!(text.contains("unable to find group nogroupatall: no matching entries in group file"), "{text}");
    c.comes_to("docker ps -aq --filter name=$n", "");
}

fn group_add_adds(c: &Client) {
    c.says("docker run --rm -u app --group-add 77 --group-add extra busybox id -G", "1000 77 2000\n");
}

fn entrypoint_is_replaced(c: &Client) {
    c.ok("docker import --change 'ENTRYPOINT [\"echo\",\"entry\"]' --change 'CMD [\"cmd\"]' $busybox $n/a");
    c.says("docker run --rm $n/a; docker run --rm $n/a word", "entry cmd\nentry word\n");
    c.says("docker run --rm --entrypoint printf $n/a 'x%sx\\n' y", "xyx\n");
    // An entrypoint of one's own drops the image's command.
    c.says("docker run --rm --entrypoint echo $n/a", "\n");
    c.says("docker run --rm --entrypoint '' $n/a echo plain", "plain\n");
}

fn hostname_and_domainname_are_set(c: &Client) {
    c.says("docker run --rm -h box busybox sh -c 'hostname; cat /etc/hostname; echo $HOSTNAME; grep -c box /etc/hosts'", "box\nbox\nbox\n1\n");
    let id = c.line("docker run -d --name $n busybox sleep 1000");
    c.says("docker exec $n hostname", &format!("{}\n", &id[..12]));
    c.says("docker run --rm --hostname box --domainname example.test busybox sh -c 'hostname -f; cat /proc/sys/kernel/domainname'", "box.example.test\nexample.test\n");
}

fn tmpfs_is_mounted_with_its_options(c: &Client) {
    c.says("docker run --rm --tmpfs /t:rw,size=64k,mode=1700,uid=5 busybox sh -c 'stat -c \"%a %u\" /t; df -k /t | tail -1 | awk \"{print \\$2}\"'", "1700 5\n64\n");
    // Some kernels say inode64, which is how they were built.
    c.says(
        "docker run --rm --tmpfs /t busybox sh -c 'grep \" /t \" /proc/mounts | cut -d\" \" -f3,4 | sed s/,inode64//'",
        "tmpfs rw,nosuid,nodev,noexec,relatime\n",
    );
    c.says("docker run --rm --tmpfs /t:exec busybox sh -c 'cp /bin/busybox /t/echo; /t/echo runs'", "runs\n");
    c.says("docker run --rm --mount type=tmpfs,dst=/t,tmpfs-size=32k,tmpfs-mode=700 busybox sh -c 'stat -c %a /t; df -k /t | tail -1 | awk \"{print \\$2}\"'", "700\n32\n");
    c.fails(1, "docker run --rm --tmpfs /t:size=64k busybox dd if=/dev/zero of=/t/x bs=1k count=100");
}

fn read_only_is_read_only(c: &Client) {
    let text = c.fails(1, "docker run --rm --read-only busybox touch /x");
    assert_eq!(text, "touch: /x: Read-only file system\n");
    c.says("docker run --rm --read-only --tmpfs /t -v /v busybox sh -c 'touch /t/x /v/x /dev/shm/x && echo wrote'", "wrote\n");
    // What the engine mounts for /etc is read-only with the rest.
    c.fails(1, "docker run --rm --read-only busybox sh -c 'echo >> /etc/resolv.conf'");
    c.says(
        "docker run --rm busybox sh -c 'echo \"1.2.3.4 x\" >> /etc/hosts && tail -1 /etc/hosts'",
        "1.2.3.4 x\n",
    );
}

fn devices_are_passed(c: &Client) {
    c.ok("test -e /dev/loop-control || mknod /dev/loop-control c 10 237");
    c.says(
        "docker run --rm --device /dev/loop-control busybox stat -c '%t:%T %F' /dev/loop-control",
        "a:ed character special file\n",
    );
    c.says("docker run --rm --device /dev/kmsg:/dev/xkmsg:r busybox sh -c 'test -c /dev/xkmsg && echo there; echo x > /dev/xkmsg'; true", "there\n");
    // The client takes "no such file" for a missing program.
    let missing = c.run("docker run --rm --device /dev/nosuchdevice busybox true");
    assert!([125, 127].contains(&missing.code), "{missing:?}");
    assert!(missing.stderr.contains("/dev/nosuchdevice"), "{missing:?}");
    // Without the flag neither the node nor the right is there.
    let text = c.fails(1, "docker run --rm busybox sh -c 'ls /dev/kmsg || (mknod /tmp/k c 1 11 && cat /tmp/k)' 2>&1 >/dev/null || { docker run --rm busybox sh -c 'mknod /tmp/k c 1 11 && head -c1 /tmp/k'; exit 1; }");
    assert!(text.contains("Operation not permitted"), "{text}");
    // There is a link named core where the kernel has /proc/kcore.
    c.says(
        "docker run --rm busybox sh -c 'ls /dev | grep -vx core | sort | tr \"\\n\" \" \"'",
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ",
    );
}

fn sysctls_are_set(c: &Client) {
    c.says(
        "docker run --rm --sysctl net.ipv4.ip_default_ttl=77 busybox cat /proc/sys/net/ipv4/ip_default_ttl",
        "77\n",
    );
    c.says("docker run --rm busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0\n");
    let text = c.fails(125, "docker run --rm --sysctl kernel.nosuch=1 busybox true");
    assert!(text.contains("kernel.nosuch"), "{text}");
}

fn namespaces_are_shared_on_request(c: &Client) {
    c.ok("docker run -d --name $n --ipc shareable busybox sleep 1000");
    let of = |kind: &str| {
        c.line(&format!("readlink /proc/$(docker inspect -f '{{{{.State.Pid}}}}' $n)/ns/{kind}"))
    };
    c.says(
        "docker run --rm --pid container:$n busybox readlink /proc/self/ns/pid",
        &format!("{}\n", of("pid")),
    );
    c.says(
        "docker run --rm --ipc container:$n busybox readlink /proc/self/ns/ipc",
        &format!("{}\n", of("ipc")),
    );
    c.says(
        "docker run --rm --network container:$n busybox readlink /proc/self/ns/net",
        &format!("{}\n", of("net")),
    );
    let host = c.line("readlink /proc/self/ns/pid");
    c.says("docker run --rm --pid host busybox readlink /proc/self/ns/pid", &format!("{host}\n"));
    let host = c.line("readlink /proc/self/ns/uts");
    c.says("docker run --rm --uts host busybox readlink /proc/self/ns/uts", &format!("{host}\n"));
    assert_ne!(of("uts"), host);
    let text = c.fails(125, "docker run --rm --pid container:$n-none busybox true");
    assert!(text.contains(&format!("No such container: {}-none", c.n)), "{text}");
}

fn oom_score_is_adjusted(c: &Client) {
    c.says("docker run --rm --oom-score-adj 300 busybox cat /proc/self/oom_score_adj", "300\n");
    let text = c.fails(125, "docker run --rm --oom-score-adj 2000 busybox true");
    assert!(text.contains("Invalid value 2000, range for oom score adj is [-1000, 1000]"), "{text}");
}

fn mac_address_is_set(c: &Client) {
    c.says(
        "docker run --rm --mac-address 02:42:ac:11:99:88 busybox cat /sys/class/net/eth0/address",
        "02:42:ac:11:99:88\n",
    );
    let text = c.fails(125, "docker run --rm --mac-address nonsense busybox true");
    assert!(text.contains("nonsense"), "{text}");
}

fn attach_chooses_streams(c: &Client) {
    let outcome = c.run("docker run --rm -a stderr busybox sh -c 'echo out; echo err >&2'");
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "", "err\n"));
    let outcome = c.run("docker run --rm -a stdout busybox sh -c 'echo out; echo err >&2'");
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "out\n", ""));
    c.says("echo in | docker run --rm -i -a stdin -a stdout busybox cat", "in\n");
    c.refuses(
        1,
        "docker run --rm -d -a stdout busybox true",
        "conflicting options: cannot specify both --attach and --detach",
    );
}

fn pull_never_does_not_ask_a_registry(c: &Client) {
    let text = c.fails(125, "docker run --rm --pull never $n/none true");
    assert!(
        text.starts_with(&format!("docker: Error response from daemon: No such image: {}/none:latest", c.n)),
        "{text}"
    );
    c.says("docker run --rm --pull=missing busybox echo here", "here\n");
    let text = c.fails(125, "docker run --rm --pull sometimes busybox true");
    assert!(text.contains("sometimes"), "{text}");
}

fn platform_must_fit(c: &Client) {
    c.says("docker run --rm --pull never --platform linux/amd64 busybox echo fits", "fits\n");
    c.fails(125, "docker run --rm --pull never --platform linux/s390x busybox true");
    let text = c.fails(125, "docker run --rm --pull never --platform no/such/platform/at-all busybox true");
    assert!(text.contains("no/such/platform/at-all"), "{text}");
}

fn annotations_and_more_are_kept(c: &Client) {
    c.ok("docker create --name $n --annotation a=b --stop-signal SIGINT --stop-timeout 7 --expose 99 --runtime runc --cgroupns private -q busybox true");
    c.says(
        "docker inspect -f '{{json .HostConfig.Annotations}} {{.Config.StopSignal}} {{.Config.StopTimeout}} {{json .Config.ExposedPorts}} {{.HostConfig.CgroupnsMode}}' $n",
        "{\"a\":\"b\"} SIGINT 7 {\"99/tcp\":{}} private\n",
    );
}

fn root_looks_as_programs_expect(c: &Client) {
    c.says(
        "docker run --rm busybox sh -c 'for f in fd stdin stdout stderr ptmx; do readlink /dev/$f; done'",
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n",
    );
    c.says("docker run --rm busybox sh -c 'umask; cat /proc/1/oom_score_adj'", "0022\n0\n");
    let kinds = "devpts|mqueue|overlay|proc|sysfs|tmpfs";
    c.says(
        &format!("docker run --rm busybox awk '{{print $3}}' /proc/mounts | grep -xE '{kinds}' | sort -u | tr '\\n' '|'"),
        &format!("{kinds}|"),
    );
    c.says("docker run --rm busybox test -e /.dockerenv && echo a container", "a container\n");
    c.says("docker run --rm busybox sh -c 'ls /proc/self/fd | wc -l'", "4\n");
}
