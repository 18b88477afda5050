//! Where a login's credentials go, and docker's way to them.

use std::path::Path;

use yare_api::AuthConfig;

use crate::config::{Config, Programs};
use crate::context::Environment;
use crate::credentials::{Place, serve};

const REGISTRY: &str = "reg.example:5000";

fn environment(home: &Path) -> Environment {
    let home = home.to_owned();
    Environment::new(move |name| (name == "HOME").then(|| home.clone().into()))
}

fn config(home: &Path) -> Config {
    Config::load(&home.join(".docker"), &environment(home))
}

fn login() -> AuthConfig {
    AuthConfig { username: "alice".into(), password: "hunter2".into(), ..AuthConfig::default() }
}

fn file(home: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(home.join(".docker/config.json")).unwrap()).unwrap()
}

/// What docker's command line would ask of its helper.
fn helper(home: &Path, action: &str, input: &str) -> (i32, String) {
    let mut output = Vec::new();
    let code = serve(action, &environment(home), &mut input.as_bytes(), &mut output);
    (code, String::from_utf8(output).unwrap())
}

#[test]
fn without_a_helper_a_login_is_encrypted_and_docker_finds_it() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    std::fs::create_dir(home.join(".docker")).unwrap();
    let before = r#"{"auths": {"old.example": {"auth": "YTpi"}}, "psFormat": "x"}"#;
    std::fs::write(home.join(".docker/config.json"), before).unwrap();
    assert_eq!(config(home).remember(REGISTRY, &login()).unwrap(), Place::Helper);
    let written = file(home);
    assert_eq!(written["credHelpers"][REGISTRY], "yare");
    assert_eq!(written["auths"][REGISTRY], serde_json::json!({}));
    // Logins that are in the file stay readable where they are.
    assert_eq!(written["auths"]["old.example"]["auth"], "YTpi");
    assert_eq!(config(home).credentials("old.example").unwrap().unwrap().password, "b");
    assert_eq!(config(home).credentials(REGISTRY).unwrap().unwrap().password, "hunter2");

    let (code, answer) = helper(home, "get", &format!("{REGISTRY}\n"));
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((code, &answer["Username"], &answer["Secret"]), (0, &"alice".into(), &"hunter2".into()));
    assert_eq!(helper(home, "list", ""), (0, format!("{{\"{REGISTRY}\":\"alice\"}}")));

    config(home).forget(REGISTRY).unwrap();
    assert!(file(home)["credHelpers"].get(REGISTRY).is_none());
    assert_eq!(helper(home, "get", REGISTRY), (1, "credentials not found in native keychain\n".to_owned()));
    assert!(config(home).credentials(REGISTRY).unwrap().is_none());
}

#[test]
fn identity_tokens_and_docker_s_own_logins() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let auth = AuthConfig { identitytoken: "t0ken".into(), ..login() };
    config(home).remember(REGISTRY, &auth).unwrap();
    let found = config(home).credentials(REGISTRY).unwrap().unwrap();
    assert_eq!((found.identitytoken.as_str(), found.password.as_str()), ("t0ken", ""));
    // docker login with `credsStore: yare`.
    let request = r#"{"ServerURL": "hub.example", "Username": "bob", "Secret": "s"}"#;
    assert_eq!(helper(home, "store", request), (0, String::new()));
    std::fs::write(home.join(".docker/config.json"), r#"{"credsStore": "yare"}"#).unwrap();
    assert_eq!(config(home).credentials("hub.example").unwrap().unwrap().username, "bob");
    assert_eq!(helper(home, "erase", "hub.example"), (0, String::new()));
    assert!(config(home).credentials("hub.example").unwrap().is_none());
    for (action, input) in [("store", "{}"), ("store", "x"), ("explode", "")] {
        assert_eq!(helper(home, action, input).0, 1, "{action} {input}");
    }
}

#[test]
fn docker_without_our_helper_keeps_working() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path());
    config.programs = Programs { docker: true, helper: false };
    let Place::Plain { why, .. } = config.remember(REGISTRY, &login()).unwrap() else { panic!("not plain") };
    assert!(why.unwrap().contains("docker-credential-yare"));
    assert_eq!(file(home.path())["auths"][REGISTRY]["auth"], "YWxpY2U6aHVudGVyMg==");
    config.programs.helper = true;
    assert_eq!(config.remember(REGISTRY, &login()).unwrap(), Place::Helper);
    config.plugins.yare.credentials = "plain".to_owned();
    assert!(matches!(config.remember(REGISTRY, &login()).unwrap(), Place::Plain { why: None, .. }));
}

