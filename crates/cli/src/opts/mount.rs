//! `--mount`.

use yare_api::{BindOptions, Driver, IdMapping, ImageOptions, Mount, TmpfsOptions, VolumeOptions};

use super::volume::absolute;

/// Names that take a value or stand alone for true.
const SWITCHES: &[&str] =
    &["readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src", "use-api-socket"];

/// Reads one `--mount`. `cwd` is what a relative source of a bind is relative to.
pub(crate) fn parse(value: &str, cwd: &str) -> Result<Mount, String> {
    if value.trim().is_empty() {
        return Err("value is empty".to_owned());
    }
    let mut mount = Mount { r#type: "volume".to_owned(), ..Mount::default() };
    for field in super::csv(value)? {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name.to_lowercase(), value),
            // As Docker's client is about to: without a value, the container's user.
            None if matches!(field.to_lowercase().as_str(), "bind-idmap" | "idmap") => {
                (field.to_lowercase(), "match-user")
            }
            None if SWITCHES.contains(&field.to_lowercase().as_str()) => (field.to_lowercase(), "true"),
            None => return Err(format!("invalid field '{field}' must be a key=value pair")),
        };
        if name.trim() != name {
            let bare = name.trim();
            return Err(format!("invalid option '{bare}' in '{field}': option should not have whitespace"));
        }
        set(&mut mount, &name, value, &field)?;
    }
    check(&mut mount, cwd)?;
    Ok(mount)
}

fn boolean(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("invalid value for {name}: {value}")),
    }
}

fn set(mount: &mut Mount, name: &str, value: &str, field: &str) -> Result<(), String> {
    if value.trim() != value {
        return Err(format!("invalid value for '{name}' in '{field}': value should not have whitespace"));
    }
    if value.is_empty() {
        return Err(format!("invalid value for '{name}': value is empty"));
    }
    match name {
        "type" => mount.r#type = value.to_lowercase(),
        "source" | "src" => value.clone_into(&mut mount.source),
        "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
        "readonly" | "ro" => mount.read_only = boolean(name, value)?,
        "consistency" => mount.consistency = value.to_lowercase(),
        // Podman's name for it.
        "idmap" => set_bind(mount.bind_options.get_or_insert_default(), "bind-idmap", value, field)?,
        _ if name.starts_with("bind-") => {
            set_bind(mount.bind_options.get_or_insert_default(), name, value, field)?
        }
        _ if name.starts_with("volume-") => {
            set_volume(mount.volume_options.get_or_insert_default(), name, value, field)?;
        }
        "image-subpath" => {
            let options: &mut ImageOptions = mount.image_options.get_or_insert_default();
            value.clone_into(&mut options.subpath);
        }
        _ if name.starts_with("tmpfs-") => {
            set_tmpfs(mount.tmpfs_options.get_or_insert_default(), name, value, field)?;
        }
        _ => return Err(format!("unexpected key '{name}' in '{field}'")),
    }
    Ok(())
}

