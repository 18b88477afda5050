//! What the specification's own suite does, over every kind of content: its data, its ways to push a blob, and
//! its round of push, list, head, get, referrers and delete, once by each digest algorithm.
//!
//! | the suite (its `1.1+dev` form: all that it can ask for) | here |
//! |---|---|
//! | ping; tags and referrers of an empty repository | `what_is_empty` |
//! | blobs: post only, post and put, stream, chunks, chunks and a last one in the put | `blobs::each_way_in` |
//! | blobs: chunks out of order, their 416, the status that follows, and how it goes on | `blobs::each_way_in` |
//! | blobs: mounted, mounted from anywhere, mounted where there is none; cancelled | `blobs::mounts`, `blobs::cancelled` |
//! | blobs: six ranges; no bytes at all, and `{}`; a wrong digest by each way | `blobs::ranges`, `blobs::small`, `blobs::wrong_digests` |
//! | data: images, indexes, artifacts, subjects, `data`, own fields, large, bare, not distributable | `data::KINDS` |
//! | tags in the query of a push by digest | `tagged` in `data::KINDS` |
//! | manifests: missing, an invalid digest, a wrong one | `wrong_manifests` |
//!
//! Its sparse images (off unless asked for) are not taken here; sparse indexes are where `sparse_indexes` is set.

mod blobs;
mod data;
mod round;

use crate::client::Client;
use crate::served::Served;
use serde_json::json;
use yare_oci::{Digest, MediaType};

/// A registered digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The digest of these bytes.
    pub(crate) fn of(self, bytes: &[u8]) -> String {
        match self {
            Self::Sha256 => Digest::of(bytes).to_string(),
            Self::Sha512 => {
                let hash = ring::digest::digest(&ring::digest::SHA512, bytes);
                let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                format!("sha512:{hex}")
            }
        }
    }
}

/// Bytes that no other label has.
pub(crate) fn noise(label: &str, size: usize) -> Vec<u8> {
    let pieces = (0..size.div_ceil(32)).flat_map(|piece| *Digest::of(format!("{label} {piece}")).as_bytes());
    pieces.take(size).collect()
}

#[test]
fn blobs_by_each_way() {
    let served = Served::new("");
    for algorithm in Algorithm::ALL {
        blobs::each_way_in(&served.client, algorithm);
        blobs::mounts(&served.client, algorithm);
        blobs::cancelled(&served.client, algorithm);
        blobs::ranges(&served.client, algorithm);
        blobs::small(&served.client, algorithm);
        blobs::wrong_digests(&served.client, algorithm);
    }
}

#[test]
fn every_kind_of_content() {
    let served = Served::new("");
    for algorithm in Algorithm::ALL {
        for (name, fill) in data::KINDS {
            println!("{name} by {algorithm:?}");
            round::whole(&served.client, &data::Data::new(name, algorithm, *fill));
        }
    }
}

#[test]
fn what_is_empty() {
    let served = Served::new("");
    served.client.get("/v2/").expect(200);
    assert!(matches!(served.client.get("/v2/empty/tags/list").status, 200 | 404));
    for algorithm in Algorithm::ALL {
        let path = format!("/v2/empty/referrers/{}", algorithm.of(b"nothing"));
        let answer = served.client.get(&path).expect(200);
        assert_eq!(answer.header("Content-Type"), Some(MediaType::OCI_INDEX));
        let index = answer.json();
        assert_eq!((&index["schemaVersion"], &index["manifests"]), (&json!(2), &json!([])));
    }
}

#[test]
fn wrong_manifests() {
    let served = Served::new("");
    for algorithm in Algorithm::ALL {
        let image = data::Data::new("wrong", algorithm, data::image);
        round::push_blobs(&served.client, &image);
        wrong_names(&served.client, &image);
    }
    served.client.get("/v2/suite/wrong/manifests/missing").refused(404, "MANIFEST_UNKNOWN");
}

fn wrong_names(client: &Client, image: &data::Data) {
    let manifest = &image.manifests[0];
    let missing = image.algorithm.of(b"missing");
    client.get(&format!("/v2/{}/manifests/{missing}", image.repository)).refused(404, "MANIFEST_UNKNOWN");
    for name in ["sha256:baddigeststring", "sha512:baddigeststring", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let path = format!("/v2/{}/manifests/{name}", image.repository);
        client.get(&path).refused(400, "DIGEST_INVALID");
        client.put(&image.repository, name, manifest.kind, &manifest.bytes).refused(400, "DIGEST_INVALID");
    }
    // Two blanks more are the same JSON and other content.
    let other = [manifest.bytes.as_slice(), b"  "].concat();
    client.put(&image.repository, &manifest.digest, manifest.kind, &other).refused(400, "DIGEST_INVALID");
    client.head(&format!("/v2/{}/manifests/{}", image.repository, manifest.digest)).expect(404);
}
