//! Parts of volumes, volumes that are mounts, and images as mounts.

use std::time::Duration;

use serde_json::Value;
use yare_testkit::eventually;

use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        a_part_of_a_volume_is_mounted.differs_from_old("it knows no subpaths"),
        a_part_does_not_lead_out_of_its_volume.differs_from_old("it knows no subpaths"),
        an_empty_part_is_filled_from_the_image.differs_from_old("it knows no subpaths"),
        parts_are_taken_over_and_copied_to.differs_from_old("it knows no subpaths"),
        an_image_is_mounted.differs_from_old("it mounts no images"),
        a_part_of_an_image_is_mounted.differs_from_old("it mounts no images"),
        a_volume_in_memory_lives_as_long_as_its_users.differs("it looks into the engine's folder"),
        a_volume_is_a_directory_elsewhere,
        options_of_volumes_are_checked,
        what_cannot_be_mounted_is_told,
        binds_propagate_as_asked,
        the_owner_of_a_bind_is_the_containers_user.differs("it maps no ids"),
        memory_has_its_options,
        a_prune_by_label_spares_results_of_builds.differs("it takes the whole build cache").alone(),
        a_volume_goes_out_and_comes_in.differs("it has no such calls"),
        a_mounted_image_is_held.differs("it lets go of the names of a mounted image");
];

/// A volume with a file, directories and links in it.
fn volume_with_parts(c: &Client) {
    c.ok(
        "docker run --rm -v $n-v:/v busybox sh -c 'mkdir -p /v/a/b && echo deep > /v/a/b/f && echo top > /v/file && \
         ln -s a /v/link && ln -s /etc /v/absolute && ln -s ../../.. /v/out'",
    );
}

fn a_part_of_a_volume_is_mounted(c: &Client) {
    volume_with_parts(c);
    for part in ["a/b", "link/b", "a/../a/b"] {
        c.says(
            &format!("docker run --rm --mount type=volume,src=$n-v,dst=/x,volume-subpath={part} busybox sh -c 'cat /x/f; ls -a /x/..' | head -n 1"),
            "deep\n",
        );
    }
    c.says("docker run --rm --mount type=volume,src=$n-v,dst=/x,volume-subpath=file busybox cat /x", "top\n");
    c.ok("docker run --rm --mount type=volume,src=$n-v,dst=/x,volume-subpath=a busybox sh -c 'echo new > /x/g'");
    c.says("docker run --rm -v $n-v:/v busybox cat /v/a/g", "new\n");
    let refused = c.run(
        "docker run --rm --mount type=volume,src=$n-v,dst=/x,volume-subpath=a,readonly busybox touch /x/h",
    );
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
}

fn a_part_does_not_lead_out_of_its_volume(c: &Client) {
    volume_with_parts(c);
    let place = c.line("docker volume inspect -f '{{.Mountpoint}}' $n-v");
    let run = |code: i32, part: &str| {
        c.fails(
            code,
            &format!(
                "docker run --rm --mount type=volume,src=$n-v,dst=/x,volume-subpath={part} busybox ls /x"
            ),
        )
    };
    for part in ["absolute", "out", "a/../out/tmp"] {
        let text = run(125, part);
        let wanted = format!("path concatenation escapes the base directory, base: {place}, subpath: {part}");
        assert!(text.contains(&wanted), "{text}");
    }
    // Docker's clients take the code from the text.
    let text = run(127, "none");
    assert!(text.contains(&format!("cannot access path {place}/none: ")), "{text}");
    for part in ["../x", "/a"] {
        let text = run(125, part);
        assert!(text.contains("subpath must be a relative path within the volume"), "{text}");
    }
    let text = c.fails(125, "docker run --rm --mount type=volume,dst=/x,volume-subpath=a busybox ls /x");
    assert!(text.contains("must not set Subpath when using anonymous volumes"), "{text}");
}

