//! Limits.

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        memory_is_limited,
        an_oom_kill_is_reported.differs_from_old("it misses some"),
        an_oom_kill_of_a_child_is_reported_too,
        pids_are_limited,
        cpus_are_limited.differs_from_old("texts were others"),
        cpusets_are_set,
        ulimits_are_set,
        shm_has_its_size,
        blkio_and_weights_are_kept,
        impossible_limits_are_refused;
];

/// A file of the container's own cgroup: the one of v1, or of v2.
fn group_file(c: &Client, flags: &str, controller: &str, v1: &str, v2: &str) -> String {
    c.line(&format!("docker run --rm {flags} busybox sh -c 'cat /sys/fs/cgroup/{controller}/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}'"))
}

fn memory_is_limited(c: &Client) {
    let memory = |flags: &str| group_file(c, flags, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory("-m 64m"), "67108864");
    assert_eq!(memory("--memory 1g"), "1073741824");
    assert_eq!(memory("--memory=10000000b"), "9998336".to_owned());
    c.says("docker create --name $n -m 64m --memory-reservation 32m --memory-swap -1 busybox true >/dev/null; docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemoryReservation}} {{.HostConfig.MemorySwap}}' $n", "67108864 33554432 -1\n");
}

fn an_oom_kill_is_reported(c: &Client) {
    c.fails(137, "docker run --name $n --init=false -m 20m --memory-swap 20m busybox sh -c 'exec tail -c 200m /dev/zero' 2>/dev/null");
    c.says(
        "docker inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}' $n",
        "true 137 exited\n",
    );
    c.says("docker events --since 1m --until $(date -d '+1 second' +%s) --filter container=$n --filter event=oom --format '{{.Action}}' | sort -u", "oom\n");
}

fn an_oom_kill_of_a_child_is_reported_too(c: &Client) {
    c.says("docker run --name $n -m 20m --memory-swap 20m busybox sh -c 'tail -c 200m /dev/zero; echo child ended $?' 2>/dev/null", "child ended 137\n");
    c.says("docker inspect -f '{{.State.ExitCode}}' $n", "0\n");
}

fn pids_are_limited(c: &Client) {
    assert_eq!(group_file(c, "--pids-limit 50", "pids", "pids.max", "pids.max"), "50");
    assert_eq!(group_file(c, "", "pids", "pids.max", "pids.max"), "max");
    let text = c.fails(
        2,
        "docker run --rm --pids-limit 5 busybox sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait'",
    );
    assert!(text.contains("can't fork"), "{text}");
}

fn cpus_are_limited(c: &Client) {
    let quota = |flags: &str| {
        c.line(&format!("docker run --rm {flags} busybox sh -c 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d\" \" -f1 /sys/fs/cgroup/cpu.max'"))
    };
    assert_eq!(quota("--cpus 0.5"), "50000");
    assert_eq!(quota("--cpu-period 50000 --cpu-quota 20000"), "20000");
    c.says("docker create --name $n --cpus 1.5 -c 512 busybox true >/dev/null; docker inspect -f '{{.HostConfig.NanoCpus}} {{.HostConfig.CpuShares}}' $n", "1500000000 512\n");
    let text = c.fails(125, "docker run --rm --cpus 1000 busybox true");
    assert!(text.contains("range of CPUs is from 0.01 to"), "{text}");
    c.refuses(
        125,
        "docker run --rm --cpus many busybox true",
        "invalid argument \"many\" for \"--cpus\" flag: failed to parse many as a rational number",
    );
}

fn cpusets_are_set(c: &Client) {
    c.says(
        "docker run --rm --cpuset-cpus 0 busybox grep Cpus_allowed_list /proc/self/status",
        "Cpus_allowed_list:\t0\n",
    );
    let text = c.fails(125, "docker run --rm --cpuset-cpus 4000 busybox true");
    assert!(text.contains("Requested CPUs are not available - requested 4000"), "{text}");
    let text = c.fails(125, "docker run --rm --cpuset-cpus x busybox true");
    assert!(text.contains("Invalid value x for cpuset cpus"), "{text}");
}

fn ulimits_are_set(c: &Client) {
    c.says("docker run --rm --ulimit nofile=123:456 --ulimit core=0 --ulimit nproc=1000 busybox sh -c 'ulimit -Sn; ulimit -Hn; ulimit -c'", "123\n456\n0\n");
    c.says("docker run -d --name $n --ulimit nofile=99 busybox sleep 1000 >/dev/null; docker exec $n sh -c 'ulimit -n'", "99\n");
    let text = c.fails(125, "docker run --rm --ulimit nonsense=1 busybox true");
    assert!(text.contains("invalid ulimit type: nonsense"), "{text}");
    let text = c.fails(125, "docker run --rm --ulimit nofile=9:1 busybox true");
    assert!(text.contains("ulimit soft limit must be less than or equal to hard limit"), "{text}");
}

fn shm_has_its_size(c: &Client) {
    let size = |flags: &str| {
        c.line(&format!(
            "docker run --rm {flags} busybox sh -c 'df -k /dev/shm | tail -1 | awk \"{{print \\$2}}\"'"
        ))
    };
    assert_eq!(size(""), "65536");
    assert_eq!(size("--shm-size 1m"), "1024");
    let text = c.fails(125, "docker run --rm --shm-size=-1 busybox true");
    assert!(text.contains("-1"), "{text}");
}

fn blkio_and_weights_are_kept(c: &Client) {
    c.ok("docker create --name $n --cpu-shares 100 --cpuset-mems 0 --oom-kill-disable=false --kernel-memory 0 busybox true");
    c.says("docker inspect -f '{{.HostConfig.CpuShares}} {{.HostConfig.CpusetMems}}' $n", "100 0\n");
}

fn impossible_limits_are_refused(c: &Client) {
    c.refuses(
        125,
        "docker run --rm --name $n -m 1m busybox true",
        "docker: Error response from daemon: Minimum memory limit allowed is 6MB",
    );
    let text = c.fails(125, "docker run --rm -m 100m --memory-swap 50m busybox true");
    assert!(
        text.contains("Minimum memoryswap limit should be larger than memory limit, see usage"),
        "{text}"
    );
    let text = c.fails(125, "docker run --rm --memory-swap 50m busybox true");
    assert!(
        text.contains("You should always set the Memory limit when using Memoryswap limit, see usage"),
        "{text}"
    );
    c.refuses(
        125,
        "docker run --rm -m lots busybox true",
        "invalid argument \"lots\" for \"-m, --memory\" flag: invalid size: 'lots'",
    );
    let text = c.fails(125, "docker run --rm -m 10m --memory-reservation 20m busybox true");
    assert!(
        text.contains("Minimum memory limit can not be less than memory reservation limit, see usage"),
        "{text}"
    );
}
