//! The parser against the field's vectors, and checkouts from a server that runs in the test.

use super::*;
use crate::Cancel;
use serde_json::Value;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use yare_errdefs::{Class, Classified};

fn table(text: &str, name: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(text).unwrap();
    let tables = vectors["tables"].as_array().unwrap();
    let table = tables.iter().find(|table| table["func"] == name).unwrap();
    table["cases"].as_array().unwrap().clone()
}

#[test]
fn references_are_read_as_the_field_reads_them() {
    let cases = table(include_str!("../../../tests/data/git-ref.json"), "TestParseGitRef");
    assert_eq!(cases.len(), 39);
    for case in cases {
        let text = case["ref"].as_str().unwrap();
        let parsed = GitRef::parse(text);
        if let Some(error) = case["err"].as_str() {
            let got = parsed.unwrap_err().to_string();
            assert!(got.contains(error), "{text}: {got}");
            continue;
        }
        let (parsed, expected) = (parsed.unwrap(), &case["expected"]);
        let Some(parsed) = parsed else {
            assert!(expected.is_null(), "{text}: not recognised");
            continue;
        };
        assert!(!expected.is_null(), "{text}: is no git reference");
        let text_of = |name: &str| expected[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(parsed.remote, text_of("Remote"), "{text}");
        assert_eq!(parsed.short_name, text_of("ShortName"), "{text}");
        assert_eq!(parsed.reference, text_of("Ref"), "{text}");
        assert_eq!(parsed.subdir, text_of("SubDir"), "{text}");
        assert_eq!(parsed.checksum, text_of("Checksum"), "{text}");
        assert_eq!(parsed.fetch_by_commit, expected["FetchByCommit"] == true, "{text}");
        assert_eq!(parsed.unencrypted, expected["UnencryptedTCP"] == true, "{text}");
        let local = expected["IndistinguishableFromLocal"] == true;
        assert_eq!(parsed.indistinguishable_from_local, local, "{text}");
        let mtime = match expected["MTime"].as_str() {
            Some("commit") => Some(MTime::Commit),
            Some(_) => Some(MTime::Checkout),
            None => None,
        };
        assert_eq!(parsed.mtime, mtime, "{text}");
    }
}

#[test]
fn the_older_spelling_is_derived() {
    for (name, subdir) in [("TestFragmentFormat", false), ("TestFragmentFormatWithSubdir", true)] {
        for case in table(include_str!("../../../tests/data/git-ref.json"), name) {
            let (text, expected) = (case["ref"].as_str().unwrap(), case["expected"].as_str().unwrap());
            let parsed = GitRef::parse(text).ok().flatten();
            assert_eq!(parsed.is_some(), case["ok"] == true, "{text}");
            // Ours is for records and never shows a password.
            let expected = expected.replace("foo:bar@", "xxxxx:xxxxx@");
            if let Some(parsed) = parsed {
                assert_eq!(parsed.fragment_form(subdir), expected, "{text}");
            }
        }
    }
}

#[test]
fn addresses_are_taken_apart() {
    for case in table(include_str!("../../../tests/data/git-url.json"), "TestParseURL") {
        let (text, expected) = (case["url"].as_str().unwrap(), &case["result"]);
        let Some(url) = GitUrl::parse(text).unwrap() else {
            assert_eq!(case["err"], true, "{text}");
            continue;
        };
        assert_eq!(url.host, expected["Host"].as_str().unwrap(), "{text}");
        assert_eq!(url.path, expected["Path"].as_str().unwrap(), "{text}");
        let scheme = expected["Scheme"].as_str().unwrap();
        assert!(scheme.eq_ignore_ascii_case(&format!("expr:{:?}Protocol", url.scheme)), "{text}");
        let fragment = url.fragment.as_deref().unwrap_or_default();
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        assert_eq!(reference, expected["Opts"]["Ref"].as_str().unwrap_or_default(), "{text}");
        assert_eq!(subdir, expected["Opts"]["Subdir"].as_str().unwrap_or_default(), "{text}");
    }
}

#[test]
fn the_classic_clients_forms() {
    let text = include_str!("../../../tests/data/build-git-url.json");
    for case in table(text, "TestParseRemoteURL") {
        let (url, expected) = (case["url"].as_str().unwrap(), &case["expected"]);
        let parsed = GitRef::parse(url).unwrap().unwrap();
        assert_eq!(parsed.remote, expected["remote"].as_str().unwrap());
        assert_eq!(parsed.subdir, expected["subdir"].as_str().unwrap_or_default());
    }
    for url in table(text, "TestGitInvalidRef") {
        let error = GitRef::parse(url.as_str().unwrap()).unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument, "{url}");
    }
}

