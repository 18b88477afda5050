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