fn an_empty_part_is_filled_from_the_image(c: &Client) {
    c.ok("mkdir -p r/data && tar -xf $busybox -C r && echo inner > r/data/f && tar -C r -c . | docker import - $n/a");
    c.ok("docker run --rm -v $n-v:/v busybox mkdir /v/part");
    c.says(
        "docker run --rm --mount type=volume,src=$n-v,dst=/data,volume-subpath=part $n/a cat /data/f",
        "inner\n",
    );
    c.says("docker run --rm -v $n-v:/v busybox sh -c 'ls /v; ls /v/part'", "part\nf\n");
}

fn parts_are_taken_over_and_copied_to(c: &Client) {
    volume_with_parts(c);
    c.ok("docker create --name $n --mount type=volume,src=$n-v,dst=/x,volume-subpath=a/b --mount type=image,src=busybox,dst=/i,image-subpath=bin busybox true");
    c.says(
        "docker run --rm --volumes-from $n busybox sh -c 'ls /x; ls /i | grep -x busybox'",
        "f\nbusybox\n",
    );
    c.ok("echo copied > g && docker cp g $n:/x/g && docker cp $n:/x/f . && docker cp $n:/i/busybox .");
    c.says("cat f; ls busybox; docker run --rm -v $n-v:/v busybox cat /v/a/b/g", "deep\nbusybox\ncopied\n");
    let text = c.fails(1, "docker cp g $n:/i/g");
    assert!(text.contains("marked read-only"), "{text}");
}

fn an_image_is_mounted(c: &Client) {
    c.ok("mkdir -p r/d && echo layer > r/d/f && tar -C r -c . | docker import - $n/a");
    // Several layers make an overlay, one does not.
    c.ok("printf 'FROM busybox\\nRUN echo one > /one\\nRUN echo two > /two' | docker build -q -t $n/b -");
    c.says(
        "docker run --rm --mount type=image,src=$n/a,dst=/x --mount type=image,src=$n/b,dst=/y busybox sh -c \
         'cat /x/d/f /y/one /y/two; touch /x/d/g || touch /y/g || echo refused' 2>/dev/null",
        "layer\none\ntwo\nrefused\n",
    );
    c.ok("docker create --name $n --mount type=image,src=$n/a,dst=/x busybox true");
    let mounts: Value = serde_json::from_str(&c.inspect("$n", "{{json .Mounts}}")).unwrap();
    let mount = &mounts[0];
    assert_eq!(
        [&mount["Type"], &mount["Name"], &mount["Destination"], &mount["Propagation"], &mount["RW"]],
        [
            &"image".into(),
            &format!("{}/a", c.n).into(),
            &"/x".into(),
            &"rprivate".into(),
            &Value::Bool(false)
        ]
    );
}

fn a_part_of_an_image_is_mounted(c: &Client) {
    c.ok("mkdir -p r/d/e && echo layer > r/d/f && ln -s d r/link && ln -s /etc r/absolute && tar -C r -c . | docker import - $n/a");
    c.ok("printf 'FROM busybox\\nRUN mkdir /p && echo one > /p/f' | docker build -q -t $n/b -");
    let run = |image: &str, part: &str, command: &str| {
        format!(
            "docker run --rm --mount type=image,src=$n/{image},dst=/x,image-subpath={part} busybox {command}"
        )
    };
    c.says(&run("a", "link", "ls /x"), "e\nf\n");
    c.says(&run("a", "d/f", "cat /x"), "layer\n");
    c.says(&run("b", "p", "ls /x"), "f\n");
    let text = c.fails(125, &run("a", "absolute", "ls /x"));
    assert!(text.contains("path concatenation escapes the base directory"), "{text}");
    let text = c.fails(127, &run("a", "none", "ls /x"));
    assert!(text.contains("cannot access path") && text.contains("/none: "), "{text}");
    let text = c.fails(125, &run("a", "../x", "ls /x"));
    assert!(text.contains("subpath must be a relative path within the volume"), "{text}");
}

