//! Which variables have which value where.

use std::collections::BTreeMap;
use yare_dockerfile::args::is_proxy;
use yare_oci::Platform;

/// The proxies among the arguments, each in both cases: programs look for either.
pub(super) fn proxies(args: &BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (name, value) in args {
        if let Some(value) = value.as_ref().filter(|_| is_proxy(name)) {
            for name in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
                found.entry(name).or_insert_with(|| value.clone());
            }
        }
    }
    for (name, value) in args {
        if let Some(value) = value.as_ref().filter(|_| is_proxy(name)) {
            found.insert(name.clone(), value.clone());
        }
    }
    found
}

/// The arguments that every build has, for those who declare them.
pub(super) fn platform_args(target: &Platform, stage: &str) -> BTreeMap<String, String> {
    let build = Platform::host();
    let mut args = BTreeMap::new();
    for (prefix, platform) in [("TARGET", target), ("BUILD", &build)] {
        args.insert(format!("{prefix}PLATFORM"), platform.to_string());
        args.insert(format!("{prefix}OS"), platform.os.clone());
        args.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        args.insert(format!("{prefix}VARIANT"), platform.variant.clone());
        args.insert(format!("{prefix}OSVERSION"), String::new());
    }
    let stage = if stage.is_empty() { "default" } else { stage };
    args.insert("TARGETSTAGE".to_owned(), stage.to_owned());
    args
}

/// A list of `KEY=value`, in the order of first definition.
#[derive(Debug, Clone, Default)]
pub(super) struct Env(Vec<(String, String)>);

impl Env {
    pub(super) fn of(list: &[String]) -> Self {
        let pair = |entry: &String| {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            (key.to_owned(), value.to_owned())
        };
        Self(list.iter().map(pair).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, key: &str, value: &str) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((key.to_owned(), value.to_owned())),
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.0.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_there_in_both_cases() {
        let args = BTreeMap::from([
            ("HTTP_PROXY".to_owned(), Some("http://p".to_owned())),
            ("no_proxy".to_owned(), Some("x".to_owned())),
            ("OTHER".to_owned(), Some("y".to_owned())),
        ]);
        let found = proxies(&args);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["HTTP_PROXY", "NO_PROXY", "http_proxy", "no_proxy"]);
    }

    #[test]
    fn what_is_defined_again_keeps_its_place() {
        let mut env = Env::of(&["A=1".to_owned(), "B=2".to_owned()]);
        env.set("A", "3");
        env.set("C", "4");
        assert_eq!(env.list(), ["A=3", "B=2", "C=4"]);
    }
}
