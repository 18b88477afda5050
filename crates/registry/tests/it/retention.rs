//! Retention by real pushes and pulls, over days that pass by a clock of the test's own.

use crate::client::{Client, Pushed, image};
use crate::served::Served;
use std::time::Duration;
use yare_oci::{Digest, MediaType};
use yare_registry::{Clock, Collected};

const NO_GRACE: &str = "[collect]\ngrace = '0'\n";

fn days(clock: &Clock, count: u64) {
    clock.advance(Duration::from_secs(count * 86_400));
}

fn sorted(mut collected: Collected) -> Collected {
    collected.tags.sort();
    collected.manifests.sort();
    collected.dry_run = false;
    collected
}

/// Collects, and makes sure that a dry run said so before, changed nothing, and that nothing is left to do.
fn collect(served: &Served) -> Collected {
    let planned = served.collect(true);
    assert!(planned.dry_run);
    assert_eq!(served.collect(true), planned, "a dry run changes nothing");
    let collected = sorted(served.collect(false));
    assert_eq!(collected, sorted(planned), "a dry run says what a collection does");
    assert_eq!(served.collect(false), Collected::default(), "a second one finds nothing to do");
    collected
}

fn is_there(client: &Client, path: &str) -> bool {
    match client.head(path).status {
        200 => true,
        404 => false,
        other => panic!("{path}: {other}"),
    }
}

fn pull(client: &Client, name: &str, reference: &str) {
    client.get(&format!("/v2/{name}/manifests/{reference}")).expect(200);
}

#[test]
fn what_is_pulled_stays() {
    let served = Served::new(&format!(
        "{NO_GRACE}[[retention]]\nrepositories = '**'\npulled_within = '30d'\npushed_within = '7d'"
    ));
    let (client, clock) = (&served.client, &served.clock);
    let mut pushed: Vec<Pushed> = Vec::new();
    for tag in ["get", "head", "digest", "blob", "never"] {
        pushed.push(client.push_image("a", tag, tag));
    }
    assert!(collect(&served).tags.is_empty(), "they were pushed a moment ago");
    days(clock, 6);
    pull(client, "a", "get");
    client.head("/v2/a/manifests/head").expect(200);
    // Who pins a digest uses what the tag names.
    pull(client, "a", &pushed[2].digest.to_string());
    client.get(&format!("/v2/a/blobs/{}", pushed[3].layer)).expect(200);
    days(clock, 2);
    assert_eq!(collect(&served).tags, ["a:blob", "a:never"], "neither pushed nor pulled lately");
    for (pushed, stays) in pushed.iter().zip([true, true, true, false, false]) {
        assert_eq!(is_there(client, &format!("/v2/a/blobs/{}", pushed.layer)), stays);
    }
    days(clock, 27);
    pull(client, "a", "get");
    days(clock, 2);
    assert_eq!(collect(&served).tags, ["a:digest", "a:head"]);
    pull(client, "a", "get");
    days(clock, 31);
    assert_eq!(collect(&served).tags, ["a:get"]);
    client.get("/v2/a/tags/list").refused(404, "NAME_UNKNOWN");
}

#[test]
fn pulling_a_part_of_an_index_is_pulling_it() {
    let served = Served::new(&format!("{NO_GRACE}[[retention]]\nrepositories = '**'\npulled_within = '30d'"));
    let client = &served.client;
    let member = client.push_image("a", "member", "member");
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [
        { "mediaType": MediaType::OCI_MANIFEST, "digest": member.digest.to_string(), "size": member.bytes.len() }
    ] });
    client.put("a", "index", MediaType::OCI_INDEX, index.to_string().as_bytes()).expect(201);
    client.delete("/v2/a/manifests/member").expect(202);
    days(&served.clock, 20);
    pull(client, "a", &member.digest.to_string());
    days(&served.clock, 20);
    assert!(collect(&served).tags.is_empty());
    days(&served.clock, 20);
    assert_eq!(collect(&served).tags, ["a:index"]);
}

#[test]
fn pulls_are_remembered_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let text = format!("{NO_GRACE}[[retention]]\nrepositories = '**'\npulled_within = '30d'");
    let clock = Clock::default();
    let served = Served::at_time(root.clone(), &text, &clock);
    served.client.push_image("a", "pulled", "pulled");
    served.client.push_image("a", "other", "other");
    days(&clock, 40);
    pull(&served.client, "a", "pulled");
    drop(served);
    let served = Served::at_time(root, &text, &clock);
    // What clients were told before the restart is not known: the grace, none here, begins anew.
    days(&clock, 1);
    assert_eq!(collect(&served).tags, ["a:other"]);
}

