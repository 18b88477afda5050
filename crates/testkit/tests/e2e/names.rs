//! Names on networks of the user's own.

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        a_container_is_found_by_its_names,
        a_name_of_several_takes_turns,
        names_stay_within_their_network,
        names_follow_a_container_that_moves,
        a_link_is_a_name_of_ones_own,
        the_resolver_leaves_port_53_to_the_container,
        questions_go_over_tcp_too,
        an_internal_network_asks_nobody_else;
    Docker:
        names_outlive_the_engine,
        the_resolver_may_die,
        the_resolver_has_no_privilege,
        a_project_of_compose_runs;
];

/// A command that prints the addresses of a name as a container sees it.
fn lookup(container: &str, name: &str) -> String {
    format!(
        "docker exec {container} nslookup {name} 2>/dev/null | awk '/^Name/{{found=1}} found && /^Address/{{print $2}}' | sort"
    )
}

fn address(c: &Client, container: &str, network: &str) -> String {
    c.inspect(container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"))
}

fn a_container_is_found_by_its_names(c: &Client) {
    c.ok("docker network create $n; docker run -d --name $n --network $n --network-alias www -h box busybox sleep 1000; docker run -d --name $n-c --network $n busybox sleep 1000");
    let ip = address(c, "$n", &c.n);
    let short = c.inspect("$n", "{{.Id}}")[..12].to_owned();
    for name in ["$n", "www", "WWW", "box", "$n.$n", &short] {
        c.says(&lookup("$n-c", name), &format!("{ip}\n"));
    }
    c.says("docker exec $n-c ping -c 1 -W 5 www | grep -c '1 packets received'", "1\n");
    c.says(
        &format!("docker exec $n-c nslookup {ip} | grep -o 'name = .*'"),
        &format!("name = {0}.{0}\n", c.n),
    );
    c.says("docker exec $n-c grep -c '^nameserver 127.0.0.11$' /etc/resolv.conf", "1\n");
    c.ok("docker rename $n $n-new");
    c.says(&lookup("$n-c", "$n-new"), &format!("{ip}\n"));
    c.ok("docker rm -f $n-new");
    c.says(&lookup("$n-c", "www"), "");
}

fn a_name_of_several_takes_turns(c: &Client) {
    c.ok("docker network create $n; for i in 1 2 3; do docker run -d --name $n-$i --network $n --network-alias many busybox sleep 1000; done");
    let mut all: Vec<_> = (1..=3).map(|i| address(c, &format!("$n-{i}"), &c.n)).collect();
    all.sort();
    c.says(&lookup("$n-1", "many"), &(all.join("\n") + "\n"));
    let first = "nslookup many | awk '/^Name/{found=1} found && /^Address/{print $2; exit}'";
    c.says(
        &format!(
            "docker exec $n-1 sh -c 'for i in 1 2 3 4 5 6 7 8 9; do {}; done' | sort -u | wc -l",
            first.replace('\'', "'\\''")
        ),
        "3\n",
    );
}

fn names_stay_within_their_network(c: &Client) {
    c.ok("docker network create $n-a; docker network create $n-b; docker run -d --name $n --network $n-a busybox sleep 1000; docker run -d --name $n-c --network $n-b busybox sleep 1000");
    c.says(&lookup("$n-c", "$n"), "");
    c.says("docker run --rm busybox grep -c 127.0.0.11 /etc/resolv.conf; true", "0\n");
}

fn names_follow_a_container_that_moves(c: &Client) {
    c.ok("docker network create $n-a; docker network create $n-b; docker run -d --name $n busybox sleep 1000; docker run -d --name $n-c --network $n-b busybox sleep 1000");
    // From the default bridge, where there is no resolver, to a network that has one.
    c.ok("docker network connect --alias moved $n-b $n");
    let ip = address(c, "$n", &format!("{}-b", c.n));
    c.says(&lookup("$n-c", "moved"), &format!("{ip}\n"));
    let other = address(c, "$n-c", &format!("{}-b", c.n));
    c.says(&lookup("$n", "$n-c"), &format!("{other}\n"));
    c.ok("docker network disconnect $n-b $n");
    c.says(&lookup("$n-c", "moved"), "");
    c.says(&lookup("$n", "$n-c"), "");
}

fn a_link_is_a_name_of_ones_own(c: &Client) {
    c.ok("docker network create $n; docker run -d --name $n --network $n busybox sleep 1000; docker run -d --name $n-c --network $n --link $n:store busybox sleep 1000; docker run -d --name $n-d --network $n busybox sleep 1000");
    let ip = address(c, "$n", &c.n);
    c.says(&lookup("$n-c", "store"), &format!("{ip}\n"));
    c.says(&lookup("$n-d", "store"), "");
}

fn the_resolver_leaves_port_53_to_the_container(c: &Client) {
    c.ok("docker network create $n; docker run -d --name $n --network $n busybox sh -c 'while :; do echo own | nc -l -p 53; done'");
    let ip = address(c, "$n", &c.n);
    c.comes_to(&format!("docker run --rm --network $n busybox nc -w 10 {ip} 53 < /dev/null"), "own");
    c.says(&lookup("$n", "$n"), &format!("{ip}\n"));
}

fn questions_go_over_tcp_too(c: &Client) {
    c.ok("docker network create $n; docker run -d --name $n --network $n --network-alias www busybox sleep 1000");
    let ip = address(c, "$n", &c.n);
    let octets: Vec<u8> = ip.split('.').map(|octet| octet.parse().unwrap()).collect();
    let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    // Length, number 7, one question: www, A, IN.
    let query = r"\0\025\0\007\001\0\0\001\0\0\0\0\0\0\003www\0\0\001\0\001";
    c.says(&format!("docker exec $n sh -c 'printf \"{query}\" | nc -w 10 127.0.0.11 53 | hexdump -v -e \"1/1 \\\"%02x\\\"\" | grep -o {hex}'"), &format!("{hex}\n"));
}

fn an_internal_network_asks_nobody_else(c: &Client) {
    c.ok("docker network create --internal $n; docker run -d --name $n --network $n busybox sleep 1000");
    let ip = address(c, "$n", &c.n);
    c.says(&lookup("$n", "$n"), &format!("{ip}\n"));
    c.says("docker exec $n nslookup example.org 2>&1 | grep -c SERVFAIL | sed 's/[1-9]/some/'", "some\n");
}

fn names_outlive_the_engine(c: &Client) {
    let mut engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let c = c.of(&engine);
        c.ok("docker network create $n; docker run -d --name $n --network $n busybox sleep 1000; docker run -d --name $n-c --network $n busybox sh -c 'while :; do nslookup '$n' >/dev/null 2>&1 && echo yes || echo no; sleep 0.05; done'");
        c.comes_to("docker logs $n-c | head -1", "yes");
        let ip = address(&c, "$n", &c.n);
        let id = c.line("docker network inspect -f '{{.Id}}' $n");
        engine.kill9();
        std::thread::sleep(std::time::Duration::from_millis(700));
        engine.restart();
        c.says(&lookup("$n-c", "$n"), &format!("{ip}\n"));
        c.says("docker network inspect -f '{{.Id}} {{len .Containers}}' $n", &format!("{id} 2\n"));
        // One resolver, not two; whoever comes now is known too.
        c.comes_to(&format!("pgrep -cf 'resolver --of {}'", engine.exec_root().display()), "1");
        c.ok("docker run -d --name $n-d --network $n busybox sleep 1000");
        let ip = address(&c, "$n-d", &c.n);
        c.says(&lookup("$n-c", "$n-d"), &format!("{ip}\n"));
        // While there was no engine, nobody missed it. One question may have been on its way to the old resolver.
        let missed: u32 = c.line("docker logs $n-c | grep -c no; true").parse().unwrap();
        assert!(missed <= 1, "{missed} questions were not answered");
        c.ok("docker rm -f $n $n-c $n-d; docker network rm $n");
    }
    engine.finish();
}

