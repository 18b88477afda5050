//! Users, tokens, rules, quotas, limits, TLS.

use crate::client::{Answer, Client, location, read_answer, with_digest};
use crate::served::Served;
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use yare_oci::{Digest, MediaType};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn htpasswd(folder: &Path) -> String {
    let line = |user: &str| format!("{user}:{}\n", bcrypt::hash(format!("{user}-secret"), 4).unwrap());
    let path = folder.join("htpasswd");
    std::fs::write(&path, line("alice") + &line("bob")).unwrap();
    path.display().to_string()
}

const RULES: &str = "
[[access]]
repositories = 'public/**'
actions = ['pull']
anonymous = true
[[access]]
repositories = '**'
actions = ['pull', 'push', 'delete']
groups = ['dev']
";

pub(crate) fn served(folder: &Path, token: &str) -> Served {
    let users = htpasswd(folder);
    Served::new(&format!("[auth]\nhtpasswd = '{users}'\ngroups = {{ dev = ['alice'] }}\n{token}{RULES}"))
}

/// Docker's clients leave the text away where it is the one for those who did not try.
#[track_caller]
fn says_incorrect(answer: Answer) {
    let answer = answer.refused(401, "UNAUTHORIZED");
    assert_eq!(answer.json()["errors"][0]["message"], "incorrect username or password");
}

#[test]
fn who_is_refused_while_it_sends_gets_to_read_why() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path(), "");
    let head = |more: &str| {
        format!("PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n{more}\r\n")
    };
    let mut stream = served.client.connect();
    stream.write_all(head("").as_bytes()).unwrap();
    // More than any buffer between the two holds, and all of it after the answer.
    for _ in 0..128 {
        std::thread::sleep(Duration::from_millis(2));
        stream.write_all(&[0; 64 << 10]).expect("the registry takes what it has refused");
    }
    read_answer(stream, "PATCH").unwrap().refused(401, "UNAUTHORIZED");
    // Who asks first is told at once, and not that it may go on.
    let mut stream = served.client.connect();
    stream.write_all(head("Expect: 100-continue\r\n").as_bytes()).unwrap();
    read_answer(stream, "PATCH").unwrap().refused(401, "UNAUTHORIZED");
}

#[test]
fn passwords_and_rules() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path(), "");
    let (nobody, alice) = (&served.client, served.client.with(basic("alice", "alice-secret")));
    let bob = served.client.with(basic("bob", "bob-secret"));
    let challenge = nobody.get("/v2/").refused(401, "UNAUTHORIZED");
    assert_eq!(challenge.header("WWW-Authenticate"), Some("Basic realm=\"Yare registry\""));
    says_incorrect(served.client.with(basic("alice", "wrong")).get("/v2/"));
    served.client.with("Basic !!!").get("/v2/").refused(401, "UNAUTHORIZED");
    served.client.with("Bearer x").get("/v2/").refused(401, "UNAUTHORIZED");
    alice.get("/v2/").expect(200);
    alice.push_image("public/a", "v1", "public");
    alice.push_image("secret/a", "v1", "secret");
    nobody.get("/v2/public/a/manifests/v1").expect(200);
    nobody.get("/v2/secret/a/manifests/v1").refused(401, "UNAUTHORIZED");
    bob.get("/v2/public/a/manifests/v1").expect(200);
    bob.get("/v2/secret/a/manifests/v1").refused(403, "DENIED");
    bob.send("POST", "/v2/public/a/blobs/uploads/", &[], b"").refused(403, "DENIED");
    bob.delete("/v2/public/a/manifests/v1").refused(403, "DENIED");
    let listed = |client: &Client| client.get("/v2/_catalog").expect(200).json()["repositories"].clone();
    assert_eq!(listed(nobody), json!(["public/a"]));
    assert_eq!(listed(&alice), json!(["public/a", "secret/a"]));
    nobody.get("/healthz").expect(200);
    nobody.get("/metrics").refused(403, "DENIED");
}

