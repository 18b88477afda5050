//! Volumes and mounts.

use serde_json::Value;

use crate::case::cases;
use crate::client::{Client, table};

cases![
    Both:
        binds_show_the_hosts_files,
        binds_make_missing_folders,
        mount_wants_its_source,
        binds_of_single_files_work,
        bind_propagation_and_submounts.differs_from_old("its read-only binds are not recursive"),
        named_volumes_keep_data,
        volumes_of_the_image_are_filled,
        named_volumes_are_filled_once,
        volumes_are_not_filled_on_request,
        volumes_from_shares_all,
        volumes_from_gives_memory_of_its_own.differs("it was not compared"),
        volume_commands_work,
        volume_rm_in_use_is_refused,
        volume_prune_takes_anonymous_ones.differs_from_old("it prunes named volumes too").alone(),
        mount_flag_takes_every_kind,
        bad_mounts_are_refused,
        mounts_are_inspected;
];

fn binds_show_the_hosts_files(c: &Client) {
    c.ok("mkdir d; echo from host > d/f");
    c.says("docker run --rm -v $PWD/d:/m busybox sh -c 'cat /m/f; echo back > /m/g'", "from host\n");
    c.says("cat d/g", "back\n");
    let text = c.fails(1, "docker run --rm -v $PWD/d:/m:ro busybox touch /m/x");
    assert_eq!(text, "touch: /m/x: Read-only file system\n");
    c.says("docker run --rm -v ./d:/m busybox cat /m/f", "from host\n");
}

fn binds_make_missing_folders(c: &Client) {
    c.ok("docker run --rm -v $PWD/not/yet:/m busybox touch /m/x");
    c.says("ls not/yet", "x\n");
}

fn mount_wants_its_source(c: &Client) {
    let folder = c.folder.join("none");
    c.refuses(
        125,
        "docker run --rm --mount type=bind,src=$PWD/none,dst=/m busybox true",
        &format!("docker: Error response from daemon: invalid mount config for type \"bind\": bind source path does not exist: {}", folder.display()),
    );
    c.says("ls", "");
    c.ok("docker run --rm --mount type=bind,src=$PWD/none,dst=/m,bind-create-src busybox true || true");
}

fn binds_of_single_files_work(c: &Client) {
    c.ok("echo one > f");
    c.says(
        "docker run --rm -v $PWD/f:/etc/motd -v $PWD/f:/new/file busybox cat /etc/motd /new/file",
        "one\none\n",
    );
    c.says("docker run --rm --mount type=bind,src=$PWD/f,dst=/x,readonly busybox sh -c 'cat /x; echo > /x || echo refused' 2>/dev/null", "one\nrefused\n");
}

fn bind_propagation_and_submounts(c: &Client) {
    c.ok("mkdir -p d/sub && mount -t tmpfs x d/sub && touch d/sub/inner");
    let said = c.run("docker run --rm -v $PWD/d:/m busybox ls /m/sub; docker run --rm -v $PWD/d:/m:ro busybox sh -c 'touch /m/sub/x && echo wrote'; docker run --rm --mount type=bind,src=$PWD/d,dst=/m,bind-recursive=disabled busybox ls /m/sub");
    c.ok("umount d/sub");
    // A read-only bind is read-only all the way down.
    assert_eq!(said.stdout, "inner\n", "{said:?}");
}

fn named_volumes_keep_data(c: &Client) {
    c.ok("docker run --rm -v $n-v:/data busybox sh -c 'echo kept > /data/f'");
    c.says("docker run --rm -v $n-v:/other:ro busybox cat /other/f", "kept\n");
    c.says("docker volume inspect -f '{{.Driver}} {{.Scope}}' $n-v", "local local\n");
    let place = c.line("docker volume inspect -f '{{.Mountpoint}}' $n-v");
    assert_eq!(std::fs::read_to_string(format!("{place}/f")).unwrap(), "kept\n");
    c.says("docker volume rm $n-v", &format!("{}-v\n", c.n));
    assert!(!std::path::Path::new(&place).exists());
}

/// An image with files, owners and a link beneath /data.
fn image_with_data(c: &Client) {
    c.ok(
        "mkdir -p r/data/deep && tar -xf $busybox -C r && echo inner > r/data/deep/f && chown -R 1000:2000 r/data/deep && chmod 2770 r/data/deep \
         && ln -s deep r/data/link && chmod 751 r/data && tar -C r -c . | docker import --change 'VOLUME /data' - $n/a",
    );
}

