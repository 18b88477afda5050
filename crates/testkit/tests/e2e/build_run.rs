//! `RUN` with its mounts and flags, and the options that steps get.

use crate::build_table::{Row, build_all, ok};
use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        mounts_show_what_they_should.differs("its classic builder knows no mounts"),
        steps_have_their_limits.differs("its classic builder gives other files"),
        a_step_out_of_memory_is_named_so.differs("the texts are our own");
    Docker:
        cache_mounts_keep_counting_beside_each_other.differs("its classic builder knows no mounts");
];

fn mounts_show_what_they_should(c: &Client) {
    ok(c, "printf s3cret > sec; mkdir -p named; echo nc > named/f");
    build_all(c, MOUNTS);
}

pub(crate) const MOUNTS: &[Row] = &[
    Row::new("mount-context", "FROM busybox\nRUN --mount=target=/c [ -f /c/dir/c.txt ] && ! touch /c/x\nRUN [ ! -e /c ]\n"),
    Row::new("mount-context-directory", "FROM busybox\nRUN --mount=type=bind,source=dir,target=/c [ \"$(ls -A /c | tr '\\n' ' ')\" = '.hidden c.txt sub ' ]\n"),
    Row::new("mount-context-file", "FROM busybox\nRUN --mount=type=bind,source=dir/c.txt,target=/c.txt [ \"$(cat /c.txt)\" = c ] && ! echo x > /c.txt\nRUN --mount=type=bind,src=exec.sh,dst=/bin/own own\nRUN [ ! -e /c.txt ] && [ ! -e /bin/own ]\n"),
    Row::new("mount-over-a-file", "FROM busybox\nRUN echo old > /f\nRUN --mount=type=bind,source=a.txt,target=/f [ \"$(cat /f)\" = a ]\nRUN [ \"$(cat /f)\" = old ]\n"),
    Row::new("mount-writable", "FROM busybox\nRUN --mount=type=bind,target=/c,rw echo new > /c/new && rm /c/a.txt && [ -f /c/new ]\nRUN --mount=type=bind,target=/c [ -f /c/a.txt ] && [ ! -e /c/new ]\n"),
    Row::new("mount-relative-target", "FROM busybox\nWORKDIR /w\nRUN --mount=type=bind,source=dir,target=here cat /w/here/c.txt\nRUN [ ! -e /w/here ]\n"),
    Row::new("mount-of-a-stage", "FROM busybox AS s\nRUN mkdir -p /d/e && echo q > /d/e/q\nFROM busybox\nRUN --mount=from=s,source=/d/e,target=/m [ \"$(cat /m/q)\" = q ]\nRUN --mount=from=s,source=/d/e/q,target=/q [ \"$(cat /q)\" = q ]\nRUN --mount=from=s,target=/all [ -f /all/d/e/q ] && [ -x /all/bin/busybox ]\n"),
    Row::new("mount-of-an-image", "FROM busybox\nRUN --mount=from=busybox:latest,source=/etc,target=/m cmp /m/passwd /etc/passwd\n"),
    Row::new("mount-tmpfs", "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=1m echo x > /t/f && [ $(df -k /t | tail -1 | awk '{print $2}') = 1024 ]\nRUN [ ! -e /t/f ]\n"),
    Row::new("mount-cache", "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,id=$N,mode=0700,uid=5,gid=6 [ $(stat -c %a.%u.%g /c) = 700.5.6 ] && echo x > /c/f\nRUN --mount=type=cache,target=/d,id=$N,ro [ -f /d/f ] && ! touch /d/g\nRUN [ ! -e /c/f ]\n").flags("--build-arg N=$n-cache"),
    Row::new("mount-cache-from-a-stage", "FROM busybox AS s\nRUN mkdir /seed && echo 1 > /seed/f\nFROM busybox\nARG N\nRUN --mount=type=cache,target=/c,id=$N,from=s,source=/seed [ -f /c/f ] && echo 2 > /c/g\n").flags("--build-arg N=$n-seeded"),
    Row::new("mount-secret-absent", "FROM busybox\nRUN --mount=type=secret,id=nope [ ! -e /run/secrets/nope ]\n"),
    Row::new("mount-secret", "FROM busybox\nRUN --mount=type=secret,id=s [ \"$(cat /run/secrets/s)\" = s3cret ] && [ $(stat -c %a.%u /run/secrets/s) = 400.0 ]\nRUN --mount=type=secret,id=s,target=/x/y,mode=0444,uid=3,gid=4 [ \"$(stat -c %a.%u.%g /x/y)\" = 444.3.4 ]\nRUN --mount=type=secret,id=s,env=SEC [ \"$SEC\" = s3cret ] && [ ! -e /run/secrets/s ]\nRUN [ -z \"$SEC\" ] && [ ! -e /x ] && [ ! -e /run/secrets ]\n").flags("--secret id=s,src=sec").only_yare(),
    Row::new("mount-secret-of-the-environment", "FROM busybox\nRUN --mount=type=secret,id=n,required [ -s /run/secrets/n ]\n").flags("--secret id=n,env=n").only_yare(),
    Row::new("mount-ssh", "FROM busybox\nRUN --mount=type=ssh [ -S \"$SSH_AUTH_SOCK\" ]\nRUN [ -z \"$SSH_AUTH_SOCK\" ]\n").flags("--ssh default=$(python3 -c 'import socket,os; p=os.getcwd()+\"/a.sock\"; os.path.exists(p) or socket.socket(socket.AF_UNIX).bind(p); print(p)')").only_yare(),
    Row::new("mount-of-a-named-context", "FROM busybox\nRUN --mount=from=nc,target=/m [ \"$(cat /m/f)\" = nc ]\nCOPY --from=nc f /f\nRUN [ \"$(cat /f)\" = nc ]\n").flags("--build-context nc=named").only_yare(),
    Row::new("named-context-is-an-image", "FROM base\nCOPY --from=other /etc/passwd /p\n").flags("--build-context base=docker-image://busybox --build-context other=docker-image://busybox:latest").only_yare(),
    Row::new("network-none", "FROM busybox\nRUN --network=none [ $(ip addr | grep -c '^[0-9]') = 1 ]\nRUN [ $(ip addr | grep -c '^[0-9]') = 2 ]\n"),
    Row::new("network-none-for-all", "FROM busybox\nRUN [ $(ip addr | grep -c '^[0-9]') = 1 ]\n").flags("--network none"),
    Row::new("network-host", "FROM busybox\nRUN [ -e /sys/class/net/lo ] && [ $(ip link | grep -c '^[0-9]') -ge 2 ]\n").flags("--network host"),
    Row::new("network-host-of-a-step", "FROM busybox\nRUN --network=host true\n").flags("--allow network.host").only_yare(),
    Row::new("security-insecure", "FROM busybox\nRUN --security=insecure mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs none /mnt\nRUN --security=sandbox ! mount -t tmpfs none /mnt\n").flags("--allow security.insecure").only_yare(),
];

