//! What is remembered of builds: `docker buildx history`.

mod store;

pub(crate) use store::Store;

use crate::Kit;
use crate::builds::Build;
use crate::grpc::server::Reply;
use crate::grpc::{Code, Status};
use crate::news::now;
use crate::proto::content::{Info, InfoRequest, InfoResponse, ReadRequest, ReadResponse};
use crate::proto::control::{
    COMPLETE, DELETED, HistoryEvent, HistoryRecord, HistoryRequest, STARTED, UpdateHistoryRequest,
};
use crate::proto::{Empty, Timestamp};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::PoisonError;
use tokio::sync::broadcast::error::RecvError;

/// Bytes of a log that go in one message.
const PIECE: usize = 256 << 10;

/// What is known of a build under way beside its request.
#[derive(Debug, Default)]
pub(crate) struct Record {
    begun: Option<Timestamp>,
    ended: Option<Timestamp>,
    pub(crate) response: BTreeMap<String, String>,
    pub(crate) error: Option<Status>,
    pinned: bool,
    /// Counts changes of this record.
    generation: i32,
}

impl Record {
    pub(crate) fn begin() -> Self {
        Self { begun: Some(now()), ..Self::default() }
    }

    pub(crate) fn end(&mut self) {
        self.ended = Some(now());
        self.generation += 1;
    }
}

/// A build as clients see it.
pub(crate) fn shown(build: &Build) -> HistoryRecord {
    let record = build.record.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = build.news.counts();
    let request = &build.request;
    let frontend = if request.frontend.is_empty() { "dockerfile.v0" } else { &request.frontend };
    HistoryRecord {
        r#ref: request.r#ref.clone(),
        frontend: frontend.to_owned(),
        frontend_attributes: request.frontend_attributes.clone(),
        exporters: request.exporters.clone(),
        error: record.error.as_ref().map(Status::to_message),
        created: record.begun,
        completed: record.ended,
        logs: None,
        exporter_response: record.response.clone(),
        generation: record.generation,
        pinned: record.pinned,
        cached_steps: counts.cached,
        total_steps: counts.total,
        completed_steps: counts.completed,
        warnings: counts.warnings,
    }
}

/// `ListenBuildHistory`: what is known, then what changes.
pub(crate) async fn listen(kit: &Kit, request: HistoryRequest, reply: &mut Reply) -> Result<(), Status> {
    let mut changes = kit.builds.changes();
    let wanted = |id: &str| request.r#ref.is_empty() || id == request.r#ref;
    let mut known = kit.builds.list();
    known.retain(|event| {
        let id = event.record.as_ref().map(|record| record.r#ref.as_str());
        id.is_some_and(wanted) && !(request.active_only && event.kind == COMPLETE)
    });
    if let Ok(limit) = usize::try_from(request.limit)
        && limit > 0
    {
        known.drain(..known.len().saturating_sub(limit));
    }
    for event in &known {
        reply.send(event).await?;
    }
    drop(known);
    if request.early_exit {
        return Ok(());
    }
    loop {
        let event = match changes.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return Ok(()),
        };
        if event.record.as_ref().is_some_and(|record| wanted(&record.r#ref)) {
            reply.send(&event).await?;
        }
    }
}

/// `UpdateBuildHistory`.
pub(crate) fn update(kit: &Kit, request: &UpdateHistoryRequest) -> Result<Empty, Status> {
    let id = &request.r#ref;
    let unknown = || Status::new(Code::NotFound, format!("no such build {id}"));
    if request.delete {
        let gone = kit.builds.store.forget(id).ok_or_else(unknown)?;
        kit.builds.tell(DELETED, gone);
    } else if !request.finalize {
        if let Some(build) = kit.builds.active(id) {
            let mut record = build.record.lock().unwrap_or_else(PoisonError::into_inner);
            record.pinned = request.pinned;
            record.generation += 1;
        } else {
            let record = kit.builds.store.pin(id, request.pinned)?.ok_or_else(unknown)?;
            kit.builds.tell(COMPLETE, record);
        }
    }
    // Everything that there is to a record is there at once: there is nothing to finalize.
    Ok(Empty {})
}

/// What happens to a build, for those who listen.
pub(crate) fn event(kind: i32, record: HistoryRecord) -> HistoryEvent {
    debug_assert!([STARTED, COMPLETE, DELETED].contains(&kind));
    HistoryEvent { kind, record: Some(record) }
}

fn missing(digest: &str) -> Status {
    Status::new(Code::NotFound, format!("content {digest}: not found"))
}

/// `Content/Info` of a log.
pub(crate) fn info(kit: &Kit, request: &InfoRequest) -> Result<InfoResponse, Status> {
    let (blob, _) = kit.builds.store.blob(&request.digest).ok_or_else(|| missing(&request.digest))?;
    Ok(InfoResponse { info: Some(Info { digest: blob.digest, size: blob.size }) })
}

/// `Content/Read` of a log.
pub(crate) async fn read(kit: &Kit, request: ReadRequest, reply: &mut Reply) -> Result<(), Status> {
    let (blob, path) = kit.builds.store.blob(&request.digest).ok_or_else(|| missing(&request.digest))?;
    let failed = |error: std::io::Error| {
        Status::new(Code::Internal, format!("cannot read the log {}: {error}", request.digest))
    };
    let out = || Status::new(Code::OutOfRange, "there is no such part of the content");
    let (all, mut at) =
        (u64::try_from(blob.size).map_err(|_| out())?, u64::try_from(request.offset).map_err(|_| out())?);
    let left = all.checked_sub(at).ok_or_else(out)?;
    let mut left = if request.size > 0 { u64::try_from(request.size).map_err(|_| out())? } else { left };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(at)).map_err(failed)?;
    while left > 0 {
        let mut data = Vec::new();
        (&mut file).take(left.min(PIECE as u64)).read_to_end(&mut data).map_err(failed)?;
        if data.is_empty() {
            return Err(out());
        }
        let (length, offset) = (data.len() as u64, i64::try_from(at).unwrap_or(i64::MAX));
        reply.send(&ReadResponse { offset, data: data.into() }).await?;
        at += length;
        left -= length;
    }
    Ok(())
}
