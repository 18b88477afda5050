//! A software bill of materials as SPDX 2.3 JSON.

use super::Attestation;
use super::packages::{Inventory, Package};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use yare_errdefs::{Error, Result};
use yare_oci::Digest;

/// Kind of the predicate.
pub const PREDICATE_TYPE: &str = "https://spdx.dev/Document";

/// What the bill is about.
#[derive(Debug, Clone, Default)]
pub struct Described {
    /// The image's name, or another word for it.
    pub name: String,
    /// RFC 3339, to the second, in UTC: the image's time, not the clock's.
    pub created: String,
    /// Version of this program.
    pub tool_version: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: &'a str,
    document_namespace: String,
    creation_info: CreationInfo,
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
    packages: Vec<SpdxPackage>,
    relationships: Vec<Relationship>,
}

#[derive(Serialize)]
struct CreationInfo {
    created: String,
    creators: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpdxPackage {
    #[serde(rename = "SPDXID")]
    id: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version_info: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    supplier: Option<String>,
    download_location: &'static str,
    files_analyzed: bool,
    license_concluded: &'static str,
    license_declared: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    license_comments: Option<String>,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalRef {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    relationship_type: &'static str,
    related_spdx_element: String,
}

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
const UNKNOWN: &str = "NOASSERTION";

/// The bill of what was found in an image.
pub fn spdx(inventory: &Inventory, described: &Described) -> Result<Attestation> {
    let failed = |error| Error::internal("cannot write the bill of materials as JSON").caused_by(error);
    let comment = inventory.notes.iter().cloned().collect::<Vec<_>>().join("; ");
    let packages: BTreeMap<String, &Package> =
        inventory.packages.iter().map(|package| (id(package), package)).collect();
    let mut document = Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT,
        name: &described.name,
        document_namespace: String::new(),
        creation_info: CreationInfo {
            created: described.created.clone(),
            creators: vec![format!("Tool: yare-{}", described.tool_version)],
        },
        comment: &comment,
        packages: std::iter::once(image(&described.name))
            .chain(packages.iter().map(|(id, package)| spdx_package(id, package)))
            .collect(),
        relationships: std::iter::once(relation(DOCUMENT, "DESCRIBES", IMAGE))
            .chain(packages.keys().map(|id| relation(IMAGE, "CONTAINS", id)))
            .collect(),
    };
    // The namespace has to be one of its own: it is made of the rest of the document.
    let content = serde_json::to_vec(&document).map_err(failed)?;
    document.document_namespace = format!("https://spdx.org/spdxdocs/yare-{}", Digest::of(content).hex());
    let predicate: Value = serde_json::to_value(&document).map_err(failed)?;
    Ok(Attestation { predicate_type: PREDICATE_TYPE.to_owned(), predicate })
}

/// An SPDX identifier: letters, digits, dots and dashes.
fn id(package: &Package) -> String {
    let word: String = package
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(80)
        .collect();
    // Two installations of one package differ by where they are.
    let unique = Digest::of(json!([package.purl, package.found_in]).to_string()).hex();
    format!("SPDXRef-Package-{}-{word}-{}", package.kind, &unique[..16])
}

fn image(name: &str) -> SpdxPackage {
    SpdxPackage {
        id: IMAGE.into(),
        name: name.to_owned(),
        version_info: String::new(),
        supplier: None,
        download_location: UNKNOWN,
        files_analyzed: false,
        license_concluded: UNKNOWN,
        license_declared: UNKNOWN,
        license_comments: None,
        copyright_text: UNKNOWN,
        source_info: None,
        external_refs: Vec::new(),
        primary_package_purpose: Some("CONTAINER"),
    }
}

fn spdx_package(id: &str, package: &Package) -> SpdxPackage {
    SpdxPackage {
        id: id.to_owned(),
        version_info: package.version.clone(),
        supplier: package.maintainer.as_ref().map(|name| format!("Organization: {name}")),
        // What packages say of their licence is no SPDX expression that one could rely on.
        license_comments: package.license.as_ref().map(|text| format!("the package says: {text}")),
        source_info: Some(format!("found in /{}", package.found_in)),
        external_refs: vec![ExternalRef {
            reference_category: "PACKAGE-MANAGER",
            reference_type: "purl",
            reference_locator: package.purl.clone(),
        }],
        primary_package_purpose: None,
        ..image(&package.name)
    }
}

fn relation(from: &str, kind: &'static str, to: &str) -> Relationship {
    Relationship {
        spdx_element_id: from.to_owned(),
        relationship_type: kind,
        related_spdx_element: to.to_owned(),
    }
}
