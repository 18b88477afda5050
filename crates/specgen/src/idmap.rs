//! How the owners of a mount's files appear: as asked for.

use crate::mounts::{MountPlan, MountSource};
use yare_api::IdMapping as Asked;
use yare_errdefs::Error;
use yare_oci::path::clean;
use yare_oci::runtime::{IdMap, IdMapping};

/// The label that says it for clients whose requests cannot: compose.
pub(crate) const LABEL: &str = "yare.idmap";

/// Reads the label: destinations of mounts, each alone or as `/data=USER` or `/data=uids=…;gids=…`.
pub(crate) fn by_label(text: &str, mounts: &mut [MountPlan]) -> Result<(), Error> {
    for part in text.split(',').map(str::trim) {
        let wrong = |why: &str| Error::invalid(format!("invalid label {LABEL}: {part:?}: {why}"));
        let place = part.split_once('=').map_or(part, |(place, _)| place);
        let map = parse_word(&format!("idmap{}", &part[place.len()..]));
        let map = map.ok_or_else(|| wrong("want a destination, or one with =USER or =uids=…;gids=…"))?;
        let can_be = |mount: &&mut MountPlan| {
            let source = matches!(mount.source, MountSource::Bind { .. } | MountSource::Volume { .. });
            source && place.starts_with('/') && mount.destination == clean(place)
        };
        let found = mounts.iter_mut().find(can_be);
        found.ok_or_else(|| wrong("neither a bind nor a volume is mounted there"))?.id_map = Some(map);
    }
    Ok(())
}

/// Reads `BindOptions.IDMapping`. The error is the end of a sentence.
pub(crate) fn parse(asked: &Asked) -> Result<IdMap, String> {
    match asked.source.as_str() {
        "match-user" => Ok(IdMap::Owner(asked.user.clone())),
        "userns" => Err("IDMapping.Source \"userns\" needs user namespaces of containers, which are not built \
                         into this Yare"
            .to_owned()),
        _ if !asked.user.is_empty() => Err("IDMapping.User goes with the source match-user".to_owned()),
        text => ranges(text).ok_or_else(|| {
            format!("invalid IDMapping.Source {text:?}: want match-user, or ranges such as uids=1000-0-1;gids=1000-0-1")
        }),
    }
}

/// Reads a word of a mode: `idmap`, `idmap=USER`, or ranges in podman's form.
pub(crate) fn parse_word(word: &str) -> Option<IdMap> {
    let value = word.strip_prefix("idmap")?;
    if value.is_empty() {
        return Some(IdMap::Owner(String::new()));
    }
    match value.strip_prefix('=')? {
        "" => None,
        value if value.starts_with("uids=") || value.starts_with("gids=") => ranges(value),
        user => Some(IdMap::Owner(user.to_owned())),
    }
}

/// `uids=ON-DISK-SHOWN-COUNT#…;gids=…`; what is not named stays as it is.
fn ranges(text: &str) -> Option<IdMap> {
    let (mut uids, mut gids) = (None, None);
    for part in text.split(';') {
        let (ids, list) = match part.split_once('=')? {
            ("uids", list) => (&mut uids, list),
            ("gids", list) => (&mut gids, list),
            _ => return None,
        };
        if ids.replace(list.split('#').map(range).collect::<Option<Vec<_>>>()?).is_some() {
            return None;
        }
    }
    let all = || vec![IdMapping { container_id: 0, host_id: 0, size: u32::MAX }];
    Some(IdMap::Ranges { uids: uids.unwrap_or_else(all), gids: gids.unwrap_or_else(all) })
}

