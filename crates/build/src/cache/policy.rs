//! How much the cache keeps by itself. Pure.

use super::PruneOptions;

/// Rules, applied one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy(pub Vec<Rule>);

/// What may go, and how much of the disk stays taken. Without a bound everything that may go goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Also what images share.
    pub all: bool,
    /// Only what was not used for so many seconds.
    pub unused_for: Option<i64>,
    /// Only these kinds.
    pub kinds: Vec<String>,
    /// Only rows whose id begins so.
    pub ids: Vec<String>,
    /// Only rows whose description has this in it.
    pub descriptions: Vec<String>,
    /// What stays.
    pub space: Space,
}

/// Bounds in bytes, as BuildKit has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// So much always stays.
    pub reserved: Option<u64>,
    /// More than this never stays, but for what is reserved.
    pub max_used: Option<u64>,
    /// So much of the disk is to be free, if the reserved part lets it.
    pub min_free: Option<u64>,
}

impl Space {
    /// What may stay of `used` bytes while `free` are free; `None` where there is no bound.
    pub fn keep(&self, used: u64, free: u64) -> Option<u64> {
        if *self == Self::default() {
            return None;
        }
        let missing = self.min_free.unwrap_or_default().saturating_sub(free);
        let freed = (missing > 0).then(|| used.saturating_sub(missing));
        let kept = match (self.max_used, freed) {
            (Some(most), Some(freed)) => most.min(freed),
            (Some(one), None) | (None, Some(one)) => one,
            // Only what is reserved is said: nothing beyond it stays.
            (None, None) if self.min_free.is_none() => 0,
            (None, None) => used,
        };
        Some(kept.max(self.reserved.unwrap_or_default()))
    }
}

impl Policy {
    /// What holds unless somebody says otherwise: nothing that was not used for `days`, and no more than `most`
    /// bytes; what images share goes last, for it frees nothing.
    pub fn bounded(most: u64, days: i64) -> Self {
        let space = Space { max_used: Some(most), ..Space::default() };
        let old = Rule { unused_for: Some(days * 86_400), ..Rule::default() };
        let rest = Rule { space, ..Rule::default() };
        Self(vec![old, rest.clone(), Rule { all: true, ..rest }])
    }
}

impl Rule {
    /// What it wants pruned now.
    pub fn options(&self, used: u64, free: u64) -> PruneOptions {
        PruneOptions {
            all: self.all,
            unused_for: self.unused_for,
            kinds: self.kinds.clone(),
            ids: self.ids.clone(),
            descriptions: self.descriptions.clone(),
            keep_bytes: self.space.keep(used, free),
            dry_run: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_buildkit() {
        let space = |reserved, max_used, min_free| Space { reserved, max_used, min_free };
        assert_eq!(space(None, None, None).keep(100, 5), None);
        assert_eq!(space(Some(30), None, None).keep(100, 5), Some(30));
        assert_eq!(space(Some(30), Some(60), None).keep(100, 5), Some(60));
        // Ten bytes are missing, so much goes, but not below what is reserved.
        assert_eq!(space(None, None, Some(15)).keep(100, 5), Some(90));
        assert_eq!(space(Some(95), None, Some(15)).keep(100, 5), Some(95));
        assert_eq!(space(None, Some(60), Some(15)).keep(100, 5), Some(60));
        assert_eq!(space(None, None, Some(15)).keep(100, 50), Some(100), "enough is free");
        assert_eq!(space(None, None, Some(500)).keep(100, 5), Some(0));
    }

    #[test]
    fn by_default_age_and_size_count_and_shared_results_go_last() {
        let Policy(rules) = Policy::bounded(10, 30);
        assert_eq!(rules[0].options(100, 0).unused_for, Some(30 * 86_400));
        assert_eq!(rules[0].options(100, 0).keep_bytes, None);
        assert_eq!((rules[1].options(100, 0).keep_bytes, rules[1].all), (Some(10), false));
        assert!(rules[2].all);
    }
}