#[test]
fn switches_are_read_and_what_is_said_twice_is_refused() {
    let parsed = GitRef::parse("ssh://git@x/y.git?keep-git-dir=1&submodules=0").unwrap().unwrap();
    assert_eq!((parsed.keep_git_dir, parsed.submodules), (Some(true), Some(false)));
    let error = GitRef::parse("https://x/y.git?subdir=a#:b").unwrap_err().to_string();
    assert!(error.contains(": subdir conflicts"), "{error}");
}

#[test]
fn options_in_disguise_are_refused() {
    let bad = [
        "https://h/a.git#-x",
        "https://h/a.git#--upload-pack=touch",
        "https://h/a.git#a:../../etc",
        "https://h/a.git#main:.git/hooks",
        "https://h/a.git?ref=%2D%2Dfoo",
        "https://h/a.git?ref=a:refs/heads/b",
        "https://h/a.git?checksum=--help",
        "https://h/a.git?commit=-x",
        "https://h/a.git#a..b",
        "https://h/a.git#x\n",
        "ssh://-oProxyCommand=touch/x.git",
        "ssh://-l@h/x.git",
        "git@h:-x",
        "git@github.com/a/b",
    ];
    for text in bad {
        assert!(GitRef::parse(text).is_err(), "{text}");
    }
}

#[test]
fn passwords_stay_out_of_texts_and_arguments() {
    let parsed = GitRef::parse("https://me:s3cret@h/a.git#main").unwrap().unwrap();
    assert_eq!(parsed.redacted(), "https://xxxxx:xxxxx@h/a.git");
    assert_eq!(parsed.url.address(), "https://h/a.git");
    assert_eq!(parsed.url.credentials().unwrap(), b"me:s3cret");
    let error = GitRef::parse("https://me:s3cret@h/a.git#-x").unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

/// A folder of repositories, served over `git://` on a port of its own.
struct Server {
    folder: tempfile::TempDir,
    port: u16,
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@example.invalid");
        command.env(format!("GIT_{who}_DATE"), "1600000000 +0000");
    }
    let output = command.args(["-c", "protocol.file.allow=always"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let root = folder.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream: OwnedFd = stream.unwrap().into();
                let base = format!("--base-path={}", root.display());
                let mut command = Command::new("git");
                command
                    .args(["daemon", "--inetd", "--export-all", &base])
                    .env("GIT_CONFIG_GLOBAL", "/dev/null");
                command.stdin(Stdio::from(stream.try_clone().unwrap())).stdout(stream).stderr(Stdio::null());
                let Ok(mut child) = command.spawn() else { return };
                std::thread::spawn(move || child.wait());
            }
        });
        Self { folder, port }
    }

    fn repository(&self, name: &str) -> std::path::PathBuf {
        let dir = self.folder.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        git(&dir, &["init", "--quiet", "--initial-branch=main"]);
        dir
    }

    fn url(&self, name: &str) -> String {
        format!("git://127.0.0.1:{}/{name}", self.port)
    }

    fn commit(dir: &Path, text: &str) -> String {
        std::fs::write(dir.join("Dockerfile"), text).unwrap();
        git(dir, &["add", "-A"]);
        git(dir, &["commit", "--quiet", "-m", text]);
        git(dir, &["rev-parse", "HEAD"])
    }
}

struct Out {
    folder: tempfile::TempDir,
    checkout: Checkout,
}

impl Out {
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.checkout.dir.join(name)).unwrap()
    }
}

fn checkout(git: &Git, text: &str, keep: bool) -> yare_errdefs::Result<Out> {
    let folder = tempfile::tempdir().unwrap();
    let wanted = GitRef::parse(text)?.unwrap();
    let checkout = git.checkout(&wanted, folder.path(), (keep, 1_000), &Cancel::default())?;
    Ok(Out { folder, checkout })
}

