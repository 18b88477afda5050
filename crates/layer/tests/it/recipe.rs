//! Gzip files come back byte for byte from their text and their recipe.

use flate2::{Compression, GzBuilder};
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use yare_damage::Random;
use yare_layer::{compress, rebuild_gzip, write_gzip_recipe};

/// Text as layers have it: words, numbers, binary stretches, repeats near and far.
fn text(size: usize) -> Vec<u8> {
    let mut random = Random::default();
    let words: Vec<String> =
        (0..2000).map(|_| format!("{:x}", random.number() >> random.below(60))).collect();
    let mut text = Vec::with_capacity(size);
    while text.len() < size {
        match random.below(40) {
            0 => text.extend((0..random.below(3000)).map(|_| random.number() as u8)),
            1 => text.resize(text.len() + random.below(2000), 0),
            2 if text.len() > 100 => {
                let from = random.below(text.len() - 1);
                text.extend_from_within(from..(from + random.below(5000)).min(text.len()));
            }
            _ => text.extend(random.one(&words).bytes().chain([b' '])),
        }
    }
    text.truncate(size);
    text
}

/// The length of a header of [`gzip`].
const HEADER: usize = 20;

fn gzip(text: &[u8], level: u32) -> Vec<u8> {
    let mut writer = GzBuilder::new().filename("layer.tar").write(Vec::new(), Compression::new(level));
    writer.write_all(text).unwrap();
    writer.finish().unwrap()
}

/// The text in pieces, as a pipe gives it.
struct Pieces<'a>(&'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(777);
        self.0.read(&mut buffer[..most])
    }
}

/// Rebuilds a file and returns the length of its recipe.
#[track_caller]
fn check(file: &[u8], text: &[u8]) -> usize {
    let recipe = write_gzip_recipe(file, Vec::new()).expect("a recipe");
    let rebuilt = rebuild_gzip(&recipe[..], Pieces(text), Vec::new()).expect("the file");
    assert!(rebuilt == file, "other bytes");
    recipe.len()
}

#[test]
fn files_of_every_level_come_back() {
    let text = text(3 << 20);
    for level in 0..=9 {
        let file = gzip(&text, level);
        let size = check(&file, &text);
        assert!(size * 100 < file.len() * 12, "level {level}: {size} of {}", file.len());
    }
}

#[test]
fn files_of_our_own_come_back() {
    let text = text(3 << 20);
    let mut writer = compress(Vec::new(), yare_layer::Compression::Gzip, None).unwrap();
    writer.write_all(&text).unwrap();
    check(&writer.finish().unwrap(), &text);
}

#[test]
fn files_of_gnu_gzip_come_back_from_little() {
    let text = text(2 << 20);
    for (level, most) in [("-1", 8), ("-6", 3), ("-9", 6)] {
        let mut gzip = Command::new("gzip")
            .arg(level)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gzip");
        let (mut input, mut output) = (gzip.stdin.take().unwrap(), gzip.stdout.take().unwrap());
        let mut file = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| output.read_to_end(&mut file).unwrap());
            input.write_all(&text).unwrap();
            drop(input);
        });
        assert!(gzip.wait().unwrap().success());
        let size = check(&file, &text);
        assert!(size * 100 < file.len() * most, "{level}: {size} of {}", file.len());
    }
}

#[test]
fn members_empty_files_and_the_shortest_texts_come_back() {
    let whole = text(300_000);
    let mut file = Vec::new();
    // As eStargz has it: a member for each file, some of them with nothing in it.
    for (number, piece) in whole.chunks(10_000).enumerate() {
        file.extend(gzip(piece, number as u32 % 10));
        file.extend(gzip(b"", 6));
    }
    check(&file, &whole);
    check(&gzip(b"", 6), b"");
    for size in 1..20 {
        check(&gzip(&whole[..size], 6), &whole[..size]);
        check(&gzip(&vec![7; size], 9), &vec![7; size]);
    }
    check(&gzip(&vec![0; 5 << 20], 9), &vec![0; 5 << 20]);
    check(b"", b"");
}

/// A match of one member must not be looked for in another; the model starts again.
#[test]
fn equal_members_come_back() {
    let piece = text(50_000);
    let file = [gzip(&piece, 6), gzip(&piece, 6)].concat();
    check(&file, &[&piece[..], &piece].concat());
}

#[test]
fn what_is_no_gzip_is_refused() {
    let file = gzip(&text(50_000), 6);
    for wrong in [&b"hello"[..], &file[..file.len() - 1], &file[..30], &[&file[..], b"x"].concat()] {
        write_gzip_recipe(wrong, Vec::new()).expect_err("no such file");
    }
}

/// Whatever a file says, its recipe gives it back or there is none; whatever a recipe says, it ends.
#[test]
fn damage_is_refused_or_reproduced() {
    let text = text(60_000);
    let files = [gzip(&text, 1), gzip(&text, 6), gzip(&text, 0)];
    let mut random = Random::default();
    let (mut refused, mut whole) = (0, 0);
    for _ in 0..600 {
        let mut file = random.one(&files).clone();
        for _ in 0..=random.below(3) {
            let at = HEADER + random.below(file.len() - HEADER);
            file[at] ^= 1 << random.below(8);
        }
        let Ok(recipe) = write_gzip_recipe(&file[..], Vec::new()) else {
            refused += 1;
            continue;
        };
        // What its bits say, whatever its checksum.
        let mut said = Vec::new();
        flate2::read::DeflateDecoder::new(&file[HEADER..]).read_to_end(&mut said).expect("what has a recipe");
        assert!(rebuild_gzip(&recipe[..], &said[..], Vec::new()).expect("the file") == file);
        whole += 1;
    }
    assert!(refused > 0 && whole > 0, "{refused} refused, {whole} whole");
    let recipe = write_gzip_recipe(&files[1][..], Vec::new()).unwrap();
    for _ in 0..600 {
        let mut recipe = recipe.clone();
        let at = random.below(recipe.len());
        recipe[at] ^= 1 << random.below(8);
        let most = random.below(text.len());
        let _ = rebuild_gzip(&recipe[..], &text[..most], io::sink());
        if let Ok(other) = rebuild_gzip(&recipe[..], &text[..], Vec::new()) {
            assert!(other.len() < 100 * text.len());
        }
    }
}

/// What is on the disks of users must be read by every later version: a change of the model, of the coder or of
/// the habits makes this fail, and needs a new version of the format beside the old one.
#[test]
fn recipes_of_version_1_are_followed_for_ever() {
    let (file, text) = (include_bytes!("data/golden.gz"), include_bytes!("data/golden.txt"));
    let recipe = include_bytes!("data/golden.recipe");
    assert!(rebuild_gzip(&recipe[..], &text[..], Vec::new()).expect("the file") == file);
    assert!(write_gzip_recipe(&file[..], Vec::new()).expect("a recipe") == recipe, "written otherwise");
}