fn volumes_of_the_image_are_filled(c: &Client) {
    image_with_data(c);
    c.says(
        "docker run --rm $n/a sh -c 'mount | grep -c \" /data \"; cat /data/link/f; stat -c \"%a %u %g\" /data /data/deep; readlink /data/link'",
        "1\ninner\n751 0 0\n2770 1000 2000\ndeep\n",
    );
    // Each container has its own.
    c.ok("docker create --name $n-1 $n/a true; docker create --name $n-2 $n/a true");
    assert_ne!(
        c.inspect("$n-1", "{{(index .Mounts 0).Name}}"),
        c.inspect("$n-2", "{{(index .Mounts 0).Name}}")
    );
    c.ok("docker rm -v $n-1 $n-2");
}

fn named_volumes_are_filled_once(c: &Client) {
    image_with_data(c);
    c.says("docker run --rm -v $n-v:/data $n/a sh -c 'cat /data/deep/f; rm -r /data/deep; echo mine > /data/own'", "inner\n");
    c.says("docker run --rm -v $n-v:/data $n/a sh -c 'ls /data; cat /data/own'", "link\nown\nmine\n");
    // Nothing is copied over a bind.
    c.says("mkdir empty; docker run --rm -v $PWD/empty:/data $n/a ls /data", "");
}

fn volumes_are_not_filled_on_request(c: &Client) {
    image_with_data(c);
    c.says("docker run --rm -v $n-v:/data:nocopy $n/a ls /data", "");
    c.says("docker run --rm --mount type=volume,src=$n-w,dst=/data,volume-nocopy $n/a ls /data", "");
    c.says("docker run --rm --mount type=volume,src=$n-x,dst=/data $n/a ls /data", "deep\nlink\n");
}

fn volumes_from_shares_all(c: &Client) {
    c.ok("mkdir d; docker create --name $n -v $n-v:/named -v $PWD/d:/bound -v /anonymous busybox true");
    c.says("docker run --rm --volumes-from $n busybox sh -c 'touch /named/x /bound/x /anonymous/x && echo wrote'", "wrote\n");
    c.says("docker run --rm --volumes-from $n:ro busybox sh -c 'ls /named /anonymous | grep -c x; touch /named/y' 2>/dev/null; true", "2\n");
    c.says("ls d", "x\n");
    let text = c.fails(125, "docker run --rm --volumes-from $n-none busybox true");
    assert!(text.contains(&format!("No such container: {}-none", c.n)), "{text}");
}

fn volumes_from_gives_memory_of_its_own(c: &Client) {
    c.ok("docker create --name $n --mount type=tmpfs,dst=/t,tmpfs-size=1m busybox true");
    c.says(
        "docker run --rm --volumes-from $n busybox sh -c 'touch /t/x; df -k /t | tail -n 1 | tr -s \" \" | cut -d \" \" -f 1,2'",
        "tmpfs 1024\n",
    );
}

fn volume_commands_work(c: &Client) {
    let n = &c.n;
    c.says("docker volume create --label a=$n $n-v", &format!("{n}-v\n"));
    c.says("docker volume create $n-v", &format!("{n}-v\n"));
    let anonymous = c.line("docker volume create --label a=$n");
    assert_eq!(anonymous.len(), 64);
    c.says(
        "docker volume ls --filter label=a=$n",
        &sorted_table(&[&["DRIVER", "VOLUME NAME"], &["local", &anonymous], &["local", &format!("{n}-v")]]),
    );
    c.says("docker volume ls -q --filter name=$n-", &format!("{n}-v\n"));
    let volume: Value = serde_json::from_str(&c.ok("docker volume inspect $n-v")).unwrap();
    assert_eq!(
        (volume[0]["Name"].as_str().unwrap(), volume[0]["Labels"]["a"].as_str().unwrap()),
        (format!("{n}-v").as_str(), n.as_str())
    );
    c.says(&format!("docker volume rm $n-v {anonymous}"), &format!("{n}-v\n{anonymous}\n"));
    c.refuses(1, "docker volume rm $n-v", &format!("Error response from daemon: get {n}-v: no such volume"));
    c.says("docker volume rm -f $n-v", &format!("{n}-v\n"));
    let outcome = c.run("docker volume inspect $n-v");
    assert_eq!(
        (outcome.code, outcome.stdout.as_str(), outcome.stderr),
        (1, "[]\n", format!("Error response from daemon: get {n}-v: no such volume\n"))
    );
    let text = c.fails(1, "docker volume create 'no good'");
    assert!(text.contains("\"no good\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed"), "{text}");
}

