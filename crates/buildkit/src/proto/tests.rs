//! What buildx 0.29 and dockerd 28.5 said to each other, read and written again.

use super::control::{
    DiskUsageResponse, HistoryEvent, HistoryRequest, InfoResponse, ListWorkersResponse, PruneRequest,
    SolveRequest, SolveResponse, StatusRequest, StatusResponse,
};
use super::files::{Packet, STAT};
use super::gateway::{self, PongResponse, ReturnRequest};
use super::session::{BytesMessage, NamedRequest, SecretResponse};
use prost::Message;

/// A type and the bytes of a message, in hex, a line.
const RECORDED: &str = include_str!("recorded.txt");

/// The messages of a type.
fn all<M: Message + Default>(wanted: &str) -> Vec<(Vec<u8>, M)> {
    let rows = RECORDED.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| *name == wanted);
    let read = rows.map(|(_, text)| {
        let bytes = hex::decode(text).expect("hex");
        let message = M::decode(bytes.as_slice()).unwrap_or_else(|error| panic!("{wanted}: {error}"));
        (bytes, message)
    });
    let read: Vec<_> = read.collect();
    assert!(!read.is_empty(), "there is no {wanted}");
    read
}

/// Messages whose fields are all known here give the same bytes.
fn same<M: Message + Default + std::fmt::Debug>(wanted: &str) {
    for (bytes, message) in all::<M>(wanted) {
        assert_eq!(hex::encode(message.encode_to_vec()), hex::encode(bytes), "{wanted}: {message:?}");
    }
}

#[test]
fn recorded_messages_are_written_as_they_were_read() {
    same::<StatusResponse>("moby.buildkit.v1.StatusResponse");
    same::<StatusRequest>("moby.buildkit.v1.StatusRequest");
    same::<HistoryRequest>("moby.buildkit.v1.BuildHistoryRequest");
    same::<PruneRequest>("moby.buildkit.v1.PruneRequest");
    same::<InfoResponse>("moby.buildkit.v1.InfoResponse");
    same::<Packet>("fsutil.types.Packet");
    same::<NamedRequest>("moby.buildkit.secrets.v1.GetSecretRequest");
    same::<SecretResponse>("moby.buildkit.secrets.v1.GetSecretResponse");
    same::<BytesMessage>("moby.upload.v1.BytesMessage");
}

#[test]
fn a_recorded_build_says_what_it_wants() {
    let solves = all::<SolveRequest>("moby.buildkit.v1.SolveRequest");
    assert!(solves.iter().all(|(_, solve)| !solve.r#ref.is_empty() && !solve.session.is_empty()));
    assert!(solves.iter().any(|(_, solve)| solve.internal));
    let (_, build) = solves
        .iter()
        .find(|(_, solve)| solve.exporters.iter().any(|exporter| exporter.attributes.contains_key("name")))
        .expect("a build with a name");
    assert_eq!(build.exporters[0].kind, "moby");
    assert_eq!(build.frontend_attributes["filename"], "Dockerfile");
    let frontends = all::<gateway::SolveRequest>("moby.buildkit.v1.frontend.SolveRequest");
    assert!(frontends.iter().all(|(_, solve)| solve.frontend == "dockerfile.v0"));
    assert!(frontends.iter().any(|(_, solve)| solve.options.contains_key("requestid")));
    for (_, solve) in &frontends {
        crate::frontend::parse(&solve.options, &[]).expect("all that buildx asked for is understood");
    }
    let returned = all::<ReturnRequest>("moby.buildkit.v1.frontend.ReturnRequest");
    assert!(returned.iter().any(|(_, one)| one.result.as_ref().is_some_and(|result| result.r#ref.is_some())));
}

#[test]
fn recorded_answers_are_understood() {
    let (_, workers) = &all::<ListWorkersResponse>("moby.buildkit.v1.ListWorkersResponse")[0];
    assert_eq!(workers.record[0].platforms[0].architecture, "amd64");
    let (_, pong) = &all::<PongResponse>("moby.buildkit.v1.frontend.PongResponse")[0];
    assert!(pong.frontend_caps.iter().any(|cap| cap.id == "return" && cap.enabled));
    let (_, usage) = &all::<DiskUsageResponse>("moby.buildkit.v1.DiskUsageResponse")[0];
    assert!(usage.record.iter().all(|record| !record.id.is_empty() && record.created.is_some()));
    let responses = all::<SolveResponse>("moby.buildkit.v1.SolveResponse");
    assert!(responses.iter().any(|(_, one)| one.exporter_response.contains_key("containerimage.digest")));
    let events = all::<HistoryEvent>("moby.buildkit.v1.BuildHistoryEvent");
    assert!(events.iter().all(|(_, event)| event.record.as_ref().is_some_and(|one| !one.r#ref.is_empty())));
    let packets = all::<Packet>("fsutil.types.Packet");
    let stats = packets
        .iter()
        .filter(|(_, packet)| packet.kind == STAT)
        .filter_map(|(_, packet)| packet.stat.as_ref());
    assert!(stats.clone().any(|stat| stat.path == b"Dockerfile" && stat.mode == 0o644 && stat.modified > 0));
}
