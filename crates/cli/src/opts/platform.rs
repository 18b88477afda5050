//! `--platform`.

/// The API's JSON form of `os/architecture[/variant]`, for the calls that take it so.
pub(crate) fn json(text: &str) -> Result<String, String> {
    let platform: yare_oci::Platform =
        yare_oci::Platform::parse(text).map_err(|error| format!("invalid platform: {error}"))?;
    serde_json::to_string(&platform).map_err(|error| error.to_string())
}

/// The same, of each platform.
pub(crate) fn json_list(texts: &[String]) -> Result<Vec<String>, String> {
    texts.iter().map(|text| json(text)).collect()
}
