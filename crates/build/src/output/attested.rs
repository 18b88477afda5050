//! What is attested of an image, as files beside those of its root, named as BuildKit names them.

use super::Image;
use super::local::platform_folder;
use crate::Cancel;
use crate::attest::{Subject, digest_set, sbom};
use rustix::fs::{FileType, OFlags, Timespec, Timestamps};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use yare_errdefs::{Error, Result, class_of_io};
use yare_layer::Walk;
use yare_oci::Hasher;

/// How the files are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Naming<'a> {
    /// Begins their names.
    pub(crate) prefix: &'a str,
    /// Whether the platform is in them, since those of several are in one folder.
    pub(crate) platform: bool,
}

/// Writes what is attested of an image into a folder, about each file of its root. The files have the root's
/// time, so that the same result gives the same bytes.
pub(crate) fn write_attested(
    (image, root): (&Image, BorrowedFd<'_>),
    folder: &Path,
    naming: Naming<'_>,
    cancel: &Cancel,
) -> Result<()> {
    let failed = |error: io::Error| {
        Error::new(class_of_io(&error), "cannot write attestations beside files").caused_by(error)
    };
    let subjects = files(root, cancel)?;
    let root = rustix::fs::fstat(root).map_err(|error| failed(error.into()))?;
    let time = Timespec { tv_sec: root.st_mtime, tv_nsec: 0 };
    for attestation in &image.attestations {
        let document = attestation.document(&subjects)?;
        let name = name(&attestation.predicate_type, image, naming);
        let mut file = File::create_new(folder.join(name)).map_err(failed)?;
        file.write_all(&document).map_err(failed)?;
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&file, &times).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

fn name(predicate: &str, image: &Image, naming: Naming<'_>) -> String {
    let base = if predicate == sbom::PREDICATE_TYPE { "sbom.spdx" } else { "provenance" };
    let platform = if naming.platform { format!(".{}", platform_folder(image)) } else { String::new() };
    format!("{}{base}{platform}.json", naming.prefix)
}

/// Every regular file of a root.
fn files(root: BorrowedFd<'_>, cancel: &Cancel) -> Result<Vec<Subject>> {
    let failed = |error: io::Error| {
        Error::new(class_of_io(&error), "cannot read the files that are attested").caused_by(error)
    };
    let mut found = Vec::new();
    let mut walk = Walk::new(root).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    while let Some(entry) = walk.advance().map_err(failed)? {
        cancel.check()?;
        if entry.kind() != FileType::RegularFile {
            continue;
        }
        let opened = entry.open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK);
        let mut file = File::from(opened.map_err(failed)?);
        let mut hasher = Hasher::new();
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        found.push(Subject { name, digest: digest_set(&hasher.finish()) });
    }
    Ok(found)
}
