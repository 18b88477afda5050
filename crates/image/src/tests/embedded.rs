//! Images that the engine carries in itself. Their files belong to root, so most of this needs root.

use super::*;
use crate::{EmbeddedContent, EmbeddedFile, RemoveOptions};
use std::io::{Seek, Write};

#[test]
fn an_embedded_image_is_made_once_and_again_when_it_changes() {
    if !have_root("an_embedded_image_is_made_once_and_again_when_it_changes") {
        return;
    }
    let fixture = Fixture::new();
    let name = reference("yare/hello");
    let mut binary = tempfile::tempfile().unwrap();
    binary.write_all(b"the binary").unwrap();
    let config = ContainerConfig { entrypoint: Some(vec!["/bin/yare".into()]), ..ContainerConfig::default() };
    let ensure = |fixture: &Fixture, binary: &std::fs::File| {
        let files = [
            EmbeddedFile {
                path: "bin/yare".into(),
                mode: 0o755,
                content: EmbeddedContent::File(binary.try_clone().unwrap()),
            },
            EmbeddedFile {
                path: "etc/note".into(),
                mode: 0o644,
                content: EmbeddedContent::Bytes(b"hello\n".to_vec()),
            },
        ];
        fixture.store.ensure_embedded(&name, &files, &config).unwrap()
    };
    let first = ensure(&fixture, &binary);
    assert_eq!(first.tags(), ["yare/hello:latest"]);
    assert_eq!(first.layers.len(), 1);
    assert_eq!(binary.stream_position().unwrap(), 10, "the offset is left alone");
    assert_eq!(ensure(&fixture, &binary).id, first.id);
    let other = Fixture::new();
    assert_eq!(ensure(&other, &binary).id, first.id, "the same files make the same image anywhere");
    let fixture = fixture.reopen();
    assert_eq!(ensure(&fixture, &binary).id, first.id);
    fixture.store.remove("yare/hello", RemoveOptions::default(), &nobody).unwrap();
    assert_eq!(ensure(&fixture, &binary).id, first.id, "made again after its removal");
    binary.write_all(b" of another version").unwrap();
    let second = ensure(&fixture, &binary);
    assert_ne!(second.id, first.id);
    assert_eq!(fixture.store.resolve("yare/hello", None).unwrap().id, second.id);
}
