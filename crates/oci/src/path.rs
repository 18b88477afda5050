//! Paths inside a container, as text: pure, no file is looked at.

/// Without `.`, `..`, double and final slashes; absolute. Nothing leads above the root (Go's `path.Clean` of an
/// absolute path).
pub fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn paths_begin_at_the_root_and_stay_below_it() {
        for (path, expected) in [
            ("/a/./b//../c/", "/a/c"),
            ("/../..", "/"),
            ("/../../a//b/./c/..", "/a/b"),
            ("a", "/a"),
            ("", "/"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
