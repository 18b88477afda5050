//! Repositories and downloads.

use super::{Outcome, Solver};
use crate::attest::provenance::Material;
use crate::failure::Failure;
use crate::graph::{FetchOp, VertexId};
use crate::keys::Parts;
use crate::source::git::{Git, GitKeys, GitRef};
use crate::source::http::{self, Download, Downloads, Wanted};
use crate::{Error, Result};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use yare_oci::Digest;
use yare_snapshot::Stack;

impl Solver<'_> {
    pub(super) fn fetch(&self, id: VertexId, op: &FetchOp) -> Result<Outcome, Failure> {
        self.begun(id);
        match op {
            FetchOp::Http { url, name, checksum } => self.download(id, url, name, *checksum),
            FetchOp::Git { remote, keep_git_dir, checksum, keys } => {
                self.repository(id, remote, (*keep_git_dir, checksum.as_deref()), keys)
            }
        }
    }

    fn download(
        &self,
        id: VertexId,
        url: &str,
        name: &str,
        checksum: Option<Digest>,
    ) -> Result<Outcome, Failure> {
        let downloads = Downloads::open(&self.tools.sources.join("http"))?;
        let wanted = Wanted { url, checksum, limit: http::LARGEST };
        let download = downloads.get(self.tools.web, &wanted, self.tools.cancel)?;
        let name = match name {
            "" => http::file_name(url, download.suggested_name.as_deref(), true)?.unwrap_or_default(),
            name => name.to_owned(),
        };
        let parts = Parts::of("http", &name).with("files", download.digest).with("time", time_of(&download));
        let made = self.cached(id, &parts, &Stack::default(), "source.http", |pending, _| {
            place(&download, &pending.upper().join(&name))?;
            Ok(download.size.into())
        })?;
        let material = Material::http(&http::redact(url), &download.digest);
        Ok(Outcome { material: Some(Arc::new(material)), ..made })
    }

    fn repository(
        &self,
        id: VertexId,
        remote: &str,
        (keep_git_dir, checksum): (bool, Option<&str>),
        keys: &GitKeys,
    ) -> Result<Outcome, Failure> {
        let mut git = Git::new(self.tools.sources.join("git"));
        let mut wanted =
            GitRef::parse(remote)?.ok_or_else(|| Error::invalid(format!("{remote} is no git repository")))?;
        let worker = self.tools.worker;
        git.unlock(&wanted.url, keys, |id| worker.secret(id), |id| worker.ssh(id))?;
        if let Some(checksum) = checksum {
            checksum.clone_into(&mut wanted.checksum);
        }
        let commit = git.resolve(&wanted, self.tools.cancel)?;
        let subdir = wanted.checked_subdir().map_err(Error::invalid)?;
        let parts = Parts::of("git", &(&subdir, keep_git_dir)).with("files", &commit);
        let made = self.cached(id, &parts, &Stack::default(), "source.git", |pending, _| {
            let upper = pending.upper();
            let how = (keep_git_dir, self.epoch(id));
            if subdir.is_empty() {
                git.checkout(&wanted, &upper, how, self.tools.cancel)?;
            } else {
                let whole = tempfile::tempdir_in(&upper).map_err(Error::from)?;
                let checkout = git.checkout(&wanted, whole.path(), how, self.tools.cancel)?;
                raise(&checkout.dir, &upper)?;
            }
            let dir = yare_sys::fs::open_dir(pending.upper()).map_err(Error::from)?;
            let size = yare_layer::tree_size(std::os::fd::AsFd::as_fd(&dir))
                .map_err(|error| Error::wrap("cannot measure a repository", error))?;
            Ok(size.into())
        })?;
        let material = Material::git(&wanted.fragment_form(true), &commit);
        Ok(Outcome { material: Some(Arc::new(material)), ..made })
    }
}

/// Moves what is in a folder to the top.
fn raise(folder: &Path, top: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::internal(format!("cannot move the files of {}", folder.display())).caused_by(error)
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        std::fs::rename(entry.path(), top.join(entry.file_name())).map_err(failed)?;
    }
    Ok(())
}

fn time_of(download: &Download) -> i64 {
    download.modified.unwrap_or_default()
}

/// A copy of a download, with the mode and time that `ADD` gives it.
fn place(download: &Download, target: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(yare_errdefs::class_of_io(&error), format!("cannot write {}", target.display()))
            .caused_by(error)
    };
    let mut source = std::fs::File::open(&download.path).map_err(failed)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(http::MODE)
        .open(target)
        .map_err(failed)?;
    std::io::copy(&mut source, &mut file).map_err(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(http::MODE)).map_err(failed)?;
    let time = std::time::UNIX_EPOCH
        + std::time::Duration::from_secs(u64::try_from(time_of(download)).unwrap_or_default());
    file.set_times(std::fs::FileTimes::new().set_modified(time)).map_err(failed)
}
