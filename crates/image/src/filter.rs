//! Which images a list shows: pure functions on values.

use crate::image::{Image, ImageId};
use crate::index::Index;
use crate::store::Store;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::Reference;

/// The filters of `images` and `image prune`, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilters {
    /// Only images without a tag, or only images with one.
    pub dangling: Option<bool>,
    /// Patterns of names; one must fit.
    pub reference: Vec<String>,
    /// Made before this moment: that of the image that was named.
    pub before: Option<Timestamp>,
    /// Made after this moment.
    pub since: Option<Timestamp>,
    /// Made at or before this moment.
    pub until: Option<Timestamp>,
    /// Not used since this moment: [`Image::unused_since`].
    pub unused_since: Option<Timestamp>,
    /// `key` or `key=value`; all must fit.
    pub label: Vec<String>,
    /// `key` or `key=value`; images that have all of these are left out.
    pub not_label: Vec<String>,
}

/// An image of a list, with those of its names that the filters show.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The image.
    pub image: Arc<Image>,
    /// Tags in the short form.
    pub tags: Vec<String>,
    /// Registry digests in the short form.
    pub digests: Vec<String>,
}

impl ListFilters {
    /// Parses filters as they come from a client; `store` has the images that `before` and `since` name,
    /// `now` is what durations of `until` are counted from.
    pub fn parse(store: &Store, filters: &BTreeMap<String, Vec<String>>, now: Timestamp) -> Result<Self> {
        let made = |names: &[String], pick| bound(&store.index(), names, pick);
        let mut parsed = Self::default();
        for (key, values) in filters {
            match key.as_str() {
                "dangling" => parsed.dangling = parse_bools(key, values)?,
                "reference" => {
                    for pattern in values {
                        check_pattern(pattern)?;
                    }
                    parsed.reference.clone_from(values);
                }
                "before" => parsed.before = made(values, Ord::min)?,
                "since" => parsed.since = made(values, Ord::max)?,
                "label" => parsed.label.clone_from(values),
                "label!" => parsed.not_label.clone_from(values),
                "until" => parsed.until = parse_untils(values, now)?,
                "unused-for" => parsed.unused_since = parse_unused_for(values, now)?,
                _ => return Err(Error::invalid(format!("invalid filter '{key}'"))),
            }
        }
        Ok(parsed)
    }

    fn fits_labels(&self, image: &Image) -> bool {
        let labels = &image.config.config.labels;
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.label.iter().all(has) && (self.not_label.is_empty() || !self.not_label.iter().all(has))
    }

    fn fits_until(&self, image: &Image) -> bool {
        self.until.is_none_or(|until| image.dated().is_some_and(|created| created <= until))
    }

    fn fits_use(&self, image: &Image) -> bool {
        self.unused_since.is_none_or(|since| image.unused_since().is_some_and(|used| used <= since))
    }

    /// Whether `prune` may take this image, as far as `until`, `unused-for`, `reference` and labels say. An
    /// image goes with all of its names, so all must fit a pattern.
    pub fn fits_prune(&self, image: &Image) -> bool {
        let names = image.references.iter().chain(&image.digests);
        self.fits_until(image)
            && self.fits_use(image)
            && self.fits_labels(image)
            && (!self.names_only()
                || !image.is_unreferenced() && names.into_iter().all(|name| self.fits_reference(name)))
    }

    fn fits_dates(&self, image: &Image) -> bool {
        self.before.is_none_or(|before| image.dated().is_some_and(|created| created < before))
            && self.since.is_none_or(|since| image.dated().is_some_and(|created| created > since))
            && self.fits_until(image)
            && self.fits_use(image)
    }

    /// Whether only some names of an image are shown: those of [`Listed`].
    pub fn names_only(&self) -> bool {
        !self.reference.is_empty()
    }

    fn fits_reference(&self, reference: &Reference) -> bool {
        self.reference.is_empty()
            || self.reference.iter().any(|pattern| reference_matches(pattern, reference))
    }

    /// The names of an image that are shown, and whether the image is.
    fn show(&self, image: &Arc<Image>, all: bool, has_children: bool) -> Option<Listed> {
        let shown = |references: &[Reference]| -> Vec<String> {
            references.iter().filter(|name| self.fits_reference(name)).map(Reference::familiar).collect()
        };
        let (tags, digests) = (shown(&image.references), shown(&image.digests));
        let nameless = tags.is_empty() && digests.is_empty();
        let hidden = nameless
            && ((has_children && !all) || self.dangling == Some(false) || !self.reference.is_empty());
        let tagged = self.dangling == Some(true) && (!tags.is_empty() || has_children);
        (!hidden && !tagged).then(|| Listed { image: Arc::clone(image), tags, digests })
    }
}