#[test]
fn a_mount_needs_the_right_to_read_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let users = htpasswd(folder.path());
    let served = Served::new(&format!(
        "[auth]\nhtpasswd = '{users}'\n
        [[access]]\nrepositories = 'a/**'\nactions = ['pull', 'push']\nusers = ['alice']\n
        [[access]]\nrepositories = 'b/**'\nactions = ['pull', 'push']\nusers = ['bob']\n"
    ));
    let alice = served.client.with(basic("alice", "alice-secret"));
    let bob = served.client.with(basic("bob", "bob-secret"));
    let digest = alice.push_blob("a/x", b"secret of alice");
    for from in ["&from=a/x", ""] {
        let path = format!("/v2/b/x/blobs/uploads/?mount={digest}{from}");
        bob.send("POST", &path, &[], b"").expect(202);
        bob.head(&format!("/v2/b/x/blobs/{digest}")).expect(404);
    }
    alice.send("POST", &format!("/v2/a/y/blobs/uploads/?mount={digest}"), &[], b"").expect(201);
}

fn token(client: &Client, query: &str) -> String {
    let answer = client.get(&format!("/token?{query}")).expect(200).json();
    assert!(answer["expires_in"].as_u64().unwrap() >= 60);
    assert_eq!(answer["token"], answer["access_token"]);
    format!("Bearer {}", answer["token"].as_str().unwrap())
}

#[test]
fn tokens() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path(), "[auth.token]\nservice = 'test'\n");
    let nobody = &served.client;
    let alice = served.client.with(basic("alice", "alice-secret"));
    let challenge = nobody.get("/v2/secret/a/manifests/v1").refused(401, "UNAUTHORIZED");
    let challenge = challenge.header("WWW-Authenticate").unwrap().to_owned();
    let want = format!(
        "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:secret/a:pull\"",
        nobody.address
    );
    assert_eq!(challenge, want);
    says_incorrect(served.client.with(basic("alice", "wrong")).get("/token?service=test"));
    let push =
        token(&alice, "service=test&scope=repository:secret/a:pull,push&scope=repository:public/a:pull,push");
    let pusher = served.client.with(&push);
    pusher.get("/v2/").expect(200);
    pusher.push_image("secret/a", "v1", "secret");
    pusher.push_image("public/a", "v1", "public");
    // A token allows what it was asked for and no more.
    let answer = pusher.delete("/v2/secret/a/manifests/v1").refused(401, "UNAUTHORIZED");
    let challenge = answer.header("WWW-Authenticate").unwrap();
    assert!(
        challenge.contains("scope=\"repository:secret/a:delete\",error=\"insufficient_scope\""),
        "{challenge}"
    );
    let reader =
        served.client.with(token(nobody, "scope=repository:secret/a:pull%20repository:public/a:pull"));
    reader.get("/v2/public/a/manifests/v1").expect(200);
    reader.get("/v2/secret/a/manifests/v1").refused(401, "UNAUTHORIZED");
    reader.get("/v2/").expect(200);
    let lister = served.client.with(token(&alice, "scope=registry:catalog:*"));
    assert_eq!(
        lister.get("/v2/_catalog").expect(200).json()["repositories"],
        json!(["public/a", "secret/a"])
    );
    reader.get("/v2/_catalog").refused(401, "UNAUTHORIZED");
    // OAuth2 clients post a form.
    let form = b"grant_type=password&service=test&username=alice&password=alice-secret&scope=repository:secret/a:pull";
    let answer = nobody.send("POST", "/token", &[], form).expect(200).json();
    let oauth = served.client.with(format!("Bearer {}", answer["access_token"].as_str().unwrap()));
    oauth.get("/v2/secret/a/manifests/v1").expect(200);
    let wrong = form.map(|byte| if byte == b'-' { b'+' } else { byte });
    says_incorrect(nobody.send("POST", "/token", &[], &wrong));
    nobody.get("/token?service=other").refused(400, "DENIED");
    let mut broken = push.clone();
    broken.pop();
    let answer = served.client.with(broken).get("/v2/").refused(401, "UNAUTHORIZED");
    assert!(answer.header("WWW-Authenticate").unwrap().contains("error=\"invalid_token\""));
    assert_eq!(nobody.get("/token/keys").expect(200).json()["keys"][0]["kty"], "OKP");
}

/// The scope that a challenge asks a token for.
#[track_caller]
fn scope(answer: Answer) -> String {
    let answer = answer.refused(401, "UNAUTHORIZED");
    let challenge = answer.header("WWW-Authenticate").unwrap();
    let (_, rest) = challenge.split_once("scope=\"").expect(challenge);
    rest.split('"').next().unwrap().to_owned()
}

