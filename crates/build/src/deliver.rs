//! What a build is asked to make of its result, beside the image in the store: archives, tars, folders.
//!
//! A file is written beside its place and takes it when everything is there ([`Delivered::place`]), so that a
//! build that fails leaves what was there. What has no destination goes to the client while it is made.

use crate::export::Product;
use crate::output::archive::write_archive;
use crate::output::local::{LocalOptions, platform_folder, write_local};
use crate::output::{Image, Kind, LocalMode, Naming, Request as Output, write_attested, write_rootfs};
use crate::request::Request;
use crate::solve::Tools;
use crate::{Error, Result};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use yare_errdefs::class_of_io;
use yare_image::Store;
use yare_oci::{Digest, Reference};

/// Bytes that go to the client at once; a multiple of three, so that base64 needs no padding within.
const CHUNK: usize = 192 << 10;

/// What shall be made, by the places in the request.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) outputs: Vec<Output>,
}

impl Plan {
    /// Reads what the request asks for; nothing is the image store. Whatever cannot be done is known here,
    /// before a step runs. Pure.
    ///
    /// # Errors
    /// An output is malformed, or cannot be made of this build.
    pub(crate) fn of(request: &Request) -> Result<Self> {
        let mut outputs = Vec::new();
        for asked in &request.outputs {
            let mut attributes = asked.attributes.clone();
            for (name, value) in &request.annotations {
                let attribute = match name.split_once(':') {
                    Some((target, name)) => format!("annotation-{target}.{name}"),
                    None => format!("annotation.{name}"),
                };
                attributes.entry(attribute).or_insert_with(|| value.clone());
            }
            let mut output = Output::parse(&asked.kind, &attributes)?;
            if output.names.is_empty() {
                output.names.clone_from(&request.tags);
            }
            outputs.push(output);
        }
        if outputs.is_empty() {
            let asked = yare_api::build::BuildOutput { kind: "image".to_owned(), ..Default::default() };
            return Self::of(&Request { outputs: vec![asked], ..request.clone() });
        }
        let plan = Self { outputs };
        plan.check(request)?;
        Ok(plan)
    }

    fn check(&self, request: &Request) -> Result<()> {
        if self.outputs.iter().any(|output| output.push && output.names.is_empty()) {
            return Err(Error::invalid("tag is needed when pushing to registry")
                .with_hint("name the image: -t REGISTRY/NAME:TAG"));
        }
        if self.outputs.iter().filter(|output| output.kind == Kind::Image).count() > 1 {
            return Err(Error::invalid("the output type image is there more than once")
                .with_hint("give one image several names with -t"));
        }
        let docker = self.outputs.iter().any(|output| output.kind == Kind::Docker);
        if request.platforms.len() > 1 && docker {
            return Err(Error::invalid(
                "docker exporter does not currently support exporting manifest lists",
            )
            .with_hint("use type=oci for several platforms"));
        }
        Ok(())
    }

    fn stored(&self) -> impl Iterator<Item = &Output> {
        // What is pushed is in the store first.
        self.outputs.iter().filter(|output| matches!(output.kind, Kind::Image | Kind::Registry))
    }

    /// The output that is the image store.
    pub(crate) fn store(&self) -> Option<&Output> {
        self.stored().next()
    }

    /// The names that the image gets in the store, each once.
    pub(crate) fn names(&self) -> Vec<Reference> {
        let mut names = Vec::new();
        for name in self.stored().flat_map(|output| &output.names) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Those of them that go to a registry, and whether under no tag.
    pub(crate) fn pushed(&self) -> Vec<(Reference, bool)> {
        let pushes = self.stored().filter(|output| output.push);
        let named = |output: &Output| {
            let by_digest = output.by_digest;
            output.names.clone().into_iter().map(move |name| (name, by_digest))
        };
        let mut names: Vec<_> = pushes.flat_map(named).collect();
        names.dedup();
        names
    }

    /// Whether something is made of layers, rather than of files alone.
    pub(crate) fn wants_layers(&self) -> bool {
        self.outputs.iter().any(|output| !matches!(output.kind, Kind::Tar | Kind::Local))
    }
}

/// Outputs that are written and not yet in their places.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    files: Vec<Draft>,
    /// Of the first archive: its manifest or index.
    pub(crate) digest: Option<Digest>,
}

impl Delivered {
    /// Puts every file in its place.
    pub(crate) fn place(self) -> Result<()> {
        self.files.into_iter().try_for_each(Draft::place)
    }
}

