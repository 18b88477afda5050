//! Links on the default bridge.

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        a_link_is_names_and_variables,
        a_link_follows_its_container,
        bad_links_are_refused,
        a_link_is_removed_by_its_name;
];

fn address(c: &Client, name: &str) -> String {
    c.inspect(name, "{{.NetworkSettings.IPAddress}}")
}

/// What `$n` has for the name `store` in its hosts file.
fn store(c: &Client) -> String {
    c.line("docker exec $n sh -c \"grep '[[:space:]]store ' /etc/hosts\"")
}

fn a_link_is_names_and_variables(c: &Client) {
    c.ok("docker run -d --name $n-db -h dbhost -e PASSWORD=secret --expose 5432 busybox sleep 1000");
    let ip = address(c, "$n-db");
    c.ok("docker run -d --name $n --link $n-db:store busybox sleep 1000");
    assert_eq!(store(c), format!("{ip}\tstore dbhost {}-db", c.n));
    c.says("docker exec $n ping -c 1 -W 5 store | grep -c '1 packets received'", "1\n");
    let variables = format!(
        "STORE_ENV_PASSWORD=secret\nSTORE_NAME=/{0}/store\nSTORE_PORT=tcp://{ip}:5432\nSTORE_PORT_5432_TCP=tcp://{ip}:5432\n\
         STORE_PORT_5432_TCP_ADDR={ip}\nSTORE_PORT_5432_TCP_PORT=5432\nSTORE_PORT_5432_TCP_PROTO=tcp\n",
        c.n
    );
    c.says("docker run --rm --link $n-db:store busybox env | grep ^STORE | sed 's,/.*/store,/'$n'/store,' | sort", &variables);
    c.says("docker exec $n env | grep ^STORE | sort", &variables);
    // Its own variables count for more.
    c.says(
        "docker run --rm --link $n-db:store -e STORE_NAME=mine busybox sh -c 'echo $STORE_NAME'",
        "mine\n",
    );
    c.says("docker inspect -f '{{json .HostConfig.Links}}' $n", &format!("[\"/{0}-db:/{0}/store\"]\n", c.n));
    c.says(
        "docker ps --no-trunc --filter name=$n-db --format '{{.Names}}'; docker ps --filter name=$n-db --format '{{.Names}}'",
        &format!("{0}-db,{0}/store\n{0}-db\n", c.n),
    );
    c.says("docker inspect -f '{{.Name}}' $n/store", &format!("/{}-db\n", c.n));
    // Another one has none of it.
    c.says(
        "docker run --rm --name $n-c busybox sh -c 'env | grep -c STORE; grep -c store /etc/hosts'; true",
        "0\n0\n",
    );
}

fn a_link_follows_its_container(c: &Client) {
    c.ok("docker run -d --name $n-db busybox sleep 1000; docker run -d --name $n --link $n-db:store busybox sleep 1000");
    let before = address(c, "$n-db");
    c.ok("docker rename $n-db $n-data");
    // Most often another address, at once.
    let of = "docker inspect -f '{{.NetworkSettings.IPAddress}}' $n-data";
    c.ok(&format!(
        "docker restart -t 0 $n-data; while [ $({of}) = {before} ]; do docker restart -t 0 $n-data; done"
    ));
    let after = address(c, "$n-data");
    assert_ne!(before, after);
    assert!(store(c).starts_with(&format!("{after}\tstore ")), "{}", store(c));
    c.ok("docker restart -t 0 $n");
    assert!(store(c).ends_with(&format!(" {}-data", c.n)), "{}", store(c));
}

fn bad_links_are_refused(c: &Client) {
    let text = c.fails(125, "docker run --rm --link $n-none:x busybox true");
    assert!(
        text.contains(&format!("could not get container for {0}-none: No such container: {0}-none", c.n)),
        "{text}"
    );
    c.ok("docker create --name $n-db busybox sleep 1000; docker create --name $n --link $n-db:store busybox true");
    let text = c.fails(1, "docker start $n");
    assert!(
        text.contains(&format!("Cannot link to a non running container: /{0}-db AS /{0}/store", c.n)),
        "{text}"
    );
    c.ok("docker run -d --name $n-host --network host busybox sleep 1000");
    let text = c.fails(125, "docker run --rm --link $n-host:x busybox true");
    assert!(text.contains("conflicting options: host type networking can't be used with links"), "{text}");
    // What is gone is no reason not to start.
    c.ok("docker rm $n-db; docker start $n");
    c.says("docker inspect -f '{{json .HostConfig.Links}}' $n", "null\n");
}

fn a_link_is_removed_by_its_name(c: &Client) {
    c.ok("docker run -d --name $n-db busybox sleep 1000; docker run -d --name $n --link $n-db:store busybox sleep 1000");
    c.ok("docker rm --link $n/store");
    c.says(
        "docker inspect -f '{{json .HostConfig.Links}}' $n; docker inspect -f '{{.State.Status}}' $n-db",
        "null\nrunning\n",
    );
    c.ok("docker stop -t 0 $n-db; docker restart -t 0 $n");
    c.fails(1, "docker inspect $n/store");
    c.fails(1, "docker rm --link $n-db");
}
