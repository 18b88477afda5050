//! `logs`.

use yare_client::LogsOptions;

use crate::context::Context;
use crate::flags::Given;
use crate::opts;
use crate::session::{Signals, copy_frames};
use crate::table::Outcome;

/// `logs`.
pub(crate) async fn logs(cx: &Context, given: &Given) -> Outcome {
    let now = cx.now();
    let bound = |name: &str| opts::time::unix(given.text(name), &now);
    let since = bound("since").map_err(|why| format!("invalid value for \"since\": {why}"))?;
    let until = bound("until").map_err(|why| format!("invalid value for \"until\": {why}"))?;
    let client = cx.client();
    // Only the container's configuration says whether the stream is framed.
    let container = client.container_inspect(given.argument(0)).await?;
    let options = LogsOptions {
        follow: given.bool("follow"),
        since,
        until,
        timestamps: given.bool("timestamps"),
        details: given.bool("details"),
        tail: given.text_opt("tail").unwrap_or("all").to_owned(),
    };
    let mut signals = Signals::endings();
    let copy = async {
        let response = client.container_logs(&container.id, &options).await?;
        copy_frames(cx, response, container.config.tty).await?;
        Ok(0)
    };
    tokio::select! {
        biased;
        done = copy => done,
        number = signals.number() => Ok(128 + number),
    }
}