fn a_mounted_image_is_held(c: &Client) {
    c.ok("mkdir -p r && echo layer > r/f && tar -C r -c . | docker import - $n/a");
    c.ok("docker create --name $n --mount type=image,src=$n/a,dst=/x busybox cat /x/f");
    let text = c.fails(1, "docker rmi $n/a");
    assert!(text.contains("unable to remove repository reference") && text.contains(&c.n), "{text}");
    c.ok("docker image prune -a -f --filter label=none; docker rmi -f $n/a");
    c.says("docker start -a $n", "layer\n");
    c.ok("docker rm $n");
    c.fails(125, "docker run --rm --pull never --mount type=image,src=$n/a,dst=/x busybox true");
}

/// Whether something is mounted at a volume's folder.
fn is_mounted(place: &str) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == Some(place))
}

fn a_volume_in_memory_lives_as_long_as_its_users(c: &Client) {
    c.ok("docker volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,uid=5,mode=700 $n-v");
    let place = c.line("docker volume inspect -f '{{.Mountpoint}}' $n-v");
    assert_eq!(
        c.ok("docker volume inspect -f '{{json .Options}}' $n-v"),
        "{\"device\":\"tmpfs\",\"o\":\"size=1m,uid=5,mode=700\",\"type\":\"tmpfs\"}\n"
    );
    c.ok("docker run -d --name $n-1 -v $n-v:/x busybox sh -c 'echo shared > /x/f; sleep 600'");
    c.comes_to("docker exec $n-1 cat /x/f", "shared");
    c.says(
        "docker run --rm -v $n-v:/x:ro busybox sh -c \"cat /x/f; stat -c '%u %a' /x; df -k /x | tail -n 1 | tr -s ' ' | cut -d ' ' -f 1,2\"",
        "shared\n5 700\ntmpfs 1024\n",
    );
    assert!(is_mounted(&place));
    c.ok("docker cp $n-1:/x/f . && docker rm -f $n-1");
    eventually("it is unmounted", Duration::from_secs(60), || !is_mounted(&place));
    c.says("docker run --rm -v $n-v:/x busybox ls /x", "");
    // A run that follows another at once does not lose it to the end of the one before.
    c.ok("docker run -d --name $n-2 --restart always -v $n-v:/x busybox sh -c 'if [ -e /again ]; then echo shared > /x/f; sleep 600; else touch /again; fi'");
    c.comes_to("docker inspect -f '{{.RestartCount}} {{.State.Status}}' $n-2", "1 running");
    c.comes_to("docker exec $n-2 cat /x/f", "shared");
    c.says("sleep 1; docker run --rm -v $n-v:/x busybox cat /x/f", "shared\n");
    c.ok("docker rm -f $n-2 && docker volume rm $n-v");
}

fn a_volume_is_a_directory_elsewhere(c: &Client) {
    c.ok("mkdir d && echo there > d/f && docker volume create -o type=none -o o=bind -o device=$PWD/d $n-v");
    c.says("docker run --rm -v $n-v:/x busybox sh -c 'cat /x/f; echo back > /x/g'", "there\n");
    c.ok("docker volume create -o type=none -o o=bind,ro -o device=$PWD/d $n-w");
    let refused = c.run("docker run --rm -v $n-w:/x busybox touch /x/h");
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
    c.says(
        "docker run --rm --mount type=volume,src=$n-y,dst=/x,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=$PWD/d busybox cat /x/g",
        "back\n",
    );
    // Of a container that does not run, too.
    c.ok("docker create --name $n -v $n-v:/x busybox true && docker cp $n:/x/f copy");
    c.says("cat copy; docker rm $n", &format!("there\n{}\n", c.n));
    c.ok("docker volume rm $n-v $n-w $n-y");
    c.says("cat d/f d/g", "there\nback\n");
}

