//! Lists, filters, finding, and how long they take.

use super::*;
use crate::ListFilters;
use std::collections::BTreeMap;
use std::time::Instant;
use yare_errdefs::{Class, Classified};
use yare_oci::Platform;

fn tags(fixture: &Fixture, filters: &ListFilters) -> Vec<String> {
    let listed = fixture.store.listed(filters, false);
    listed
        .iter()
        .map(|listed| if listed.tags.is_empty() { "<none>".into() } else { listed.tags.join(" ") })
        .collect()
}

fn three() -> Fixture {
    let fixture = Fixture::new();
    fixture.image_at("old", &["debian:11", "debian:12"], "2020-01-01T00:00:00Z");
    fixture.image_at("mid", &[], "2022-01-01T00:00:00Z");
    fixture.image_at("new", &["ghcr.io/me/app:v1"], "2024-01-01T00:00:00Z");
    fixture
}

#[test]
fn filters_select_as_docker_does() {
    let fixture = three();
    let none = ListFilters::default();
    assert_eq!(tags(&fixture, &none), ["ghcr.io/me/app:v1", "<none>", "debian:11 debian:12"]);
    assert_eq!(tags(&fixture, &ListFilters { dangling: Some(true), ..none.clone() }), ["<none>"]);
    assert_eq!(
        tags(&fixture, &ListFilters { dangling: Some(false), ..none.clone() }),
        ["ghcr.io/me/app:v1", "debian:11 debian:12"]
    );
    let by = |pattern: &str| {
        tags(&fixture, &ListFilters { reference: vec![pattern.into()], ..ListFilters::default() })
    };
    assert_eq!(by("debian"), ["debian:11 debian:12"]);
    assert_eq!(by("debian:1*2"), ["debian:12"]);
    assert_eq!(by("ghcr.io/*/app"), ["ghcr.io/me/app:v1"]);
    assert!(by("*").iter().all(|tags| tags.starts_with("debian")), "a star does not match a slash");
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let dated = |key: &str, name: &str| {
        let pairs = BTreeMap::from([(key.to_owned(), vec![name.to_owned()])]);
        ListFilters::parse(&fixture.store, &pairs, Timestamp::UNIX_EPOCH)
    };
    assert_eq!(tags(&fixture, &dated("before", "ghcr.io/me/app:v1").unwrap()).len(), 2);
    assert_eq!(tags(&fixture, &dated("since", "debian:11").unwrap()).len(), 2);
    assert_eq!(dated("before", "nosuch").unwrap_err().to_string(), "No such image: nosuch:latest");
    assert_eq!(tags(&fixture, &ListFilters { label: names(&["content=mid"]), ..none.clone() }), ["<none>"]);
    assert_eq!(tags(&fixture, &ListFilters { label: names(&["content"]), ..none.clone() }).len(), 3);
    assert_eq!(tags(&fixture, &ListFilters { not_label: names(&["content=mid"]), ..none.clone() }).len(), 2);
    let unused = |duration: &str, now: Timestamp| {
        let pairs = BTreeMap::from([("unused-for".to_owned(), vec![duration.to_owned()])]);
        tags(&fixture, &ListFilters::parse(&fixture.store, &pairs, now).unwrap()).len()
    };
    let week = Timestamp::now() + jiff::SignedDuration::from_hours(7 * 24 + 1);
    assert_eq!(
        (unused("1w", week), unused("7d", week), unused("8d", week), unused("170h", week)),
        (3, 3, 0, 0)
    );
    fixture.store.touch(&fixture.store.resolve("debian:12", None).unwrap().id);
    assert_eq!(
        unused("0s", Timestamp::now() - jiff::SignedDuration::from_secs(5)),
        0,
        "how old they are is no matter"
    );
    for bad in ["", "7", "d", "-7d", "7days", "999999999999999999d"] {
        assert_eq!(crate::period(bad), None, "{bad}");
    }
    let until = Some("2022-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(tags(&fixture, &ListFilters { until, ..none.clone() }).len(), 2);
}

#[test]
fn nameless_parents_show_only_when_all_is_asked_for() {
    let fixture = Fixture::new();
    let parent = fixture.image("a", &[]);
    let child = fixture.child(&parent.id, "b");
    let ids = |all| -> Vec<_> {
        fixture.store.listed(&ListFilters::default(), all).iter().map(|listed| listed.image.id).collect()
    };
    assert_eq!(ids(false), [child.id]);
    assert_eq!(ids(true).len(), 2);
}

#[test]
fn images_are_found_by_name_id_and_start_of_an_id() {
    let fixture = three();
    let image = fixture.store.resolve("debian:12", None).unwrap();
    for name in
        [image.id.hex(), image.id.to_string(), image.id.short(), format!("sha256:{}", image.id.short())]
    {
        assert_eq!(fixture.store.resolve(&name, None).unwrap().id, image.id, "{name}");
    }
    for name in ["docker.io/library/debian:11", "index.docker.io/debian:11"] {
        assert_eq!(fixture.store.resolve(name, None).unwrap().id, image.id);
    }
    assert_eq!(
        fixture.store.resolve("debian", None).unwrap_err().to_string(),
        "No such image: debian:latest"
    );
    let first = |image: &Image| image.id.hex()[..1].to_owned();
    fixture.store.tag(&image.id, &reference("abc")).unwrap();
    assert_eq!(fixture.store.resolve("abc", None).unwrap().id, image.id, "a name comes before an id");
    let mut made = 0;
    while fixture.store.list().iter().filter(|other| first(other) == first(&image)).count() < 2 {
        fixture.image(&format!("more{made}"), &[]);
        made += 1;
    }
    let error = fixture.store.resolve(&first(&image), None).unwrap_err();
    assert_eq!(error.class(), Class::InvalidArgument, "{error}");
    let wanted = Platform::parse("linux/s390x").unwrap();
    let error = fixture.store.resolve("debian:12", Some(&wanted)).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert!(error.to_string().starts_with("image with reference debian:12 was found but"), "{error}");
    assert!(fixture.store.resolve("debian:12", Some(&Platform::host())).is_ok());
}

/// A thousand images of one shared layer, committed at once.
#[test]
fn a_thousand_images_are_listed_found_and_pruned_quickly() {
    let fixture = Fixture::new();
    let base = fixture.image("base", &["base"]);
    let many: Vec<_> = (0..1000)
        .map(|number| {
            let mut config = config(base.layers.to_vec());
            config.comment = number.to_string();
            let mut new = NewImage::from_config(&config).unwrap();
            if number % 2 == 0 {
                new.references.push(reference(&format!("many/of:{number}")));
            }
            new
        })
        .collect();
    fixture.store.commit_images(many).unwrap();
    let fixture = fixture.reopen();
    let timed = |what: &str, limit: u128, work: &dyn Fn()| {
        work();
        let best = (0..5)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed().as_micros()
            })
            .min()
            .unwrap();
        println!("{what}: {best} us");
        // The promise is for optimised builds; unoptimised ones get ten times as long.
        let limit = if cfg!(debug_assertions) { limit * 10 } else { limit };
        assert!(best < limit, "{what} took {best} us, at most {limit} are allowed");
    };
    timed("list", 2000, &|| assert_eq!(fixture.store.list().len(), 1001));
    timed("select", 2000, &|| assert_eq!(fixture.store.listed(&ListFilters::default(), false).len(), 1001));
    timed("usage", 4000, &|| assert_eq!(fixture.store.usage().images.len(), 1001));
    timed("resolve", 20, &|| drop(fixture.store.resolve("many/of:42", None).unwrap()));
    timed("resolve id", 20, &|| drop(fixture.store.resolve(&base.id.short(), None).unwrap()));
    let start = Instant::now();
    let pruned = fixture.store.prune(&BTreeMap::new(), Timestamp::UNIX_EPOCH, &nobody).unwrap();
    println!("prune of 500: {} ms", start.elapsed().as_millis());
    assert_eq!(deleted(&pruned.removed).len(), 500);
    let deadline = Instant::now() + std::time::Duration::from_secs(20);
    while fixture.on_disk() != (1, 2 * 501) {
        assert!(Instant::now() < deadline, "documents of pruned images stay: {:?}", fixture.on_disk());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
