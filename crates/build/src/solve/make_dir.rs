//! `WORKDIR`.

use super::{Outcome, Solver};
use crate::files::{Owner, Times, make_dirs};
use crate::graph::{MakeDirOp, VertexId};
use crate::keys::Parts;
use crate::{Error, Result, owner};
use std::os::fd::AsFd;

impl Solver<'_> {
    pub(super) fn make_dir(&self, id: VertexId, op: &MakeDirOp) -> Result<Outcome> {
        let base = self.outcome(op.base)?;
        let parts = Parts::of("mkdir", op).with("base", base.key);
        let made = self.cached(id, &parts, &base.stack, "regular", |pending, _| {
            let root =
                pending.rootfs().mount().map_err(|error| Error::wrap("cannot mount the stage", error))?;
            let user = if op.user.is_empty() { (0, 0) } else { owner::resolve(root.as_fd(), &op.user)? };
            make_dirs(root.as_fd(), &op.path, Owner::Set(user.0, user.1), 0o755, Times::Set(self.epoch(id)))?;
            Ok(0.into())
        });
        made.map_err(|failure| failure.error)
    }
}