fn the_resolver_may_die(c: &Client) {
    let engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let c = c.of(&engine);
        c.ok("docker network create $n; docker run -d --name $n --network $n busybox sleep 1000");
        let ip = address(&c, "$n", &c.n);
        c.says(&lookup("$n", "$n"), &format!("{ip}\n"));
        c.ok(&format!("pkill -9 -f 'resolver --of {}'", engine.exec_root().display()));
        c.comes_to(&lookup("$n", "$n"), &ip);
    }
    engine.finish();
}

fn the_resolver_has_no_privilege(c: &Client) {
    let engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let c = c.of(&engine);
        c.ok("docker network create $n; docker run -d --name $n --network $n busybox sleep 1000");
        let pid = c.line(&format!("pgrep -f 'resolver --of {}'", engine.exec_root().display()));
        // It was answering before this was asked, so it has given up what it had.
        c.says(&lookup("$n", "$n"), &format!("{}\n", address(&c, "$n", &c.n)));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(field("Uid:"), "65534 65534 65534 65534");
        assert_eq!((field("Groups:").as_str(), field("NoNewPrivs:").as_str()), ("", "1"));
        for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
    }
    engine.finish();
}

/// Two services that know each other by name, a volume, a port, an internal network beside an open one.
const COMPOSE: &str = r#"services:
  web:
    build: ./web
    ports: ["127.0.0.1::8000"]
    depends_on: [db]
    networks: [front, back]
    environment: {DB: db}
  db:
    image: busybox
    entrypoint: ["sh", "-c", "echo hello from the database > /data/greeting; while :; do nc -l -p 7000 < /data/greeting; done"]
    volumes: ["data:/data"]
    networks:
      back: {aliases: [store]}
