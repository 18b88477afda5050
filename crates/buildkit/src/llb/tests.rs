//! Graphs that are understood, and those that are not.

use super::*;
use crate::proto::graph::{ExecOp, FileAction, FileOp, Input, MakeDir, Meta, Mount, OpMetadata, SourceOp};
use yare_errdefs::{Class, Classified};

/// A graph being put together.
#[derive(Default)]
struct Made {
    wire: Wire,
}

impl Made {
    fn add(&mut self, op: &Op) -> String {
        let bytes = op.encode_to_vec();
        let digest = Digest::of(&bytes).to_string();
        self.wire.def.push(bytes);
        digest
    }

    fn source(&mut self, identifier: &str) -> String {
        let source = SourceOp { identifier: identifier.to_owned(), ..SourceOp::default() };
        self.add(&Op { source: Some(source), ..Op::default() })
    }

    /// The graph that stands for an output.
    fn of(&self, digest: &str, index: i64) -> Wire {
        let mut wire = self.wire.clone();
        let last = Op { inputs: inputs(&[digest], index), ..Op::default() };
        wire.def.push(last.encode_to_vec());
        wire
    }
}

fn inputs(digests: &[&str], index: i64) -> Vec<Input> {
    digests.iter().map(|digest| Input { digest: (*digest).to_owned(), index }).collect()
}

fn exec(base: &str, mounts: Vec<Mount>) -> Op {
    let meta = Meta { args: vec!["true".to_owned()], ..Meta::default() };
    let exec = ExecOp { meta: Some(meta), mounts, ..ExecOp::default() };
    Op { inputs: inputs(&[base], 0), exec: Some(exec), ..Op::default() }
}

fn mount(input: i64, dest: &str, output: i64) -> Mount {
    Mount { input, dest: dest.to_owned(), output, ..Mount::default() }
}

fn refusal(wire: &Wire) -> Class {
    Assembly::default().add(wire).expect_err("refused").class()
}

#[test]
fn operations_are_there_once_whatever_refers_to_them() {
    let mut made = Made::default();
    let base = made.source("docker-image://busybox");
    let run = made.add(&exec(&base, vec![mount(0, "/", 0), mount(-1, "/out", 1)]));
    let merge = MergeOp { inputs: vec![crate::proto::graph::Place { input: 0 }; 2] };
    let both = made.add(&Op { inputs: inputs(&[&run], 1), merge: Some(merge), ..Op::default() });
    let mut assembly = Assembly::default();
    let root = assembly.add(&made.of(&both, 0)).expect("understood");
    let size = assembly.definition.len();
    // Image, process, its other output, merge, and the empty file system.
    assert_eq!(size, 5);
    assert_eq!(assembly.add(&made.of(&both, 0)).expect("understood"), root);
    assert_eq!(assembly.definition.len(), size);
    assert!(Assembly::default().add(&Wire::default()).is_ok(), "an empty graph is the empty file system");
}

#[test]
fn graphs_with_holes_are_refused() {
    let mut made = Made::default();
    let base = made.source("docker-image://busybox");
    let run = made.add(&exec(&base, vec![mount(0, "/", 0)]));
    for (digest, index) in [("sha256:none", 0), (run.as_str(), 1), (base.as_str(), -1)] {
        assert_eq!(refusal(&made.of(digest, index)), Class::InvalidArgument, "{digest} {index}");
    }
    let lost = made.add(&exec("sha256:none", vec![mount(0, "/", 0)]));
    assert_eq!(refusal(&made.of(&lost, 0)), Class::InvalidArgument);
    for mounts in
        [vec![], vec![mount(3, "/", 0)], vec![mount(0, "/", 0), mount(9, "/a", -1)], vec![mount(-2, "/", 0)]]
    {
        let bad = made.add(&exec(&base, mounts));
        assert_eq!(refusal(&made.of(&bad, 0)), Class::InvalidArgument);
    }
    assert_eq!(refusal(&Wire { def: vec![vec![0xff]], ..Wire::default() }), Class::InvalidArgument);
    assert_eq!(refusal(&Wire { def: vec![Vec::new()], ..Wire::default() }), Class::InvalidArgument);
    let many = Wire { def: vec![Vec::new(); MOST + 2], ..Wire::default() };
    assert_eq!(refusal(&many), Class::InvalidArgument);
}

