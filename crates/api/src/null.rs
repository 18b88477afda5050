//! Go's reading and writing of JSON: `null` is the zero value, `omitempty` leaves it out.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the default.
pub(crate) fn default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Go's `omitempty`: whether a value is its type's zero value.
pub(crate) fn empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Go's `omitempty` for lists and maps behind an `Option`: absent or without members.
pub(crate) fn no_members<T: Members>(value: &Option<T>) -> bool {
    value.as_ref().is_none_or(Members::none)
}

/// What can be without members.
pub(crate) trait Members {
    /// Whether it has none.
    fn none(&self) -> bool;
}

impl<T> Members for Vec<T> {
    fn none(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Members for std::collections::BTreeMap<K, V> {
    fn none(&self) -> bool {
        self.is_empty()
    }
}

/// Docker's `StrSlice`: a list, or one text standing for a list of one.
pub(crate) fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

/// Structs of the wire: members in the order given, their names in the case given unless renamed, and on
/// reading, `null` or nothing for any of them. A field behind `@()` also takes one text for a list of one
/// (no condition of `all()` fails, none of `any()` holds: that is how the mark chooses the attribute).
macro_rules! wire {
    ($case:literal; $(
        $(#[$meta:meta])*
        $name:ident { $($(#[$field_meta:meta])* $(@ $words:tt)? $field:ident : $type:ty),* $(,)? }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = $case, default)]
        pub struct $name {
            $(
                #[cfg_attr(all($(any $words)?), serde(deserialize_with = "crate::null::default"))]
                #[cfg_attr(any($(all $words)?), serde(deserialize_with = "crate::null::words"))]
                $(#[$field_meta])*
                pub $field: $type
            ),*
        }
    )*};
}

pub(crate) use wire;
