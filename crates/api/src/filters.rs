//! Filters of lists, events and prunes.
//!
//! Clients send them as JSON in a query parameter, in one of two forms: a map of maps
//! (`{"label":{"a=b":true}}`, what the command line sends) or a map of lists (`{"label":["a=b"]}`).

use crate::pattern::Pattern;
use serde::Deserialize;
use std::collections::BTreeMap;
use yare_errdefs::Error;

/// Filters by name; a name has one or more values, any of which may fit unless a method says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    fields: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Flags(BTreeMap<String, Option<bool>>),
    List(Vec<String>),
}

impl Filters {
    /// No filter: everything passes.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads either form. An empty text is no filter.
    ///
    /// # Errors
    /// `invalid filter` for anything else, class invalid argument.
    pub fn parse(json: &str) -> Result<Self, Error> {
        if json.is_empty() {
            return Ok(Self::default());
        }
        let parsed: Option<BTreeMap<String, Option<Values>>> =
            serde_json::from_str(json).map_err(|_| Error::invalid("invalid filter"))?;
        let mut fields = BTreeMap::new();
        for (name, values) in parsed.unwrap_or_default() {
            let values: Vec<String> = match values {
                None => continue,
                // Docker counts `false` as given, too.
                Some(Values::Flags(flags)) => flags.into_keys().collect(),
                Some(Values::List(list)) => list,
            };
            if !values.is_empty() {
                fields.insert(name, values);
            }
        }
        Ok(Self { fields })
    }

    /// The form the command line sends.
    pub fn to_json(&self) -> String {
        let maps: BTreeMap<_, BTreeMap<_, bool>> = self
            .fields
            .iter()
            .map(|(name, values)| (name, values.iter().map(|value| (value, true)).collect()))
            .collect();
        serde_json::to_string(&maps).expect("maps of texts are always JSON")
    }

