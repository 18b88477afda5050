//! Targets that stand on other targets of the same client (`contexts = { base = "target:a" }`).
//!
//! A client hands a result on as a graph. Ours has one vertex that names the result, so that what comes back
//! is found again: `yare-result://<build>/<result>`. It is built when the target that stands on it is loaded,
//! which is while the client still holds its session, and gets a name for as long as it is needed.

use crate::Kit;
use crate::grpc::{Code, Status};
use crate::proto::Definition;
use crate::proto::graph::{Input, Op, OpMetadata, SourceOp};
use prost::Message;
use std::sync::Arc;
use tokio::runtime::Handle;
use yare_engine::Engine;
use yare_oci::{Digest, Reference};

pub(crate) const SCHEME: &str = "yare-result://";

/// The graph that stands for a result.
pub(crate) fn definition(build: &str, result: &str) -> Definition {
    graph(&identifier(build, result))
}

/// What stands for a result in a graph.
pub(crate) fn identifier(build: &str, result: &str) -> String {
    format!("{SCHEME}{build}/{result}")
}

/// A graph of one source.
pub(crate) fn graph(identifier: &str) -> Definition {
    let identifier = identifier.to_owned();
    let source = Op { source: Some(SourceOp { identifier, ..SourceOp::default() }), ..Op::default() };
    let source = source.encode_to_vec();
    let digest = Digest::of(&source).to_string();
    let last = Op { inputs: vec![Input { digest: digest.clone(), index: 0 }], ..Op::default() };
    let last = last.encode_to_vec();
    let metadata =
        [digest, Digest::of(&last).to_string()].map(|digest| (digest, OpMetadata::default())).into();
    Definition { def: vec![source, last], metadata, ..Definition::default() }
}

/// The build and the result that a graph stands for; `None` when it is a graph of something else.
///
/// # Errors
/// It cannot be read.
pub(crate) fn parse(name: &str, definition: &Definition) -> Result<Option<(String, String)>, Status> {
    let [source, _last] = definition.def.as_slice() else { return Ok(None) };
    let op = Op::decode(source.as_slice())
        .map_err(|error| Status::new(Code::InvalidArgument, format!("the input {name:?}: {error}")))?;
    Ok(op.source.and_then(|source| place(&source.identifier)))
}

/// The build and the result that the identifier of a source stands for.
pub(crate) fn place(identifier: &str) -> Option<(String, String)> {
    let (build, result) = identifier.strip_prefix(SCHEME)?.split_once('/')?;
    Some((build.to_owned(), result.to_owned()))
}

/// A name that an image has while another build stands on it.
#[derive(Debug)]
pub(crate) struct Held {
    engine: Arc<Engine>,
    runtime: Handle,
    name: String,
}

impl Held {
    /// A name that nothing has.
    pub(crate) fn new(kit: &Kit) -> Result<(Self, Reference), Status> {
        let name = format!("build.invalid/input:{}", yare_sys::fs::unique_name(""));
        let reference =
            Reference::parse(&name).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        Ok((Self { engine: Arc::clone(&kit.engine), runtime: Handle::current(), name }, reference))
    }

    /// As users write it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (engine, name) = (Arc::clone(&self.engine), std::mem::take(&mut self.name));
        self.runtime.spawn(async move {
            let options = yare_engine::images::RemoveOptions { force: true, no_prune: false };
            if let Err(error) = yare_engine::images::remove(&engine, &name, options, Vec::new()).await {
                tracing::debug!(%error, name, "an input of a build had no name to give back");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_again_and_nothing_else() {
        let graph = definition("b1", "r/2");
        assert_eq!(parse("x", &graph).expect("ours"), Some(("b1".to_owned(), "r/2".to_owned())));
        let identifier = "docker-image://busybox".to_owned();
        let source = Some(SourceOp { identifier, ..SourceOp::default() });
        let foreign = Op { source, ..Op::default() }.encode_to_vec();
        let foreign = Definition { def: vec![foreign, Vec::new()], ..Definition::default() };
        assert_eq!(parse("x", &foreign).expect("read"), None);
        assert_eq!(parse("x", &Definition::default()).expect("read"), None);
        let broken = Definition { def: vec![vec![0xff], Vec::new()], ..Definition::default() };
        assert_eq!(parse("x", &broken).expect_err("broken").code, Code::InvalidArgument);
    }
}