#[test]
fn the_newest_are_counted_from_their_last_push() {
    let served = Served::new(&format!("{NO_GRACE}[[retention]]\nrepositories = 'team/**'\nkeep_newest = 2"));
    let client = &served.client;
    for name in ["team/a", "other/a"] {
        for tag in ["one", "two", "three"] {
            client.push_image(name, tag, tag);
            days(&served.clock, 1);
        }
        // What is pushed again is new.
        client.push_image(name, "one", "one");
        days(&served.clock, 1);
    }
    assert_eq!(collect(&served).tags, ["team/a:two"]);
    assert!(is_there(client, "/v2/other/a/manifests/two"), "no rule is about it");
}

#[test]
fn the_first_rule_that_matches_a_tag_judges_it() {
    let served = Served::new(&format!(
        "{NO_GRACE}\
         [[retention]]\nrepositories = '**'\ntags = ['v*', 'latest']\nkeep_newest = 100\n\
         [[retention]]\nrepositories = 'team/*'\ntags = ['pr-*']\npushed_within = '3d'\n\
         [[retention]]\nrepositories = 'team/**'\nkeep_newest = 1"
    ));
    let client = &served.client;
    let names = ["team/a", "team/a/deep", "other"];
    for name in names {
        for tag in ["v1", "latest", "x"] {
            client.push_image(name, tag, tag);
        }
    }
    days(&served.clock, 1);
    for name in names {
        client.push_image(name, "pr-1", "pr-1");
    }
    // `*` stops at a slash: there the last rule judges both, of which `x` is the older one.
    assert_eq!(collect(&served).tags, ["team/a/deep:x"]);
    days(&served.clock, 3);
    assert_eq!(collect(&served).tags, ["team/a:pr-1"]);
    let left =
        |name: &str| client.get(&format!("/v2/{name}/tags/list")).expect(200).json()["tags"].to_string();
    assert_eq!(left("team/a"), r#"["latest","v1","x"]"#);
    assert_eq!(left("team/a/deep"), r#"["latest","pr-1","v1"]"#);
    assert_eq!(left("other"), r#"["latest","pr-1","v1","x"]"#);
}

#[test]
fn immutable_tags_are_kept_from_clients_and_not_from_retention() {
    let served = Served::new(&format!(
        "{NO_GRACE}[[immutable]]\nrepositories = '**'\ntags = ['v*']\n\
         [[retention]]\nrepositories = '**'\npushed_within = '30d'"
    ));
    let client = &served.client;
    let pushed = client.push_image("a", "v1", "x");
    client.delete("/v2/a/manifests/v1").refused(409, "DENIED");
    client.delete(&format!("/v2/a/manifests/{}", pushed.digest)).refused(409, "DENIED");
    // The same again is no move, and makes it new.
    days(&served.clock, 20);
    client.push_image("a", "v1", "x");
    days(&served.clock, 20);
    assert!(collect(&served).tags.is_empty());
    days(&served.clock, 20);
    assert_eq!(collect(&served).tags, ["a:v1"]);
    client.push_image("a", "v1", "another one may have the name now");
}

#[test]
fn untagged_manifests_stay_as_long_as_they_are_used() {
    let served = Served::new(&format!("{NO_GRACE}[[retention]]\nrepositories = '**'\nuntagged_after = '7d'"));
    let client = &served.client;
    let push = |text: &str| -> Digest {
        let config = client.push_blob("a", text.as_bytes());
        let bytes = image(&[(config, text.len())]).to_string().into_bytes();
        let digest = Digest::of(&bytes);
        client.put("a", &digest.to_string(), MediaType::OCI_MANIFEST, &bytes).expect(201);
        digest
    };
    let (used, unused) = (push("used"), push("unused"));
    client.push_image("a", "tagged", "tagged");
    days(&served.clock, 6);
    pull(client, "a", &used.to_string());
    days(&served.clock, 2);
    assert_eq!(collect(&served).manifests, [format!("a@{unused}")]);
    days(&served.clock, 7);
    assert_eq!(collect(&served).manifests, [format!("a@{used}")]);
    assert!(is_there(client, "/v2/a/manifests/tagged"));
}