#[test]
fn a_deep_graph_is_walked_without_a_deep_stack() {
    let mut made = Made::default();
    let mut below = made.source("docker-image://busybox");
    for number in 0..MOST - 2 {
        let mkdir = MakeDir { path: format!("/{number}"), time: -1, ..MakeDir::default() };
        let action = FileAction { mkdir: Some(mkdir), secondary: -1, ..FileAction::default() };
        let file = Some(FileOp { actions: vec![action] });
        below = made.add(&Op { inputs: inputs(&[&below], 0), file, ..Op::default() });
    }
    let mut assembly = Assembly::default();
    assembly.add(&made.of(&below, 0)).expect("understood");
    assert_eq!(assembly.definition.len(), MOST - 1);
}

#[test]
fn what_is_not_understood_is_said() {
    let mut made = Made::default();
    let source = made.source("ftp://x");
    assert_eq!(refusal(&made.of(&source, 0)), Class::Unimplemented);
    let source = made.source(&format!("oci-layout://x@{}", Digest::of("x")));
    assert_eq!(refusal(&made.of(&source, 0)), Class::NotFound, "nobody brought it");
    assert!(layouts(&made.of(&source, 0)).expect("understood").len() == 1);
    let source = made.source("oci-layout://x@sha256:0");
    assert!(layouts(&made.of(&source, 0)).is_err());
    let base = made.source("docker-image://busybox");
    let mut wire = made.of(&base, 0);
    let caps = [("source.image".to_owned(), true), ("exec.flying".to_owned(), true)].into();
    wire.metadata.insert(base.clone(), OpMetadata { caps, ..OpMetadata::default() });
    assert_eq!(refusal(&wire), Class::Unimplemented);
    let nothing = made.add(&Op { inputs: inputs(&[&base], 0), ..Op::default() });
    assert_eq!(refusal(&made.of(&nothing, 0)), Class::Unimplemented);
}

#[test]
fn what_was_done_anew_once_counts() {
    let mut made = Made::default();
    let base = made.source("docker-image://busybox");
    let mut wire = made.of(&base, 0);
    wire.metadata.insert(base.clone(), OpMetadata { ignore_cache: true, ..OpMetadata::default() });
    let mut assembly = Assembly::default();
    assembly.add(&wire).expect("understood");
    assert_eq!(assembly.fresh, HashSet::from([base]));
}

#[test]
fn patterns_of_what_is_wanted_leave_out_the_rest() {
    let patterns = left_out(&["/a/*".to_owned()], &["a/b".to_owned()]);
    assert_eq!(patterns, ["**", "!a/*", "a/b"]);
    assert_eq!(left_out(&[], &["x".to_owned()]), ["x"]);
}

#[test]
fn graphs_in_files_are_found_where_they_are_needed() {
    let mut made = Made::default();
    let holder = made.source("docker-image://holder");
    let place = crate::proto::graph::Place { input: 0 };
    let build = crate::proto::graph::BuildOp {
        builder: crate::proto::graph::BUILDER,
        inputs: [("buildkit.llb.definition".to_owned(), place)].into(),
        ..Default::default()
    };
    let within = made.add(&Op { inputs: inputs(&[&holder], 0), build: Some(build.clone()), ..Op::default() });
    let apart = made.source("docker-image://apart");
    assert!(contained(&made.of(&apart, 0)).expect("understood").is_empty(), "nobody needs it");
    let found = contained(&made.of(&within, 0)).expect("understood");
    let [Contained { operation, holder: part, file }] = found.as_slice() else { panic!("one is needed") };
    assert_eq!((operation, file.as_str()), (&within, "buildkit.llb.definition"));
    assert_eq!(part.def.len(), 2, "the source, and the last operation");
    let other = crate::proto::graph::BuildOp { builder: 0, ..build };
    let other = made.add(&Op { inputs: inputs(&[&holder], 0), build: Some(other), ..Op::default() });
    assert!(contained(&made.of(&other, 0)).is_err(), "another builder");
    // Until it was read, it is no graph.
    assert!(Assembly::default().add(&made.of(&within, 0)).is_err());
}