/// Writes every output but the image store's.
pub(crate) fn deliver(
    plan: &Plan,
    products: &[Product],
    images: &Store,
    tools: &Tools<'_>,
) -> Result<Delivered> {
    let mut delivered = Delivered::default();
    let folder = tempfile::Builder::new()
        .prefix("packed-")
        .tempdir_in(tools.scratch)
        .map_err(|error| failed("make a folder in", tools.scratch, error))?;
    let delivery = Delivery { products, images, folder: folder.path(), tools };
    for (place, output) in plan.outputs.iter().enumerate() {
        let title = match output.kind {
            Kind::Image | Kind::Registry => continue,
            Kind::Docker => "exporting to docker image format",
            Kind::Oci => "exporting to oci image format",
            Kind::Tar => "exporting to client tarball",
            Kind::Local => "exporting to client directory",
        };
        let work = tools.progress.work(title);
        if let Err(error) = delivery.output(place, output, &mut delivered) {
            work.failed(&yare_errdefs::chain(&error));
            // What is written to whoever has gone says only that nobody reads.
            tools.cancel.check()?;
            return Err(error);
        }
    }
    Ok(delivered)
}

struct Delivery<'a> {
    products: &'a [Product],
    images: &'a Store,
    /// For packed layers.
    folder: &'a Path,
    tools: &'a Tools<'a>,
}

impl Delivery<'_> {
    fn output(&self, place: usize, output: &Output, delivered: &mut Delivered) -> Result<()> {
        match &output.dest {
            Some(dest) if output.kind == Kind::Local => self.folder(Path::new(dest), output),
            Some(dest) => {
                let mut draft = Draft::new(Path::new(dest))?;
                let digest = self.write(output, &mut draft.file)?;
                delivered.digest = delivered.digest.or(digest);
                delivered.files.push(draft);
                Ok(())
            }
            None => {
                let mut sink = BufWriter::with_capacity(CHUNK, ToClient { place, tools: self.tools });
                let digest = self.write(output, &mut sink)?;
                sink.flush().map_err(|error| Error::from(error).with_hint("is the client still there?"))?;
                delivered.digest = delivered.digest.or(digest);
                Ok(())
            }
        }
    }

    fn write(&self, output: &Output, sink: &mut dyn Write) -> Result<Option<Digest>> {
        if matches!(output.kind, Kind::Tar | Kind::Local) {
            self.tar(output, sink)?;
            return Ok(None);
        }
        let images: Vec<Image> = self.products.iter().map(|product| product.image.clone()).collect();
        write_archive(self.images, &images, output, self.folder, (sink, self.tools.cancel)).map(Some)
    }

    /// One root fills the tar; of several, each has a folder named by its platform.
    fn tar(&self, output: &Output, sink: &mut dyn Write) -> Result<()> {
        let (roots, single) = (self.roots()?, self.products.len() == 1);
        let mut parts = Vec::new();
        for (image, root) in roots {
            let folder = if single { String::new() } else { platform_folder(image) };
            let beside = self.attested((image, root.as_fd()), output, false)?;
            parts.push((folder, root, beside));
        }
        let mut all = Vec::new();
        for (folder, root, beside) in &parts {
            all.push((folder.as_str(), root.as_fd()));
            all.extend(beside.iter().map(|(_, files)| (folder.as_str(), files.as_fd())));
        }
        write_rootfs(&all, sink, self.tools.cancel)
    }

    /// What is attested of a root, as a folder of files that lie beside it; `None` when nothing is.
    fn attested(
        &self,
        (image, root): (&Image, BorrowedFd<'_>),
        output: &Output,
        platform: bool,
    ) -> Result<Option<(tempfile::TempDir, OwnedFd)>> {
        if image.attestations.is_empty() {
            return Ok(None);
        }
        let folder = tempfile::Builder::new()
            .prefix("attested-")
            .tempdir_in(self.folder)
            .map_err(|error| failed("make a folder in", self.folder, error))?;
        let naming = Naming { prefix: &output.attestation_prefix, platform };
        write_attested((image, root), folder.path(), naming, self.tools.cancel)?;
        let files =
            yare_sys::fs::open_dir(folder.path()).map_err(|error| failed("open", folder.path(), error))?;
        Ok(Some((folder, files)))
    }

    fn roots(&self) -> Result<Vec<(&Image, OwnedFd)>> {
        let root = |product: &Product| self.tools.snapshots.stack_fd(&product.stack);
        let roots = self.products.iter().map(|product| Ok((&product.image, root(product)?)));
        roots
            .collect::<std::result::Result<_, _>>()
            .map_err(|error: yare_snapshot::Error| Error::wrap("cannot open the result of the build", error))
    }

    fn folder(&self, dest: &Path, output: &Output) -> Result<()> {
        let roots = self.roots()?;
        let split = output.platform_split.unwrap_or(roots.len() > 1);
        for (image, root) in &roots {
            let dest = if split { dest.join(platform_folder(image)) } else { dest.to_owned() };
            std::fs::create_dir_all(&dest).map_err(|error| failed("make", &dest, error))?;
            let folder = yare_sys::fs::open_dir(&dest).map_err(|error| failed("open", &dest, error))?;
            let options = LocalOptions { mode: output.mode, owner: None };
            let written = write_local(root.as_fd(), folder.as_fd(), &options, self.tools.cancel)?;
            if written.left > 0 {
                tracing::info!(dest = %dest.display(), left = written.left, "devices and sockets are left out");
            }
            let together = roots.len() > 1 && !split;
            if let Some((_folder, files)) = self.attested((image, root.as_fd()), output, together)? {
                let options = LocalOptions { mode: LocalMode::Copy, owner: None };
                write_local(files.as_fd(), folder.as_fd(), &options, self.tools.cancel)?;
            }
        }
        Ok(())
    }
}

