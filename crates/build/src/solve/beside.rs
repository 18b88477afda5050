//! What goes on beside the steps that follow: hashes of drafts, and a look for secrets in them.

use crate::progress::Progress;
use crate::request::SecretScan;
use crate::scan::{Finding, Scanner};
use crate::{Cancel, Error, Result};
use base64::Engine as _;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::JoinHandle;
use yare_api::build::VertexWarning;
use yare_snapshot::{DraftId, LayerInfo, Snapshots};

/// Jobs over the drafts of one build, each on a thread of its own.
#[derive(Debug)]
pub(crate) struct Beside {
    snapshots: Snapshots,
    progress: Progress,
    cancel: Cancel,
    scan: SecretScan,
    jobs: Mutex<HashMap<DraftId, JoinHandle<Vec<Finding>>>>,
}

/// The note of a draft that was looked through and has no secrets in it.
pub(super) const CLEAN: &str = "clean";

/// The tables of rules, made when the first file is looked at.
static SCANNER: LazyLock<Option<Arc<Scanner>>> = LazyLock::new(|| match Scanner::new() {
    Ok(scanner) => Some(Arc::new(scanner)),
    Err(error) => {
        tracing::error!(error = yare_errdefs::chain(&error), "files are not looked through for secrets");
        None
    }
});

impl Beside {
    pub(crate) fn new(snapshots: Snapshots, progress: Progress, cancel: Cancel, scan: SecretScan) -> Self {
        Self { snapshots, progress, cancel, scan, jobs: Mutex::default() }
    }

    /// Begins to hash a draft unless that was done before, and to look through one that is `new` (or any, when
    /// a secret is to end the build), except for the files of it that were looked through before. What goes
    /// wrong with a hash shows when it is wanted.
    pub(crate) fn begin(&self, draft: &DraftId, vertex: &str, new: Option<HashSet<Vec<u8>>>) {
        let scan = match self.scan {
            SecretScan::Off => None,
            SecretScan::Warn => new,
            SecretScan::Fail => Some(HashSet::new()),
        };
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.contains_key(draft) || (scan.is_none() && self.snapshots.is_hashed(draft)) {
            return;
        }
        let job = Job {
            snapshots: self.snapshots.clone(),
            draft: draft.clone(),
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
            vertex: vertex.to_owned(),
        };
        let begun =
            std::thread::Builder::new().name("build-beside".into()).spawn(move || job.work(scan.as_ref()));
        if let Ok(begun) = begun {
            jobs.insert(draft.clone(), begun);
        }
    }

    /// Waits for the jobs over these drafts and makes the drafts layers, durably.
    ///
    /// # Errors
    /// A secret was found and is not allowed, a draft cannot be read, or the disk refused.
    pub(crate) fn name(&self, drafts: &[DraftId]) -> Result<Vec<LayerInfo>> {
        self.finish(drafts)?;
        self.snapshots
            .name_drafts(drafts)
            .map_err(|error| Error::wrap("cannot make layers of the steps", error))
    }

    /// Waits for the jobs over these drafts.
    ///
    /// # Errors
    /// A secret was found and is not allowed.
    pub(crate) fn finish(&self, drafts: &[DraftId]) -> Result<()> {
        let mut findings = Vec::new();
        for draft in drafts {
            let job = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(draft);
            findings.extend(job.and_then(|job| job.join().ok()).unwrap_or_default());
        }
        if let Some(first) = findings.first().filter(|_| self.scan == SecretScan::Fail) {
            return Err(Error::precondition(format!("the image would have secrets in it: {}", words(first)))
                .with_hint("use RUN --mount=type=secret, or leave the file out with .dockerignore"));
        }
        Ok(())
    }
}

struct Job {
    snapshots: Snapshots,
    draft: DraftId,
    progress: Progress,
    cancel: Cancel,
    vertex: String,
}

impl Job {
    /// Hashes, and scans what is not known.
    fn work(&self, known: Option<&HashSet<Vec<u8>>>) -> Vec<Finding> {
        if let Err(error) = self.snapshots.hash_draft(&self.draft) {
            tracing::debug!(draft = %self.draft, %error, "a layer could not be hashed ahead");
        }
        let findings = known.map(|known| self.scan(known)).unwrap_or_default();
        for finding in &findings {
            let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
            self.progress.warning(VertexWarning {
                vertex: self.vertex.clone(),
                level: 1,
                short: encode(&format!("Secret: {}", words(finding))),
                detail: vec![encode(&finding.excerpt)],
                ..VertexWarning::default()
            });
        }
        findings
    }

    fn scan(&self, known: &HashSet<Vec<u8>>) -> Vec<Finding> {
        let Some(scanner) = SCANNER.as_ref() else { return Vec::new() };
        let scanned = yare_sys::fs::open_dir(self.snapshots.draft_dir(&self.draft))
            .map_err(Error::from)
            .and_then(|dir| scanner.scan_tree(dir.as_fd(), "/", known, &self.cancel));
        match scanned {
            Ok(report) => {
                if report.findings.is_empty()
                    && let Err(error) = self.snapshots.put_note(&self.draft, CLEAN, b"")
                {
                    tracing::debug!(draft = %self.draft, %error, "its files will be looked through again");
                }
                report.findings
            }
            Err(_) if self.cancel.is_cancelled() => Vec::new(),
            Err(error) => {
                tracing::warn!(
                    error = yare_errdefs::chain(&error),
                    "a layer was not looked through for secrets"
                );
                Vec::new()
            }
        }
    }
}

fn words(finding: &Finding) -> String {
    let line = if finding.line > 0 { format!(":{}", finding.line) } else { String::new() };
    format!("{}{line}: {} ({})", finding.path, finding.description, finding.rule)
}
