//! Tables of Dockerfiles: what a row is, and how it is built and looked at.

use crate::client::{Client, Program, shown};

/// One Dockerfile. Most check themselves with `RUN`: that they build says it all.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Flags of `docker build`; the context of [`context`] is given unless there is one (`CTX`).
    pub(crate) flags: &'static str,
    pub(crate) dockerfile: &'static str,
    /// A script for what came of it: `$i` is the image, `$out` a file with what the build said.
    pub(crate) check: &'static str,
    /// The classic endpoint has no way to ask for it.
    pub(crate) only_yare: bool,
}

impl Row {
    pub(crate) const fn new(name: &'static str, dockerfile: &'static str) -> Self {
        Self { name, flags: "", dockerfile, check: "", only_yare: false }
    }

    pub(crate) const fn flags(mut self, flags: &'static str) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) const fn check(mut self, check: &'static str) -> Self {
        self.check = check;
        self
    }

    pub(crate) const fn only_yare(mut self) -> Self {
        self.only_yare = true;
        self
    }
}

/// Functions that the scripts have.
const WORDS: &str = "export DOCKER_BUILDKIT=0
build() { if [ \"$client\" = yare ]; then docker build --progress=plain \"$@\"; else docker build \"$@\"; fi; }
is() { [ \"$1\" = \"$2\" ] || { echo \"found: $1\"; echo \"want:  $2\"; exit 1; }; }
config() { docker image inspect -f \"{{json .Config.$1}}\" $i; }
";

/// A script with those words.
pub(crate) fn script(c: &Client, text: &str) -> String {
    format!("client={}\n{WORDS}{text}", c.program.name())
}

/// Runs a script with those words that must succeed.
#[track_caller]
pub(crate) fn ok(c: &Client, text: &str) -> String {
    c.ok(&script(c, text))
}

/// The context of the rows, in `ctx`.
pub(crate) fn context(c: &Client) {
    c.ok("umask 022; mkdir -p ctx/dir/sub ctx/empty ctx/deep/er/est files && cd ctx \
         && echo a > a.txt && echo b > b.txt && echo p > priv.txt && chmod 600 priv.txt \
         && printf '#!/bin/sh\\necho e\\n' > exec.sh && chmod 755 exec.sh && echo s > 'sp ace.txt' \
         && echo c > dir/c.txt && echo h > dir/.hidden && echo d > dir/sub/d.txt && echo l > debug.log \
         && echo e > deep/er/est/e.txt && ln a.txt hard.txt && ln -s a.txt link && ln -s dir dirlink \
         && mkdir -p ../arch/x && echo y > ../arch/x/y.txt && ln -s y.txt ../arch/x/z && chown -R 7:8 ../arch/x \
         && for kind in '' .gz .bz2 .xz .zst; do tar -caf arch.tar$kind -C ../arch x; done");
}

/// Builds all rows; the panic names those that went wrong.
#[track_caller]
pub(crate) fn build_all(c: &Client, rows: &[Row]) {
    context(c);
    // Both clients share an engine: the second does everything again, instead of finding it in the cache.
    let anew = if c.program == Program::Yare { "--no-cache" } else { "" };
    let mut failures = Vec::new();
    for row in rows.iter().filter(|row| !row.only_yare || c.program == Program::Yare) {
        std::fs::write(c.folder.join("files").join(row.name), row.dockerfile).unwrap();
        let context = if row.flags.contains("CTX") { "" } else { "ctx" };
        let flags = row.flags.replace("CTX", "");
        let check = row.check;
        let outcome = c.run(&script(
            c,
            &format!(
                "i=$n/{0}; out=files/{0}.out; set -e\nbuild {anew} -t $i -f files/{0} {flags} {context} > $out 2>&1 || {{ cat $out; exit 1; }}\n{check}",
                row.name
            ),
        ));
        if outcome.code != 0 {
            failures.push(format!("== {}\n{}\n{}", row.name, row.dockerfile, shown(&outcome)));
        }
    }
    assert!(failures.is_empty(), "{} of {} went wrong\n{}", failures.len(), rows.len(), failures.join("\n"));
}
