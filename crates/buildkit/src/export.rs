//! What a build hands out to its client: `FileSend/DiffCopy`.
//!
//! An archive is a stream of bytes. A folder goes as file sync does in the other direction: we tell one stat
//! an entry, and the client asks for content by number.

use crate::grpc::client::Exchange;
use crate::grpc::{Code, Status};
use crate::link::Link;
use crate::proto::Typed;
use crate::proto::control::SolveRequest;
use crate::proto::session::BytesMessage;
use crate::sync::{Folder, Folders, send_folder};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use yare_api::build::BuildOutput;
use yare_build::output::without_tag;
use yare_errdefs::{Error, Result};

const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// Attestations by kind, with their attributes.
pub(crate) type Attest = BTreeMap<String, BTreeMap<String, String>>;

/// The exporters of one build.
pub(crate) struct Exporters<'a> {
    link: &'a Link,
    /// As the build engine takes them.
    pub(crate) outputs: Vec<BuildOutput>,
    /// Names of the image.
    pub(crate) names: Vec<String>,
    /// Folders for the client, by the place of their output.
    folders: BTreeMap<usize, Folder>,
    /// Streams to the client that were begun.
    streams: Mutex<BTreeMap<usize, Exchange>>,
}

impl<'a> Exporters<'a> {
    /// Reads what a request asks for.
    ///
    /// # Errors
    /// Something is asked for that is not built.
    pub(crate) fn of(request: &SolveRequest, link: &'a Link, folders: &Arc<Folders>) -> Result<Self> {
        let old = Typed { kind: request.exporter.clone(), attributes: request.exporter_attributes.clone() };
        let all = if request.exporters.is_empty() { std::slice::from_ref(&old) } else { &request.exporters };
        let mut exporters = Self {
            link,
            outputs: Vec::new(),
            names: Vec::new(),
            folders: BTreeMap::new(),
            streams: Mutex::default(),
        };
        for exporter in all.iter().filter(|exporter| !exporter.kind.is_empty()) {
            exporters.add(exporter, folders)?;
        }
        Ok(exporters)
    }

    fn add(&mut self, exporter: &Typed, folders: &Arc<Folders>) -> Result<()> {
        let mut attributes = exporter.attributes.clone();
        // A path of the client's, which it keeps to itself; here it would be one of this host.
        attributes.remove("dest");
        let kind = match exporter.kind.as_str() {
            "moby" | "image" => {
                // Which registries are spoken to without TLS is the engine's to know.
                attributes.remove("registry.insecure");
                let names = attributes.remove("name").unwrap_or_default();
                let names: Vec<_> = names.split(',').filter(|name| !name.is_empty()).collect();
                if attributes.get("push-by-digest").is_some_and(|by_digest| by_digest == "true") {
                    names.iter().try_for_each(|name| without_tag(name))?;
                }
                self.names.extend(names.into_iter().map(str::to_owned));
                "image"
            }
            "local" => {
                let folder = folders.take("")?;
                attributes.insert("dest".to_owned(), folder.path().display().to_string());
                self.folders.insert(self.outputs.len(), folder);
                "local"
            }
            kind @ ("oci" | "docker") => {
                if attributes.get("tar").is_some_and(|tar| tar == "false") {
                    let text = "an OCI layout as a folder of the client is not built into this Yare yet";
                    return Err(
                        Error::unimplemented(text).with_hint("leave out tar=false, and unpack the tar")
                    );
                }
                kind
            }
            "tar" => "tar",
            other => {
                let text = format!("the exporter {other} is not built into this Yare yet");
                return Err(Error::unimplemented(text));
            }
        };
        self.outputs.push(BuildOutput { kind: kind.to_owned(), attributes });
        Ok(())
    }

