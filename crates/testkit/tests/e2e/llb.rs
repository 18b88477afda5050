//! Builds whose graph the client makes itself (LLB), sent over BuildKit's wire by hand.

use std::sync::atomic::{AtomicU32, Ordering};

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::case::cases;
use crate::client::Client;
use crate::devices::Devices;
use crate::peer::{Asked, Offers, Session};
use crate::wire::{Message, Refused, Wire, fields, text};

/// Why nothing here runs against dockerd.
pub(crate) const OWN: &str = "results are looked at with Yare's own exporters";

cases![
    Api:
        a_graph_becomes_an_image.differs(OWN),
        steps_are_cached_and_told_of.differs(OWN),
        mounts_of_a_process_are_kept_or_not.differs(OWN),
        folders_come_from_the_client.differs(OWN),
        files_are_changed_one_by_one.differs(OWN),
        copies_have_every_rule.differs(OWN),
        merge_and_diff_are_chains.differs(OWN),
        rights_must_be_granted_to_graphs.differs(OWN),
        devices_must_be_granted_to_graphs.differs(OWN),
        bad_graphs_are_refused.differs(OWN),
        nothing_leads_out_of_a_graph.differs(OWN),
        graphs_are_in_files.differs(OWN),
        results_are_read_over_the_bridge.differs(OWN);
];

pub(crate) const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";
pub(crate) const STATUS: &str = "/moby.buildkit.v1.Control/Status";
pub(crate) const BRIDGE: &str = "/moby.buildkit.v1.frontend.LLBBridge";

/// A graph being put together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Graph {
    operations: Vec<Message>,
    metadata: Vec<(String, Message)>,
}

/// An output of an operation.
#[derive(Debug, Clone)]
pub(crate) struct Output(String, i64);

impl Output {
    /// Another output of the same operation.
    fn at(&self, index: i64) -> Self {
        Self(self.0.clone(), index)
    }

    /// What its operation is known by.
    pub(crate) fn digest(&self) -> &str {
        &self.0
    }

    fn input(&self) -> Message {
        Message::new().text(1, &self.0).int(2, self.1)
    }
}

impl Graph {
    /// Adds an operation: its inputs, then its field.
    pub(crate) fn add(&mut self, inputs: &[&Output], field: u32, what: &Message) -> Output {
        let op = inputs.iter().fold(Message::new(), |op, input| op.message(1, &input.input()));
        let op = op.message(field, what);
        let digest = op.digest();
        self.operations.push(op);
        Output(digest, 0)
    }

    /// Says something of an operation: `OpMetadata`.
    fn about(&mut self, output: &Output, metadata: Message) {
        self.metadata.push((output.0.clone(), metadata));
    }

    pub(crate) fn source(&mut self, identifier: &str) -> Output {
        self.add(&[], 3, &Message::new().text(1, identifier))
    }

    /// A folder of the client's.
    pub(crate) fn local(&mut self, name: &str) -> Output {
        self.source(&format!("local://{name}"))
    }

    /// A process in a shell whose root is the first input and is kept. `mounts` are of the form `pb.Mount`.
    pub(crate) fn run(
        &mut self,
        root: &Output,
        others: &[&Output],
        script: &str,
        mounts: &[Message],
    ) -> Output {
        let root_mount = Message::new().int(1, 0).text(3, "/").int(4, 0);
        let exec = Message::new().message(1, &shell(script)).message(2, &root_mount);
        let exec = mounts.iter().fold(exec, |exec, mount| exec.message(2, mount));
        let inputs: Vec<&Output> = std::iter::once(root).chain(others.iter().copied()).collect();
        self.add(&inputs, 2, &exec)
    }

    /// A file operation of these actions.
    fn file(&mut self, inputs: &[&Output], actions: &[Message]) -> Output {
        let file = actions.iter().fold(Message::new(), |file, action| file.message(2, action));
        self.add(inputs, 4, &file)
    }

    /// The definition that stands for an output.
    pub(crate) fn definition(&self, output: &Output) -> Message {
        let last = Message::new().message(1, &output.input());
        let all = self.operations.iter().chain([&last]);
        let definition = all.fold(Message::new(), |definition, op| definition.bytes(1, op.as_slice()));
        self.metadata.iter().fold(definition, |definition, (digest, metadata)| {
            definition.message(2, &Message::new().text(1, digest).message(2, metadata))
        })
    }
}

pub(crate) fn shell(script: &str) -> Message {
    Message::new().text(1, "sh").text(1, "-c").text(1, script).text(3, "/")
}

