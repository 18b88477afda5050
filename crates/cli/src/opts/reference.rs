//! Image names, as the commands that send them in two parts need them.

use yare_oci::Reference;

/// A name as the API's calls take it: the repository in full and its tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// `docker.io/library/busybox`.
    pub repository: String,
    /// Tag, or digest, or empty.
    pub tag: String,
    /// Whether `tag` is a digest.
    pub is_digest: bool,
    /// As people write it: `busybox:latest`.
    pub familiar: String,
}

/// Reads a name; adds `:latest` when it has neither tag nor digest and `tagged` asks for one.
pub(crate) fn named(text: &str, tagged: bool) -> Result<Named, String> {
    let reference = Reference::parse(text).map_err(|error| error.to_string())?;
    let reference = if tagged { reference.or_latest() } else { reference };
    let digest = reference.digest().map(|digest| digest.to_string());
    let is_digest = digest.is_some();
    let tag = digest.or_else(|| reference.tag().map(str::to_owned)).unwrap_or_default();
    Ok(Named { repository: reference.repository(), tag, is_digest, familiar: reference.familiar() })
}
