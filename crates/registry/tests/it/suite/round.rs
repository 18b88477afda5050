//! The round that each set of content goes: push, list, head, get, referrers, delete.

use super::blobs;
use super::data::{Data, Document};
use crate::client::{Answer, Client, location};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use yare_oci::MediaType;

const ACCEPT: [(&str, &str); 2] = [("Accept", MediaType::OCI_INDEX), ("Accept", MediaType::OCI_MANIFEST)];

pub(super) fn whole(client: &Client, data: &Data) {
    push_blobs(client, data);
    data.manifests.iter().for_each(|manifest| push(client, data, manifest));
    list(client, data);
    data.manifests.iter().for_each(|manifest| pull(client, data, manifest));
    data.blobs.iter().for_each(|(digest, bytes)| blobs::check(client, &data.repository, (digest, bytes)));
    referrers(client, data);
    delete(client, data);
}

pub(super) fn push_blobs(client: &Client, data: &Data) {
    for ((digest, bytes), way) in data.blobs.iter().zip(blobs::WAYS.into_iter().cycle()) {
        blobs::push_right(client, &data.repository, way, (digest, bytes));
    }
}

fn path(data: &Data, reference: &str) -> String {
    format!("/v2/{}/manifests/{reference}", data.repository)
}

/// Pushes a manifest by its digest, and by each tag, or with the tags in the query.
fn push(client: &Client, data: &Data, manifest: &Document) {
    let put = |reference: &str| {
        let answer = client.put(&data.repository, reference, manifest.kind, &manifest.bytes).expect(201);
        assert_eq!(answer.header("OCI-Subject"), manifest.subject.as_deref());
        let got = client.send("GET", &location(&answer), &ACCEPT, b"").expect(200);
        assert_eq!(got.body, manifest.bytes);
        answer
    };
    if data.tags_in_query() {
        let tags: Vec<String> = manifest.tags.iter().map(|tag| format!("tag={tag}")).collect();
        let answer = put(&format!("{}?{}", manifest.digest, tags.join("&")));
        assert_eq!(set(&answer), manifest.tags);
        assert_eq!(answer.header("Docker-Content-Digest"), Some(manifest.digest.as_str()));
        return;
    }
    let answer = put(&manifest.digest);
    assert_eq!(answer.header("Docker-Content-Digest"), Some(manifest.digest.as_str()));
    for tag in &manifest.tags {
        put(tag);
    }
}

/// The tags that an answer says were set.
fn set(answer: &Answer) -> Vec<&str> {
    let tags = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("OCI-Tag"));
    tags.flat_map(|(_, value)| value.split(',').map(str::trim)).collect()
}

fn tags(data: &Data) -> BTreeSet<&str> {
    data.manifests.iter().flat_map(|manifest| &manifest.tags).map(String::as_str).collect()
}

fn list(client: &Client, data: &Data) {
    let list = |query: &str| {
        let listed = client.get(&format!("/v2/{}/tags/list{query}", data.repository)).expect(200).json();
        let listed = listed["tags"].as_array().cloned().unwrap_or_default();
        listed.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let all = list("");
    assert_eq!(all, tags(data).into_iter().map(str::to_owned).collect());
    for last in &all {
        assert_eq!(
            list(&format!("?last={last}")),
            all.iter().filter(|tag| *tag > last).cloned().collect(),
            "after {last}"
        );
    }
}

fn pull(client: &Client, data: &Data, manifest: &Document) {
    for reference in manifest.tags.iter().chain([&manifest.digest]) {
        let path = path(data, reference);
        let head = client.send("HEAD", &path, &ACCEPT, b"").expect(200);
        let got = client.send("GET", &path, &ACCEPT, b"").expect(200);
        assert_eq!(got.body, manifest.bytes);
        assert_eq!(got.header("Content-Type"), Some(manifest.kind));
        for header in ["Content-Length", "Content-Type", "Docker-Content-Digest", "ETag", "Cache-Control"] {
            assert_eq!(head.header(header), got.header(header), "{header}");
        }
        assert_eq!(head.header("Content-Length"), Some(manifest.bytes.len().to_string().as_str()));
        assert_eq!(head.header("Docker-Content-Digest"), Some(manifest.digest.as_str()), "{reference}");
    }
}

fn referrers(client: &Client, data: &Data) {
    let subjects: BTreeSet<&String> =
        data.manifests.iter().filter_map(|manifest| manifest.subject.as_ref()).collect();
    for subject in subjects {
        let about = |manifest: &&Document| manifest.subject.as_ref() == Some(subject);
        let goals: Vec<&Value> =
            data.manifests.iter().filter(about).map(|manifest| &manifest.listed).collect();
        let path = format!("/v2/{}/referrers/{subject}", data.repository);
        assert_eq!(listed(&client.get(&path)), sorted(&goals));
        let kinds: BTreeSet<&str> = goals.iter().filter_map(|goal| goal["artifactType"].as_str()).collect();
        for kind in kinds {
            let answer = client.get(&format!("{path}?artifactType={}", kind.replace('+', "%2B")));
            assert_eq!(answer.header("OCI-Filters-Applied"), Some("artifactType"));
            let some: Vec<&Value> =
                goals.iter().filter(|goal| goal["artifactType"] == kind).copied().collect();
            assert_eq!(listed(&answer), sorted(&some), "{kind}");
        }
    }
}

/// What a list of referrers has, with `null` for what is left out.
fn listed(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some(MediaType::OCI_INDEX)));
    let index = answer.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(MediaType::OCI_INDEX)));
    let entries: Vec<Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            json!({ "mediaType": entry["mediaType"], "digest": entry["digest"], "size": entry["size"],
                "artifactType": entry["artifactType"], "annotations": entry["annotations"] })
        })
        .collect();
    sorted(&entries.iter().collect::<Vec<_>>())
}

fn sorted(entries: &[&Value]) -> Vec<Value> {
    let mut entries: Vec<Value> = entries.iter().map(|entry| (*entry).clone()).collect();
    entries.sort_by_key(|entry| entry["digest"].to_string());
    entries
}

fn delete(client: &Client, data: &Data) {
    let gone = |reference: &str| {
        client.delete(&path(data, reference)).expect(202);
        client.send("HEAD", &path(data, reference), &ACCEPT, b"").expect(404);
    };
    tags(data).into_iter().for_each(gone);
    // What is needed goes after what needs it.
    data.manifests.iter().rev().for_each(|manifest| gone(&manifest.digest));
    data.blobs.iter().for_each(|(digest, _)| blobs::delete(client, &data.repository, digest));
    assert!(matches!(client.get(&format!("/v2/{}/tags/list", data.repository)).status, 200 | 404));
}