/// An action on a place with a result that is output 0 if it is the last.
fn action(input: i64, secondary: i64, output: i64, field: u32, what: &Message) -> Message {
    Message::new().int(1, input).int(2, secondary).int(3, output).message(field, what)
}

fn mkdir(path: &str) -> Message {
    Message::new().text(1, path).int(2, 0o750).int(3, 1).int(5, -1)
}

fn mkfile(path: &str, content: &str) -> Message {
    Message::new().text(1, path).int(2, 0o640).text(3, content).int(5, -1)
}

/// A copy with the Dockerfile's rules.
fn copy(src: &str, dest: &str) -> Message {
    let copy = Message::new().text(1, src).text(2, dest).int(4, -1).int(11, -1);
    [5, 6, 8, 9].into_iter().fold(copy, |copy, field| copy.int(field, 1))
}

/// A file system with a file of another, under its name.
pub(crate) fn copied(graph: &mut Graph, root: &Output, from: &Output, name: &str) -> Output {
    graph.file(&[root, from], &[action(0, 1, 0, 4, &copy(&format!("/{name}"), &format!("/{name}")))])
}

/// What the client's folders have.
const FILES: &[(&str, &str)] = &[("a.txt", "first"), ("b.log", "second"), ("c.txt", "third")];

/// The last session may still be on its way out.
fn session_id(client: &Client) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{}-session-{}", client.n, NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// One build of a graph by hand.
pub(crate) struct Build<'c> {
    client: &'c Client,
    pub(crate) wire: Wire,
    pub(crate) session: String,
    pub(crate) open: Session,
    number: std::cell::Cell<u32>,
}

impl<'c> Build<'c> {
    fn new(client: &'c Client) -> Self {
        Self::offering(client, Offers { files: FILES, ..Offers::default() })
    }

    /// With a session of the client that has this.
    pub(crate) fn offering(client: &'c Client, offers: Offers) -> Self {
        let session = session_id(client);
        let open = Session::open(&client.host.socket, &session, offers);
        Self::over(client, session, open)
    }

    /// With a session that answers as it likes.
    pub(crate) fn acting(client: &'c Client, act: impl Fn(Asked) + Send + Sync + 'static) -> Self {
        let session = session_id(client);
        let open = Session::acting(&client.host.socket, &session, act);
        Self::over(client, session, open)
    }

    fn over(client: &'c Client, session: String, open: Session) -> Self {
        let wire = Wire::open(&client.host.socket);
        Self { client, wire, session, open, number: std::cell::Cell::new(0) }
    }

    pub(crate) fn id(&self) -> String {
        self.number.set(self.number.get() + 1);
        format!("{}-{}", self.client.n, self.number.get())
    }

    /// A request for an image of this name.
    pub(crate) fn request(&self, id: &str, definition: &Message, name: &str) -> Message {
        let exporter = Message::new().text(1, "moby").pair(2, "name", name);
        Message::new().text(1, id).message(2, definition).text(5, &self.session).message(13, &exporter)
    }

    pub(crate) fn solve(&self, graph: &Graph, output: &Output, name: &str) -> Result<Vec<u8>, Refused> {
        let id = self.id();
        self.wire.call(SOLVE, "", &self.request(&id, &graph.definition(output), name))
    }

    /// Builds an image and gives what a script in it says.
    #[track_caller]
    pub(crate) fn says(&self, graph: &Graph, output: &Output, script: &str) -> String {
        let name = format!("{}:{}", self.client.n, self.number.get());
        if let Err(refused) = self.solve(graph, output, &name) {
            panic!("{refused:?}");
        }
        self.client.ok(&format!("docker run --rm {name} sh -c '{script}'"))
    }

    /// A build that fails because something is not there.
    #[track_caller]
    fn lacks(&self, graph: &Graph, output: &Output) {
        let refused = self.solve(graph, output, "").unwrap_err();
        let said = ["not found", "no such", "nothing matches"];
        assert!(said.iter().any(|text| refused.message.contains(text)), "{refused:?}");
    }

    /// The vertices of the last build: name and whether it came from the cache.
    fn vertices(&self) -> Vec<(String, bool)> {
        let id = format!("{}-{}", self.client.n, self.number.get());
        let answers = self.wire.exchange(STATUS, "", &[Message::new().text(1, &id)]).unwrap();
        let vertices = answers.iter().flat_map(|answer| fields(answer, 1));
        let completed = vertices.filter(|vertex| !fields(vertex, 6).is_empty());
        completed.map(|vertex| (text(&vertex, 3), !fields(&vertex, 4).is_empty())).collect()
    }
}