fn options_of_volumes_are_checked(c: &Client) {
    let create = |options: &str| c.fails(1, &format!("docker volume create {options} $n-v"));
    for (options, why) in [
        ("-o x=y", "invalid option: \"x\""),
        ("-o type=tmpfs", "missing required option: \"device\""),
        ("-o size=10m", "quota size requested but no quota support"),
    ] {
        let text = create(options);
        assert!(text.contains(&format!("create {}-v: {why}", c.n)), "{text}");
    }
    let text = c.fails(1, "docker volume create x");
    assert!(text.contains("create x: volume name is too short"), "{text}");
}

fn what_cannot_be_mounted_is_told(c: &Client) {
    let run = |code: i32, options: &str| {
        c.ok(&format!("docker volume create {options} $n-v"));
        let text = c.fails(code, "docker run --rm -v $n-v:/x busybox true");
        c.ok("docker volume rm $n-v");
        text
    };
    let text = run(127, "-o type=none -o o=bind -o device=$PWD/none");
    assert!(text.contains("failed to mount local volume: mount ") && text.contains("no such file"), "{text}");
    let text = run(125, "-o type=bogus -o device=x");
    assert!(
        text.contains("failed to mount local volume: mount x:") && text.contains("no such device"),
        "{text}"
    );
    let text = run(125, "-o type=nfs -o o=addr=nosuch.invalid -o device=:/x");
    assert!(
        text.contains("error resolving passed in network volume address: lookup nosuch.invalid"),
        "{text}"
    );
}

fn binds_propagate_as_asked(c: &Client) {
    c.ok("mkdir -p d/late && mount --bind d d && mount --make-shared d");
    let wait = "sh -c 'until [ -e /m/go ]; do sleep 0.1; done; ls /m/late'";
    for (n, options) in [("slave", "bind-propagation=rslave"), ("private", "bind-propagation=rprivate")] {
        c.ok(&format!(
            "docker run -d --name $n-{n} --mount type=bind,src=$PWD/d,dst=/m,{options} busybox {wait}"
        ));
    }
    c.ok("docker create --name $n-made --mount type=bind,src=$PWD/d,dst=/m,bind-propagation=shared busybox true");
    assert_eq!(c.inspect("$n-made", "{{(index .Mounts 0).Propagation}}"), "shared");
    c.ok("mount -t tmpfs x d/late && touch d/late/f d/go");
    let said = c.run(
        "docker wait $n-slave $n-private > /dev/null; docker logs $n-slave; echo .; docker logs $n-private",
    );
    c.ok("umount d/late && umount d");
    assert_eq!(said.stdout, "f\n.\n", "{said:?}");
}

