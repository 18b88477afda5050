//! How many packages there may be.

/// The most packages in the lock file, ours included. Raising it is a decision, with its reason in the
/// commit that does it.
const PACKAGES: usize = 285;

/// What is wrong with a lock file.
pub(crate) fn check(lock: &str) -> Option<String> {
    let count = lock.lines().filter(|line| *line == "[[package]]").count();
    match count {
        0 => Some("Cargo.lock: no packages in it, or no such file".to_owned()),
        count if count > PACKAGES => Some(format!(
            "Cargo.lock: {count} packages, and {PACKAGES} are the budget: do without one, or raise it in \
             xtask/src/budget.rs and say why"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_packages_are_told() {
        assert_eq!(check(&"[[package]]\n".repeat(PACKAGES)), None);
        assert!(
            check(&"[[package]]\n".repeat(PACKAGES + 1)).is_some_and(|text| text.contains("286 packages"))
        );
        assert!(check("").is_some());
    }
}
