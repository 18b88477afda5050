//! Mounts: the forms they are asked for in, and what becomes of them.
//!
//! Asked for with `-v` (`HostConfig.Binds`), `--mount` (`HostConfig.Mounts`), `--tmpfs`, `VOLUME` of the image
//! or a bare `-v /path` (`Config.Volumes`), and `--volumes-from`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yare_api::container::Empty;
use yare_api::{BindOptions, Driver, HostConfig, Mount, VolumeOptions};
use yare_errdefs::Error;
use yare_oci::path::clean;
use yare_oci::runtime::IdMap;

/// One mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountPlan {
    /// What is mounted.
    pub source: MountSource,
    /// Where: absolute and clean, not `/`.
    pub destination: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// How far read-only goes.
    pub recursion: ReadOnlyDepth,
    /// Whether mounts beneath a bind's source come along.
    pub non_recursive: bool,
    /// Of `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`; empty for volumes and tmpfs.
    pub propagation: String,
    /// The mode of a `-v` form as given, as inspect shows it.
    pub mode: String,
    /// How owners appear, if not as they are; for binds and volumes.
    pub id_map: Option<IdMap>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute and clean.
        path: String,
        /// Whether a missing path is made as a directory; otherwise it is an error, [`missing_bind`].
        create: bool,
    },
    /// A volume; the engine makes it if it is not there.
    Volume {
        /// `None` for an anonymous one, which goes with the container.
        name: Option<String>,
        /// Driver; empty is `local`.
        driver: String,
        /// Options of the driver for a new one.
        options: BTreeMap<String, String>,
        /// Labels of a new one.
        labels: BTreeMap<String, String>,
        /// Directory inside it that is mounted instead, relative.
        subpath: String,
        /// Whether an empty one is filled with what the image has at the destination.
        copy: bool,
    },
    /// The files of an image, read-only.
    Image {
        /// As the user names it.
        reference: String,
        /// What of it is mounted, relative.
        subpath: String,
    },
    /// Memory.
    Tmpfs {
        /// Options as for [`crate::tmpfs::options`].
        options: String,
    },
}

impl Default for MountSource {
    fn default() -> Self {
        Self::Tmpfs { options: String::new() }
    }
}

impl MountSource {
    /// What of a volume or an image is mounted, relative; empty for all of it.
    pub fn subpath(&self) -> &str {
        match self {
            Self::Volume { subpath, .. } | Self::Image { subpath, .. } => subpath,
            Self::Bind { .. } | Self::Tmpfs { .. } => "",
        }
    }
}

/// How far a read-only bind reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadOnlyDepth {
    /// Mounts beneath too, if the kernel can.
    #[default]
    IfPossible,
    /// Only the mount itself.
    Top,
    /// Mounts beneath too, or an error.
    Forced,
}

/// A container whose mounts are taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFrom {
    /// Name or id.
    pub container: String,
    /// `Some(true)` makes them read-only, `Some(false)` and `None` leave them.
    pub read_only: Option<bool>,
}

/// The error for a `--mount type=bind` whose source is not there. Class invalid argument.
pub fn missing_bind(path: &str) -> Error {
    invalid_mount("bind", format!("bind source path does not exist: {path}"))
}

fn invalid_mount(kind: &str, reason: impl std::fmt::Display) -> Error {
    Error::invalid(format!("invalid mount config for type {kind:?}: {reason}"))
}

