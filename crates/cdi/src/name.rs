//! Names of devices: `vendor/class=name`. The texts are those of the field's own library.

/// Vendor and class of a kind `vendor/class`; `None` when one of them lacks.
pub fn split_kind(kind: &str) -> Option<(&str, &str)> {
    kind.split_once('/').filter(|(vendor, class)| !vendor.is_empty() && !class.is_empty())
}

/// Checks a vendor's name.
///
/// # Errors
/// What is wrong with it.
pub fn check_vendor(vendor: &str) -> Result<(), String> {
    vendor_or_class(vendor).map_err(|error| format!("invalid vendor. {error}"))
}

/// Checks the name of a class.
///
/// # Errors
/// What is wrong with it.
pub fn check_class(class: &str) -> Result<(), String> {
    vendor_or_class(class).map_err(|error| format!("invalid class. {error}"))
}

fn vendor_or_class(name: &str) -> Result<(), String> {
    let (Some(first), Some(last)) = (name.chars().next(), name.chars().next_back()) else {
        return Err("empty name".to_owned());
    };
    if !first.is_ascii_alphabetic() {
        return Err(format!("{name:?}, should start with letter"));
    }
    if let Some(wrong) = name.chars().find(|letter| !is_inner(*letter)) {
        return Err(format!("invalid character '{wrong}' in name {name:?}"));
    }
    if !last.is_ascii_alphanumeric() {
        return Err(format!("{name:?}, should end with a letter or digit"));
    }
    Ok(())
}

/// Checks what stands behind the `=`.
pub(crate) fn check_device(name: &str) -> Result<(), String> {
    let (Some(first), Some(last)) = (name.chars().next(), name.chars().next_back()) else {
        return Err("invalid (empty) device name".to_owned());
    };
    if !first.is_ascii_alphanumeric() {
        return Err(format!("invalid class {name:?}, should start with a letter or digit"));
    }
    if let Some(wrong) = name.chars().find(|letter| !is_inner(*letter) && *letter != ':') {
        return Err(format!("invalid character '{wrong}' in device name {name:?}"));
    }
    if !last.is_ascii_alphanumeric() {
        return Err(format!("invalid name {name:?}, should end with a letter or digit"));
    }
    Ok(())
}

fn is_inner(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_-.".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_and_classes() {
        for good in ["vendor.com", "a", "V-1_x.y2"] {
            assert_eq!((check_vendor(good), check_class(good)), (Ok(()), Ok(())), "{good}");
        }
        for (bad, text) in [
            ("", "invalid vendor. empty name"),
            ("1a", "invalid vendor. \"1a\", should start with letter"),
            ("_a", "invalid vendor. \"_a\", should start with letter"),
            ("a-", "invalid vendor. \"a-\", should end with a letter or digit"),
            ("a/b", "invalid vendor. invalid character '/' in name \"a/b\""),
            ("a..\0b", "invalid vendor. invalid character '\0' in name \"a..\\0b\""),
        ] {
            assert_eq!(check_vendor(bad), Err(text.to_owned()));
        }
    }

    #[test]
    fn devices() {
        for good in ["0", "gpu0", "all", "1:2", "a_b-c.d"] {
            assert_eq!(check_device(good), Ok(()), "{good}");
        }
        for bad in ["", ":0", "-a", "a:", "a b", "a/b", "../x", "*", "a\n"] {
            assert!(check_device(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kinds() {
        assert_eq!(split_kind("v.com/c"), Some(("v.com", "c")));
        assert_eq!(split_kind("v.com/c/d"), Some(("v.com", "c/d")));
        for none in ["", "/", "a/", "/b", "ab"] {
            assert_eq!(split_kind(none), None, "{none}");
        }
    }
}
