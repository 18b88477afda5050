//! What the engine removes by itself: one function from facts to a list of removals with reasons.

use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use yare_errdefs::{Error, Result};
use yare_image::{ImageId, SharedLayer};
use yare_oci::DiffId;

/// What may go by itself, and when. `None` is never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleaningSettings {
    /// An image that lost its last tag to another image goes when it was unused for so long.
    pub retag_grace: Option<SignedDuration>,
    /// Any image without a container, tagged ones too, goes when it was unused for so long.
    pub images: Option<SignedDuration>,
    /// A container goes when it has been stopped for so long.
    pub containers: Option<SignedDuration>,
    /// So much of the data root's filesystem is to be free.
    pub min_free: MinFree,
}

/// A bound for the free space of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFree {
    /// A twentieth, and at most 10 GB.
    Default,
    /// So many hundredths.
    Percent(u64),
    /// So many bytes.
    Bytes(u64),
}

impl MinFree {
    pub(super) fn of(self, total: u64) -> u64 {
        match self {
            Self::Default => (total / 20).min(10_000_000_000),
            Self::Percent(percent) => total / 100 * percent,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Default for CleaningSettings {
    fn default() -> Self {
        // From Friday to Monday: time enough to miss the build before this one.
        let retag_grace = Some(SignedDuration::from_hours(72));
        Self { retag_grace, images: None, containers: None, min_free: MinFree::Default }
    }
}

impl CleaningSettings {
    /// Takes one setting as it is written: `retag-grace`, `clean-images`, `clean-containers`, `clean-min-free`.
    ///
    /// # Errors
    /// The value is malformed. Class invalid argument.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let period = |never: &str| match value {
            word if word == never => Ok(None),
            _ => yare_image::period(value).map(Some).ok_or_else(|| {
                let want = format!("want {never}, or a duration such as 36h, 7d or 2w");
                Error::invalid(format!("invalid argument {value:?} for --{name}: {want}"))
            }),
        };
        match name {
            "retag-grace" if value == "delete" => self.retag_grace = Some(SignedDuration::ZERO),
            "retag-grace" => self.retag_grace = period("keep")?,
            "clean-images" => self.images = period("off")?,
            "clean-containers" => self.containers = period("off")?,
            _ => self.min_free = min_free(name, value)?,
        }
        Ok(())
    }
}

fn min_free(name: &str, value: &str) -> Result<MinFree> {
    let wrong = || {
        let want = "want off, a size such as 20g, or a part such as 10%";
        Error::invalid(format!("invalid argument {value:?} for --{name}: {want}"))
    };
    if value == "off" {
        return Ok(MinFree::Bytes(0));
    }
    if let Some(percent) = value.strip_suffix('%') {
        return percent.parse().ok().filter(|percent| *percent <= 90).map(MinFree::Percent).ok_or_else(wrong);
    }
    let bytes = yare_api::units::ram_in_bytes(value).map_err(|_| wrong())?;
    u64::try_from(bytes).map(MinFree::Bytes).map_err(|_| wrong())
}

/// An image that was of use a shorter time ago stays even on a full disk, unless it lost its tag: whoever has
/// pulled it is about to run it.
const FRESH: SignedDuration = SignedDuration::from_hours(1);

/// What is known when it is decided.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) images: Vec<ImageFact>,
    pub(super) containers: Vec<ContainerFact>,
    /// Bytes that the build cache can give back.
    pub(super) cache: u64,
    /// Bytes of the filesystem.
    pub(super) total: u64,
    /// Those that are free.
    pub(super) free: u64,
}

/// An image that no container has and no other image was made from.
#[derive(Debug, Clone)]
pub(super) struct ImageFact {
    pub(super) id: ImageId,
    /// Its names, registry digests included, in the short form.
    pub(super) names: Vec<String>,
    /// It had a tag, and has none.
    pub(super) lost_tag: bool,
    pub(super) unused_since: Timestamp,
    /// Bytes that no other image shares; in a plan, what is free once it and those before it are gone.
    pub(super) bytes: u64,
    /// What others share.
    pub(super) shared: Vec<SharedLayer>,
}

/// How often layers are used by images that are not in the plan yet.
#[derive(Debug, Default)]
struct Users(HashMap<DiffId, u32>);