#[test]
fn challenges_name_what_the_request_needs() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path(), "[auth.token]\nservice = 'test'\n");
    let digest = Digest::of("x");
    let (manifest, blob) = (format!("/v2/a/b/manifests/{digest}"), format!("/v2/a/b/blobs/{digest}"));
    let uploads = "/v2/a/b/blobs/uploads/";
    let mount = |from: &str| format!("{uploads}?mount={digest}&from={from}");
    let cases = [
        ("GET", "/v2/a/b/tags/list", "repository:a/b:pull"),
        ("GET", &manifest, "repository:a/b:pull"),
        ("PUT", &manifest, "repository:a/b:pull,push"),
        ("DELETE", &manifest, "repository:a/b:delete"),
        ("GET", &blob, "repository:a/b:pull"),
        ("DELETE", &blob, "repository:a/b:delete"),
        ("POST", uploads, "repository:a/b:pull,push"),
        ("POST", &mount("c/d"), "repository:a/b:pull,push repository:c/d:pull"),
        ("POST", &mount("a/b"), "repository:a/b:pull,push"),
        ("POST", &mount("C"), "repository:a/b:pull,push"),
        ("POST", &format!("{uploads}?from=c/d"), "repository:a/b:pull,push"),
        ("GET", &format!("{uploads}1?mount={digest}&from=c/d"), "repository:a/b:pull,push"),
    ];
    let expired = served.client.with("Bearer x");
    for (method, path, want) in cases {
        assert_eq!(scope(served.client.send(method, path, &[], b"")), want, "{method} {path}");
        assert_eq!(
            scope(expired.send(method, path, &[], b"")),
            want,
            "{method} {path}, with what is no token"
        );
    }
    assert_eq!(scope(expired.get("/v2/_catalog")), "registry:catalog:*");
}

/// Sends something as a client does that knows no more of scopes than what the challenge tells it.
fn as_challenged(served: &Served, user: &Client, tried: &Client, (method, path): (&str, &str)) -> Answer {
    let wanted = scope(tried.send(method, path, &[], b"")).replace(' ', "%20");
    served.client.with(token(user, &format!("service=test&scope={wanted}"))).send(method, path, &[], b"")
}

#[test]
fn one_challenge_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path(), "[auth.token]\nservice = 'test'\n");
    let (nobody, alice) = (&served.client, served.client.with(basic("alice", "alice-secret")));
    let pushed = alice.push_image("secret/from", "v1", "mounted");
    let mount = format!("/v2/secret/to/blobs/uploads/?mount={}&from=secret/from", pushed.layer);
    as_challenged(&served, &alice, nobody, ("POST", "/v2/secret/to/blobs/uploads/")).expect(202);
    as_challenged(&served, &alice, nobody, ("POST", &mount)).expect(201);
    // What a client has for pushes does not reach the other repository.
    let pusher = served.client.with(token(&alice, "service=test&scope=repository:secret/to:pull,push"));
    as_challenged(&served, &alice, &pusher, ("POST", &mount)).expect(201);
    let mounted = format!("/v2/secret/to/blobs/{}", pushed.layer);
    as_challenged(&served, &alice, nobody, ("GET", &mounted)).expect(200);
    as_challenged(&served, &alice, nobody, ("DELETE", &mounted)).expect(202);
    as_challenged(&served, &alice, nobody, ("DELETE", "/v2/secret/from/manifests/v1")).expect(202);
}

#[test]
fn who_may_not_read_the_source_of_a_mount_is_not_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let users = htpasswd(folder.path());
    let served = Served::new(&format!(
        "[auth]\nhtpasswd = '{users}'\n[auth.token]\nservice = 'test'\n
        [[access]]\nrepositories = 'a/**'\nactions = ['pull', 'push']\nusers = ['alice']\n
        [[access]]\nrepositories = 'b/**'\nactions = ['pull', 'push']\nusers = ['bob']\n"
    ));
    let alice = served.client.with(basic("alice", "alice-secret"));
    let bob = served.client.with(basic("bob", "bob-secret"));
    let digest = alice.push_blob("a/x", b"secret of alice");
    let path = format!("/v2/b/x/blobs/uploads/?mount={digest}&from=a/x");
    as_challenged(&served, &bob, &served.client, ("POST", &path)).expect(202);
    bob.head(&format!("/v2/b/x/blobs/{digest}")).expect(404);
}

/// Posts a form to the token endpoint.
fn post(client: &Client, form: &str) -> crate::client::Answer {
    client.send("POST", "/token", &[("Content-Type", "application/x-www-form-urlencoded")], form.as_bytes())
}

