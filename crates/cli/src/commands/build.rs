//! `build`: the engine answers whether it can.

use yare_client::{Body, Request};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::table::Outcome;

/// `build`: sends no context before the engine has said that it takes one.
pub(crate) async fn build(cx: &Context, _given: &Given) -> Outcome {
    let request = Request::post("/build").query("version", "1").body("application/x-tar", Body::empty());
    match cx.client().call(request).await {
        Err(error) => Err(error.into()),
        Ok(_) => Err(Failure {
            code: 1,
            text: "building is not built into this client yet".to_owned(),
            hint: Some("this engine can build: use the stock docker client on the same socket".to_owned()),
        }),
    }
}