fn the_owner_of_a_bind_is_the_containers_user(c: &Client) {
    c.ok("mkdir own && chown 1234:2345 own && chmod 700 own");
    let look = "busybox sh -c 'stat -c %u:%g /d && cd /d && touch $(id -u) && stat -c %u:%g $(id -u)'";
    c.says(&format!("docker run --rm -v $PWD/own:/d:idmap {look}"), "0:0\n0:0\n");
    c.says(&format!("docker run --rm -u 33:44 -v $PWD/own:/d:idmap {look}"), "33:44\n33:44\n");
    c.says("stat -c %u:%g own/0 own/33", "1234:2345\n1234:2345\n");
    // Another user's by name, read-only, and by numbers.
    c.says("docker run --rm -v $PWD/own:/d:ro,idmap=app busybox stat -c %U:%u /d", "app:1000\n");
    let ranges = "idmap=uids=1234-7-1;gids=2345-8-1";
    c.says(&format!("docker run --rm -v \"$PWD/own:/d:{ranges}\" busybox stat -c %u:%g /d"), "7:8\n");
    if c.program == Program::Yare {
        let mount = "type=bind,src=$PWD/own,dst=/d,bind-idmap=match-user:5:6";
        c.says(&format!("docker run --rm --mount {mount} busybox stat -c %u:%g /d"), "5:6\n");
    }
    // By label, as compose has to.
    c.says("docker run --rm -u 5:6 -l yare.idmap=/d -v $PWD/own:/d busybox stat -c %u:%g /d", "5:6\n");
    // Volumes, and mounts that are taken over.
    c.ok("docker run --rm -v $n-v:/v busybox chown 1234:2345 /v");
    c.ok("docker run -d --name $n -u 33:44 -v $n-v:/v:nocopy,idmap busybox sleep 100");
    c.says("docker exec $n sh -c 'touch /v/f; stat -c %u:%g /v /v/f'", "33:44\n33:44\n");
    c.says("docker run --rm --volumes-from $n -u 9:9 busybox stat -c %u:%g /v", "9:9\n");
    assert_eq!(c.inspect("$n", "{{(index .Mounts 0).Mode}}"), "nocopy,idmap");
    // Where it runs it is as the container sees it; elsewhere nothing is written past the mapping.
    c.says("docker cp $n:/v/f - | tar -tvn --numeric-owner | awk '{print $2}'", "33/44\n");
    c.ok("docker kill $n");
    assert!(c.fails(1, "docker cp own/0 $n:/v/").contains("read-only"), "written");
    let text = c.fails(125, "docker run --rm -v /proc:/d:idmap busybox true");
    assert!(text.contains("cannot map the ids of /proc at /d: its filesystem cannot be id-mapped"), "{text}");
}

fn memory_has_its_options(c: &Client) {
    let look = "busybox sh -c \"grep ' /t ' /proc/mounts | cut -d ' ' -f 4 | tr , '\\n' | grep -x 'size=1024k\\|noexec\\|ro'; stat -c %a /t\"";
    c.says(
        &format!("docker run --rm --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770 {look}"),
        "noexec\nsize=1024k\n1770\n",
    );
    c.says(&format!("docker run --rm --tmpfs /t:size=1m,mode=700,exec {look}"), "size=1024k\n700\n");
}

fn a_prune_by_label_spares_results_of_builds(c: &Client) {
    c.ok("printf 'FROM busybox\\nRUN echo %s > /once' $n | docker build -q -t $n/b - && docker rmi $n/b");
    let cached = c.ok("docker system df --format '{{.Type}} {{.TotalCount}}' | grep Build");
    c.ok("docker run --name $n --label gone=$n busybox true");
    c.ok("docker system prune -f --filter label=gone=$n");
    c.says("docker ps -aq --filter label=gone=$n", "");
    assert_eq!(c.ok("docker system df --format '{{.Type}} {{.TotalCount}}' | grep Build"), cached);
}

fn a_volume_goes_out_and_comes_in(c: &Client) {
    c.ok(
        "docker run --rm -v $n-v:/v busybox sh -c 'mkdir -p /v/a && echo deep > /v/a/f && chown 5:6 /v/a/f && chmod 2750 /v/a && ln -s a /v/link && chown 7:8 /v'",
    );
    // The stock command line has no such command, but its users have curl.
    c.ok("curl -sf --unix-socket ${DOCKER_HOST#unix://} -o v.tar http://d/yare/volumes/$n-v/archive && tar -tf v.tar | grep -q a/f");
    c.ok("gzip -k v.tar && curl -sf --unix-socket ${DOCKER_HOST#unix://} -T v.tar.gz http://d/yare/volumes/$n-w/archive");
    c.says(
        "docker run --rm -v $n-w:/v busybox sh -c \"cat /v/link/f; stat -c '%u %g %a' /v/a/f /v/a /v\"",
        "deep\n5 6 644\n0 0 2750\n7 8 755\n",
    );
    // What is no archive leaves no volume behind.
    c.ok("echo nonsense > n; ! curl -sf --unix-socket ${DOCKER_HOST#unix://} -T n http://d/yare/volumes/$n-x/archive");
    c.says("docker volume ls -q --filter name=$n-x", "");
}