impl Users {
    /// Takes an image away and counts what becomes free with it.
    fn without(&mut self, mut image: ImageFact) -> ImageFact {
        for layer in &image.shared {
            let left = self.0.entry(layer.id).or_insert(layer.all);
            *left = left.saturating_sub(layer.own);
            if *left == 0 {
                image.bytes += layer.bytes;
            }
        }
        image
    }
}

/// A stopped container.
#[derive(Debug, Clone)]
pub(super) struct ContainerFact {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) stopped_since: Timestamp,
    pub(super) bytes: u64,
}

/// What goes, in this order.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) containers: Vec<(ContainerFact, String)>,
    /// Bytes that the build cache is to give back for want of space, and why.
    pub(super) cache: Option<(u64, String)>,
    pub(super) images: Vec<(ImageFact, String)>,
}

/// Decides what goes now. What was unused for too long goes anyway; when the disk is fuller than it may be,
/// more goes in order of least recent use until a quarter more than the bound is free: results of builds,
/// then images that lost their tag, then, where `clean-images` is set at all, others that no container has.
pub(super) fn decide(settings: &CleaningSettings, facts: Facts, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let is_over = |limit: Option<SignedDuration>, since: Timestamp| {
        limit.is_some_and(|limit| now.duration_since(since) >= limit)
    };
    for container in facts.containers {
        if is_over(settings.containers, container.stopped_since) {
            let why = format!("stopped for {} (clean-containers)", age(container.stopped_since, now));
            plan.containers.push((container, why));
        }
    }
    let mut rest = Vec::new();
    let mut users = Users::default();
    for image in facts.images {
        let unused = age(image.unused_since, now);
        if image.lost_tag && is_over(settings.retag_grace, image.unused_since) {
            plan.images
                .push((users.without(image), format!("lost its tag, and unused for {unused} (retag-grace)")));
        } else if is_over(settings.images, image.unused_since) {
            plan.images.push((users.without(image), format!("unused for {unused} (clean-images)")));
        } else {
            rest.push(image);
        }
    }
    let bound = settings.min_free.of(facts.total);
    if facts.free >= bound {
        return plan;
    }
    let planned = plan.images.iter().map(|(image, _)| image.bytes).sum::<u64>()
        + plan.containers.iter().map(|(container, _)| container.bytes).sum::<u64>();
    let mut need = (bound + bound / 4).saturating_sub(facts.free).saturating_sub(planned);
    let why = format!("{} bytes of the disk are free, {bound} are to be (clean-min-free)", facts.free);
    let cut = facts.cache.min(need);
    plan.cache = (cut > 0).then(|| (cut, why.clone()));
    need -= cut;
    rest.retain(|image| match image.lost_tag {
        true => settings.retag_grace.is_some(),
        false => settings.images.is_some() && now.duration_since(image.unused_since) >= FRESH,
    });
    rest.sort_by_key(|image| (!image.lost_tag, image.unused_since, image.id));
    for image in rest {
        if need == 0 {
            break;
        }
        let image = users.without(image);
        need = need.saturating_sub(image.bytes);
        let why = format!("unused for {}, and {why}", age(image.unused_since, now));
        plan.images.push((image, why));
    }
    plan
}

