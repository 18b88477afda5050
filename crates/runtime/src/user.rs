//! Who a process runs as: `name:group` looked up in the root's own passwd and group files.

use crate::error::{Result, StartError, Step};
use crate::rootfs::read_regular;
use rustix::fd::AsFd;
use rustix::io::Errno;

/// Most of a passwd or group file that is read, in bytes.
const LIMIT: usize = 1 << 20;

/// Largest numeric id: beyond it 32-bit signed users of ids wrap.
const MAX_ID: u32 = i32::MAX as u32;

/// A settled identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one first.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// `name`, `uid`, `name:group`, …
    pub(crate) user: &'a str,
    /// Further groups by name or number.
    pub(crate) groups: &'a [String],
}

/// Looks an identity up. Files that are not there are empty; files that are not regular are refused.
pub(crate) fn resolve(root: impl AsFd, wanted: Wanted<'_>) -> Result<Identity> {
    let passwd = read(&root, "/etc/passwd")?;
    let named = !wanted.groups.is_empty() || wanted.user.contains(':');
    let (user, found) = find_user(wanted.user, &passwd)?;
    let needs_groups = named || found.is_some();
    let group = if needs_groups { read(&root, "/etc/group")? } else { String::new() };
    settle(wanted, user, found, &group)
}

/// The home directory of a numeric user, `/` when nothing says.
pub(crate) fn home_of(root: impl AsFd, uid: u32) -> String {
    let passwd = read(&root, "/etc/passwd").unwrap_or_default();
    passwd_lines(&passwd)
        .find(|entry| entry.uid == uid)
        .map(|entry| entry.home.to_string())
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_string())
}

fn read(root: impl AsFd, path: &str) -> Result<String> {
    match read_regular(root, path, LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()),
        Err(Errno::INVAL) => Err(StartError::invalid(Step::User, format!("{path} is not a regular file"))),
        Err(Errno::FBIG) => Err(StartError::invalid(Step::User, format!("{path} is larger than 1 MiB"))),
        Err(error) => Err(StartError::io(Step::User, format!("cannot read {path} of the image"), error)),
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_lines(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        Some(Entry { name, uid, gid, home })
    })
}

/// Name, id and members.
fn group_lines(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

/// The numeric id, and the passwd entry if one fits.
fn find_user<'a>(wanted: &str, passwd: &'a str) -> Result<(u32, Option<Entry<'a>>)> {
    let name = wanted.split(':').next().unwrap_or("");
    let number = if name.is_empty() { Some(0) } else { parse_id(name) };
    let by_name = passwd_lines(passwd).find(|entry| !name.is_empty() && entry.name == name);
    let found = by_name.or_else(|| {
        let number = u32::try_from(number?).ok()?;
        passwd_lines(passwd).find(|entry| entry.uid == number)
    });
    match (found, number) {
        (Some(entry), _) => Ok((entry.uid, Some(entry))),
        (None, Some(number)) => Ok((check_id(number)?, None)),
        (None, None) => {
            let text = format!("unable to find user {name}: no matching entries in passwd file");
            Err(StartError::invalid(Step::User, text))
        }
    }
}

fn settle(wanted: Wanted<'_>, uid: u32, entry: Option<Entry<'_>>, group: &str) -> Result<Identity> {
    let mut identity = Identity { uid, gid: 0, groups: Vec::new(), home: "/".to_string() };
    if let Some(entry) = entry {
        identity.gid = entry.gid;
        if !entry.home.is_empty() {
            identity.home = entry.home.to_string();
        }
    }
    check_id(i64::from(identity.uid))?;
    let mut further = Vec::new();
    match wanted.user.split_once(':').map(|(_, group)| group).filter(|group| !group.is_empty()) {
        Some(name) => identity.gid = find_group(name, group)?,
        None => {
            if let Some(entry) = entry {
                let member = |members: &str| members.split(',').any(|member| member.trim() == entry.name);
                further.extend(
                    group_lines(group).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid),
                );
            }
        }
    }
    check_id(i64::from(identity.gid))?;
    for name in wanted.groups {
        further.push(find_group(name, group)?);
    }
    identity.groups.push(identity.gid);
    for gid in further {
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

fn find_group(name: &str, group: &str) -> Result<u32> {
    if let Some((_, gid, _)) = group_lines(group).find(|(known, _, _)| *known == name) {
        return Ok(gid);
    }
    match parse_id(name) {
        Some(number) => check_id(number),
        None => {
            let text = format!("unable to find group {name}: no matching entries in group file");
            Err(StartError::invalid(Step::User, text))
        }
    }
}

/// A decimal number with an optional sign, however large.
fn parse_id(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(i64::MAX))
}

fn check_id(number: i64) -> Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|id| *id <= MAX_ID)
        .ok_or_else(|| StartError::invalid(Step::User, format!("uids and gids must be in range 0-{MAX_ID}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_errdefs::{Class, Classified};

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# c\nbin:x:1:1::/bin:/x\napp:x:1000:1000::/home/app:/bin/sh\nbad\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1000:\ntty:x:5:\n";

    fn look_up(user: &str, groups: &[&str]) -> Result<Identity> {
        let groups: Vec<String> = groups.iter().map(|group| group.to_string()).collect();
        let wanted = Wanted { user, groups: &groups };
        let (uid, entry) = find_user(user, PASSWD)?;
        settle(wanted, uid, entry, GROUP)
    }

    fn ids(user: &str) -> (u32, u32, Vec<u32>) {
        let identity = look_up(user, &[]).unwrap();
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(ids(""), (0, 0, vec![0, 10]));
        assert_eq!(ids("app"), (1000, 1000, vec![1000, 10]));
        assert_eq!(ids("1000"), (1000, 1000, vec![1000, 10]));
        assert_eq!(ids("app:wheel"), (1000, 10, vec![10]));
        assert_eq!(ids("1:1"), (1, 1, vec![1]));
        assert_eq!(ids("4242"), (4242, 0, vec![0]));
        assert_eq!(ids("2147483647:7"), (2_147_483_647, 7, vec![7]));
        assert_eq!(look_up("app", &[]).unwrap().home, "/home/app");
        assert_eq!(look_up("4242", &[]).unwrap().home, "/");
    }

    #[test]
    fn further_groups_by_name_and_number() {
        assert_eq!(look_up("app", &["tty", "33"]).unwrap().groups, [1000, 10, 5, 33]);
    }

    #[test]
    fn ids_that_wrap_are_refused() {
        for user in ["4294967295", "2147483648", "-1", "99999999999999999999", "1:4294967295"] {
            let error = look_up(user, &[]).unwrap_err();
            assert!(error.to_string().contains("must be in range 0-2147483647"), "{user}: {error}");
        }
    }

    #[test]
    fn unknown_names_are_named() {
        let error = look_up("0x0", &[]).unwrap_err();
        assert_eq!(error.to_string(), "unable to find user 0x0: no matching entries in passwd file");
        assert_eq!(error.class(), Class::InvalidArgument);
        let error = look_up("app:nogroup", &[]).unwrap_err();
        assert_eq!(error.to_string(), "unable to find group nogroup: no matching entries in group file");
    }
}
