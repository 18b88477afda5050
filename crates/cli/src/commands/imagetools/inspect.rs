//! `buildx imagetools inspect`: what a registry has under a name.

use std::collections::{BTreeMap, BTreeSet};

use yare_distribution::{Document, Intent, Name, Repository};
use yare_oci::{Descriptor, Digest, Index, MediaType, Platform, Reference};

use super::attestation::{self, About};
use super::image::Image;
use super::{SAID, failed, manifest};
use crate::commands::remote::{Told, client, config, open, read, reference};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, compile_for_images, tabulate_closely};
use crate::table::Outcome;

/// Indexes within indexes, and manifests of one.
const DEPTH: usize = 4;
const IMAGES: usize = 1000;

/// `buildx imagetools inspect`.
pub(crate) async fn inspect(cx: &Context, given: &Given) -> Outcome {
    let failed = |failure: Failure| Failure { text: format!("{SAID}{}", failure.text), ..failure };
    inspected(cx, given).await.map_err(failed)
}

async fn inspected(cx: &Context, given: &Given) -> Outcome {
    let (format, is_raw) = (given.text("format"), given.bool("raw"));
    if is_raw && !format.is_empty() {
        return Err("format and raw cannot be used together".into());
    }
    let wanted = reference(given.argument(0))?;
    let client = client(cx, given, &[&wanted])?;
    let repository = open(cx, &client, &wanted, Intent::Pull).await?;
    let found = manifest(&repository, &wanted).await?;
    if is_raw {
        // Nothing behind it, so that its digest stays.
        cx.write(&found.bytes)?;
    } else if format.is_empty() {
        cx.write(overview(&wanted, &found)?)?;
    } else {
        let template = compile_for_images(format).map_err(Failure::new)?;
        if begins_with_the_manifest(format) {
            cx.write(overview(&wanted, &found)?)?;
            return Ok(0);
        }
        let document = document(&repository, &wanted, &found, format).await?;
        cx.write(template.render(&document).map_err(Failure::new)?)?;
    }
    Ok(0)
}

/// Whether a template is one that Buildx takes for the overview, whatever follows.
fn begins_with_the_manifest(template: &str) -> bool {
    let action = template.strip_prefix("{{").unwrap_or_default();
    action.strip_prefix("- ").unwrap_or(action).trim_start().starts_with(".Manifest")
}

/// What it is, and what it lists.
fn overview(name: &Reference, found: &Document) -> Result<String, Failure> {
    let Descriptor { media_type, digest, .. } = &found.descriptor;
    let mut text = format!("Name:\t{name}\nMediaType:\t{media_type}\nDigest:\t{digest}\n");
    if !MediaType::is_index(media_type) {
        return Ok(tabulate_closely(&text));
    }
    text.push_str("\t\nManifests:\t\n");
    let index: Index = read("index", name, &found.bytes)?;
    let members: Vec<String> = index.manifests.iter().map(|member| described(name, member)).collect();
    Ok(tabulate_closely(&text) + &tabulate_closely(&members.join("\t\n")))
}

fn described(index: &Reference, member: &Descriptor) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name}:\t{value}\n"));
    line("Name", &index.and_digest(member.digest).to_string());
    line("MediaType", &member.media_type);
    let Some(platform) = &member.platform else { return text };
    line("Platform", &formatted(platform));
    if !platform.os_version.is_empty() {
        line("OSVersion", &platform.os_version);
    }
    for (name, values) in [("OSFeatures", &platform.os_features), ("URLs", &member.urls)] {
        if !values.is_empty() {
            line(name, &values.join(", "));
        }
    }
    if !member.annotations.is_empty() {
        line("Annotations", "");
        let annotations = member.annotations.iter();
        let annotations: String =
            annotations.map(|(name, value)| format!("    {name}:\t{value}\n")).collect();
        text.push_str(&tabulate_closely(&annotations));
    }
    text
}