impl Store {
    /// The images that the filters let through, newest first. Without `all`, nameless images that others
    /// were made from are left out.
    pub fn listed(&self, filters: &ListFilters, all: bool) -> Vec<Listed> {
        let index = self.index();
        let images = self.list().into_iter().filter(|image| !index.is_hidden(image));
        let images = images.filter(|image| filters.fits_dates(image) && filters.fits_labels(image));
        images.filter_map(|image| filters.show(&image, all, index.has_children(&image.id))).collect()
    }

    /// All images made from this one, directly.
    pub fn children(&self, id: &ImageId) -> Vec<ImageId> {
        self.index().children(id).copied().collect()
    }
}

fn bound(
    index: &Index,
    names: &[String],
    pick: fn(Timestamp, Timestamp) -> Timestamp,
) -> Result<Option<Timestamp>> {
    let mut found = None;
    for name in names {
        if let Some(created) = index.resolve(name, None)?.dated() {
            found = Some(found.map_or(created, |other| pick(other, created)));
        }
    }
    Ok(found)
}

fn invalid_filter(key: &str, values: &[String]) -> Error {
    Error::invalid(format!("invalid filter '{key}=[{}]'", values.join(" ")))
}

/// Go's words for true and false; both at once is an error.
pub(crate) fn parse_bools(key: &str, values: &[String]) -> Result<Option<bool>> {
    let mut found = None;
    for value in values {
        let value = match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(invalid_filter(key, values)),
        };
        if found.is_some_and(|other| other != value) {
            return Err(invalid_filter(key, values));
        }
        found = Some(value);
    }
    Ok(found)
}

fn parse_untils(values: &[String], now: Timestamp) -> Result<Option<Timestamp>> {
    match values {
        [] => Ok(None),
        [value] => parse_moment(value, now).map(Some),
        _ => Err(Error::invalid("more than one until filter specified")),
    }
}

/// The moment that `unused-for` filters mean: a duration back from `now`.
///
/// # Errors
/// More than one value, or one that is no duration. Class invalid argument.
pub fn parse_unused_for(values: &[String], now: Timestamp) -> Result<Option<Timestamp>> {
    let value = match values {
        [] => return Ok(None),
        [value] => value,
        _ => return Err(Error::invalid("more than one unused-for filter specified")),
    };
    let back = period(value).and_then(|back| now.checked_sub(back).ok());
    back.map(Some).ok_or_else(|| {
        Error::invalid(format!(
            "invalid filter 'unused-for={value}': write a duration, such as 36h, 7d or 2w"
        ))
    })
}

/// A duration that is not negative: days (`7d`) or weeks (`2w`), which Go does not have, or Go's form.
pub fn period(text: &str) -> Option<SignedDuration> {
    let whole = |unit: char, hours: i64| {
        let count: i64 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(hours)?.checked_mul(3600).map(SignedDuration::from_secs)
    };
    let found = whole('d', 24)
        .or_else(|| whole('w', 7 * 24))
        .or_else(|| yare_gotext::parse_duration(text).ok().map(SignedDuration::from_nanos));
    found.filter(|period| !period.is_negative())
}

/// [`yare_gotext::parse_moment`] with this machine's zone.
fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    yare_gotext::parse_moment(text, now, &jiff::tz::TimeZone::system()).ok_or_else(|| {
        Error::invalid(format!(
            "failed to parse {text:?} as a moment: write 24h, 2026-01-31T10:00:00 or seconds since 1970"
        ))
    })
}

/// Docker's `FamiliarMatch`: the pattern fits the short form with tag or digest, or without.
fn reference_matches(pattern: &str, reference: &Reference) -> bool {
    path_match(pattern, &reference.familiar()) || path_match(pattern, &reference.familiar_name())
}

fn check_pattern(pattern: &str) -> Result<()> {
    match glob(pattern.as_bytes(), b"") {
        Some(_) if !unbalanced(pattern) => Ok(()),
        _ => Err(Error::invalid(format!("invalid reference pattern {pattern:?}: syntax error in pattern"))),
    }
}

/// Whether a class is never closed or a backslash ends the pattern.
fn unbalanced(pattern: &str) -> bool {
    let mut bytes = pattern.bytes();
    let mut in_class = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if bytes.next().is_none() => return true,
            b'[' => in_class = true,
            b']' => in_class = false,
            _ => {}
        }
    }
    in_class
}