fn age(since: Timestamp, now: Timestamp) -> String {
    let elapsed = std::time::Duration::try_from(now.duration_since(since)).unwrap_or_default();
    yare_api::units::human_duration(elapsed).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_oci::Digest;

    const NOW: i64 = 1_000_000_000;
    const GB: u64 = 1_000_000_000;

    fn at(hours_ago: i64) -> Timestamp {
        Timestamp::from_second(NOW - hours_ago * 3600).unwrap()
    }

    fn image(name: &str, hours_ago: i64, lost_tag: bool) -> ImageFact {
        let id = ImageId(Digest::of(name.as_bytes()));
        let (names, unused_since) = (vec![name.into()], at(hours_ago));
        ImageFact { id, names, lost_tag, unused_since, bytes: GB, shared: Vec::new() }
    }

    fn facts(free: u64) -> Facts {
        Facts {
            images: vec![
                image("old", 5000, false),
                image("new", 0, false),
                image("lost-new", 2, true),
                image("lost-old", 80, true),
            ],
            containers: vec![ContainerFact {
                id: "c".into(),
                name: "c".into(),
                stopped_since: at(100),
                bytes: GB,
            }],
            cache: 3 * GB,
            total: 100 * GB,
            free,
        }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.images.iter().map(|(image, _)| image.names[0].as_str()).collect()
    }

    fn decided(settings: &CleaningSettings, free: u64) -> Plan {
        decide(settings, facts(free), at(0))
    }

    #[test]
    fn by_itself_goes_only_what_lost_its_tag_long_ago() {
        let plan = decided(&CleaningSettings::default(), 50 * GB);
        assert_eq!(names(&plan), ["lost-old"]);
        assert_eq!(plan.images[0].1, "lost its tag, and unused for 3 days (retag-grace)");
        assert!(plan.containers.is_empty() && plan.cache.is_none());
    }

    #[test]
    fn what_is_set_goes_when_its_time_has_come() {
        let mut settings = CleaningSettings::default();
        settings.set("retag-grace", "keep").unwrap();
        assert!(names(&decided(&settings, 50 * GB)).is_empty());
        settings.set("retag-grace", "delete").unwrap();
        assert_eq!(names(&decided(&settings, 50 * GB)), ["lost-new", "lost-old"]);
        settings.set("clean-images", "4w").unwrap();
        settings.set("clean-containers", "4d").unwrap();
        let plan = decided(&settings, 50 * GB);
        assert_eq!(names(&plan), ["old", "lost-new", "lost-old"]);
        assert_eq!(plan.containers.len(), 1);
    }

    #[test]
    fn a_full_disk_takes_the_cache_first_and_tagged_images_only_where_that_is_set() {
        let mut settings = CleaningSettings::default();
        // 5 are to be free; 6.25 is where it ends, of which "lost-old" is one.
        let plan = decided(&settings, 4 * GB);
        assert_eq!((names(&plan), plan.cache.as_ref().unwrap().0), (vec!["lost-old"], 5 * GB / 4));
        let plan = decided(&settings, 0);
        assert_eq!((names(&plan), plan.cache.as_ref().unwrap().0), (vec!["lost-old", "lost-new"], 3 * GB));
        settings.set("clean-images", "52w").unwrap();
        assert_eq!(names(&decided(&settings, 0)), ["lost-old", "lost-new", "old"]);
        settings.set("clean-min-free", "off").unwrap();
        assert_eq!(names(&decided(&settings, 0)), ["lost-old"]);
        settings.set("clean-min-free", "50%").unwrap();
        settings.set("retag-grace", "keep").unwrap();
        assert_eq!(names(&decided(&settings, 40 * GB)), ["old"]);
    }

    #[test]
    fn layers_that_go_with_the_last_of_their_images_are_counted() {
        let layer = |name: &str, all| {
            let id = DiffId(Digest::of(name.as_bytes()));
            SharedLayer { id, bytes: 2 * GB, own: 1, all }
        };
        let mut facts = facts(0);
        facts.cache = 0;
        for image in &mut facts.images {
            // One layer that both of those without a tag have, and one that a third image has, too.
            image.shared = vec![layer("two", 2), layer("three", 3)];
        }
        facts.images.retain(|image| image.lost_tag);
        let plan = decide(&CleaningSettings::default(), facts, at(0));
        let bytes: Vec<u64> = plan.images.iter().map(|(image, _)| image.bytes).collect();
        assert_eq!((names(&plan), bytes), (vec!["lost-old", "lost-new"], vec![GB, 3 * GB]));
    }

    #[test]
    fn settings_are_checked() {
        let mut settings = CleaningSettings::default();
        for (name, value) in [
            ("retag-grace", "soon"),
            ("retag-grace", "-1h"),
            ("clean-images", "7"),
            ("clean-containers", ""),
            ("clean-min-free", "95%"),
            ("clean-min-free", "much"),
        ] {
            let error = settings.set(name, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("invalid argument {value:?} for --{name}: want ")), "{error}");
        }
        assert_eq!(settings, CleaningSettings::default());
        settings.set("clean-min-free", "20g").unwrap();
        assert_eq!(settings.min_free, MinFree::Bytes(20 << 30));
    }
}