/// `os/architecture[/variant]` of what there is of it.
fn formatted(platform: &Platform) -> String {
    let Platform { os, architecture, variant, .. } = platform;
    let os = if os.is_empty() { "unknown" } else { os };
    let parts = [os, architecture.as_str(), variant.as_str()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// One image of what is inspected.
struct Member {
    platform: String,
    digest: Digest,
    image: Json,
}

/// The images below a name, and what speaks of them.
struct Members<'a> {
    repository: &'a Repository,
    name: &'a Reference,
    images: Vec<Member>,
    /// Attestations by the image that they speak of.
    attestations: BTreeMap<Digest, Digest>,
}

impl Members<'_> {
    async fn collect(&mut self, found: &Document) -> Result<(), Failure> {
        let mut open = vec![(found.descriptor.digest, None, 0)];
        let mut seen = BTreeSet::new();
        while let Some((digest, said, depth)) = open.pop() {
            if !seen.insert(digest) {
                continue;
            }
            if depth > DEPTH || seen.len() > IMAGES {
                let text =
                    format!("{} has indexes deeper than {DEPTH}, or more than {IMAGES} images", self.name);
                return Err(Failure::new(text));
            }
            let fetched = match depth {
                0 => found.clone(),
                _ => {
                    let member = self.repository.manifest(&Name::from(digest)).await;
                    member.map_err(|error| failed(&error))?
                }
            };
            if !MediaType::is_index(&fetched.descriptor.media_type) {
                self.image(&fetched, said).await?;
                continue;
            }
            let index: Index = read("index", self.name, &fetched.bytes)?;
            // The last is taken first.
            for member in index.manifests.into_iter().rev() {
                match attestation::subject(&member) {
                    Some(of) => drop(self.attestations.insert(of, member.digest)),
                    None => open.push((member.digest, member.platform, depth + 1)),
                }
            }
        }
        Ok(())
    }

    async fn image(&mut self, found: &Document, said: Option<Platform>) -> Result<(), Failure> {
        let config = config(self.repository, self.name, &found.bytes).await?;
        let image: Image = read("config", self.name, &config)?;
        let platform = match said {
            Some(said) => said,
            None => read::<Told>("config", self.name, &config)?.into(),
        };
        let platform = Platform::new(&platform.os, &platform.architecture, &platform.variant);
        let platform = formatted(&platform);
        // Of several for one platform the first is shown.
        if self.images.iter().all(|member| member.platform != platform) {
            let (digest, image) = (found.descriptor.digest, Json::of(&image.completed()));
            self.images.push(Member { platform, digest, image });
        }
        Ok(())
    }

    /// What is said of the images; of one alone without its platform.
    async fn attested(&self, about: About) -> Result<Json, Failure> {
        let mut all = Vec::new();
        for member in &self.images {
            let Some(attestation) = self.attestations.get(&member.digest) else { continue };
            let said = attestation::fetch(self.repository, self.name, (*attestation, about)).await?;
            if let Some(stub) = stub(about, said) {
                all.push((member.platform.clone(), stub));
            }
        }
        match (self.images.as_slice(), all.pop()) {
            ([_], Some((_, only))) => Ok(only),
            (_, last) => Ok(Json::Object(all.into_iter().chain(last).collect())),
        }
    }
}

/// What is said of an image, in Buildx's frame.
fn stub(about: About, said: Vec<Json>) -> Option<Json> {
    let mut said = said.into_iter();
    let first = said.next()?;
    let others: Vec<Json> = said.collect();
    let members = match about {
        // The last counts.
        About::Provenance => vec![("SLSA".to_owned(), others.into_iter().next_back().unwrap_or(first))],
        About::Sbom => {
            let others = (!others.is_empty()).then(|| ("AdditionalSPDXs".to_owned(), Json::List(others)));
            [("SPDX".to_owned(), first)].into_iter().chain(others).collect()
        }
    };
    Some(Json::Object(members))
}

/// All that a template may ask for. Attestations are fetched for those that do.
async fn document(
    repository: &Repository,
    name: &Reference,
    found: &Document,
    template: &str,
) -> Result<Json, Failure> {
    let mut members = Members { repository, name, images: Vec::new(), attestations: BTreeMap::new() };
    members.collect(found).await?;
    members.images.sort_by(|one, other| one.platform.cmp(&other.platform));
    let mut document = vec![
        ("name".to_owned(), Json::from(name.to_string())),
        ("manifest".to_owned(), summary(name, found)?),
    ];
    for (member, about) in [("Provenance", About::Provenance), ("SBOM", About::Sbom)] {
        if template.contains(member) {
            document.push((member.to_owned(), members.attested(about).await?));
        }
    }
    let image = match members.images.as_slice() {
        [only] => only.image.clone(),
        several => Json::Object(
            several.iter().map(|member| (member.platform.clone(), member.image.clone())).collect(),
        ),
    };
    document.insert(2, ("image".to_owned(), image));
    Ok(Json::Object(document))
}

/// The descriptor of an image; of an index also what it lists.
fn summary(name: &Reference, found: &Document) -> Result<Json, Failure> {
    let Json::Object(mut members) = Json::of(&found.descriptor) else { return Ok(Json::Null) };
    if MediaType::is_index(&found.descriptor.media_type) {
        let index: Index = read("index", name, &found.bytes)?;
        members.insert(0, ("schemaVersion".to_owned(), Json::of(&index.schema_version)));
        members.push(("manifests".to_owned(), Json::of(&index.manifests)));
        if !index.annotations.is_empty() {
            members.push(("annotations".to_owned(), Json::of(&index.annotations)));
        }
    }
    Ok(Json::Object(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_stand_for_the_overview() {
        for (template, is_one) in [
            ("{{.Manifest}}", true),
            ("{{ .Manifest.Digest }}!", true),
            ("{{- .Manifest}}", true),
            (" {{.Manifest}}", false),
            ("{{json .Manifest}}", false),
            ("{{.Name}}", false),
        ] {
            assert_eq!(begins_with_the_manifest(template), is_one, "{template}");
        }
    }
}