    /// The attestations that these outputs hold. A client that asks for one `inline-only` did so on its own:
    /// it is for what leaves the engine, and an image that stays keeps the form that it was asked for.
    pub(crate) fn attestations(outputs: &[BuildOutput], asked: &Attest) -> Attest {
        let pushes =
            |output: &BuildOutput| output.attributes.get("push").is_some_and(|push| push.as_str() == "true");
        let leaves = outputs.iter().any(|output| output.kind == "oci" || pushes(output));
        let wanted = |attributes: &BTreeMap<String, String>| {
            leaves || attributes.get("inline-only").is_none_or(|only| only != "true")
        };
        let kept = asked.iter().filter(|(_, attributes)| !outputs.is_empty() && wanted(attributes));
        kept.map(|(kind, attributes)| (kind.clone(), attributes.clone())).collect()
    }

    fn begin(&self, place: usize) -> Result<Exchange> {
        let mut metadata = HeaderMap::new();
        metadata.insert("buildkit-attachable-exporter-id", HeaderValue::from(place));
        self.link.wait(self.link.session.call(METHOD, metadata))
    }

    /// Takes a piece of an archive.
    pub(crate) fn take(&self, place: usize, piece: &[u8]) -> io::Result<()> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = match streams.entry(place) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(self.begin(place).map_err(io::Error::other)?)
            }
        };
        let message = BytesMessage { data: Bytes::copy_from_slice(piece) };
        self.link.wait(stream.send::<BytesMessage>(&message)).map_err(io::Error::other)
    }

    /// Sends the folders, and waits until the client has everything.
    pub(crate) fn finish(self) -> Result<()> {
        for (place, stream) in self.streams.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.link.wait(end(stream)).map_err(|error| Error::wrap(format!("output {place}"), error))?;
        }
        for (place, folder) in &self.folders {
            let mut metadata = HeaderMap::new();
            metadata.insert("buildkit-attachable-exporter-id", HeaderValue::from(*place));
            let exchange = self.link.wait(self.link.session.call(METHOD, metadata))?;
            self.link.wait(send_folder(exchange, folder.open()?))?;
        }
        Ok(())
    }
}

/// Ends a stream and waits for the client's word.
async fn end(mut stream: Exchange) -> Result<(), Status> {
    if let Err(status) = stream.outbound.close() {
        tracing::debug!(message = status.message, "a client ended an output first");
    }
    match stream.message::<BytesMessage>().await? {
        None => Ok(()),
        Some(_) => Err(Status::new(Code::Internal, "the client answers an output with bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_attests_by_itself_is_for_what_leaves() {
        let output = |kind: &str, attributes: &[(&str, &str)]| BuildOutput {
            kind: kind.to_owned(),
            attributes: attributes.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        };
        let by_itself = BTreeMap::from([("inline-only".to_owned(), "true".to_owned())]);
        let asked: Attest =
            [("provenance".to_owned(), by_itself), ("sbom".to_owned(), BTreeMap::new())].into();
        let kinds = |outputs: &[BuildOutput]| -> Vec<String> {
            Exporters::attestations(outputs, &asked).into_keys().collect()
        };
        assert!(kinds(&[]).is_empty());
        assert_eq!(kinds(&[output("image", &[])]), ["sbom"]);
        assert_eq!(kinds(&[output("image", &[("push", "true")])]), ["provenance", "sbom"]);
        assert_eq!(kinds(&[output("local", &[]), output("oci", &[])]), ["provenance", "sbom"]);
    }

    #[test]
    fn a_destination_of_this_host_cannot_be_named() {
        // Checked through the attributes alone: no client is asked for anything here.
        let attributes = BTreeMap::from([("dest".to_owned(), "/etc".to_owned())]);
        let root = tempfile::tempdir().expect("a folder");
        let folders = Folders::new(root.path().to_owned());
        for kind in ["tar", "oci", "docker", "local"] {
            let exporter = Typed { kind: kind.to_owned(), attributes: attributes.clone() };
            let request = SolveRequest { exporters: vec![exporter], ..SolveRequest::default() };
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let link = runtime.block_on(crate::link::tests::dead(runtime.handle()));
            let exporters = Exporters::of(&request, &link, &folders).expect("understood");
            let dest = exporters.outputs[0].attributes.get("dest");
            match kind {
                "local" => {
                    assert!(dest.expect("a folder of ours").starts_with(root.path().to_str().expect("UTF-8")))
                }
                _ => assert_eq!(dest, None),
            }
        }
    }
}