fn steps_have_their_limits(c: &Client) {
    build_all(c, LIMITS);
}

pub(crate) const LIMITS: &[Row] = &[
    Row::new("add-host", "FROM busybox\nRUN cat /etc/hosts; grep -q '10.1.2.3.*own.host' /etc/hosts\n").flags("--add-host own.host:10.1.2.3"),
    Row::new("shm-size", "FROM busybox\nRUN [ $(df -k /dev/shm | tail -1 | awk '{print $2}') = 8192 ]\n").flags("--shm-size 8m"),
    Row::new("ulimit", "FROM busybox\nRUN [ $(ulimit -n) = 123 ]\n").flags("--ulimit nofile=123:456"),
    Row::new("memory", "FROM busybox\nRUN cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | grep -qx 67108864\n").flags("--memory 64m"),
    Row::new("cpu", "FROM busybox\nRUN cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null | grep -q '^50000'\n").flags("--cpu-period 100000 --cpu-quota 50000"),
    Row::new("hosts-leave-no-trace", "FROM busybox\nRUN true\n").flags("--add-host h:1.2.3.4").check("is \"$(docker run --rm --network none $i cat /etc/hosts | grep -c 1.2.3.4)\" 0"),
    Row::new("standard-files", "FROM busybox\nRUN [ -s /etc/resolv.conf ] && [ -s /etc/hosts ] && [ $(hostname) = buildkitsandbox ] && [ -w /dev/null ] && [ -d /proc/self ]\n"),
    Row::new("nothing-of-the-host", "FROM busybox\nRUN [ $$ = 1 ] && ! mount -t tmpfs t /mnt 2> /dev/null && ! umount /proc 2> /dev/null\n"),
    Row::new("background-processes-end", "FROM busybox\nRUN (sleep 1000 &) ; echo done > /f\nRUN [ -f /f ]\n"),
    Row::new("large-output", "FROM busybox\nARG N\nRUN yes 0123456789 | head -20000\n").flags("--build-arg N=$n").check("[ $(grep -c 0123456789 $out) -gt 1000 ]"),
];

fn a_step_out_of_memory_is_named_so(c: &Client) {
    // Docker's client ends with the code of the step, as yare's (and buildx) does not.
    let said = ok(c, "printf 'FROM busybox\\nRUN head -c 200m /dev/zero | tail -c 200m > /dev/null; exit 9\\n' > Dockerfile
if build --memory 24m --memory-swap 24m - < Dockerfile 2>&1; then exit 1; fi");
    assert!(said.contains("ran out of memory") && said.contains("--memory"), "{said}");
}

/// Eight builds count in one file. With `locked` none is lost; with `private` each has its own; with `shared`
/// one may read while another writes.
fn cache_mounts_keep_counting_beside_each_other(c: &Client) {
    for (sharing, least, most) in [("locked", 8, 8), ("shared", 1, 8), ("private", 1, 8)] {
        ok(c, &format!("mkdir -p {sharing}; cd {sharing}; cat > Dockerfile <<EOF
FROM busybox
ARG WHO
RUN --mount=type=cache,id=$n-{sharing},sharing={sharing},target=/c echo $WHO; x=\\$(cat /c/count 2>/dev/null || echo 0); sleep 0.2; echo \\$((x+1)) > /c/count; echo count=\\$(cat /c/count)
EOF
for who in 1 2 3 4 5 6 7 8; do build --build-arg WHO=$who -t $n/{sharing}-$who . > $who.out 2>&1 & done; wait"));
        let most_counted: u32 = c.line(&format!("cat {sharing}/*.out | grep -o '^count=[0-9]*\\|count=[0-9]*$' | grep -o '[0-9]*' | sort -n | tail -1")).parse().unwrap_or(0);
        assert!(
            (least..=most).contains(&most_counted),
            "{sharing}: counted to {most_counted}\n{}",
            c.ok(&format!("cat {sharing}/*.out"))
        );
        c.says(&format!("grep -l 'Successfully built' {sharing}/*.out | wc -l"), "8\n");
    }
}
