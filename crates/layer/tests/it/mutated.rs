//! Valid tars with random damage: no panic, no escape.

use crate::archive::{Archive, Member, listing};
use crate::gnu::{Strength, gnu_tar, hard_tree};
use std::fs::File;
use std::os::fd::AsFd;
use tempfile::TempDir;
use yare_damage::Random;
use yare_layer::{ApplyOptions, Limits, apply};

const INTERESTING: &[&[u8]] = &[
    b"../",
    b"/",
    b".wh.",
    b".wh..wh..opq",
    b"\0",
    b"..",
    b"CANARY",
    b"-1",
    b"99999999999",
    b"1",
    b"2",
    b"S",
    b"x",
    b"L",
    b"K",
    b"5",
];

fn mutate(tar: &mut [u8], random: &mut Random) {
    for _ in 0..=random.below(6) {
        let position = random.below(tar.len());
        match random.below(5) {
            0 => tar[position] = random.number() as u8,
            1 => tar[position] ^= 1 << random.below(8),
            2 => {
                let text = INTERESTING[random.below(INTERESTING.len())];
                let count = text.len().min(tar.len() - position);
                tar[position..position + count].copy_from_slice(&text[..count]);
            }
            // Swap or repeat blocks: entries meet other entries' data.
            3 => {
                let blocks = tar.len() / 512;
                let (from, to) = (random.below(blocks) * 512, random.below(blocks) * 512);
                tar.copy_within(from..from + 512, to);
            }
            _ => {
                // Into a header, so that fields are hit more often than content.
                let header = random.below(tar.len() / 512) * 512;
                tar[header + random.below(512)] = INTERESTING[random.below(INTERESTING.len())][0];
            }
        }
    }
}

/// Gives every block that looks like a header a right checksum again, so that damage gets past it.
fn mend_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let by_hand = Archive::default()
        .dir("d/")
        .file("d/f", "content")
        .symlink("s", "d")
        .file("s/g", "x")
        .hard_link("h", "d/f")
        .file("d/.wh.gone", "")
        .file("d/.wh..wh..opq", "")
        .pax(&[("path", b"long/name"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"-1.5")])
        .file("x", "y")
        .member(&Member { name: b"f", typeflag: b'6', ..Member::default() });
    seeds.push(by_hand.end());
    if rustix::process::geteuid().is_root() {
        for (strength, arguments) in [
            (
                Strength::Pax,
                &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--exclude=./big"][..],
            ),
            (Strength::Gnu, &["--format=gnu", "--sparse", "--exclude=./big"]),
        ] {
            let tree = TempDir::new().unwrap();
            hard_tree(tree.path(), strength);
            seeds.push(gnu_tar(tree.path(), arguments));
        }
    }
    seeds
}

#[test]
fn damage_neither_panics_nor_escapes() {
    let rounds: u64 =
        std::env::var("YARE_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let seeds = seeds();
    let top = TempDir::new().unwrap();
    std::fs::create_dir(top.path().join("CANARY")).unwrap();
    std::fs::write(top.path().join("CANARY/file"), "sings").unwrap();
    let before = listing(&top.path().join("CANARY"));
    let mut random = Random::default();
    let mut accepted = 0;
    for round in 0..rounds {
        let mut tar = seeds[random.below(seeds.len())].clone();
        mutate(&mut tar, &mut random);
        if random.below(4) != 0 {
            mend_checksums(&mut tar);
        }
        let fs = top.path().join("fs");
        std::fs::create_dir(&fs).unwrap();
        let dir = File::open(&fs).unwrap();
        let mut record = Vec::new();
        let limits = Limits { bytes: Some(1 << 30), entries: 10_000 };
        let options = ApplyOptions { limits, record: Some(&mut record), ..ApplyOptions::default() };
        if apply(tar.as_slice(), dir.as_fd(), options).is_ok() {
            accepted += 1;
            let mut again = Vec::new();
            yare_layer::rebuild_tar(dir.as_fd(), std::io::Cursor::new(&record), &mut again)
                .unwrap_or_else(|error| panic!("round {round}: {}", yare_errdefs::chain(&error)));
            assert!(again == tar, "round {round} was rebuilt otherwise");
        }
        yare_sys::fs::remove_tree(&fs).unwrap();
    }
    assert_eq!(listing(&top.path().join("CANARY")), before);
    assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 1);
    assert!(accepted > 0, "the damage was never survivable, so it tested nothing");
}