/// Go's `path.Match`: `*` and `?` do not match a slash, `[a-z]` and `[^a]` are classes, `\` quotes.
pub fn path_match(pattern: &str, text: &str) -> bool {
    glob(pattern.as_bytes(), text.as_bytes()) == Some(true)
}

/// `None` for a malformed pattern, as far as it was looked at. Linear in memory, and at worst quadratic in
/// time: only the last star is ever taken back.
fn glob(pattern: &[u8], text: &[u8]) -> Option<bool> {
    let (mut place, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if place < pattern.len() && pattern[place] == b'*' {
            star = Some((place + 1, at));
            place += 1;
            continue;
        }
        if at == text.len() && place == pattern.len() {
            return Some(true);
        }
        let step =
            if at < text.len() && place < pattern.len() { one(&pattern[place..], text[at])? } else { None };
        if let Some(length) = step {
            place += length;
            at += 1;
            continue;
        }
        match star {
            Some((after, from)) if from < text.len() && text[from] != b'/' => {
                star = Some((after, from + 1));
                (place, at) = (after, from + 1);
            }
            _ => return Some(false),
        }
    }
}

/// Matches one byte; `Some(Some(n))` says that it fits and how long the pattern's element is.
#[expect(clippy::option_option, reason = "malformed, no match, match: three outcomes")]
fn one(pattern: &[u8], byte: u8) -> Option<Option<usize>> {
    match pattern[0] {
        b'?' => Some((byte != b'/').then_some(1)),
        b'\\' => Some((*pattern.get(1)? == byte).then_some(2)),
        b'[' => class(pattern, byte),
        literal => Some((literal == byte).then_some(1)),
    }
}

#[expect(clippy::option_option, reason = "malformed, no match, match: three outcomes")]
fn class(pattern: &[u8], byte: u8) -> Option<Option<usize>> {
    let mut place = 1;
    let negated = pattern.get(place) == Some(&b'^');
    place += usize::from(negated);
    let (mut fits, mut members) = (false, 0);
    loop {
        if *pattern.get(place)? == b']' && members > 0 {
            return Some((fits != negated).then_some(place + 1));
        }
        let (low, next) = member(pattern, place)?;
        let (high, next) =
            if pattern.get(next) == Some(&b'-') { member(pattern, next + 1)? } else { (low, next) };
        fits |= (low..=high).contains(&byte);
        place = next;
        members += 1;
    }
}

fn member(pattern: &[u8], place: usize) -> Option<(u8, usize)> {
    match *pattern.get(place)? {
        b'\\' => Some((*pattern.get(place + 1)?, place + 2)),
        b'-' | b']' => None,
        byte => Some((byte, place + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, text, fits) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox:latest", true),
            ("*", "a/b", false),
            ("*/*", "a/b:1", true),
            ("*:lat?st", "busybox:latest", true),
            ("[ab]usy*", "busybox", true),
            ("[^b]usy*", "busybox", false),
            ("[a-c]usybox", "busybox", true),
            ("a\\*", "a*", true),
            ("*a*b*c", "xaxbxc", true),
            ("a*b/c", "axx/b/c", false),
            ("**", "abc", true),
            ("", "", true),
            ("[", "a", false),
        ] {
            assert_eq!(path_match(pattern, text), fits, "{pattern} {text}");
        }
        assert!(check_pattern("[a").is_err());
        assert!(check_pattern("a\\").is_err());
        assert!(check_pattern("[a-z]*:?").is_ok());
        assert!(!path_match(&"*a".repeat(1000), &"a".repeat(999)));
    }

    #[test]
    fn filters_of_clients_are_checked() {
        let fixture = crate::tests::Fixture::new();
        let parse = |key: &str, values: &[&str]| {
            let values = values.iter().map(ToString::to_string).collect();
            ListFilters::parse(
                &fixture.store,
                &BTreeMap::from([(key.to_owned(), values)]),
                Timestamp::UNIX_EPOCH,
            )
        };
        assert_eq!(parse("dangling", &["true"]).unwrap().dangling, Some(true));
        assert_eq!(
            parse("dangling", &["maybe"]).unwrap_err().to_string(),
            "invalid filter 'dangling=[maybe]'"
        );
        assert!(parse("dangling", &["true", "false"]).is_err());
        assert_eq!(parse("color", &["red"]).unwrap_err().to_string(), "invalid filter 'color'");
        assert!(parse("until", &["1h", "2h"]).is_err());
    }
}
