//! What is remembered of builds: `docker buildx history`.

use crate::Kit;
use crate::builds::Build;
use crate::grpc::Status;
use crate::grpc::server::Reply;
use crate::news::now;
use crate::proto::control::{
    COMPLETE, DELETED, HistoryEvent, HistoryRecord, HistoryRequest, STARTED, UpdateHistoryRequest,
};
use crate::proto::{Empty, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use tokio::sync::broadcast::error::RecvError;

/// What changed.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Started(Arc<Build>),
    Completed(Arc<Build>),
    Deleted(Arc<Build>),
}

/// What is known of a build beside its request.
#[derive(Debug, Default)]
pub(crate) struct Record {
    begun: Option<Timestamp>,
    ended: Option<Timestamp>,
    pub(crate) response: BTreeMap<String, String>,
    pub(crate) error: Option<Status>,
    pub(crate) pinned: bool,
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

fn event(kind: i32, build: &Build) -> HistoryEvent {
    let record = build.record.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = build.news.counts();
    let request = &build.request;
    let frontend = if request.frontend.is_empty() { "dockerfile.v0" } else { &request.frontend };
    let record = HistoryRecord {
        r#ref: request.r#ref.clone(),
        frontend: frontend.to_owned(),
        frontend_attributes: request.frontend_attributes.clone(),
        exporters: request.exporters.clone(),
        error: record.error.as_ref().map(Status::to_message),
        created: record.begun,
        completed: record.ended,
        exporter_response: record.response.clone(),
        generation: record.generation,
        pinned: record.pinned,
        cached_steps: counts.cached,
        total_steps: counts.total,
        completed_steps: counts.completed,
        warnings: counts.warnings,
    };
    HistoryEvent { kind, record: Some(record) }
}

/// `ListenBuildHistory`: what is known, then what changes.
pub(crate) async fn listen(kit: &Kit, request: HistoryRequest, reply: &mut Reply) -> Result<(), Status> {
    let mut changes = kit.builds.changes();
    let wanted = |build: &Build| request.r#ref.is_empty() || build.request.r#ref == request.r#ref;
    let mut known = kit.builds.list();
    known.retain(|(build, over)| wanted(build) && !(request.active_only && *over));
    if let Ok(limit) = usize::try_from(request.limit)
        && limit > 0
    {
        known.drain(..known.len().saturating_sub(limit));
    }
    for (build, over) in &known {
        reply.send(&event(if *over { COMPLETE } else { STARTED }, build)).await?;
    }
    drop(known);
    if request.early_exit {
        return Ok(());
    }
    loop {
        let (kind, build) = match changes.recv().await {
            Ok(Change::Started(build)) => (STARTED, build),
            Ok(Change::Completed(build)) => (COMPLETE, build),
            Ok(Change::Deleted(build)) => (DELETED, build),
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return Ok(()),
        };
        if wanted(&build) {
            reply.send(&event(kind, &build)).await?;
        }
    }
}

/// `UpdateBuildHistory`.
pub(crate) async fn update(kit: &Kit, request: UpdateHistoryRequest) -> Result<Empty, Status> {
    if request.delete {
        kit.builds.forget(&request.r#ref)?;
    } else if !request.finalize {
        let build = kit.builds.recall(&request.r#ref).await?;
        let mut record = build.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.pinned = request.pinned;
        record.generation += 1;
    }
    // Everything that there is to a record is there at once: there is nothing to finalize.
    Ok(Empty {})
}