/// Every mount asked for, duplicates refused. Image volumes at places taken otherwise are left out.
///
/// # Errors
/// Docker's texts, class invalid argument.
pub fn plan(
    host_config: &HostConfig,
    volumes: &BTreeMap<String, Empty>,
) -> Result<Vec<MountPlan>, Vec<Error>> {
    let mut errors = Vec::new();
    let mut plans: Vec<MountPlan> = Vec::new();
    let mut add = |planned: Result<MountPlan, Error>| match planned {
        Ok(plan) if plans.iter().any(|other| other.destination == plan.destination) => {
            errors.push(Error::invalid(format!("Duplicate mount point: {}", plan.destination)));
        }
        Ok(plan) => plans.push(plan),
        Err(error) => errors.push(error),
    };
    for (destination, options) in host_config.tmpfs.iter().flatten() {
        add(tmpfs(destination, options));
    }
    for text in host_config.binds.iter().flatten() {
        add(parse_bind(text, &host_config.volume_driver));
    }
    for mount in host_config.mounts.iter().flatten() {
        add(parse_mount(mount));
    }
    for path in volumes.keys() {
        match image_volume(path, &host_config.volume_driver) {
            Ok(plan) if plans.iter().any(|other| other.destination == plan.destination) => {}
            Ok(plan) => plans.push(plan),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(plans) } else { Err(errors) }
}

fn tmpfs(destination: &str, options: &str) -> Result<MountPlan, Error> {
    check_destination(destination).map_err(Error::invalid)?;
    crate::tmpfs::options(options)?;
    Ok(MountPlan {
        source: MountSource::Tmpfs { options: options.to_owned() },
        destination: clean(destination),
        ..MountPlan::default()
    })
}

fn image_volume(path: &str, driver: &str) -> Result<MountPlan, Error> {
    check_destination(path)
        .map_err(|reason| Error::invalid(format!("invalid volume specification: '{path}': {reason}")))?;
    Ok(MountPlan { source: volume(None, driver), destination: clean(path), ..MountPlan::default() })
}

fn volume(name: Option<String>, driver: &str) -> MountSource {
    MountSource::Volume {
        name,
        driver: driver.to_owned(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        subpath: String::new(),
        copy: true,
    }
}

/// Reads a `-v` form: `destination`, `source:destination` or `source:destination:mode`.
///
/// # Errors
/// Docker's texts, class invalid argument.
pub fn parse_bind(text: &str, volume_driver: &str) -> Result<MountPlan, Error> {
    let wrong = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        ["", ..] | [_, ""] | [_, "", _] => return Err(wrong()),
        [target] => ("", *target, ""),
        [_, mode] if Mode::parse(mode).is_some() => return Err(wrong()),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(wrong()),
    };
    let parsed = Mode::parse(mode).ok_or_else(|| Error::invalid(format!("invalid mode: {mode}")))?;
    let bind = source.starts_with('/');
    let volume_options = || VolumeOptions {
        no_copy: parsed.no_copy,
        driver_config: (!volume_driver.is_empty())
            .then(|| Driver { name: volume_driver.to_owned(), options: None }),
        ..VolumeOptions::default()
    };
    let spec = Mount {
        r#type: if bind { "bind" } else { "volume" }.to_owned(),
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: parsed.read_only,
        bind_options: parsed
            .propagation
            .map(|propagation| BindOptions { propagation: propagation.to_owned(), ..BindOptions::default() }),
        volume_options: (parsed.no_copy || (!bind && !volume_driver.is_empty())).then(volume_options),
        ..Mount::default()
    };
    let mut plan = parse_mount(&spec)
        .map_err(|reason| Error::invalid(format!("invalid volume specification: '{text}': {reason}")))?;
    if let MountSource::Bind { create, .. } = &mut plan.source {
        *create = true;
    }
    plan.mode = mode.to_owned();
    plan.id_map = parsed.id_map;
    Ok(plan)
}

/// The comma-separated mode of a `-v` form; of each kind there may be one.
struct Mode<'a> {
    read_only: bool,
    propagation: Option<&'a str>,
    no_copy: bool,
    id_map: Option<IdMap>,
}

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

impl<'a> Mode<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut mode = Self { read_only: false, propagation: None, no_copy: false, id_map: None };
        let mut seen = [false; 6];
        for word in text.split(',').filter(|_| !text.is_empty()) {
            let kind = match word {
                "ro" | "rw" => 0,
                "z" | "Z" => 1,
                _ if PROPAGATIONS.contains(&word) => 2,
                "nocopy" => 3,
                "consistent" | "cached" | "delegated" | "default" => 4,
                _ if word.starts_with("idmap") => 5,
                _ => return None,
            };
            if std::mem::replace(&mut seen[kind], true) {
                return None;
            }
            match kind {
                0 => mode.read_only = word == "ro",
                2 => mode.propagation = Some(word),
                3 => mode.no_copy = true,
                5 => mode.id_map = Some(crate::idmap::parse_word(word)?),
                _ => {}
            }
        }
        Some(mode)
    }
}

