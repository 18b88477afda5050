//! Finding the binary under test.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The `yare` binary: `YARE_BIN`, or the newest one that was built beside this test.
///
/// # Panics
/// When there is none.
pub fn yare_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("YARE_BIN") {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "YARE_BIN is {}, which is no file", path.display());
            return path;
        }
        let test = std::env::current_exe().expect("the path of this test is known");
        newest(&candidates(&test)).unwrap_or_else(|| {
            panic!("no yare binary beside {}: run `cargo build -p yare` or set YARE_BIN", test.display())
        })
    })
}

/// Where a build puts the binary: `target/[triple/]PROFILE/yare` for a test in `target/[triple/]PROFILE/deps`.
fn candidates(test: &Path) -> Vec<PathBuf> {
    let profiles = ["release", "dist", "debug"];
    let folders = test.ancestors().skip(2).take(2);
    let beside = folders.clone().map(|folder| folder.join("yare"));
    let others = folders.flat_map(|folder| profiles.map(|profile| folder.join(profile).join("yare")));
    beside.chain(others).collect()
}

fn newest(candidates: &[PathBuf]) -> Option<PathBuf> {
    let age = |path: &&PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
    candidates.iter().filter(|path| path.is_file()).max_by_key(age).cloned()
}

/// A folder of the build where prepared things may be kept between runs.
pub(crate) fn cache_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test is known");
    let profile = test.ancestors().nth(2).expect("a test is in PROFILE/deps");
    profile.join("testkit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_looked_for_beside_the_test() {
        let found = candidates(Path::new("/t/triple/debug/deps/test-1"));
        for wanted in ["/t/triple/debug/yare", "/t/triple/release/yare"] {
            assert!(found.contains(&PathBuf::from(wanted)), "{wanted} is not in {found:?}");
        }
    }
}
