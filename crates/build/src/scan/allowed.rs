//! What is no secret although it looks like one, and where nobody keeps secrets.

/// Beginnings of paths whose files come with distributions: examples, manuals, public certificates.
const PATHS: &[&str] = &[
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/info/",
    "/usr/share/perl/",
    "/usr/share/ca-certificates/",
    "/usr/local/share/ca-certificates/",
    "/usr/share/dict/",
    "/usr/share/locale/",
    "/usr/share/zoneinfo/",
    "/usr/share/mime/",
    "/etc/ssl/certs/",
    "/etc/pki/ca-trust/",
    "/var/lib/dpkg/",
    "/var/lib/apt/lists/",
    "/var/lib/rpm/",
    "/usr/lib/sysimage/",
    "/lib/apk/",
];

/// Folders of language packages, and what they hold of test data: keys that everybody has.
const PACKAGES: &[&str] = &[
    "/usr/lib/python",
    "/usr/local/lib/python",
    "/site-packages/",
    "/dist-packages/",
    "/node_modules/",
    "/pkg/mod/",
    "/usr/lib/go",
    "/usr/share/go-",
    "/usr/local/go/",
    "/registry/src/",
    "/gems/",
];
const TESTS: &[&str] = &[
    "/test/",
    "/tests/",
    "/testdata/",
    "/test_data/",
    "/testing/",
    "/fixtures/",
    "/examples/",
    "/example/",
    "/spec/",
    "/docs/",
    "/idlelib/",
    "/__tests__/",
    "/certdata/",
    "_test.go",
];

/// Whether files at this path are passed over.
pub(super) fn path(path: &str) -> bool {
    let starts = PATHS.iter().any(|prefix| path.starts_with(prefix));
    starts
        || PACKAGES.iter().any(|folder| {
            path.find(folder).is_some_and(|place| TESTS.iter().any(|test| path[place..].contains(test)))
        })
}

/// Whether a file of this name is there to hold secrets, so that plain assignments count.
pub(super) fn is_named(name: &str) -> bool {
    let names = [
        ".netrc",
        ".pgpass",
        ".git-credentials",
        ".npmrc",
        ".pypirc",
        ".dockercfg",
        "credentials",
        "config.json",
    ];
    let env = name == ".env" || name.starts_with(".env.") || name.strip_suffix(".env").is_some();
    let template = [".example", ".sample", ".template", ".dist"].iter().any(|end| name.ends_with(end));
    (env && !template) || names.contains(&name)
}

/// Parts of secrets that are published as examples.
const EXAMPLES: &[&str] = &[
    "EXAMPLE",
    "XXXXXXXX",
    "xxxxxxxx",
    "00000000",
    "12345678901234",
    "abcdefghijklm",
    // Vagrant's insecure key, which everybody has.
    "MIIEogIBAAKCAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzI",
];

/// Whether this is a published example.
pub(super) fn secret(secret: &[u8]) -> bool {
    EXAMPLES.iter().any(|example| memchr::memmem::find(secret, example.as_bytes()).is_some())
}
