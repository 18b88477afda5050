//! Which ids of the host are those of a user's namespace: its root is the user, and all others are subordinate ids,
//! which an administrator lends to users in `/etc/subuid` and `/etc/subgid` (subuid(5)).

use yare_errdefs::{Error, Result};

/// So many ids an image may use: nobody, 65534, is among them.
const LEAST: u64 = 65536;

/// Where an administrator's first range of subordinate ids begins.
const FIRST: u64 = 100_000;

/// A user, as these files know one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What the host has lent to users: the text of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lent<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
}

/// The arguments of `newuidmap` and of `newgidmap` after the process's number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Maps {
    pub(super) uids: Vec<String>,
    pub(super) gids: Vec<String>,
}

/// The maps of a user's namespace.
///
/// # Errors
/// Too few ids are lent to the user; the hint has the command that lends some.
pub(super) fn maps(user: &User, uids: Lent<'_>, gids: Lent<'_>) -> Result<Maps> {
    let lent = |own: u32, file: Lent<'_>| {
        let ranges = ranges(user, own, file.text);
        let total: u64 = ranges.iter().map(|(_, count)| count).sum();
        if total >= LEAST { Ok(ranges) } else { Err(too_few(user, file, total, uids, gids)) }
    };
    Ok(Maps {
        uids: arguments(user.uid, &lent(user.uid, uids)?),
        gids: arguments(user.gid, &lent(user.gid, gids)?),
    })
}

/// Lines `USER:FIRST:COUNT`, of the user's name or number. What two lines lend counts once, and the user's own id is
/// not lent: the kernel takes no id twice.
fn ranges(user: &User, own: u32, text: &str) -> Vec<(u64, u64)> {
    let number = user.uid.to_string();
    let of_user = |line: &str| {
        let (who, rest) = line.trim().split_once(':')?;
        let (first, count) = rest.split_once(':')?;
        let is_users = who == user.name || who == number;
        is_users.then(|| Some((first.parse().ok()?, count.parse().ok()?)))?
    };
    let mut taken = vec![(u64::from(own), 1)];
    for range in text.lines().filter_map(of_user) {
        let free = taken.iter().fold(vec![range], |pieces, taken| {
            pieces.into_iter().flat_map(|piece| without(piece, *taken)).collect()
        });
        taken.extend(free);
    }
    taken.split_off(1)
}

/// What is left of a range besides another one: ranges of at least one id.
fn without((first, count): (u64, u64), (from, length): (u64, u64)) -> Vec<(u64, u64)> {
    let (end, to) = (first.saturating_add(count), from.saturating_add(length));
    let pieces = [(first, end.min(from)), (first.max(to), end)];
    pieces.into_iter().filter(|(first, end)| first < end).map(|(first, end)| (first, end - first)).collect()
}

fn arguments(own: u32, ranges: &[(u64, u64)]) -> Vec<String> {
    let mut inside = 1;
    let mut numbers = vec![0, u64::from(own), 1];
    for (first, count) in ranges {
        numbers.extend([inside, *first, *count]);
        inside += count;
    }
    numbers.iter().map(u64::to_string).collect()
}

fn too_few(user: &User, file: Lent<'_>, total: u64, uids: Lent<'_>, gids: Lent<'_>) -> Error {
    let User { name, uid, .. } = user;
    let found =
        if total == 0 { "no subordinate ids".to_owned() } else { format!("only {total} subordinate ids") };
    let first = next_free(uids.text).max(next_free(gids.text));
    let last = first + LEAST - 1;
    Error::precondition(format!(
        "user {name} ({uid}) has {found} in {}; an engine without root needs {LEAST}",
        file.path
    ))
    .with_hint(format!(
        "an administrator can lend some: sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {name}"
    ))
}

/// Where ids begin that are lent to nobody.
fn next_free(text: &str) -> u64 {
    let end = |line: &str| {
        let mut numbers = line.trim().split(':').skip(1).map(|word| word.parse::<u64>().ok());
        numbers.next()??.checked_add(numbers.next()??)
    };
    text.lines().filter_map(end).fold(FIRST, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User { name: "ann".to_owned(), uid: 1000, gid: 100 }
    }

    fn made(uids: &str, gids: &str) -> Result<Maps> {
        let file = |path, text| Lent { path, text };
        maps(&user(), file("/etc/subuid", uids), file("/etc/subgid", gids))
    }

    #[test]
    fn root_is_the_user_and_the_others_are_lent() {
        let maps = made("bob:1:65536\nann:100000:65536\n", "1000:200000:40000\nann:300000:30000").unwrap();
        assert_eq!(maps.uids.join(" "), "0 1000 1 1 100000 65536");
        assert_eq!(maps.gids.join(" "), "0 100 1 1 200000 40000 40001 300000 30000");
    }

    #[test]
    fn no_id_is_lent_twice() {
        let twice = "ann:100000:65536\n1000:100000:65536\nann:90000:20000\n1000:900:200\n";
        let maps = made(twice, "ann:100000:65536\n").unwrap();
        assert_eq!(
            maps.uids.join(" "),
            "0 1000 1 1 100000 65536 65537 90000 10000 75537 900 100 75637 1001 99"
        );
    }

    #[test]
    fn who_has_too_few_is_told_what_to_do() {
        let error = made("bob:100000:65536\nann:300000:10\n", "ann:100000:65536").unwrap_err();
        assert_eq!(
            error.to_string(),
            "user ann (1000) has only 10 subordinate ids in /etc/subuid; an engine without root needs 65536"
        );
        let hint = "sudo usermod --add-subuids 300010-365545 --add-subgids 300010-365545 ann";
        assert!(yare_errdefs::Classified::hint(&error).unwrap().ends_with(hint));
        let error = made("ann:200000:65536", "# nothing\nann:x:9\n").unwrap_err().to_string();
        assert!(error.contains("has no subordinate ids in /etc/subgid"), "{error}");
    }
}
