//! Whether a container needs the built-in init.
//!
//! Docker gives one only on request; without, orphans pile up as zombies and a program that does not handle
//! signals cannot be stopped politely. Here every container gets one, but those whose program is an init
//! itself, since most of these insist on being process 1.

/// Programs that are inits.
const INITS: [&str; 22] = [
    "catatonit",
    "docker-init",
    "dumb-init",
    "finit",
    "init",
    "launchd",
    "my_init",
    "nosh",
    "openrc-init",
    "pid1",
    "pod-init",
    "runit",
    "runit-init",
    "runsvdir",
    "s6-svscan",
    "s6-overlay-init",
    "s6-linux-init",
    "system-manager",
    "systemd",
    "tini",
    "tini-static",
    "yare-init",
];

/// Whether the built-in init goes before this command line, when the request says nothing (`None`), yes or no.
pub fn needs_init(argv: &[String], wanted: Option<bool>, default: bool) -> bool {
    match wanted {
        Some(wanted) => wanted,
        None => default && !argv.first().is_some_and(|program| is_init(program)),
    }
}

fn is_init(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or(program);
    INITS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(program: &str, wanted: Option<bool>) -> bool {
        needs_init(&[program.to_owned(), "-x".to_owned()], wanted, true)
    }

    #[test]
    fn inits_are_left_alone() {
        for program in
            ["/sbin/init", "/lib/systemd/systemd", "tini", "/usr/bin/dumb-init", "/init", "s6-svscan"]
        {
            assert!(!needs(program, None), "{program}");
        }
        assert!(needs("/bin/sh", None));
        assert!(needs("initdb", None));
        assert!(needs("/sbin/init", Some(true)));
        assert!(!needs("sh", Some(false)));
        assert!(!needs_init(&["sh".to_owned()], None, false));
    }
}