#[test]
fn a_branch_a_tag_a_commit_and_a_folder() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let dir = server.repository("one");
    std::fs::create_dir(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/file"), "below").unwrap();
    symlink("sub", dir.join("link")).unwrap();
    let first = Server::commit(&dir, "FROM scratch");
    git(&dir, &["tag", "-a", "v1", "-m", "one"]);
    git(&dir, &["branch", "other"]);
    let second = Server::commit(&dir, "FROM two");
    let (program, url) = (Git::new(cache.path()), server.url("one"));

    let head = checkout(&program, &url, false).unwrap();
    assert_eq!((head.checkout.commit.as_str(), head.read("Dockerfile").as_str()), (&*second, "FROM two"));
    let stat = std::fs::metadata(head.checkout.dir.join("Dockerfile")).unwrap();
    assert_eq!((stat.mtime(), stat.mode() & 0o7777), (1_000, 0o644));
    assert!(!head.checkout.dir.join(".git").exists());

    let tag = git(&dir, &["rev-parse", "v1"]);
    assert_ne!(tag, first, "an annotated tag has a hash of its own");
    for reference in ["v1", "refs/tags/v1", "other", &first, &first[..8], &tag] {
        let out = checkout(&program, &format!("{url}#{reference}"), false).unwrap();
        assert_eq!(
            (out.checkout.commit.as_str(), out.read("Dockerfile").as_str()),
            (&*first, "FROM scratch")
        );
    }
    let below = checkout(&program, &format!("{url}?mtime=commit#main:sub"), false).unwrap();
    assert_eq!(below.read("file"), "below");
    assert_eq!(std::fs::metadata(below.checkout.dir.join("file")).unwrap().mtime(), 1_600_000_000);
    assert_eq!(below.checkout.dir, below.folder.path().join("sub"));

    for wrong in ["#main:link", "#main:nothing", "#main:Dockerfile", "#nobranch"] {
        let error = checkout(&program, &format!("{url}{wrong}"), false).map(|_| ()).unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{wrong}: {error:?}");
    }
    assert!(checkout(&program, &format!("{url}?checksum={}#v1", &first[..10]), false).is_ok());
    let error = checkout(&program, &format!("{url}?checksum={second}#v1"), false).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), format!("expected checksum to match {second}, got {first}"));
    let wanted = GitRef::parse(&url).unwrap().unwrap();
    assert_eq!(program.resolve(&wanted, &Cancel::default()).unwrap(), second);
}

#[test]
fn what_is_known_is_not_fetched_again_and_news_are() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let dir = server.repository("one");
    let first = Server::commit(&dir, "FROM one");
    let (program, url) = (Git::new(cache.path()), server.url("one"));
    checkout(&program, &url, false).unwrap();
    // A killed git leaves such behind.
    let mirrors = std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path());
    let mirror = mirrors.filter(|path| path.is_dir()).find(|path| path.join("HEAD").exists()).unwrap();
    std::fs::write(mirror.join("shallow.lock"), "").unwrap();
    let second = Server::commit(&dir, "FROM two");
    assert_eq!(checkout(&program, &url, false).unwrap().checkout.commit, second);
    // Without the server, a commit that is known can still be had.
    std::fs::rename(&dir, dir.with_extension("gone")).unwrap();
    let known = checkout(&program, &format!("{url}#{first}"), false).unwrap();
    assert_eq!(known.read("Dockerfile"), "FROM one");
    let gone = checkout(&program, &url, false).map(|_| ()).unwrap_err();
    assert_ne!(gone.class(), Class::Internal, "{gone:?}");
}

#[test]
fn small_repositories_that_unpack_to_much_are_refused() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let dir = server.repository("bomb");
    std::fs::write(dir.join("zeros"), vec![0; 4 << 20]).unwrap();
    for copy in 0..8 {
        std::fs::copy(dir.join("zeros"), dir.join(format!("zeros{copy}"))).unwrap();
    }
    Server::commit(&dir, "FROM scratch");
    let program = Git { limit: 32 << 20, ..Git::new(cache.path()) };
    let error = checkout(&program, &server.url("bomb"), false).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("more than the 33554432 bytes"), "{error}");
    checkout(&Git::new(cache.path()), &server.url("bomb"), false).unwrap();

    // Trees of trees of one file: a million files in a few kilobytes.
    let empty = git(&dir, &["hash-object", "-w", "/dev/null"]);
    let mut tree = (0..32)
        .map(|name| format!("100644 blob {empty}\tfile-with-a-rather-long-name-{name}\n"))
        .collect::<String>();
    for _ in 0..4 {
        let hash = mktree(&dir, &tree);
        tree = (0..32)
            .map(|name| format!("040000 tree {hash}\tfolder-with-a-rather-long-name-{name}\n"))
            .collect();
    }
    let top = mktree(&dir, &tree);
    let commit = git(&dir, &["commit-tree", "-m", "bomb", &top]);
    git(&dir, &["update-ref", "refs/heads/bomb", &commit]);
    let error = checkout(&program, &format!("{}#bomb", server.url("bomb")), false).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("more files or references"), "{error}");
}

