//! Changes of files: each action of an operation becomes a vertex of its own.

use super::{Assembly, Operation};
use crate::proto::graph::{Chown, FileAction, FileCopy, FileOp, User};
use std::collections::BTreeMap;
use yare_build::graph::{CopyDefinition, CopyOp, CopyRules, CopySource, Edit, EditOp, Op, VertexId};
use yare_errdefs::{Error, Result};
use yare_oci::path::clean;

/// The file systems that actions can refer to: inputs, then results of earlier actions.
struct Places<'a, 'o> {
    operation: &'a Operation<'o>,
    made: Vec<VertexId>,
}

/// Whose something is.
#[derive(Default)]
struct Owner {
    /// `user:group`; empty for root.
    text: String,
    /// Where names are looked up.
    names: Option<VertexId>,
}

impl Assembly {
    pub(super) fn file(
        &mut self,
        operation: &Operation<'_>,
        file: &FileOp,
    ) -> Result<BTreeMap<i64, VertexId>> {
        if file.actions.is_empty() {
            return Err(Error::invalid("invalid file operation: it has no actions"));
        }
        let mut places = Places { operation, made: Vec::new() };
        let mut outputs = BTreeMap::new();
        for action in &file.actions {
            let vertex = self.action(&places, action)?;
            places.made.push(vertex);
            if action.output >= 0 {
                outputs.insert(action.output, vertex);
            }
        }
        Ok(outputs)
    }

    fn place(&mut self, places: &Places<'_, '_>, place: i64) -> Result<VertexId> {
        let inputs = i64::try_from(places.operation.inputs.len()).unwrap_or(i64::MAX);
        if place < inputs {
            return self.input(places.operation, place);
        }
        let made = usize::try_from(place - inputs).ok().and_then(|place| places.made.get(place));
        made.copied().ok_or_else(|| {
            Error::invalid(format!("invalid file operation: no action before it has the number {place}"))
        })
    }

    fn action(&mut self, places: &Places<'_, '_>, action: &FileAction) -> Result<VertexId> {
        let base = self.place(places, action.input)?;
        if let Some(copy) = &action.copy {
            return self.copy(places, base, action.secondary, copy);
        }
        let (edit, names, name) = if let Some(make) = &action.mkfile {
            let owner = self.owner(places, make.owner.as_ref())?;
            let path = clean(&make.path);
            let name = format!("mkfile {path}");
            let (mode, content) = (bits(make.mode), make.data.clone());
            let edit = Edit::MakeFile { path, mode, content, owner: owner.text, time: time(make.time)? };
            (edit, owner.names, name)
        } else if let Some(make) = &action.mkdir {
            let owner = self.owner(places, make.owner.as_ref())?;
            let path = clean(&make.path);
            let name = format!("mkdir {path}");
            let (mode, parents) = (bits(make.mode), make.parents);
            let edit = Edit::MakeDir { path, mode, parents, owner: owner.text, time: time(make.time)? };
            (edit, owner.names, name)
        } else if let Some(make) = &action.symlink {
            let owner = self.owner(places, make.owner.as_ref())?;
            let (path, target) = (clean(&make.path), make.target.clone());
            let name = format!("symlink {target} {path}");
            let edit = Edit::MakeLink { path, target, owner: owner.text, time: time(make.time)? };
            (edit, owner.names, name)
        } else if let Some(remove) = &action.rm {
            let path = clean(&remove.path);
            let name = format!("rm {path}");
            (Edit::Remove { path, may_lack: remove.may_lack, wildcard: remove.wildcard }, None, name)
        } else {
            return Err(Error::unimplemented(
                "an action of a file operation is not built into this Yare yet",
            ));
        };
        Ok(self.push(places.operation, &name, Op::Edit(EditOp { base, edit, names })))
    }