/// Reads a `--mount` form.
///
/// # Errors
/// Docker's texts, class invalid argument.
pub fn parse_mount(mount: &Mount) -> Result<MountPlan, Error> {
    let wrong = |reason: String| invalid_mount(&mount.r#type, reason);
    if mount.target.is_empty() {
        return Err(wrong("field Target must not be empty".to_owned()));
    }
    check_destination(&mount.target).map_err(wrong)?;
    let (source, propagation) = match mount.r#type.as_str() {
        "bind" => bind_source(mount).map_err(wrong)?,
        "volume" => (volume_source(mount).map_err(wrong)?, String::new()),
        "tmpfs" => (tmpfs_source(mount).map_err(wrong)?, String::new()),
        "image" => (image_source(mount).map_err(wrong)?, "rprivate".to_owned()),
        "cluster" | "npipe" => {
            return Err(wrong(format!("mounts of type {:?} are not supported on this host", mount.r#type)));
        }
        _ => return Err(wrong("mount type unknown".to_owned())),
    };
    let bind_options = mount.bind_options.clone().unwrap_or_default();
    let recursion = if bind_options.read_only_force_recursive {
        ReadOnlyDepth::Forced
    } else if bind_options.read_only_non_recursive {
        ReadOnlyDepth::Top
    } else {
        ReadOnlyDepth::IfPossible
    };
    Ok(MountPlan {
        source,
        destination: clean(&mount.target),
        read_only: mount.read_only || mount.r#type == "image",
        recursion,
        non_recursive: bind_options.non_recursive,
        propagation,
        mode: String::new(),
        id_map: bind_options.id_mapping.as_ref().map(crate::idmap::parse).transpose().map_err(wrong)?,
    })
}

fn refuse(mount: &Mount, fields: &[&str]) -> Result<(), String> {
    let given = |field: &str| match field {
        "BindOptions" => mount.bind_options.is_some(),
        "VolumeOptions" => mount.volume_options.is_some(),
        "ImageOptions" => mount.image_options.is_some(),
        "TmpfsOptions" => mount.tmpfs_options.is_some(),
        _ => !mount.source.is_empty(),
    };
    match fields.iter().find(|field| given(field)) {
        Some(field) => Err(format!("field {field} must not be specified")),
        None => Ok(()),
    }
}

fn bind_source(mount: &Mount) -> Result<(MountSource, String), String> {
    if mount.source.is_empty() {
        return Err("field Source must not be empty".to_owned());
    }
    let options = mount.bind_options.clone().unwrap_or_default();
    if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str()) {
        return Err(format!("invalid propagation mode: {}", options.propagation));
    }
    refuse(mount, &["VolumeOptions", "ImageOptions", "TmpfsOptions"])?;
    check_absolute(&mount.source)?;
    if options.read_only_force_recursive {
        let mode = &options.propagation;
        if !mount.read_only {
            return Err("option ReadOnlyForceRecursive requires ReadOnly".to_owned());
        }
        if !mode.is_empty() && mode != "rprivate" && mode != "private" {
            return Err(format!("option ReadOnlyForceRecursive does not go with propagation {mode}"));
        }
    }
    let propagation =
        if options.propagation.is_empty() { "rprivate".to_owned() } else { options.propagation };
    Ok((MountSource::Bind { path: clean(&mount.source), create: options.create_mountpoint }, propagation))
}

fn volume_source(mount: &Mount) -> Result<MountSource, String> {
    refuse(mount, &["BindOptions", "ImageOptions", "TmpfsOptions"])?;
    let options = mount.volume_options.clone().unwrap_or_default();
    if !options.subpath.is_empty() {
        if mount.source.is_empty() {
            return Err("must not set Subpath when using anonymous volumes".to_owned());
        }
        check_subpath(&options.subpath)?;
    }
    let driver = options.driver_config.unwrap_or_default();
    Ok(MountSource::Volume {
        name: (!mount.source.is_empty()).then(|| mount.source.clone()),
        driver: driver.name,
        options: driver.options.unwrap_or_default(),
        labels: options.labels.unwrap_or_default(),
        subpath: options.subpath,
        copy: !options.no_copy,
    })
}

fn image_source(mount: &Mount) -> Result<MountSource, String> {
    refuse(mount, &["BindOptions", "VolumeOptions", "TmpfsOptions"])?;
    if mount.source.is_empty() {
        return Err("field Source must not be empty".to_owned());
    }
    let subpath = mount.image_options.clone().unwrap_or_default().subpath;
    check_subpath(&subpath)?;
    Ok(MountSource::Image { reference: mount.source.clone(), subpath })
}

/// Docker says "volume" of images, too.
fn check_subpath(subpath: &str) -> Result<(), String> {
    match subpath.is_empty() || is_local(subpath) {
        true => Ok(()),
        false => Err("subpath must be a relative path within the volume".to_owned()),
    }
}

fn tmpfs_source(mount: &Mount) -> Result<MountSource, String> {
    refuse(mount, &["BindOptions", "VolumeOptions", "ImageOptions", "Source"])?;
    let options = crate::tmpfs::convert(mount.tmpfs_options.as_ref(), mount.read_only);
    Ok(MountSource::Tmpfs { options: options.map_err(|error| error.to_string())? })
}

/// Reads `--volumes-from container[:mode]`.
///
/// # Errors
/// Docker's texts, class invalid argument.
pub fn parse_volumes_from(text: &str) -> Result<VolumesFrom, Error> {
    if text.is_empty() {
        return Err(Error::invalid("volumes-from specification cannot be an empty string"));
    }
    let (container, mode) = text.split_once(':').unwrap_or((text, ""));
    // Nothing is copied when volumes are taken over, and ids are mapped as they were, so these modes are refused.
    let parsed = Mode::parse(mode).filter(|mode| !mode.no_copy && mode.id_map.is_none());
    let parsed = parsed.ok_or_else(|| Error::invalid(format!("invalid mode for volumes-from: {mode}")))?;
    let read_only = mode.split(',').any(|word| word == "ro" || word == "rw").then_some(parsed.read_only);
    Ok(VolumesFrom { container: container.to_owned(), read_only })
}

fn check_destination(path: &str) -> Result<(), String> {
    check_absolute(path)?;
    if clean(path) == "/" {
        Err("invalid specification: destination can't be '/'".to_owned())
    } else {
        Ok(())
    }
}

fn check_absolute(path: &str) -> Result<(), String> {
    if path.contains('\0') {
        return Err("invalid mount path: it has a null byte".to_owned());
    }
    if path.starts_with('/') {
        Ok(())
    } else {
        Err(format!("invalid mount path: '{path}' mount path must be absolute"))
    }
}

/// Whether a relative path stays where it starts.
fn is_local(path: &str) -> bool {
    let mut depth = 0_i32;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return false;
        }
    }
    !path.starts_with('/') && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn table(file: &str, variable: &str) -> Vec<Value> {
        let all: Value = serde_json::from_str(file).unwrap();
        let table = all["tables"].as_array().unwrap().iter().find(|table| table["var"] == variable).unwrap();
        match &table["cases"] {
            Value::Array(cases) => cases.clone(),
            Value::Object(cases) => {
                cases.iter().map(|(key, value)| serde_json::json!([key, value])).collect()
            }
            _ => panic!("{variable}"),
        }
    }

    const PARSER: &str = include_str!("../tests/data/linux_parser.json");
    const VALIDATE: &str = include_str!("../tests/data/validate.json");

    #[test]
    fn short_forms_are_those_of_docker() {
        for case in table(PARSER, "valid") {
            let text = case.as_str().unwrap();
            assert!(parse_bind(text, "").is_ok(), "{text}: {:?}", parse_bind(text, ""));
        }
        for case in table(PARSER, "invalid") {
            let (text, reason) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
            let error = parse_bind(text, "").unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn short_forms_are_split_as_docker_does() {
        for case in table(PARSER, "tests").into_iter().filter(|case| case["bind"].is_string()) {
            let text = case["bind"].as_str().unwrap();
            let planned = parse_bind(text, case["driver"].as_str().unwrap_or_default());
            if let Some(expected) = case["expErr"].as_str() {
                assert_eq!(planned.unwrap_err().to_string(), expected, "{text}");
                continue;
            }
            let (plan, expected) = (planned.unwrap(), &case["expected"]);
            let of = |member: &str| expected[member].as_str().unwrap_or_default().to_owned();
            assert_eq!(plan.destination, of("Destination"), "{text}");
            assert_eq!(plan.read_only, expected["RW"] == false, "{text}");
            assert_eq!(plan.mode, of("Mode"), "{text}");
            assert_eq!(plan.propagation, of("Propagation"), "{text}");
            match plan.source {
                MountSource::Bind { path, create } => {
                    assert_eq!((path, create), (of("Source"), true), "{text}")
                }
                MountSource::Volume { name, driver, copy, .. } => {
                    let expected = (Some(of("Name")), of("Driver"), expected["CopyData"] == true);
                    assert_eq!((name, driver, copy), expected, "{text}");
                }
                MountSource::Tmpfs { .. } | MountSource::Image { .. } => panic!("{text}"),
            }
        }
    }

    /// The value of a Go expression in the tables.
    fn go(text: &str) -> String {
        match text {
            "expr:testDestinationPath" => "/dest".to_owned(),
            "expr:testSourcePath" | "expr:testDir" => "/src".to_owned(),
            "expr:mount.TypeBind" => "bind".to_owned(),
            "expr:mount.TypeVolume" => "volume".to_owned(),
            "expr:mount.TypeImage" => "image".to_owned(),
            _ => match text.strip_prefix("expr:err").and_then(|call| call.split_once("(\"")) {
                Some(("MissingField", field)) => {
                    format!("field {} must not be empty", field.trim_end_matches("\")"))
                }
                Some(("ExtraField", field)) => {
                    format!("field {} must not be specified", field.trim_end_matches("\")"))
                }
                _ => text.to_owned(),
            },
        }
    }

    fn resolved(value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(go(text)),
            Value::Object(object) => {
                object.iter().map(|(key, value)| (key.clone(), resolved(value))).collect()
            }
            other => other.clone(),
        }
    }

    #[test]
    fn long_forms_are_checked_as_docker_does() {
        for case in table(VALIDATE, "tests").into_iter().chain(table(VALIDATE, "imageTests")) {
            let mount: Mount = serde_json::from_value(resolved(&case["input"])).unwrap();
            let expected = case["expected"].as_str().map(go);
            match (parse_mount(&mount), expected) {
                // Whether the source is there is the engine's to see.
                (Ok(_), Some(expected)) => assert!(expected.contains("DoesNotExist"), "{case}"),
                (Ok(_), None) => {}
                (Err(error), None) => panic!("{case}: {error}"),
                (Err(error), Some(expected)) => {
                    let text = format!("invalid mount config for type {:?}: {expected}", mount.r#type);
                    assert_eq!(error.to_string(), text, "{case}");
                }
            }
        }
        let text = missing_bind("/x").to_string();
        assert_eq!(text, "invalid mount config for type \"bind\": bind source path does not exist: /x");
    }

    fn planned(json: &str, volumes: &[&str]) -> Result<Vec<MountPlan>, String> {
        let host_config: HostConfig = serde_json::from_str(json).unwrap();
        let volumes = volumes.iter().map(|path| ((*path).to_owned(), Empty {})).collect();
        plan(&host_config, &volumes).map_err(|errors| errors[0].to_string())
    }

    #[test]
    fn ids_may_be_mapped() {
        let plans = planned(
            r#"{"Binds":["/a:/a:ro,idmap","v:/v:idmap=app","/b:/b"],"Mounts":[{"Type":"bind","Source":"/c",
            "Target":"/c","BindOptions":{"IDMapping":{"Source":"match-user","User":"app"}}}]}"#,
            &[],
        )
        .unwrap();
        let maps: Vec<_> = plans.iter().map(|plan| plan.id_map.clone()).collect();
        let owner = |name: &str| Some(IdMap::Owner(name.to_owned()));
        assert_eq!(maps, [owner(""), owner("app"), None, owner("app")]);
        assert_eq!((plans[0].mode.as_str(), plans[0].read_only), ("ro,idmap", true));
        for wrong in ["idmap,idmap", "idmap=uids=1"] {
            let error = planned(&format!(r#"{{"Binds":["/a:/a:{wrong}"]}}"#), &[]).unwrap_err();
            assert_eq!(error, format!("invalid mode: {wrong}"));
        }
        assert!(parse_volumes_from("c1:idmap").is_err());
    }

    #[test]
    fn a_place_is_mounted_once() {
        for json in [
            r#"{"Binds":["/a:/b","/c:/b/"]}"#,
            r#"{"Binds":["/a:/b"],"Tmpfs":{"/b":""}}"#,
            r#"{"Binds":["/a:/b"],"Mounts":[{"Type":"tmpfs","Target":"/x/../b"}]}"#,
        ] {
            assert_eq!(planned(json, &[]).unwrap_err(), "Duplicate mount point: /b");
        }
        let plans = planned(r#"{"Binds":["/a:/b"]}"#, &["/b", "/data/"]).unwrap();
        assert_eq!(plans.len(), 2, "an image volume gives way");
        assert_eq!(plans[1].destination, "/data");
        assert!(matches!(&plans[1].source, MountSource::Volume { name: None, copy: true, .. }));
    }

    #[test]
    fn volumes_are_taken_over_with_a_mode() {
        let from = |text: &str| parse_volumes_from(text).map_err(|error| error.to_string());
        assert_eq!(from("c1").unwrap(), VolumesFrom { container: "c1".into(), read_only: None });
        assert_eq!(from("c1:ro").unwrap().read_only, Some(true));
        assert_eq!(from("c1:bogus").unwrap_err(), "invalid mode for volumes-from: bogus");
        assert!(from("").is_err());
    }

    #[test]
    fn paths_stay_inside() {
        assert_eq!(clean("/a/./b//../c/"), "/a/c");
        assert_eq!(clean("/../.."), "/");
        assert!(is_local("a/../b") && !is_local("../a") && !is_local("a/../../b") && !is_local("/a"));
        assert_eq!(
            planned(r#"{"Tmpfs":{"/":""}}"#, &[]).unwrap_err(),
            "invalid specification: destination can't be '/'"
        );
    }
}
