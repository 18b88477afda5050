//! The web, for builds.

use yare_build::Cancel;
use yare_build::source::http::{Conditions, Fetch, Response};
use yare_errdefs::{Error, Result};

/// Fetches what `ADD` of a URL wants.
pub(super) struct Web;

impl Fetch for Web {
    fn get(&self, url: &str, _conditions: Conditions<'_>, _cancel: &Cancel) -> Result<Response> {
        Err(Error::unimplemented(format!("fetching {url} is not built into this Yare yet"))
            .with_hint("fetch it in a step: RUN curl, or put it into the build context"))
    }
}
