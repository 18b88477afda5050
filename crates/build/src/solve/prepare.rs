//! Processes that are made ready here and run by whoever wants to speak with them: a frontend's, a debugger's.

use super::run::Mounted;
use super::{Solver, emulation};
use crate::Error;
use crate::cache::Lease;
use crate::failure::Failure;
use crate::graph::{Op, VertexId};
use crate::worker::Run;
use yare_oci::Digest;
use yare_snapshot::PendingDraft;

/// A process that is ready to run. What it writes goes with this, and what it sees stays as long.
pub struct Prepared {
    /// What is to be run.
    pub run: Run,
    _mounted: Mounted,
    _root: PendingDraft,
    lease: Lease,
}

/// A process before what it stands on is held.
pub(crate) struct Ready {
    run: Run,
    mounted: Mounted,
    root: PendingDraft,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("argv", &self.run.argv).finish_non_exhaustive()
    }
}

impl Ready {
    pub(crate) fn holding(self, lease: Lease) -> Prepared {
        Prepared { run: self.run, _mounted: self.mounted, _root: self.root, lease }
    }
}

impl Prepared {
    /// The keys of the results that it stands on, to be settled ([`crate::cache::Cache::settle`]).
    pub fn keys(&self) -> Vec<Digest> {
        self.lease.keys()
    }
}

impl Solver<'_> {
    /// Does all that a process stands on.
    pub(crate) fn prepare(&self, id: VertexId) -> Result<Ready, Failure> {
        let Op::Run(op) = &self.graph.vertex(id).op else {
            return Err(Error::internal("what is to be made ready is no process").into());
        };
        emulation::check(&op.platform)?;
        let outcomes = self.solve(&self.graph.needed(self.graph.vertex(id).op.inputs()))?;
        self.schedule().outcomes = outcomes;
        let base = self.outcome(op.base)?;
        let mounted = self.mount_all(op)?;
        let root = self
            .tools
            .snapshots
            .begin_draft(&base.stack)
            .map_err(|error| Error::wrap("cannot make room for what a process writes", error))?;
        Ok(Ready { run: self.described(id, op, &root, &mounted), mounted, root })
    }
}
