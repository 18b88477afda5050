//! Work that is no build, shown as the steps of one are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use yare_api::build::{BuildResult, SolveStatus, Vertex, VertexLog};
use yare_oci::Digest;

use super::options;
use super::send::Upload;
use super::show::Show;
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;

/// The display of all steps.
pub(in crate::commands) struct Steps<'a> {
    show: Show<'a>,
    upload: Upload,
}

/// One step that has begun.
pub(in crate::commands) struct Step(Vertex);

impl<'a> Steps<'a> {
    /// A display as the flags want it.
    ///
    /// # Errors
    /// When they want what is not to be had.
    pub(in crate::commands) fn new(cx: &'a Context, given: &Given) -> Result<Self, String> {
        Ok(Self { show: Show::new(cx, options::display(cx, given)?), upload: Upload::default() })
    }

    fn told(&mut self, vertex: &Vertex) -> Result<(), Failure> {
        self.show.status(&SolveStatus { vertexes: vec![vertex.clone()], ..SolveStatus::default() })
    }

    /// A step begins.
    pub(in crate::commands) fn begin(&mut self, name: String) -> Result<Step, Failure> {
        let vertex = Vertex {
            digest: Digest::of(&name).to_string(),
            name,
            started: Some(Timestamp::now().to_string()),
            ..Vertex::default()
        };
        self.told(&vertex)?;
        Ok(Step(vertex))
    }

    /// A line of what it does.
    pub(in crate::commands) fn say(&mut self, step: &Step, line: &str) -> Result<(), Failure> {
        let log = VertexLog {
            vertex: step.0.digest.clone(),
            stream: 1,
            data: STANDARD.encode(format!("{line}\n")),
            timestamp: Timestamp::now().to_string(),
        };
        self.show.status(&SolveStatus { logs: vec![log], ..SolveStatus::default() })
    }

    /// Keeps the display up to the moment until `work` is done.
    pub(in crate::commands) async fn during<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        super::while_shown(work, &mut self.show, &self.upload).await
    }

    /// It has ended, well or not.
    pub(in crate::commands) fn end(&mut self, step: Step, failure: Option<&Failure>) -> Result<(), Failure> {
        let error = failure.map(|failure| failure.text.clone()).unwrap_or_default();
        self.told(&Vertex { completed: Some(Timestamp::now().to_string()), error, ..step.0 })
    }

    /// All is done, or will not be.
    pub(in crate::commands) fn finish(mut self, is_well: bool) -> Result<(), Failure> {
        if is_well { self.show.succeeded(&BuildResult::default(), false) } else { self.show.failed("") }
    }
}