fn set_bind(options: &mut BindOptions, name: &str, value: &str, field: &str) -> Result<(), String> {
    match name {
        "bind-propagation" => options.propagation = value.to_lowercase(),
        "bind-nonrecursive" => options.non_recursive = boolean(name, value)?,
        "bind-create-src" => options.create_mountpoint = boolean(name, value)?,
        "bind-idmap" => {
            let (source, user) = match value.split_once(':') {
                Some(("match-user", user)) if !user.is_empty() => ("match-user", user),
                Some(_) => return Err(format!("invalid value for {name}: {value}")),
                None => (value, ""),
            };
            options.id_mapping = Some(IdMapping { source: source.to_owned(), user: user.to_owned() });
        }
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => options.non_recursive = true,
            "writable" => options.read_only_non_recursive = true,
            "readonly" => options.read_only_force_recursive = true,
            _ => {
                return Err(format!(
                    "invalid value for {name}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ));
            }
        },
        _ => return Err(format!("unexpected key '{name}' in '{field}'")),
    }
    Ok(())
}

fn set_volume(options: &mut VolumeOptions, name: &str, value: &str, field: &str) -> Result<(), String> {
    // Docker's client sends a driver, if an empty one, with any option of a volume.
    let driver: &mut Driver = options.driver_config.get_or_insert_default();
    let (key, rest) = value.split_once('=').unwrap_or((value, ""));
    match name {
        "volume-driver" => value.clone_into(&mut driver.name),
        "volume-opt" if key.is_empty() => {}
        "volume-opt" => {
            driver.options.get_or_insert_default().insert(key.to_owned(), rest.to_owned());
        }
        "volume-label" if key.is_empty() => {}
        "volume-label" => {
            options.labels.get_or_insert_default().insert(key.to_owned(), rest.to_owned());
        }
        "volume-nocopy" => options.no_copy = boolean(name, value)?,
        "volume-subpath" => value.clone_into(&mut options.subpath),
        _ => return Err(format!("unexpected key '{name}' in '{field}'")),
    }
    Ok(())
}

fn set_tmpfs(options: &mut TmpfsOptions, name: &str, value: &str, field: &str) -> Result<(), String> {
    match name {
        "tmpfs-size" => {
            options.size_bytes =
                super::size::ram_bytes(value).map_err(|_| format!("invalid value for {name}: {value}"))?;
        }
        "tmpfs-mode" => {
            options.mode =
                u32::from_str_radix(value, 8).map_err(|_| format!("invalid value for {name}: {value}"))?;
        }
        _ => return Err(format!("unexpected key '{name}' in '{field}'")),
    }
    Ok(())
}

/// The rules that need the whole.
fn check(mount: &mut Mount, cwd: &str) -> Result<(), String> {
    let kind = mount.r#type.as_str();
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    let mixed = |family: &str| Err(format!("cannot mix '{family}-*' options with mount type '{kind}'"));
    if mount.bind_options.is_some() && kind != "bind" {
        return mixed("bind");
    }
    if mount.volume_options.is_some() && kind != "volume" {
        return mixed("volume");
    }
    if mount.image_options.is_some() && kind != "image" {
        return mixed("image");
    }
    if mount.tmpfs_options.is_some() && kind != "tmpfs" {
        return mixed("tmpfs");
    }
    if let Some(options) = &mount.bind_options {
        if options.read_only_non_recursive && !mount.read_only {
            return Err(
                "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction"
                    .to_owned(),
            );
        }
        if options.read_only_force_recursive {
            if !mount.read_only {
                return Err(
                    "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction"
                        .to_owned(),
                );
            }
            if options.propagation != "rprivate" {
                return Err("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction".to_owned());
            }
        }
    }
    if kind == "bind"
        && (mount.source == "."
            || mount.source == ".."
            || mount.source.starts_with("./")
            || mount.source.starts_with("../"))
    {
        mount.source = absolute(&mount.source, cwd);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_aliases() {
        for text in
            ["type=bind,src=/s,dst=/t", "type=bind,source=/s,target=/t", "type=bind,source=/s,destination=/t"]
        {
            let mount = parse(text, "/").unwrap();
            assert_eq!((mount.source.as_str(), mount.target.as_str()), ("/s", "/t"), "{text}");
        }
    }

    #[test]
    fn ids_are_mapped_by_intent() {
        let asked = |text: &str| {
            let mount = parse(&format!("type=bind,src=/s,dst=/t,{text}"), "/")?;
            let asked = mount.bind_options.and_then(|options| options.id_mapping).unwrap_or_default();
            Ok::<_, String>((asked.source, asked.user))
        };
        for (text, source, user) in [
            ("bind-idmap", "match-user", ""),
            ("idmap", "match-user", ""),
            ("bind-idmap=match-user", "match-user", ""),
            ("bind-idmap=match-user:app:staff", "match-user", "app:staff"),
            ("bind-idmap=userns", "userns", ""),
            ("idmap=uids=0-1-10#10-11-10;gids=0-100-10", "uids=0-1-10#10-11-10;gids=0-100-10", ""),
        ] {
            assert_eq!(asked(text), Ok((source.to_owned(), user.to_owned())), "{text}");
        }
        assert_eq!(asked("bind-idmap=match-user:").unwrap_err(), "invalid value for bind-idmap: match-user:");
        assert!(parse("type=volume,src=v,dst=/t,idmap", "/").unwrap_err().starts_with("cannot mix 'bind-*'"));
    }

    #[test]
    fn relative_sources_are_joined() {
        for (source, expected) in
            [(".", "/a/b"), ("./", "/a/b"), ("../", "/a"), ("..", "/a"), ("./x", "/a/b/x")]
        {
            let mount = parse(&format!("type=bind,source={source},target=/target"), "/a/b").unwrap();
            assert_eq!(mount.source, expected);
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "",
            "type=volume,target=/foo,bogus=foo",
            "type=volume, src=/foo,target=/foo",
            "type=volume,src =/foo,target=/foo",
            "type=volume,src=,target=/foo",
            "type=volume,src= /foo,target=/foo",
            "type=volume,src=/foo ,target=/foo",
            "type=volume,target=/foo,bogus",
            "type=tmpfs,target=/foo,tmpfs-size=foo",
            "type=tmpfs,target=/foo,tmpfs-mode=foo",
            "type=volume,target=/foo,source=/foo,bind-propagation=rprivate",
            "type=bind,target=/foo,source=/foo,volume-nocopy=true",
            "type=bind,target=/foo,source=/foo,readonly=no",
        ] {
            assert!(parse(text, "/").is_err(), "{text}");
        }
    }
}
