//! How the owners of a mount's files appear: as asked for.

use yare_api::IdMapping as Asked;
use yare_oci::runtime::{IdMap, IdMapping};

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