#[test]
fn refresh_tokens_stand_in_for_passwords_until_those_change() {
    let folder = tempfile::tempdir().unwrap();
    let served = served(folder.path(), "[auth.token]\nservice = 'test'\n");
    let (nobody, alice) = (&served.client, served.client.with(basic("alice", "alice-secret")));
    // Docker asks like this when it logs in, with and without the form; nobody else gets one.
    let asked = "/token?service=test&account=alice&client_id=docker&offline_token=true";
    let by_get = alice.get(asked).expect(200).json();
    let password = "grant_type=password&service=test&username=alice&password=alice-secret&client_id=docker";
    let by_form = post(nobody, &format!("{password}&access_type=offline")).expect(200).json();
    assert_eq!(post(nobody, password).expect(200).json()["refresh_token"], Value::Null);
    assert_eq!(nobody.get(asked).expect(200).json()["refresh_token"], Value::Null);
    let form = |token: &str| {
        format!(
            "grant_type=refresh_token&service=test&client_id=docker&scope=repository:secret/a:pull,push&refresh_token={token}"
        )
    };
    for answer in [&by_get, &by_form] {
        let refresh = answer["refresh_token"].as_str().unwrap();
        served.client.with(format!("Bearer {refresh}")).get("/v2/").refused(401, "UNAUTHORIZED");
        let access = post(nobody, &form(refresh)).expect(200).json();
        let client = served.client.with(format!("Bearer {}", access["access_token"].as_str().unwrap()));
        client.push_image("secret/a", "v1", "refreshed");
        // It may do what the rules let its user do.
        client.push_image("secret/a", "v2", "again");
        client.delete("/v2/secret/a/manifests/v2").refused(401, "UNAUTHORIZED");
    }
    let refresh = by_get["refresh_token"].as_str().unwrap();
    let access = by_get["access_token"].as_str().unwrap();
    for wrong in ["", "x.y.z", access, &refresh[..refresh.len() - 1]] {
        post(nobody, &form(wrong)).refused(401, "UNAUTHORIZED");
    }
    post(nobody, "grant_type=refresh_token&service=test").refused(400, "UNSUPPORTED");
    post(nobody, "grant_type=client_credentials&service=test").refused(400, "UNSUPPORTED");
    // Another password; the file is looked at again after a moment.
    let changed = format!("alice:{}\n", bcrypt::hash("another", 4).unwrap());
    std::fs::write(folder.path().join("htpasswd"), changed).unwrap();
    let begun = std::time::Instant::now();
    while post(nobody, &form(refresh)).status != 401 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the token outlives the password");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn quotas_and_immutable_tags() {
    let served = Served::new(
        "[[quota]]\nrepositories = 'small/**'\nbytes = '2000'\n
        [[immutable]]\nrepositories = '**'\ntags = ['v*']\n",
    );
    let client = &served.client;
    let first = client.push_image("small/a", "v1", "first");
    let at = with_digest(&client.start("small/b"), &Digest::of(vec![1; 1900]));
    let answer = client.send("PUT", &at, &[], &[1; 1900]).refused(403, "DENIED");
    assert_eq!(answer.json()["errors"][0]["detail"]["limit"], 2000);
    client.push_blob("large/b", &[1; 1900]);
    let mount = format!("/v2/small/b/blobs/uploads/?mount={}&from=large/b", Digest::of(vec![1; 1900]));
    client.send("POST", &mount, &[], b"").refused(403, "DENIED");
    // What is there already costs nothing.
    client.push_blob("small/a", b"first");
    // Immutable.
    client.put("small/a", "v1", MediaType::OCI_MANIFEST, &first.bytes).expect(201);
    let config = client.push_blob("small/a", b"{}");
    let other = crate::client::image(&[(config, 2)]).to_string();
    let answer = client.put("small/a", "v1", MediaType::OCI_MANIFEST, other.as_bytes());
    answer.refused(409, "DENIED");
    client.put("small/a", "latest", MediaType::OCI_MANIFEST, other.as_bytes()).expect(201);
    client.delete("/v2/small/a/manifests/v1").refused(409, "DENIED");
    client.delete(&format!("/v2/small/a/manifests/{}", first.digest)).refused(409, "DENIED");
    client.delete("/v2/small/a/manifests/latest").expect(202);
}

#[test]
fn rates_are_limited() {
    let served = Served::new("[limits]\nrequests_per_second = 1");
    let answers: Vec<_> = (0..30).map(|_| served.client.get("/v2/")).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused.len() >= 15, "{} of 30 refused", refused.len());
    assert_eq!(refused[0].code(), "TOOMANYREQUESTS");
    assert!(refused[0].header("Retry-After").is_some());
}