/// A call that waits for the end of a build.
type Solving = JoinHandle<Result<Vec<u8>, Refused>>;

/// A build whose client runs its frontend itself.
#[derive(Debug, Clone)]
pub(crate) struct Bridge {
    wire: Wire,
    id: String,
    solving: Arc<Mutex<Option<Solving>>>,
    _session: Arc<Session>,
}

impl Bridge {
    pub(crate) fn begin(c: &Client) -> Self {
        let (id, session) = (format!("{}-bridge", c.n), format!("{}-session", c.n));
        let secrets = [("s".to_owned(), "hush".to_owned())].into();
        let offers = Offers { files: FILES, secrets, ..Offers::default() };
        let opened = Session::open(&c.host.socket, &session, offers);
        let wire = Wire::open(&c.host.socket);
        let request = Message::new().text(1, &id).text(5, &session);
        let asking = wire.clone();
        let solving = std::thread::spawn(move || asking.call(SOLVE, "", &request));
        let solving = Arc::new(Mutex::new(Some(solving)));
        Self { wire, id, solving, _session: Arc::new(opened) }
    }

    pub(crate) fn call(&self, method: &str, question: &Message) -> Result<Vec<u8>, Refused> {
        self.wire.call(&format!("{BRIDGE}/{method}"), &self.id, question)
    }

    /// The id of a result.
    #[track_caller]
    pub(crate) fn solve(&self, graph: &Graph, output: &Output) -> String {
        let solved = self.call("Solve", &Message::new().message(1, &graph.definition(output))).unwrap();
        text(&fields(&fields(&solved, 3)[0], 3)[0], 1)
    }

    /// Says all this to processes, and gives what they say.
    pub(crate) fn exec(&self, messages: &[Message]) -> Result<Vec<Vec<u8>>, Refused> {
        self.wire.exchange(&format!("{BRIDGE}/ExecProcess"), &self.id, messages)
    }

    /// Returns nothing, and waits for the build.
    pub(crate) fn end(&self) {
        self.call("Return", &Message::new().message(1, &Message::new())).unwrap();
        let solving = self.solving.lock().unwrap().take();
        solving.unwrap().join().unwrap().unwrap();
    }
}

pub(crate) const BUSYBOX: &str = "docker-image://docker.io/library/busybox:latest";