    fn copy(
        &mut self,
        places: &Places<'_, '_>,
        base: VertexId,
        from: i64,
        copy: &FileCopy,
    ) -> Result<VertexId> {
        if copy.replace || !copy.required.is_empty() {
            return Err(Error::unimplemented(
                "a copy that replaces what is in its way, or that needs certain paths, is not built into this Yare yet",
            ));
        }
        let from = self.place(places, from)?;
        let owner = self.owner(places, copy.owner.as_ref())?;
        if owner.names.is_some_and(|names| names != base) {
            return Err(Error::unimplemented(
                "a copy whose owner is a name of another file system is not built into this Yare yet",
            ));
        }
        // A client's folder is not copied as a whole before a part of it is.
        let source = match self.folders.get(&from) {
            Some(context) => CopySource::Context(context.clone()),
            None => CopySource::Vertex(from),
        };
        let chmod = match (copy.mode_text.as_str(), copy.mode) {
            ("", mode) if mode < 0 => None,
            ("", mode) => Some(format!("{:o}", bits(mode))),
            (text, _) => Some(text.to_owned()),
        };
        let slash = copy.dest.ends_with('/') || copy.dest.ends_with("/.") || copy.dest == ".";
        let dest = clean(&copy.dest);
        let dest = if slash && dest != "/" { format!("{dest}/") } else { dest };
        let name = format!("copy {} {}", copy.src, copy.dest);
        let spec = CopyDefinition {
            sources: vec![clean(&copy.src)],
            dest,
            chown: Some(owner.text).filter(|owner| !owner.is_empty()),
            chmod,
            exclude: left_out(&copy.include, &copy.exclude),
            unpack: copy.unpack,
            rules: CopyRules {
                whole: !copy.contents,
                keep_link: !copy.follow_link,
                literal: !copy.wildcard,
                must_match: copy.wildcard && !copy.may_match_nothing,
                no_parents: !copy.make_parents,
                time: time(copy.time)?,
            },
            ..CopyDefinition::default()
        };
        Ok(self.push(places.operation, &name, Op::Copy(CopyOp { base, source, spec })))
    }

    /// Whose something is that an action makes.
    fn owner(&mut self, places: &Places<'_, '_>, owner: Option<&Chown>) -> Result<Owner> {
        let Some(owner) = owner else { return Ok(Owner::default()) };
        let mut names = None;
        let mut word = |this: &mut Self, user: &Option<User>| -> Result<Option<String>> {
            let Some(user) = user else { return Ok(None) };
            if let Some(named) = &user.name {
                if named.name.is_empty() || named.name.contains(':') {
                    return Err(Error::invalid(format!("{:?} is no name of a user or a group", named.name)));
                }
                if named.name.parse::<u32>().is_err() {
                    names = Some(this.place(places, named.input)?);
                }
                return Ok(Some(named.name.clone()));
            }
            Ok(user.id.map(|id| id.to_string()))
        };
        let (user, group) = (word(self, &owner.user)?, word(self, &owner.group)?);
        let text = match (user, group) {
            (None, None) => String::new(),
            (None, Some(group)) => format!("0:{group}"),
            (Some(user), Some(group)) => format!("{user}:{group}"),
            // A number alone has no group; a name has its own.
            (Some(user), None) if user.parse::<u32>().is_ok() => format!("{user}:0"),
            (Some(user), None) => user,
        };
        Ok(Owner { text, names })
    }
}

/// What is left out of a copy: everything but what is included, and what is excluded of that.
pub(crate) fn left_out(include: &[String], exclude: &[String]) -> Vec<String> {
    let all = (!include.is_empty()).then(|| "**".to_owned());
    let wanted = include.iter().map(|pattern| format!("!{}", pattern.trim_start_matches('/')));
    all.into_iter().chain(wanted).chain(exclude.iter().cloned()).collect()
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or_default() & 0o7777
}

/// Nanoseconds since 1970, -1 for none, as seconds.
fn time(nanos: i64) -> Result<Option<i64>> {
    match nanos {
        -1 => Ok(None),
        0.. => Ok(Some(nanos / 1_000_000_000)),
        _ => Err(Error::invalid(format!("invalid time {nanos} of a file operation"))),
    }
}
