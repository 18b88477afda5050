//! Targets that stand on other targets of the same client (`contexts = { base = "target:a" }`).
//!
//! A client hands a result on as a graph. Ours has one vertex that names the result, so that what comes back
//! is found again: `yare-result://<build>/<result>`. It is built when the target that stands on it is loaded,
//! which is while the client still holds its session, and gets a name for as long as it is needed.

use crate::Kit;
use crate::grpc::{Code, Status};
use crate::proto::graph::{Input, Op, SourceOp};
use crate::proto::{Definition, Empty};
use prost::Message;
use std::sync::Arc;
use tokio::runtime::Handle;
use yare_engine::Engine;
use yare_errdefs::Error;
use yare_oci::{Digest, Reference};

const SCHEME: &str = "yare-result://";

/// The graph that stands for a result.
pub(crate) fn definition(build: &str, result: &str) -> Definition {
    let source = SourceOp { identifier: format!("{SCHEME}{build}/{result}") };
    let source = Op { inputs: Vec::new(), source: Some(source) }.encode_to_vec();
    let digest = Digest::of(&source).to_string();
    let last = Op { inputs: vec![Input { digest: digest.clone(), index: 0 }], source: None }.encode_to_vec();
    let metadata = [digest, Digest::of(&last).to_string()].map(|digest| (digest, Empty {})).into();
    Definition { def: vec![source, last], metadata }
}

/// The build and the result that a graph stands for.
///
/// # Errors
/// It is a graph of something else, which nothing here understands.
pub(crate) fn parse(name: &str, definition: &Definition) -> Result<(String, String), Status> {
    let foreign = || {
        let text = format!("the input {name:?} that comes as a graph is not built into this Yare yet");
        Status::from(Error::unimplemented(text))
    };
    let [source, _last] = definition.def.as_slice() else { return Err(foreign()) };
    let op = Op::decode(source.as_slice())
        .map_err(|error| Status::new(Code::InvalidArgument, format!("the input {name:?}: {error}")))?;
    let identifier = op.source.map(|source| source.identifier).unwrap_or_default();
    let place = identifier.strip_prefix(SCHEME).and_then(|place| place.split_once('/'));
    let (build, result) = place.ok_or_else(foreign)?;
    Ok((build.to_owned(), result.to_owned()))
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
            if let Err(error) = yare_engine::images::remove(&engine, &name, true, false).await {
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
        assert_eq!(parse("x", &graph).expect("ours"), ("b1".to_owned(), "r/2".to_owned()));
        let source = SourceOp { identifier: "docker-image://busybox".to_owned() };
        let foreign = Op { inputs: Vec::new(), source: Some(source) }.encode_to_vec();
        let foreign = Definition { def: vec![foreign, Vec::new()], ..Definition::default() };
        assert_eq!(parse("x", &foreign).expect_err("foreign").code, Code::Unimplemented);
        assert_eq!(parse("x", &Definition::default()).expect_err("empty").code, Code::Unimplemented);
        let broken = Definition { def: vec![vec![0xff], Vec::new()], ..Definition::default() };
        assert_eq!(parse("x", &broken).expect_err("broken").code, Code::InvalidArgument);
    }
}