/// Bytes on their way to the client.
struct ToClient<'a> {
    place: usize,
    tools: &'a Tools<'a>,
}

impl Write for ToClient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(CHUNK) {
            (self.tools.send)(self.place, piece)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file beside its place; gone again unless it is placed.
#[derive(Debug)]
struct Draft {
    path: PathBuf,
    /// `None` where the place itself is written to: a pipe, a device.
    beside: Option<PathBuf>,
    file: File,
}

impl Draft {
    fn new(path: &Path) -> Result<Self> {
        let invalid = |why: &str| {
            Error::invalid(format!("cannot write {}: {why}", path.display()))
                .with_hint("give dest= the path of a file")
        };
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(invalid("it is a directory")),
            Ok(found) if !found.is_file() => {
                let file = File::options().write(true).open(path);
                let file = file.map_err(|error| failed("open", path, error))?;
                return Ok(Self { path: path.to_owned(), beside: None, file });
            }
            _ => {}
        }
        let name = path.file_name().ok_or_else(|| invalid("it has no name"))?.to_string_lossy();
        let beside = path.with_file_name(yare_sys::fs::unique_name(&format!(".{name}.")));
        let file = File::options().write(true).create_new(true).open(&beside);
        let file = file.map_err(|error| failed("create", path, error))?;
        Ok(Self { path: path.to_owned(), beside: Some(beside), file })
    }

    fn place(mut self) -> Result<()> {
        if let Some(beside) = self.beside.take() {
            std::fs::rename(&beside, &self.path).map_err(|error| {
                // It is in nobody's way any more, and nobody's but ours.
                let _ = std::fs::remove_file(&beside);
                failed("put in its place", &self.path, error)
            })?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(beside) = self.beside.take()
            && let Err(error) = std::fs::remove_file(&beside)
        {
            tracing::warn!(path = %beside.display(), %error, "an unfinished output stays");
        }
    }
}

fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::new(class_of_io(&error), format!("cannot {operation} {}", path.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_api::build::BuildOutput;

    fn request(kinds: &[&str], platforms: &[&str]) -> Request {
        let output = |kind: &&str| BuildOutput { kind: (*kind).to_owned(), ..BuildOutput::default() };
        let platform = |text: &&str| yare_oci::Platform::parse(text).unwrap();
        Request {
            outputs: kinds.iter().map(output).collect(),
            platforms: platforms.iter().map(platform).collect(),
            tags: vec![yare_oci::Reference::parse("app:v1").unwrap()],
            annotations: [("a.b".to_owned(), "1".to_owned()), ("index:c".to_owned(), "2".to_owned())].into(),
            ..Request::default()
        }
    }

    #[test]
    fn nothing_asked_is_the_store_and_names_come_from_the_tags() {
        let plan = Plan::of(&request(&[], &[])).unwrap();
        assert_eq!(plan.store().unwrap().names[0].familiar(), "app:v1");
        assert!(plan.wants_layers() && plan.pushed().is_empty());
        let both = Plan::of(&request(&["image", "registry"], &[])).unwrap();
        assert_eq!((both.names().len(), both.pushed()), (1, vec![(both.names().remove(0), false)]));
        let unnamed = Request { tags: Vec::new(), ..request(&["registry"], &[]) };
        assert!(Plan::of(&unnamed).is_err());
        let files = Plan::of(&request(&["tar", "local"], &["linux/amd64", "linux/arm64"])).unwrap();
        assert!(files.store().is_none() && !files.wants_layers());
        let oci = Plan::of(&request(&["oci"], &[])).unwrap();
        let annotations = &oci.outputs[0].annotations;
        assert_eq!(annotations.manifest(&yare_oci::Platform::host())["a.b"], "1");
        assert_eq!(annotations.index()["c"], "2");
    }

    #[test]
    fn what_cannot_be_made_is_known_before_a_step_runs() {
        let many = ["linux/amd64", "linux/arm64"];
        for (kinds, platforms) in [(&["docker"][..], &many[..]), (&["image", "image"], &[]), (&["what"], &[])]
        {
            assert!(Plan::of(&request(kinds, platforms)).is_err(), "{kinds:?} {platforms:?}");
        }
    }

    #[test]
    fn a_file_takes_its_place_at_the_end_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.tar");
        std::fs::write(&path, "old").unwrap();
        let mut draft = Draft::new(&path).unwrap();
        draft.file.write_all(b"new").unwrap();
        drop(draft);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let mut draft = Draft::new(&path).unwrap();
        draft.file.write_all(b"new").unwrap();
        draft.place().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(Draft::new(folder.path()).is_err());
    }
}