#[test]
fn registries_are_found_however_they_are_written() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    std::fs::create_dir(home.join(".docker")).unwrap();
    let before = r#"{"auths": {
        "https://old.example:5000/v1/": {"auth": "YTpi"},
        "http://plain.example": {"username": "c", "password": "d"},
        "index.docker.io": {"auth": "aHViOmRvY2tlcg=="},
        "emptied.example": {}, "https://emptied.example/v2/": {"auth": "ZTpm"}
    }, "HttpHeaders": {"X-Meta": "kept"}, "credHelpers": null, "plugins": {"other": {"a": "b"}}}"#;
    std::fs::write(home.join(".docker/config.json"), before).unwrap();
    let user = |registry: &str| config(home).credentials(registry).unwrap().map(|auth| auth.username);
    for (registry, name) in [
        ("old.example:5000", Some("a")),
        ("https://old.example:5000", Some("a")),
        ("plain.example", Some("c")),
        ("docker.io", Some("hub")),
        ("https://index.docker.io/v1/", Some("hub")),
        ("emptied.example", Some("e")),
        ("old.example", None),
        ("unknown.example", None),
    ] {
        assert_eq!(user(registry).as_deref(), name, "{registry}");
    }
    let (all, failures) = config(home).all_credentials();
    let keys = ["emptied.example", "https://index.docker.io/v1/", "old.example:5000", "plain.example"];
    assert_eq!((all.keys().map(String::as_str).collect::<Vec<_>>(), failures), (keys.to_vec(), Vec::new()));

    // A login takes the old form's place; a logout leaves no form, and nothing else changes.
    let mut plain = config(home);
    plain.plugins.yare.credentials = "plain".to_owned();
    plain.remember("https://old.example:5000/v1/", &login()).unwrap();
    assert_eq!(user("old.example:5000").as_deref(), Some("alice"));
    config(home).forget("old.example:5000").unwrap();
    config(home).forget("").unwrap();
    assert_eq!((user("old.example:5000"), user("docker.io")), (None, None));
    let after = file(home);
    assert_eq!(after["auths"].as_object().unwrap().len(), 3);
    assert_eq!(
        (&after["HttpHeaders"]["X-Meta"], &after["plugins"]["other"]["a"]),
        (&"kept".into(), &"b".into())
    );
}

#[test]
fn a_file_that_is_not_understood_stops_logins_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    std::fs::create_dir(home.join(".docker")).unwrap();
    let path = home.join(".docker/config.json");
    for text in [r#"{"auths": {"r": {"auth": "YTpi"}},}"#, r#"{"auths": 3}"#] {
        std::fs::write(&path, text).unwrap();
        let config = config(home);
        assert!(config.credentials("r").unwrap().is_none());
        for failure in [config.remember("r", &login()).unwrap_err(), config.forget("r").unwrap_err()] {
            assert!(failure.text.contains("config.json is not understood") && failure.hint.is_some());
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(helper(home, "list", ""), (0, "{}".to_owned()), "a secret was kept nevertheless");
    }
    // An entry that is none is an error for its registry only, and never taken for no login.
    std::fs::write(
        &path,
        r#"{"auths": {"r": {"auth": "%%"}, "s": {"auth": "YQ=="}, "t": {"auth": "YTpi"}}}"#,
    )
    .unwrap();
    for (registry, why) in [("r", "auth is no base64"), ("s", "user:password")] {
        let failure = config(home).credentials(registry).unwrap_err();
        assert!(failure.text.contains(why), "{}", failure.text);
    }
    let (all, failures) = config(home).all_credentials();
    assert_eq!((all.len(), failures.len()), (1, 2));
}

#[test]
fn a_build_sends_what_helpers_have() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    for server in ["a.example", "https://index.docker.io/v1/"] {
        let request = format!(r#"{{"ServerURL": "{server}", "Username": "u", "Secret": "s"}}"#);
        assert_eq!(helper(home, "store", &request).0, 0);
    }
    std::fs::create_dir(home.join(".docker")).unwrap();
    let text = r#"{"credsStore": "yare", "credHelpers": {"b.example": "no-such", "c.example": ""},
        "auths": {"c.example": {"auth": "YTpi"}}}"#;
    std::fs::write(home.join(".docker/config.json"), text).unwrap();
    let (all, failures) = config(home).all_credentials();
    let keys = ["a.example", "c.example", "https://index.docker.io/v1/"];
    assert_eq!(all.keys().map(String::as_str).collect::<Vec<_>>(), keys);
    // An empty name: the file, in spite of the helper for all others.
    assert_eq!(all["c.example"].username, "a");
    let [failure] = failures.as_slice() else { panic!("{failures:?}") };
    assert_eq!(failure.text, "docker-credential-no-such get: no such program on the search path");
    assert!(failure.hint.as_ref().unwrap().contains("credHelpers in "), "{failure:?}");
}
