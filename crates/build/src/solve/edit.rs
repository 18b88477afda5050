//! Changes of a few files: what other frontends than the Dockerfile's ask for one by one.

use super::{Outcome, Solver};
use crate::failure::Failure;
use crate::files::{self, FileToWrite, Owner, Times, Tree};
use crate::graph::{Edit, EditOp, VertexId};
use crate::keys::Parts;
use crate::{Error, Result, owner};
use std::os::fd::{AsFd, BorrowedFd};

impl Solver<'_> {
    pub(super) fn edit(&self, id: VertexId, op: &EditOp) -> Result<Outcome, Failure> {
        let base = self.outcome(op.base)?;
        let mut parts = Parts::of("edit", &op.edit).with("base", base.key).with("epoch", self.epoch(id));
        if let Some(names) = op.names {
            parts = parts.with("names", self.outcome(names)?.key);
        }
        self.cached(id, &parts, &base.stack, "regular", |pending, _| {
            let root =
                pending.rootfs().mount().map_err(|error| Error::wrap("cannot mount the stage", error))?;
            let names = match op.names {
                Some(names) => Some(self.view(&self.outcome(names)?.stack)?),
                None => None,
            };
            let names = names.as_ref().map_or(root.as_fd(), AsFd::as_fd);
            let tree =
                Tree { root: root.try_clone().map_err(Error::from)?, ignore: None, name: "base".to_owned() };
            self.change(id, &op.edit, &tree, names)?;
            let bytes = if let Edit::MakeFile { content, .. } = &op.edit { content.len() } else { 0 };
            Ok((bytes as u64).into())
        })
    }

    fn change(&self, id: VertexId, edit: &Edit, tree: &Tree<'_>, names: BorrowedFd<'_>) -> Result<()> {
        let root = tree.root.as_fd();
        let times = |time: &Option<i64>| Times::Set(time.unwrap_or(self.epoch(id)));
        let set = |text: &str| match text {
            "" => Ok(Owner::Set(0, 0)),
            text => owner::resolve(names, text).map(|(uid, gid)| Owner::Set(uid, gid)),
        };
        match edit {
            Edit::MakeFile { path, mode, content, owner, time } => {
                files::check_parent(root, path)?;
                let name = path.rsplit('/').next().unwrap_or_default();
                let (owner, mode) = (set(owner)?, *mode);
                files::write_file(
                    root,
                    &FileToWrite {
                        dest: path,
                        name,
                        bytes: content,
                        owner,
                        mode,
                        dir_mode: 0o755,
                        times: times(time),
                    },
                )
                .map(drop)
            }
            Edit::MakeDir { path, mode, parents: true, owner, time } => {
                files::make_dirs(root, path, set(owner)?, *mode, times(time)).map(drop)
            }
            Edit::MakeDir { path, mode, owner, time, .. } => {
                files::make_dir(root, path, set(owner)?, *mode, times(time))
            }
            Edit::MakeLink { path, target, owner, time } => {
                files::make_link(root, path, target, set(owner)?, times(time))
            }
            Edit::Remove { path, may_lack, wildcard } => {
                files::remove(tree, path, (*may_lack, *wildcard), self.tools.cancel)
            }
        }
    }
}