#[test]
fn failed_logins_count_as_requests() {
    let folder = tempfile::tempdir().unwrap();
    let users = htpasswd(folder.path());
    let served = Served::new(&format!("[limits]\nrequests_per_second = 1\n[auth]\nhtpasswd = '{users}'"));
    let wrong = served.client.with("Bearer wrong");
    let answers: Vec<_> = (0..30).map(|_| wrong.get("/v2/").status).collect();
    assert_eq!(answers[0], 401);
    assert!(answers.iter().filter(|status| **status == 429).count() >= 15, "{answers:?}");
}

#[test]
fn deleting_can_be_switched_off() {
    let served = Served::new("[storage]\ndelete = false");
    let image = served.client.push_image("a", "v1", "x");
    for path in ["v1".to_owned(), image.digest.to_string()] {
        served.client.delete(&format!("/v2/a/manifests/{path}")).refused(405, "UNSUPPORTED");
    }
    served.client.delete(&format!("/v2/a/blobs/{}", image.layer)).refused(405, "UNSUPPORTED");
}

#[test]
fn the_audit_log_has_a_line_for_each_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let served = Served::new(&format!("audit = '{}'", path.display()));
    served.client.send("GET", "/v2/a/tags/list", &[("User-Agent", "evil\"} {\t")], b"").expect(404);
    drop(served);
    let text = std::fs::read_to_string(&path).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((line["repository"].as_str(), line["status"].as_u64()), (Some("a"), Some(404)));
    assert_eq!((text.lines().count(), line["agent"].as_str()), (1, Some("evil\"} {")));
}

#[test]
fn metrics_are_served() {
    let served = Served::new("");
    served.client.get("/v2/").expect(200);
    let text = String::from_utf8(served.client.get("/metrics").expect(200).body).unwrap();
    assert!(text.contains("target=\"base\",method=\"GET\",status=\"200\""), "{text}");
}

/// What the files of an audit log have, all lines parsed.
fn audited(folder: &Path) -> Vec<Value> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("audit"));
    let lines = |path| std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    logs.flat_map(lines)
        .map(|line| serde_json::from_str(&line).unwrap_or_else(|_| panic!("torn: {line}")))
        .collect()
}

#[test]
fn no_line_is_lost_or_torn_while_the_audit_log_is_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let served =
        Served::new(&format!("[audit]\npath = '{}'\nmax_size = '2KiB'\nmax_files = 1000", path.display()));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let client = served.client.clone();
                scope.spawn(move || {
                    (0..100).for_each(|count| drop(client.get(&format!("/v2/r{number}/tags/t{count}"))));
                })
            })
            .collect();
        // As logrotate does it, beside the rotation by size.
        for number in 0.. {
            let _ = std::fs::rename(&path, folder.path().join(format!("audit.moved.{number}")));
            served.registry.reopen_logs();
            if clients.iter().all(|client| client.is_finished()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    // Nobody takes the file away from these: they fill it.
    (0..100).for_each(|count| drop(served.client.get(&format!("/v2/r4/tags/t{count}"))));
    drop(served);
    let mut paths: Vec<String> =
        audited(folder.path()).iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    let mut want: Vec<String> =
        (0..5).flat_map(|number| (0..100).map(move |count| format!("/v2/r{number}/tags/t{count}"))).collect();
    want.sort();
    assert_eq!(paths, want);
    let sizes =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(sizes.into_iter().all(|size| size <= 2048), "no file is longer than it may be");
    assert!(std::fs::exists(folder.path().join("audit.log.1")).unwrap(), "it was rotated by size, too");
}

#[test]
fn the_audit_log_takes_no_more_of_the_disk_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let text = format!("[audit]\npath = '{}'\nmax_size = '1KiB'\nmax_files = 3", path.display());
    let served = Served::new(&text);
    for _ in 0..60 {
        served.client.get("/v2/").expect(200);
    }
    drop(served);
    let sizes: Vec<u64> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 1024), "{sizes:?}");
    assert!(audited(folder.path()).len() < 60, "the oldest lines are gone");
}

#[test]
fn a_rotated_audit_log_is_made_anew_before_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let served = Served::new(&format!("audit = '{}'", path.display()));
    served.client.get("/v2/").expect(200);
    std::fs::rename(&path, folder.path().join("audit.moved")).unwrap();
    served.registry.reopen_logs();
    let begun = std::time::Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not made");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes a certificate for 127.0.0.1 and writes it where the registry reads it.