/// Rows below the head in order of name.
fn sorted_table(rows: &[&[&str]]) -> String {
    let mut rows = rows.to_vec();
    rows[1..].sort_by_key(|row| row[1]);
    table(&rows)
}

fn volume_rm_in_use_is_refused(c: &Client) {
    let id = c.line("docker create --name $n -v $n-v:/data busybox true");
    c.refuses(
        1,
        "docker volume rm $n-v",
        &format!("Error response from daemon: remove {}-v: volume is in use - [{id}]", c.n),
    );
    c.says("docker volume ls -q --filter dangling=false --filter name=$n-v", &format!("{}-v\n", c.n));
    c.ok("docker rm $n");
    c.says(
        "docker volume ls -q --filter dangling=true --filter name=$n-v; docker volume rm $n-v",
        &format!("{n}-v\n{n}-v\n", n = c.n),
    );
}

fn volume_prune_takes_anonymous_ones(c: &Client) {
    c.ok("docker volume prune -f; docker create --name $n -v /a -v $n-v:/b busybox true");
    let name = c.inspect("$n", "{{range .Mounts}}{{if eq .Destination \"/a\"}}{{.Name}}{{end}}{{end}}");
    c.says("docker volume prune -f", "Total reclaimed space: 0B\n");
    c.ok("docker rm $n");
    c.says("docker volume prune -f", &format!("Deleted Volumes:\n{name}\n\nTotal reclaimed space: 0B\n"));
    c.says(
        "docker volume prune -a -f",
        &format!("Deleted Volumes:\n{}-v\n\nTotal reclaimed space: 0B\n", c.n),
    );
}

fn mount_flag_takes_every_kind(c: &Client) {
    c.ok("mkdir d; echo b > d/f");
    c.says(
        "docker run --rm --mount type=bind,source=$PWD/d,target=/b --mount type=volume,source=$n-v,target=/v --mount type=tmpfs,target=/t \
         --mount target=/anonymous busybox sh -c 'cat /b/f; for m in b v t anonymous; do grep -c \" /$m \" /proc/mounts; done'",
        "b\n1\n1\n1\n1\n",
    );
    let text = c.fails(125, "docker run --rm --mount type=nonsense,target=/x busybox true");
    assert!(text.contains("nonsense"), "{text}");
    let text = c.fails(125, "docker run --rm --mount type=bind,source=/tmp busybox true");
    assert!(text.contains("target is required"), "{text}");
}

fn bad_mounts_are_refused(c: &Client) {
    let text = c.fails(125, "docker run --rm -v /tmp:relative busybox true");
    assert!(
        text.contains("invalid volume specification: '/tmp:relative'")
            && text.contains("mount path must be absolute"),
        "{text}"
    );
    let text = c.fails(125, "docker run --rm -v /tmp:/ busybox true");
    assert!(text.contains("destination can't be '/'"), "{text}");
    let text = c.fails(125, "docker run --rm -v /tmp:/a -v /var:/a busybox true");
    assert!(text.contains("Duplicate mount point: /a"), "{text}");
    let text = c.fails(125, "docker run --rm -v /tmp:/a:nonsense busybox true");
    assert!(text.contains("invalid mode: nonsense"), "{text}");
    let text = c.fails(125, "docker run --rm -v 'no good:/a' busybox true");
    assert!(text.contains("includes invalid characters for a local volume name"), "{text}");
}

fn mounts_are_inspected(c: &Client) {
    c.ok("mkdir d; docker create --name $n -v $PWD/d:/b:ro -v $n-v:/v busybox true");
    let mounts: Value = serde_json::from_str(&c.inspect("$n", "{{json .Mounts}}")).unwrap();
    let of = |destination: &str| {
        mounts.as_array().unwrap().iter().find(|mount| mount["Destination"] == destination).unwrap()
    };
    let bind = of("/b");
    assert_eq!(
        (&bind["Type"], &bind["RW"], &bind["Propagation"]),
        (&"bind".into(), &false.into(), &"rprivate".into())
    );
    assert_eq!(bind["Source"], c.folder.join("d").display().to_string());
    let volume = of("/v");
    assert_eq!(
        (&volume["Type"], &volume["RW"], &volume["Driver"]),
        (&"volume".into(), &true.into(), &"local".into())
    );
    assert_eq!(volume["Name"], format!("{}-v", c.n));
    c.says(
        "docker inspect -f '{{range .HostConfig.Binds}}{{println .}}{{end}}' $n | grep . | sort",
        &format!("{}/d:/b:ro\n{}-v:/v\n", c.folder.display(), c.n),
    );
}