fn a_graph_becomes_an_image(c: &Client) {
    let build = Build::new(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let made = graph.run(&base, &[], "echo made > /file; echo $PATH > /path", &[]);
    assert_eq!(
        build.says(&graph, &made, "cat /file; cat /path"),
        "made\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    );
    let image = format!("{}:1", c.n);
    c.says(
        &format!("docker image inspect -f '{{{{len .RootFS.Layers}}}} {{{{.Config.WorkingDir}}}}' {}:0", c.n),
        "2 /\n",
    );
    drop(image);
}

fn steps_are_cached_and_told_of(c: &Client) {
    let build = Build::new(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let first =
        graph.run(&base, &[], &format!("echo {} > /one; cat /proc/sys/kernel/random/uuid > /time", c.n), &[]);
    let second = graph.run(&first, &[], "echo two > /two", &[]);
    graph.about(&second, Message::new().pair(2, "llb.customname", "the second step"));
    let time = build.says(&graph, &second, "cat /time");
    let told = build.vertices();
    assert!(told.contains(&("the second step".to_owned(), false)), "{told:?}");
    assert_eq!(build.says(&graph, &second, "cat /time"), time);
    assert!(build.vertices().contains(&("the second step".to_owned(), true)));
    graph.about(&first, Message::new().int(1, 1));
    assert_ne!(build.says(&graph, &second, "cat /time"), time, "ignore_cache");
    graph.about(&base, Message::new().message(5, &Message::new().text(1, "source.image").int(2, 1)));
    assert!(build.solve(&graph, &second, "").is_ok(), "a feature that is there");
    graph.about(&base, Message::new().message(5, &Message::new().text(1, "exec.flying").int(2, 1)));
    let refused = build.solve(&graph, &second, "").unwrap_err();
    assert_eq!((refused.code, refused.message.contains("exec.flying")), (12, true), "{refused:?}");
}

fn mounts_of_a_process_are_kept_or_not(c: &Client) {
    let build = Build::new(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let scratch = graph.file(&[], &[action(-1, -1, 0, 5, &mkfile("/given", "given"))]);
    let mounts = [
        // From nothing, kept as output 1.
        Message::new().int(1, -1).text(3, "/kept").int(4, 1),
        // From a file system, kept as output 2.
        Message::new().int(1, 1).text(3, "/more").int(4, 2),
        // Written and lost.
        Message::new().int(1, 1).text(3, "/lost").int(4, -1),
        // Read-only, one file of it.
        Message::new().int(1, 1).text(2, "/given").text(3, "/one").int(4, -1).int(5, 1),
        // Memory, a cache, a secret that the client has not.
        Message::new().int(1, -1).text(3, "/memory").int(4, -1).int(6, 4),
        Message::new()
            .int(1, -1)
            .text(3, "/cache")
            .int(4, -1)
            .int(6, 3)
            .message(20, &Message::new().text(1, &c.n).int(2, 2)),
        Message::new()
            .int(1, -1)
            .text(3, "/secret")
            .int(4, -1)
            .int(6, 1)
            .message(21, &Message::new().text(1, "none").int(4, 0o400).int(5, 1)),
    ];
    let script = "set -e; echo root > /root-file; echo new > /kept/new; cat /more/given > /more/copy
        echo x > /lost/x; cat /one > /kept/one; if echo > /one; then exit 9; fi; echo x > /memory/x
        echo x >> /cache/x; cat /cache/x > /kept/cache; test ! -e /secret";
    let run = graph.run(&base, &[&scratch], script, &mounts);
    let kept = [run.at(1), run.at(2)];
    let joined = graph.file(
        &[&base, &kept[0], &kept[1]],
        &[action(0, 1, -1, 4, &copy("/", "/kept")), action(3, 2, 0, 4, &copy("/", "/more"))],
    );
    let expected = "cache\nnew\none\ncopy\ngiven\ngivengivenx\n";
    let script = "ls /kept /more | grep -v : | grep .; cat /more/copy /more/given /kept/cache";
    assert_eq!(build.says(&graph, &joined, script), expected);
    assert_eq!(
        build.says(&graph, &run, "cat /root-file; ls -d /kept /lost /one 2>/dev/null || true"),
        "root\n"
    );
    // A root that cannot be written, whose other output counts.
    let exec = Message::new()
        .message(1, &shell("if echo x > /x; then exit 9; fi; echo fine > /out/fine"))
        .message(2, &Message::new().int(1, 0).text(3, "/").int(4, -1).int(5, 1))
        .message(2, &Message::new().int(1, -1).text(3, "/out").int(4, 0));
    let out = graph.add(&[&base], 2, &exec);
    let merged = graph.add(&[&base, &out], 6, &places(&[0, 1]));
    assert_eq!(build.says(&graph, &merged, "cat /fine; ls /x 2>/dev/null || true"), "fine\n");
}

fn folders_come_from_the_client(c: &Client) {
    let build = Build::new(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let local = |graph: &mut Graph, attributes: &[(&str, &str)]| {
        let source = Message::new().text(1, "local://folder");
        let source = attributes.iter().fold(source, |source, (name, value)| source.pair(2, name, value));
        graph.add(&[], 3, &source)
    };
    let all = local(&mut graph, &[("local.session", &build.session)]);
    // The client sends more than is wanted.
    let some = [("local.includepattern", "[\"*.txt\"]"), ("local.excludepatterns", "[\"c*\"]")];
    let some = local(&mut graph, &some);
    let made = graph.file(
        &[&base, &all, &some],
        &[
            action(0, 1, -1, 4, &copy("/", "/all")),
            action(3, 1, -1, 4, &copy("/b.*", "/one/")),
            action(4, 2, 0, 4, &copy("/", "/some")),
        ],
    );
    let mount = Message::new().int(1, 1).text(3, "/mounted").int(4, -1).int(5, 1);
    let made = graph.run(&made, &[&some], "cat /mounted/* > /seen", &[mount]);
    let expected = "/all/a.txt\n/all/b.log\n/all/c.txt\n/one/b.log\n/some/a.txt\nfirst";
    assert_eq!(build.says(&graph, &made, "find /all /one /some -type f | sort; cat /seen"), expected);
    let foreign = local(&mut graph, &[("local.session", "somebody-elses")]);
    let made = graph.file(&[&base, &foreign], &[action(0, 1, 0, 4, &copy("/", "/x"))]);
    let refused = build.solve(&graph, &made, "").unwrap_err();
    assert_eq!(refused.code, 7, "{refused:?}");
}

fn places(all: &[i64]) -> Message {
    all.iter().fold(Message::new(), |merge, place| merge.message(1, &Message::new().int(1, *place)))
}

fn files_are_changed_one_by_one(c: &Client) {
    let build = Build::new(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let named = |name: &str| Message::new().message(1, &Message::new().text(1, name).int(2, 0));
    let owner = Message::new().message(1, &named("nobody")).message(2, &Message::new().int(2, 7));
    let made = graph.file(
        &[&base],
        &[
            action(0, -1, -1, 6, &mkdir("/a/b/c").message(4, &owner)),
            action(1, -1, -1, 5, &mkfile("/a/b/file", "text").message(4, &owner)),
            action(2, -1, -1, 8, &Message::new().text(1, "b/file").text(2, "/a/link").int(4, -1)),
            action(3, -1, -1, 5, &mkfile("/a/gone-1", "")),
            action(4, -1, -1, 5, &mkfile("/a/gone-2", "")),
            action(5, -1, 0, 7, &Message::new().text(1, "/a/gone-*").int(3, 1)),
        ],
    );
    let script = "stat -c \"%a %U %g %n\" /a/b/c /a/b/file; cat /a/link; ls /a";
    assert_eq!(
        build.says(&graph, &made, script),
        "750 nobody 7 /a/b/c\n640 nobody 7 /a/b/file\ntextb\nlink\n"
    );
    let missing = graph.file(&[&base], &[action(0, -1, 0, 7, &Message::new().text(1, "/nothing"))]);
    build.lacks(&graph, &missing);
    let fine = Message::new().text(1, "/nothing").int(2, 1);
    let fine = graph.file(&[&base], &[action(0, -1, 0, 7, &fine)]);
    build.solve(&graph, &fine, "").unwrap();
    let nowhere = graph.file(&[&base], &[action(0, -1, 0, 5, &mkfile("/no/where", ""))]);
    build.lacks(&graph, &nowhere);
}

fn copies_have_every_rule(c: &Client) {
    let build = Build::new(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let script = "mkdir -p /s/d/sub /t; echo a > /s/d/a; echo b > /s/d/sub/b; ln -s d /s/l; echo s > \"/s/*\"; chmod 711 /s/d";
    let source = graph.run(&base, &[], script, &[]);
    let plain = |src: &str, dest: &str| Message::new().text(1, src).text(2, dest).int(4, -1).int(11, -1);
    let made = graph.file(
        &[&base, &source],
        &[
            // The directory itself, into one that is there and as one that is not; owners and modes are kept.
            action(0, 1, -1, 4, &plain("/s/d", "/home")),
            action(2, 1, -1, 4, &plain("/s/d", "/whole")),
            // What is in it, a link as a link and what it leads to.
            action(3, 1, -1, 4, &copy("/s/d", "/p/contents")),
            action(4, 1, -1, 4, &plain("/s/l", "/link")),
            action(5, 1, -1, 4, &copy("/s/l", "/followed")),
            // A name that looks like a pattern; patterns; a mode and an owner.
            action(6, 1, -1, 4, &plain("/s/*", "/star")),
            action(7, 1, -1, 4, &copy("/s/d/*", "/all/").int(4, 0o600).text(15, "u=rwX,go=")),
            action(8, 1, -1, 4, &copy("/s/d", "/some").text(12, "sub/*").text(13, "a")),
            action(9, 1, 0, 4, &copy("/none*", "/none").int(10, 1)),
        ],
    );
    let script =
        "cat /home/d/a /whole/sub/b /p/contents/a; stat -c %a /whole; readlink /link; ls -d /followed/a;
        cat /star; stat -c %a /all/a; find /some -type f";
    let expected = "a\nb\na\n711\nd\n/followed/a\ns\n600\n/some/sub/b\n";
    assert_eq!(build.says(&graph, &made, script), expected);
    for copy in [copy("/none*", "/none"), copy("/none", "/none"), plain("/s/d/a", "/no/where/a")] {
        let made = graph.file(&[&base, &source], &[action(0, 1, 0, 4, &copy)]);
        build.lacks(&graph, &made);
    }
    let replacing = copy("/s/d", "/x").int(14, 1);
    let made = graph.file(&[&base, &source], &[action(0, 1, 0, 4, &replacing)]);
    assert_eq!(build.solve(&graph, &made, "").unwrap_err().code, 12);
}

fn merge_and_diff_are_chains(c: &Client) {
    let build = Build::new(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let one = graph.run(&base, &[], "echo 1 > /one; rm /etc/group", &[]);
    let two = graph.run(&base, &[], "echo 2 > /two", &[]);
    let diff = |graph: &mut Graph, upper: &Output| {
        let place = |place: i64| Message::new().int(1, place);
        graph.add(&[&base, upper], 7, &Message::new().message(1, &place(0)).message(2, &place(1)))
    };
    let (one, two) = (diff(&mut graph, &one), diff(&mut graph, &two));
    let merged = graph.add(&[&base, &one, &two], 6, &places(&[0, 1, 2]));
    assert_eq!(build.says(&graph, &merged, "cat /one /two; ls /etc/group 2>/dev/null || true"), "1\n2\n");
    c.says(&format!("docker image inspect -f '{{{{len .RootFS.Layers}}}}' {}:0", c.n), "3\n");
    let apart = graph.add(
        &[&one, &two],
        7,
        &Message::new().message(1, &Message::new().int(1, 0)).message(2, &Message::new().int(1, 1)),
    );
    assert_eq!(build.solve(&graph, &apart, "").unwrap_err().code, 12);
}

fn rights_must_be_granted_to_graphs(c: &Client) {
    let build = Build::new(c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let root = Message::new().int(1, 0).text(3, "/").int(4, 0);
    let exec = |field: u32, value: i64| {
        Message::new().message(1, &shell("true")).message(2, &root).int(field, value)
    };
    for (field, value, right) in [(3, 1, "network.host"), (4, 1, "security.insecure")] {
        let asked = graph.add(&[&base], 2, &exec(field, value));
        let refused = build.solve(&graph, &asked, "").unwrap_err();
        assert_eq!((refused.code, refused.message.contains(right)), (7, true), "{refused:?}");
        let request = build.request(&build.id(), &graph.definition(&asked), "").text(9, right);
        build.wire.call(SOLVE, "", &request).unwrap();
    }
}

fn devices_must_be_granted_to_graphs(c: &Client) {
    let devices = Devices::new(c);
    devices.describe(
        "dev.yaml",
        "cdiVersion: 0.3.0\nkind: vendor.com/class\ndevices: [{name: dev, containerEdits: {env: [DEV=given]}}]\n",
    );
    let build = Build::new(&devices.c);
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let root = Message::new().int(1, 0).text(3, "/").int(4, 0);
    let mut exec = |device: &Message, script: &str| {
        graph.add(
            &[&base],
            2,
            &Message::new().message(1, &shell(script)).message(2, &root).message(6, device),
        )
    };
    let device = |name: &str| Message::new().text(1, name);
    let asked = exec(&device("vendor.com/class=dev"), "[ $DEV = given ]");
    let absent = exec(&device("vendor.com/class=none"), "true");
    let optional = exec(&device("vendor.com/class=none").int(2, 1), "[ -z \"$DEV\" ]");
    let refused = build.solve(&graph, &asked, "").unwrap_err();
    let right = "device vendor.com/class=dev is requested by the build but not allowed";
    assert_eq!((refused.code, refused.message.contains(right)), (7, true), "{refused:?}");
    let granted = |output: &Output, right: &str| {
        let request = build.request(&build.id(), &graph.definition(output), "").text(9, right);
        build.wire.call(SOLVE, "", &request)
    };
    granted(&asked, "device=vendor.com/class").unwrap();
    let refused = granted(&absent, "device").unwrap_err();
    assert!(refused.message.contains("is not registered"), "{refused:?}");
    granted(&optional, "device").unwrap();
    drop(build);
    devices.finish();
}

fn bad_graphs_are_refused(c: &Client) {
    let build = Build::new(c);
    let refused = |graph: &Graph, output: &Output, code: u32| {
        let refused = build.solve(graph, output, "").unwrap_err();
        assert_eq!(refused.code, code, "{refused:?}");
    };
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    refused(&graph, &Output(format!("sha256:{}", "0".repeat(64)), 0), 3);
    refused(&graph, &base.at(1), 3);
    refused(&graph, &base.at(-1), 3);
    let lost = graph.run(&Output("sha256:nothing".to_owned(), 0), &[], "true", &[]);
    refused(&graph, &lost, 3);
    let forward = graph.file(&[&base], &[action(2, -1, 0, 6, &mkdir("/x"))]);
    refused(&graph, &forward, 3);
    let far = graph.add(&[&base], 6, &places(&[0, 7]));
    refused(&graph, &far, 3);
    let unknown = graph.source("ftp://somewhere/file");
    refused(&graph, &unknown, 12);
    let source_with_input = graph.add(&[&base], 3, &Message::new().text(1, BUSYBOX));
    refused(&graph, &source_with_input, 3);
    let mut other = Graph::default();
    let foreign = other.source("yare-result://another-build/result");
    refused(&other, &foreign, 5);
    let garbage = Message::new().bytes(1, &[0xff; 32]).bytes(1, &[0xff; 32]);
    let answer = build.wire.call(SOLVE, "", &build.request(&build.id(), &garbage, ""));
    assert_eq!(answer.unwrap_err().code, 3);
    // Many operations in a small message: refused by their number. A large message: by its size.
    let op = Message::new().message(3, &Message::new().text(1, BUSYBOX));
    let many = (0..100_000).fold(Message::new(), |many, _| many.bytes(1, op.as_slice()));
    let answer = build.wire.call(SOLVE, "", &build.request(&build.id(), &many, ""));
    assert_eq!(answer.unwrap_err().code, 3);
    let large = Message::new().bytes(1, &vec![0; 100 << 20]);
    let answer = build.wire.call(SOLVE, "", &build.request(&build.id(), &large, ""));
    assert_eq!(answer.unwrap_err().code, 8);
    let deep = (0..2000).fold(base.clone(), |below, number| {
        graph.file(&[&below], &[action(0, -1, 0, 6, &mkdir(&format!("/x{number}")))])
    });
    let broken = graph.file(&[&deep], &[action(9, -1, 0, 6, &mkdir("/x"))]);
    refused(&graph, &broken, 3);
}

fn nothing_leads_out_of_a_graph(c: &Client) {
    let build = Build::new(c);
    let outside = c.folder.join("outside");
    std::fs::write(&outside, "outside").unwrap();
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let up = format!("{}{}", "../".repeat(30).trim_end_matches('/'), outside.display());
    let trap = graph.run(
        &base,
        &[],
        &format!("ln -s {} /trap; ln -s {up} /up; ln -s {} /dir", outside.display(), c.folder.display()),
        &[],
    );
    let rm = |path: &str| Message::new().text(1, path);
    for what in [
        action(0, 0, 0, 4, &copy("/trap", "/copied")),
        action(0, 0, 0, 4, &copy(&up, "/copied")),
        action(0, 0, 0, 4, &copy("/dir/outside", "/copied")),
        action(0, -1, 0, 7, &rm("/dir/outside")),
        action(0, -1, 0, 7, &rm(&up)),
        action(0, -1, 0, 5, &mkfile("/dir/new", "new")),
    ] {
        let made = graph.file(&[&trap], &[what]);
        build.lacks(&graph, &made);
    }
    // Through a link that is the last name, a file is made where the link leads within the root.
    let made =
        graph.file(&[&trap], &[action(0, -1, -1, 6, &mkdir("/dir/made")), action(1, -1, 0, 7, &rm("/trap"))]);
    drop(build.solve(&graph, &made, ""));
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "outside");
    assert_eq!(
        std::fs::read_dir(&c.folder)
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name == "new" || name == "made"
            })
            .count(),
        0
    );
    for selector in ["/trap", "/../../etc/hostname", "/up"] {
        let mount = Message::new().int(1, 1).text(2, selector).text(3, "/mounted").int(4, -1).int(5, 1);
        let run = graph.run(&base, &[&trap], "grep -q outside /mounted && exit 1; true", &[mount]);
        if let Err(refused) = build.solve(&graph, &run, "") {
            assert!(refused.message.contains("not found") || refused.code == 5, "{refused:?}");
        }
    }
}

fn results_are_read_over_the_bridge(c: &Client) {
    let build = Build::new(c);
    let id = build.id();
    let request = build.request(&id, &Message::new(), &format!("{}:bridge", c.n));
    // Without a frontend and a graph, the client returns what is to be built.
    let without = Message::new().text(1, &id).text(5, &build.session);
    let exporter = Message::new().text(1, "moby").pair(2, "name", &format!("{}:bridge", c.n));
    let without = without.message(13, &exporter);
    drop(request);
    let wire = build.wire.clone();
    let solving = std::thread::spawn(move || wire.call(SOLVE, "", &without));
    let call =
        |method: &str, question: &Message| build.wire.call(&format!("{BRIDGE}/{method}"), &id, question);
    let pong = call("Ping", &Message::new()).unwrap();
    let caps: Vec<String> = fields(&pong, 2).iter().map(|cap| text(cap, 1)).collect();
    assert!(caps.contains(&"mergeop".to_owned()) && caps.contains(&"exec.mount.ssh".to_owned()), "{caps:?}");
    let mut graph = Graph::default();
    let base = graph.source(BUSYBOX);
    let made = graph.run(
        &base,
        &[],
        "mkdir /d; echo -n 0123456789 > /d/file; ln -s file /d/link; ln -s /etc/shadow /d/out",
        &[],
    );
    let solved = call("Solve", &Message::new().message(1, &graph.definition(&made))).unwrap();
    let reference = text(&fields(&fields(&solved, 3)[0], 3)[0], 1);
    let read = |path: &str| Message::new().text(1, &reference).text(2, path);
    assert_eq!(text(&call("ReadFile", &read("/d/link")).unwrap(), 1), "0123456789");
    let range = Message::new().int(1, 2).int(2, 3);
    assert_eq!(text(&call("ReadFile", &read("d/file").message(3, &range)).unwrap(), 1), "234");
    assert_eq!(call("ReadFile", &read("/d/none")).unwrap_err().code, 5);
    let listed = call("ReadDir", &read("/d")).unwrap();
    let names: Vec<String> = fields(&listed, 1).iter().map(|stat| text(stat, 1)).collect();
    assert_eq!(names, ["file", "link", "out"]);
    let some = call("ReadDir", &read("/d").text(3, "f*")).unwrap();
    assert_eq!(fields(&some, 1).len(), 1);
    let stat = call("StatFile", &read("/d/file")).unwrap();
    let stat = &fields(&stat, 1)[0];
    assert_eq!((text(stat, 1).as_str(), fields(stat, 5)[0][0]), ("file", 10));
    assert_eq!(call("StatFile", &Message::new().text(1, "none").text(2, "/")).unwrap_err().code, 5);
    let image = Message::new().text(1, "docker.io/library/busybox:latest");
    let config = call("ResolveImageConfig", &image).unwrap();
    assert!(text(&config, 1).starts_with("sha256:") && text(&config, 2).contains("\"rootfs\""));
    let source = Message::new().message(1, &Message::new().text(1, BUSYBOX));
    let meta = call("ResolveSourceMeta", &source).unwrap();
    assert_eq!(text(&fields(&meta, 2)[0], 1), text(&config, 1));
    let warning = Message::new().text(1, &made.at(0).0).int(2, 1).text(3, "beware");
    call("Warn", &warning).unwrap();
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Env":["FROM=frontend"],"Labels":{"a":"b"}},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let result = Message::new().message(3, &Message::new().text(1, &reference));
    let result = result.message(10, &Message::new().text(1, "containerimage.config").text(2, config));
    call("Return", &Message::new().message(1, &result)).unwrap();
    solving.join().unwrap().unwrap();
    let inspect = format!(
        "docker image inspect -f '{{{{index .Config.Labels \"a\"}}}} {{{{.Config.Env}}}}' {}:bridge",
        c.n
    );
    c.says(&inspect, "b [FROM=frontend]\n");
}

fn graphs_are_in_files(c: &Client) {
    let build = Build::new(c);
    // The file that `place` names holds the graph; the operation stands for what that makes.
    let within = |graph: &mut Graph, holder: &Output, name: Option<&str>| {
        let input = Message::new().text(1, "buildkit.llb.definition").message(2, &Message::new().int(1, 0));
        let op = Message::new().int(1, -1).message(2, &input);
        let op = name.into_iter().fold(op, |op, name| op.pair(4, "llbbuild.filename", name));
        graph.add(&[holder], 5, &op)
    };
    let written = |graph: &mut Graph, name: &str, content: &Message| {
        let file = Message::new().text(1, name).int(2, 0o644).bytes(3, content.as_slice()).int(5, -1);
        graph.file(&[], &[action(-1, -1, 0, 5, &file)])
    };
    let mut inner = Graph::default();
    let base = inner.source(BUSYBOX);
    let made = inner.run(&base, &[], "echo inner > /file", &[]);
    let mut middle = Graph::default();
    let holder = written(&mut middle, "/buildkit.llb.definition", &inner.definition(&made));
    let made = within(&mut middle, &holder, None);
    let mut outer = Graph::default();
    let holder = written(&mut outer, "/graph", &middle.definition(&made));
    let inside = within(&mut outer, &holder, Some("/graph"));
    let made = outer.run(&inside, &[], "echo outer >> /file", &[]);
    assert_eq!(build.says(&outer, &made, "cat /file"), "inner\nouter\n");
    let absent = within(&mut outer, &holder, Some("/nowhere"));
    build.lacks(&outer, &absent);
    let nonsense = written(&mut outer, "/graph", &Message::new().int(1, 7));
    let broken = within(&mut outer, &nonsense, Some("/graph"));
    let refused = build.solve(&outer, &broken, "").unwrap_err();
    assert!(refused.message.contains("no graph that can be read"), "{refused:?}");
}