pub(crate) fn certificate(folder: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().to_vec()
}

/// The beginning of a client's settings with this authority.
pub(crate) fn trusting(
    trusted: &[u8],
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.to_vec().into()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

/// Connects with TLS, asks for `/v2/`, and returns the certificate that the server shows.
fn shown(served: &Served, trusted: &[u8], own: Option<&Path>) -> Result<Vec<u8>, String> {
    let (status, certificate) = asked(served, trusted, own, "GET /v2/")?;
    assert_eq!(status, "200");
    Ok(certificate)
}

/// Sends a request over TLS; the status, and the certificate that the server shows.
fn asked(
    served: &Served,
    trusted: &[u8],
    own: Option<&Path>,
    what: &str,
) -> Result<(String, Vec<u8>), String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use std::io::{Read, Write};
    let config = trusting(trusted);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(folder) => {
            let chain = vec![CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, served.client.connect());
    let mut head = [0; 12];
    stream
        .write_all(format!("{what} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes())
        .and_then(|()| stream.read_exact(&mut head))
        .map_err(|error| error.to_string())?;
    let status = String::from_utf8_lossy(&head[9..]).into_owned();
    Ok((status, stream.conn.peer_certificates().unwrap()[0].to_vec()))
}

#[test]
fn clients_may_have_to_show_a_certificate() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stranger = tempfile::tempdir().unwrap();
    let trusted = certificate(ours.path());
    certificate(theirs.path());
    certificate(stranger.path());
    let (path, clients) = (ours.path().display(), theirs.path().display());
    let served = Served::new(&format!(
        "[tls]\ncertificate = '{path}/cert.pem'\nkey = '{path}/key.pem'\nclient_authorities = '{clients}/cert.pem'"
    ));
    assert!(shown(&served, &trusted, Some(theirs.path())).is_ok());
    assert!(shown(&served, &trusted, None).is_err());
    assert!(shown(&served, &trusted, Some(stranger.path())).is_err());
}

#[test]
fn a_certificate_may_name_the_user() {
    let (ours, alice) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let trusted = certificate(ours.path());
    let mut params = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "alice");
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(alice.path().join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(alice.path().join("key.pem"), key.serialize_pem()).unwrap();
    let (path, clients) = (ours.path().display(), alice.path().display());
    let with = |names: bool, more: &str| {
        Served::new(&format!(
            "[tls]\ncertificate = '{path}/cert.pem'\nkey = '{path}/key.pem'\nclient_names = {names}\n\
             client_authorities = '{clients}/cert.pem'\n[auth]\ngroups = {{ dev = ['alice'] }}\n{more}\n\
             [[access]]\nrepositories = 'team/**'\nactions = ['push']\ngroups = ['dev']\n"
        ))
    };
    let status = |served: &Served, what: &str| asked(served, &trusted, Some(alice.path()), what).unwrap().0;
    let served = with(true, "");
    assert_eq!(status(&served, "GET /v2/"), "200");
    assert_eq!(status(&served, "POST /v2/team/a/blobs/uploads/"), "202", "by the group");
    assert_eq!(status(&served, "POST /v2/other/blobs/uploads/"), "403", "known, and not allowed");
    assert_eq!(status(&served, "GET /v2/ HTTP/1.1\r\nAuthorization: Basic eDp5\r\nX: "), "401");
    let users = htpasswd(ours.path());
    assert_eq!(
        status(&with(false, &format!("htpasswd = '{users}'")), "GET /v2/"),
        "401",
        "it does not count"
    );
}

#[test]
fn a_new_certificate_is_taken_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let first = certificate(folder.path());
    let served = Served::new(&format!("[tls]\ncertificate = '{path}/cert.pem'\nkey = '{path}/key.pem'"));
    assert_eq!(shown(&served, &first, None).unwrap(), first);
    let second = certificate(folder.path());
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(shown(&served, &second, None).unwrap(), second);
    assert!(shown(&served, &first, None).is_err());
    // One that is not right does not end the service.
    std::fs::write(folder.path().join("cert.pem"), "nonsense").unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(shown(&served, &second, None).unwrap(), second);
}

#[test]
fn an_upload_location_is_relative() {
    // A proxy before the registry may speak another scheme and name.
    let served = Served::new("");
    let answer = served.client.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
    assert!(answer.header("Location").unwrap().starts_with("/v2/a/blobs/uploads/"), "{}", location(&answer));
}