    /// Adds a value.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (values, value) = (self.fields.entry(name.into()).or_default(), value.into());
        if !values.contains(&value) {
            values.push(value);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether a filter of this name is given.
    pub fn contains(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// The names given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// The values of a name, none when it is not given.
    pub fn values(&self, name: &str) -> &[String] {
        self.fields.get(name).map_or(&[], Vec::as_slice)
    }

    /// Checks that only these names are given.
    ///
    /// # Errors
    /// `invalid filter 'x'`, class invalid argument.
    pub fn validate(&self, allowed: &[&str]) -> Result<(), Error> {
        match self.names().find(|name| !allowed.contains(name)) {
            Some(name) => Err(Error::invalid(crate::texts::invalid_filter(name))),
            None => Ok(()),
        }
    }

    /// The truth value of a name: `true`/`1` or `false`/`0`, and not both.
    ///
    /// # Errors
    /// `invalid filter 'x=[v]'`, class invalid argument.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, Error> {
        let values = self.values(name);
        let has = |wanted: [&str; 2]| values.iter().any(|value| wanted.contains(&value.as_str()));
        match (values.is_empty(), has(["1", "true"]), has(["0", "false"])) {
            (true, ..) => Ok(None),
            (_, true, false) => Ok(Some(true)),
            (_, false, true) => Ok(Some(false)),
            _ => Err(Error::invalid(format!("invalid filter '{name}=[{}]'", values.join(" ")))),
        }
    }

    /// Whether the value is exactly one of those given, or none are.
    pub fn match_exact(&self, name: &str, value: &str) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|wanted| wanted == value)
    }

    /// Whether the value starts with one of those given, or none are. Docker uses it for ids.
    pub fn match_prefix(&self, name: &str, value: &str) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|wanted| value.starts_with(wanted.as_str()))
    }

    /// Whether the value is, or as a regular expression contains a match of, one of those given; or none
    /// are. Docker uses it for names. An expression that cannot be read matches nothing.
    pub fn match_pattern(&self, name: &str, value: &str) -> bool {
        let values = self.values(name);
        values.is_empty()
            || values.iter().any(|wanted| {
                wanted == value || Pattern::parse(wanted).is_some_and(|pattern| pattern.is_match(value))
            })
    }

    /// Whether the labels fit every value given: `k` is there, or `k=v` is there with that value.
    pub fn match_labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(name).iter().all(|wanted| match wanted.split_once('=') {
            None => labels.contains_key(wanted),
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
        })
    }

    /// `label` must fit and `label!` must not: what prunes ask.
    pub fn match_prune_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels("label", labels)
            && !(self.contains("label!") && self.match_labels("label!", labels))
    }

    /// The single `until` of a prune as a moment; `now` is what durations count back from.
    ///
    /// # Errors
    /// Docker's texts for more than one, or one that is no time. Class invalid argument.
    pub fn until(&self, now: jiff::Timestamp) -> Result<Option<jiff::Timestamp>, Error> {
        match self.values("until") {
            [] => Ok(None),
            [one] => crate::time::parse(one, now).map(Some),
            _ => Err(Error::invalid("more than one until filter specified")),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Filters {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut filters = Self::default();
        for (name, value) in pairs {
            filters.add(name, value);
        }
        filters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn reads_both_forms() {
        let maps = Filters::parse(r#"{"key": {"value1": true, "value2": true}}"#).unwrap();
        let lists = Filters::parse(r#"{"key": ["value1", "value2"]}"#).unwrap();
        assert_eq!(maps, lists);
        assert_eq!(maps.values("key"), ["value1", "value2"]);
        assert_eq!(Filters::parse(&maps.to_json()).unwrap(), maps);
        for none in ["", "null", "{}", r#"{"a":null}"#, r#"{"a":[]}"#] {
            assert!(Filters::parse(none).unwrap().is_empty(), "{none}");
        }
        for bad in ["nope", "['a','list']", "{'key': 'value'}", r#"{"key": "value"}"#] {
            assert_eq!(Filters::parse(bad).unwrap_err().to_string(), "invalid filter", "{bad}");
        }
    }

    #[test]
    fn refuses_unknown_names() {
        let filters: Filters = [("nope", "x")].into_iter().collect();
        assert_eq!(filters.validate(&["label"]).unwrap_err().to_string(), "invalid filter 'nope'");
        assert!(filters.validate(&["label", "nope"]).is_ok());
    }

    #[test]
    fn reads_truth_values() {
        let dangling = |values: &[&str]| {
            values.iter().map(|value| ("dangling", *value)).collect::<Filters>().boolean("dangling")
        };
        assert_eq!(dangling(&[]).unwrap(), None);
        assert_eq!(dangling(&["true"]).unwrap(), Some(true));
        assert_eq!(dangling(&["1", "true"]).unwrap(), Some(true));
        assert_eq!(dangling(&["0"]).unwrap(), Some(false));
        assert_eq!(dangling(&["potato"]).unwrap_err().to_string(), "invalid filter 'dangling=[potato]'");
        assert!(dangling(&["false", "true", "1"]).is_err());
    }

    #[test]
    fn labels_match_by_key_or_key_and_value() {
        let have = labels(&[("key1", "value1"), ("key2", "value2"), ("empty", "")]);
        for (wanted, fits) in
            [("key1", true), ("key1=value1", true), ("key4", false), ("key1=value3", false), ("empty=", true)]
        {
            let filters: Filters = [("label", wanted)].into_iter().collect();
            assert_eq!(filters.match_labels("label", &have), fits, "{wanted}");
        }
        let both: Filters = [("label", "key1"), ("label", "key4")].into_iter().collect();
        assert!(!both.match_labels("label", &have), "all must fit");
        let not: Filters = [("label!", "key1")].into_iter().collect();
        assert!(!not.match_prune_labels(&have));
        assert!(not.match_prune_labels(&labels(&[])));
    }

    #[test]
    fn names_match_as_expressions() {
        for (wanted, fits) in [
            ("today", true),
            ("to*", true),
            ("to(.*)", true),
            ("tod", true),
            ("tomorrow", false),
            ("to(day", false),
            ("tom(.*)", false),
            ("^oday", false),
        ] {
            let filters: Filters = [("name", wanted)].into_iter().collect();
            assert_eq!(filters.match_pattern("name", "today"), fits, "{wanted}");
        }
    }
}