volumes: {data: {}}
networks:
  front: {}
  back: {internal: true}
"#;

/// A command that runs docker compose on the case's project, where it is installed.
pub(crate) fn compose(c: &Client) -> Option<String> {
    crate::buildx::has(c, &["docker-buildx", "docker-compose"])
        .then(|| "docker --config $PWD/docker compose -p $n".to_owned())
}

fn a_project_of_compose_runs(c: &Client) {
    let Some(compose) = compose(c) else { return };
    std::fs::create_dir_all(c.folder.join("web")).unwrap();
    std::fs::write(c.folder.join("compose.yaml"), COMPOSE).unwrap();
    let serve = "FROM busybox\nRUN echo built > /built\nCMD [\"sh\", \"-c\", \"while :; do (nc $DB 7000 </dev/null) | nc -l -p 8000; done\"]\n";
    std::fs::write(c.folder.join("web/Dockerfile"), serve).unwrap();
    c.ok(&format!("{compose} up --build -d"));
    c.says(
        &format!("{compose} ps --format '{{{{.Service}}}} {{{{.State}}}}' | sort"),
        "db running\nweb running\n",
    );
    c.comes_to(&format!("port=$({compose} port web 8000); nc -w 5 127.0.0.1 ${{port##*:}} < /dev/null 2>/dev/null || busybox nc -w 5 127.0.0.1 ${{port##*:}} < /dev/null"), "hello from the database");
    c.says(&format!("{compose} exec -T web cat /built"), "built\n");
    c.says(&format!("{compose} exec -T web sh -c 'nslookup store >/dev/null && echo found'"), "found\n");
    c.ok(&format!("{compose} logs"));
    // Nothing has changed, so nothing is made anew.
    let before = c.line(&format!("{compose} ps -q web"));
    c.ok(&format!("{compose} up -d"));
    assert_eq!(c.line(&format!("{compose} ps -q web")), before);
    c.ok(&format!("{compose} down -v -t 1"));
    c.says("docker ps -aq --filter name=$n; docker network ls -q --filter name=$n; docker volume ls -q --filter name=$n", "");
    c.ok("docker rmi -f $n-web");
}