fn range(text: &str) -> Option<IdMapping> {
    let mut numbers = text.split('-').map(|number| number.parse::<u32>().ok());
    let (from, to, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let ends = |first: u32| size > 0 && first.checked_add(size).is_some();
    (numbers.next().is_none() && ends(from) && ends(to)).then_some(IdMapping {
        container_id: from,
        host_id: to,
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_mode() {
        assert_eq!(parse_word("idmap"), Some(IdMap::Owner(String::new())));
        assert_eq!(parse_word("idmap=postgres"), Some(IdMap::Owner("postgres".into())));
        let range = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let all = vec![range(0, 0, u32::MAX)];
        assert_eq!(
            parse_word("idmap=uids=0-1-10#10-11-10;gids=0-100-10"),
            Some(IdMap::Ranges {
                uids: vec![range(0, 1, 10), range(10, 11, 10)],
                gids: vec![range(0, 100, 10)]
            })
        );
        assert_eq!(
            parse_word("idmap=gids=5-6-1"),
            Some(IdMap::Ranges { uids: all, gids: vec![range(5, 6, 1)] })
        );
        for wrong in [
            "idmap=",
            "idmaps",
            "idmap=uids=",
            "idmap=uids=1-2",
            "idmap=uids=1-2-0",
            "idmap=uids=1-2-3-4",
            "idmap=uids=@1-2-3",
            "idmap=uids=4294967295-0-1",
            "idmap=uids=1-2-3;uids=1-2-3",
            "idmap=uids=1-2-3;",
        ] {
            assert_eq!(parse_word(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_label_names_mounts() {
        let volume = |text: &str| crate::mounts::parse_bind(text, "").unwrap();
        let mut mounts = [volume("/a:/a"), volume("v:/b"), volume("/c:/c:idmap=app"), volume("/d:/d")];
        by_label("/a, /b/=app,/c=uids=1-2-3;gids=1-2-3", &mut mounts).unwrap();
        assert_eq!(mounts[0].id_map, Some(IdMap::Owner(String::new())));
        assert_eq!(mounts[1].id_map, Some(IdMap::Owner("app".into())));
        assert!(matches!(mounts[2].id_map, Some(IdMap::Ranges { .. })));
        assert_eq!(mounts[3].id_map, None);
        for (text, reason) in [
            ("", "\"\": neither a bind"),
            ("/x", "neither a bind nor a volume is mounted there"),
            ("a", "neither a bind"),
            ("/a=", "want a destination"),
            ("/a=uids=1", "want a destination"),
        ] {
            let error = by_label(text, &mut mounts).unwrap_err().to_string();
            assert!(error.starts_with("invalid label yare.idmap: ") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_image_maps_nothing() {
        let facts = crate::HostFacts::default();
        let settled = |own: &str, image: &str| {
            let request = format!(r#"{{"Cmd":["x"],"Labels":{{{own}}},"HostConfig":{{"Binds":["/a:/a"]}}}}"#);
            let image = format!(r#"{{"config":{{"Labels":{{{image}}}}}}}"#);
            let plan = crate::settle(
                &serde_json::from_str(&request).unwrap(),
                &serde_json::from_str(&image).unwrap(),
                &facts,
            );
            plan.unwrap().mounts[0].id_map.clone()
        };
        let label = r#""yare.idmap":"/a""#;
        assert_eq!(settled(label, ""), Some(IdMap::Owner(String::new())));
        assert_eq!(settled("", label), None);
    }

    #[test]
    fn the_api_asks_by_intent() {
        let asked = |source: &str, user: &str| Asked { source: source.into(), user: user.into() };
        assert_eq!(parse(&asked("match-user", "app")), Ok(IdMap::Owner("app".into())));
        assert!(parse(&asked("uids=1-2-3", "")).is_ok());
        for (source, user, reason) in [
            ("userns", "", "needs user namespaces"),
            ("", "", "invalid IDMapping.Source"),
            ("other", "", "invalid IDMapping.Source"),
            ("uids=1-2-3", "app", "goes with the source match-user"),
        ] {
            assert!(parse(&asked(source, user)).unwrap_err().contains(reason), "{source}");
        }
    }
}
