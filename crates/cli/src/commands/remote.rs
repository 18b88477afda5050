//! `image copy`, `image referrers`: what is asked of registries without an engine.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use yare_distribution::{
    Client, Credentials, Insecure, Intent, LARGEST_MANIFEST, Name, Proxies, Repository, Resume, Secret,
    Settings,
};
use yare_oci::{Descriptor, Manifest, Platform, Reference};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::table::Outcome;

/// The folders of registries, as the engine looks for them.
const CERTS_D: &[&str] = &["/etc/yare/certs.d", "/etc/docker/certs.d"];

/// What a config says of its platform; of some artifacts nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub architecture: String,
    pub os: String,
    pub variant: String,
    #[serde(rename = "os.version")]
    os_version: String,
    #[serde(rename = "os.features")]
    os_features: Vec<String>,
}

impl From<Told> for Platform {
    fn from(told: Told) -> Self {
        let Told { architecture, os, variant, os_version, os_features } = told;
        Self { architecture, os, variant, os_version, os_features }
    }
}

/// What is told of a registry's error.
pub(super) fn failed(error: &yare_distribution::Error) -> Failure {
    use yare_errdefs::Classified as _;
    let failure = Failure::new(yare_errdefs::chain(error));
    match error.hint() {
        Some(hint) => Failure { hint: Some(hint), ..failure },
        None => failure,
    }
}

/// A reference with a tag or a digest.
pub(super) fn reference(text: &str) -> Result<Reference, Failure> {
    let reference = Reference::parse(text).map_err(|error| Failure::new(error.to_string()))?;
    Ok(reference.or_latest())
}

/// The tag or digest that it names.
pub(super) fn name(reference: &Reference) -> Name {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Name::from(digest),
        (None, tag) => Name::Tag(tag.unwrap_or("latest").to_owned()),
    }
}

/// A client with what this user's environment and configuration say.
pub(super) fn client(cx: &Context, given: &Given, registries: &[&Reference]) -> Result<Client, Failure> {
    let variable = |name: &str| {
        let lower = || cx.environment.nonempty(&name.to_lowercase());
        cx.environment.nonempty(name).or_else(lower).unwrap_or_default()
    };
    let proxies = Proxies::new(&variable("HTTP_PROXY"), &variable("HTTPS_PROXY"), &variable("NO_PROXY"))
        .and_then(|proxies| proxies.with_default(&variable("ALL_PROXY")));
    let mut settings = Settings {
        certs_d: CERTS_D.iter().map(Into::into).collect(),
        proxies: proxies.map_err(|error| failed(&error))?,
        ..Settings::default()
    };
    if let Some(bundle) = cx.environment.nonempty("SSL_CERT_FILE") {
        settings.roots.insert(0, bundle.into());
    }
    if given.bool("insecure") {
        let listed = registries.iter().map(|reference| Insecure::Host(reference.domain().to_owned()));
        settings.insecure.extend(listed);
    }
    Ok(Client::new(settings))
}

/// A repository, with this user's credentials.
pub(super) async fn open(
    cx: &Context,
    client: &Client,
    reference: &Reference,
    intent: Intent,
) -> Result<Repository, Failure> {
    let credentials = match cx.config().credentials(reference.domain())? {
        Some(auth) if !auth.identitytoken.is_empty() => {
            Credentials::Identity(Secret::new(auth.identitytoken))
        }
        Some(auth) if !auth.username.is_empty() => Credentials::basic(auth.username, auth.password),
        _ => Credentials::Anonymous,
    };
    client.repository(reference, &credentials, intent).await.map_err(|error| failed(&error))
}

/// A document of a registry, read.
pub(super) fn read<T: DeserializeOwned>(what: &str, of: &Reference, bytes: &[u8]) -> Result<T, Failure> {
    let failed = |error| Failure::new(format!("the {what} of {of} is not understood: {error}"));
    serde_json::from_slice(bytes).map_err(failed)
}

/// The config of the image that has this manifest.
pub(super) async fn config(
    repository: &Repository,
    image: &Reference,
    manifest: &[u8],
) -> Result<Vec<u8>, Failure> {
    let manifest: Manifest = read("manifest", image, manifest)?;
    small_blob(repository, "config", &manifest.config).await
}

/// What the config of the image that has this manifest says of its platform.
pub(super) async fn told(
    repository: &Repository,
    image: &Reference,
    manifest: &[u8],
) -> Result<Told, Failure> {
    read("config", image, &config(repository, image, manifest).await?)
}

/// A blob that is a document.
pub(super) async fn small_blob(
    repository: &Repository,
    what: &str,
    blob: &Descriptor,
) -> Result<Vec<u8>, Failure> {
    if blob.size > LARGEST_MANIFEST as u64 {
        return Err(Failure::new(format!("the {what} {} has {} bytes", blob.digest, blob.size)));
    }
    let mut stream = repository.blob(blob, Resume::default()).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await.map_err(|error| failed(&error))? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// `image copy`: an image, or an index with all its images, from registry to registry.
pub(crate) async fn copy(cx: &Context, given: &Given) -> Outcome {
    let (source, target) = (reference(given.argument(0))?, given.arguments.get(1).map_or("", String::as_str));
    let target = reference(target)?;
    let client = client(cx, given, &[&source, &target])?;
    let from = open(cx, &client, &source, Intent::Pull).await?;
    let to = open(cx, &client, &target, Intent::Push).await?;
    let copied = from.copy_to(&name(&source), &to, &name(&target)).await.map_err(|error| failed(&error))?;
    if !given.bool("quiet") {
        cx.line(format_args!(
            "{}: {} blobs sent, {} were there",
            target.familiar(),
            copied.sent,
            copied.spared
        ))?;
    }
    cx.line(format_args!("Digest: {}", copied.digest))?;
    Ok(0)
}

/// `image referrers`: signatures, SBOMs and other artifacts that speak about an image.
pub(crate) async fn referrers(cx: &Context, given: &Given) -> Outcome {
    let wanted = reference(given.argument(0))?;
    let client = client(cx, given, &[&wanted])?;
    let repository = open(cx, &client, &wanted, Intent::Pull).await?;
    let subject = repository.resolve(&name(&wanted)).await.map_err(|error| failed(&error))?;
    let kind = given.text_opt("type").filter(|kind| !kind.is_empty());
    let found = repository.referrers(subject.digest, kind).await.map_err(|error| failed(&error))?;
    for entry in found {
        let kind = entry.artifact_type.as_deref().unwrap_or(&entry.media_type);
        cx.line(format_args!("{}  {}  {}", entry.digest, entry.size, kind))?;
    }
    Ok(0)
}