fn mktree(dir: &Path, text: &str) -> String {
    let (input, mut command) = (dir.join(".git/tree"), Command::new("git"));
    std::fs::write(&input, text).unwrap();
    command.current_dir(dir).arg("mktree").stdin(std::fs::File::open(&input).unwrap());
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn mirrors_that_nobody_used_are_removed() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    Server::commit(&server.repository("one"), "FROM one");
    let program = Git::new(cache.path());
    checkout(&program, &server.url("one"), false).unwrap();
    let ago = |seconds| std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
    assert_eq!(program.prune(ago(60)).unwrap(), 0);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    assert!(program.prune(later).unwrap() > 100);
    let left =
        std::fs::read_dir(cache.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(left.count(), 0);
    assert_eq!(checkout(&program, &server.url("one"), false).unwrap().read("Dockerfile"), "FROM one");
}

#[test]
fn submodules_are_filled_from_allowed_places_alone() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let inner = server.repository("inner");
    Server::commit(&inner, "inner");
    let middle = server.repository("middle");
    git(&middle, &["submodule", "--quiet", "add", &server.url("inner"), "deep"]);
    Server::commit(&middle, "middle");
    let outer = server.repository("outer");
    git(&outer, &["submodule", "--quiet", "add", &server.url("middle"), "lib/middle"]);
    git(&outer, &["config", "-f", ".gitmodules", "submodule.lib/middle.url", "../middle"]);
    git(&outer, &["config", "-f", ".gitmodules", "submodule.lib/middle.update", "!touch /nowhere/x"]);
    Server::commit(&outer, "hostile");
    let program = Git::new(cache.path());
    let error = checkout(&program, &server.url("outer"), false).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("fsck error"), "{error}");
    git(&outer, &["config", "-f", ".gitmodules", "submodule.lib/middle.update", "none"]);
    Server::commit(&outer, "outer");
    let out = checkout(&program, &server.url("outer"), false).unwrap();
    assert_eq!(out.read("lib/middle/Dockerfile"), "middle");
    assert_eq!(out.read("lib/middle/deep/Dockerfile"), "inner");
    let bare = checkout(&program, &format!("{}?submodules=false", server.url("outer")), false).unwrap();
    assert!(!bare.checkout.dir.join("lib/middle/Dockerfile").exists());

    let local = format!("file://{}", inner.display());
    git(&outer, &["config", "-f", ".gitmodules", "submodule.lib/middle.url", &local]);
    Server::commit(&outer, "hostile");
    let error = checkout(&program, &server.url("outer"), false).map(|_| ()).unwrap_err();
    let chain = yare_errdefs::chain(&error);
    assert!(chain.contains("lib/middle") && chain.contains("only http, https, ssh and git"), "{chain}");
}

#[test]
fn the_git_folder_is_kept_when_asked_for() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let dir = server.repository("one");
    Server::commit(&dir, "FROM one");
    let commit = Server::commit(&dir, "FROM two");
    let out = checkout(&Git::new(cache.path()), &server.url("one"), true).unwrap();
    let at = out.checkout.dir.clone();
    assert_eq!(git(&at, &["rev-parse", "HEAD"]), commit);
    assert_eq!(git(&at, &["status", "--porcelain"]), "");
    assert_eq!(git(&at, &["remote", "get-url", "origin"]), server.url("one"));
    assert_eq!(git(&at, &["log", "--format=%s"]), "FROM two");
    assert!(
        !std::fs::read_to_string(at.join(".git/config")).unwrap().contains(cache.path().to_str().unwrap())
    );
}

#[test]
fn settings_and_hooks_of_the_repository_have_no_effect() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let dir = server.repository("one");
    std::fs::write(dir.join(".gitattributes"), "* filter=evil\n").unwrap();
    std::fs::write(dir.join(".gitconfig"), "[filter \"evil\"]\n\tsmudge = false\n\trequired = true\n")
        .unwrap();
    Server::commit(&dir, "FROM one");
    let out = checkout(&Git::new(cache.path()), &server.url("one"), false).unwrap();
    assert_eq!(out.read("Dockerfile"), "FROM one");
}

#[test]
fn a_silent_server_ends_with_the_build_or_the_timeout() {
    let (cache, listener) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("git://127.0.0.1:{}/x", listener.local_addr().unwrap().port());
    let program = Git { timeout: std::time::Duration::from_millis(300), ..Git::new(cache.path()) };
    let error = checkout(&program, &url, false).map(|_| ()).unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error:?}");
    let (cancel, folder) = (Cancel::default(), tempfile::tempdir().unwrap());
    let ending = cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        ending.cancel();
    });
    let begun = std::time::Instant::now();
    let wanted = GitRef::parse(&url).unwrap().unwrap();
    let error = Git::new(cache.path()).checkout(&wanted, folder.path(), (false, 0), &cancel).unwrap_err();
    assert_eq!(error.class(), Class::Cancelled);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    let left: Vec<_> =
        std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("home-")), "{left:?}");
}

#[test]
fn a_missing_program_is_said_with_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let program = Git { program: "/nowhere/git".into(), ..Git::new(cache.path()) };
    let error = checkout(&program, "https://example.invalid/a.git", false).map(|_| ()).unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.hint().unwrap().contains("install it"));
}
