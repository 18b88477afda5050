//! What a build tells while it goes on, in BuildKit's form.

use crate::worker::Stream;
use base64::Engine as _;
use std::sync::Arc;
use yare_api::build::{SolveStatus, Vertex, VertexLog, VertexStatus, VertexWarning};

/// Takes news. Called from several threads.
pub type Sink = dyn Fn(SolveStatus) + Send + Sync;

/// Where a build's news go. Clones are the same one.
#[derive(Clone)]
pub struct Progress(Arc<Sink>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// News go to `sink`.
    pub fn new(sink: impl Fn(SolveStatus) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Nobody listens.
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    /// Passes news on.
    pub fn tell(&self, status: SolveStatus) {
        (self.0)(status);
    }

    /// A vertex changed.
    pub fn vertex(&self, vertex: Vertex) {
        (self.0)(SolveStatus { vertexes: vec![vertex], ..SolveStatus::default() });
    }

    /// A process wrote.
    pub fn log(&self, vertex: &str, stream: Stream, bytes: &[u8]) {
        let log = VertexLog {
            vertex: vertex.to_owned(),
            stream: if stream == Stream::Stdout { 1 } else { 2 },
            data: base64::engine::general_purpose::STANDARD.encode(bytes),
            timestamp: now(),
        };
        (self.0)(SolveStatus { logs: vec![log], ..SolveStatus::default() });
    }

    /// Something is under way.
    pub fn status(&self, status: VertexStatus) {
        (self.0)(SolveStatus { statuses: vec![status], ..SolveStatus::default() });
    }

    /// Something should be looked at.
    pub fn warning(&self, warning: VertexWarning) {
        (self.0)(SolveStatus { warnings: vec![warning], ..SolveStatus::default() });
    }

    /// Tells of a piece of work that is no vertex of the graph: begins it, and ends it when the guard goes.
    pub fn work(&self, name: &str) -> Work {
        let digest = yare_oci::Digest::of(name).to_string();
        let vertex = Vertex { digest, name: name.to_owned(), started: Some(now()), ..Vertex::default() };
        self.vertex(vertex.clone());
        Work { progress: self.clone(), vertex }
    }
}

/// A piece of work under way.
#[derive(Debug)]
pub struct Work {
    progress: Progress,
    vertex: Vertex,
}

impl Work {
    /// What it is called in messages.
    pub fn digest(&self) -> &str {
        &self.vertex.digest
    }

    /// It failed.
    pub fn failed(mut self, error: &str) {
        error.clone_into(&mut self.vertex.error);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.vertex.completed = Some(now());
        self.progress.vertex(self.vertex.clone());
    }
}

/// The time, RFC 3339.
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}
