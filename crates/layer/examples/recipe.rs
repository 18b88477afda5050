//! Prints, for gzip files, the size of the recipe that makes each again, whether it does, and what it costs:
//! `bytes  recipe's bytes  percent  ms to write it  ms to follow it  name`. `bench/recipes` runs it.
#![expect(clippy::print_stdout, reason = "its purpose")]

use std::io::{self, Read};
use std::time::Instant;
use yare_layer::{Compression, Decompressor, rebuild_gzip, write_gzip_recipe};

fn main() -> io::Result<()> {
    for name in std::env::args().skip(1) {
        let file = std::fs::read(&name)?;
        if Compression::sniff(&file) != Compression::Gzip {
            println!("{}\t-\t-\t-\t-\t{name}: no gzip, kept as it is", file.len());
            continue;
        }
        let mut text = Vec::new();
        Decompressor::new(&file[..])?.read_to_end(&mut text)?;
        let begun = Instant::now();
        let recipe = match write_gzip_recipe(&file[..], Vec::new()) {
            Ok(recipe) => recipe,
            Err(error) => {
                println!("{}\t-\t-\t-\t-\t{name}: {error}, kept as it is", file.len());
                continue;
            }
        };
        let written = begun.elapsed().as_millis();
        let begun = Instant::now();
        let rebuilt = rebuild_gzip(&recipe[..], &text[..], Vec::new())?;
        let followed = begun.elapsed().as_millis();
        let verdict = if rebuilt == file { "" } else { ": WRONG" };
        let percent = recipe.len() as f64 * 100.0 / file.len() as f64;
        println!("{}\t{}\t{percent:.2}\t{written}\t{followed}\t{name}{verdict}", file.len(), recipe.len());
    }
    Ok(())
}
