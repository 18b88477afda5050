//! `--restart`.

use yare_api::RestartPolicy;

/// Reads `name` or `name:count`.
pub(crate) fn parse(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    if text.starts_with(':') {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let mut policy = RestartPolicy { name: name.to_owned(), ..RestartPolicy::default() };
    if let Some(count) = count {
        policy.maximum_retry_count = count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?;
    }
    Ok(policy)
}
