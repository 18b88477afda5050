//! `start`.

use yare_client::AttachOptions;

use super::run::{Target, check_terminal, exit_code, forward, resize};
use crate::context::{Context, each};
use crate::failure::Failure;
use crate::flags::Given;
use crate::session::{self, Connect, Ended, Keys, Signals};
use crate::table::Outcome;

/// `start`, with or without joining the container's streams.
pub(crate) async fn start(cx: &Context, given: &Given) -> Outcome {
    if given.bool("attach") || given.bool("interactive") {
        return attached(cx, given).await;
    }
    let keys = given.text("detach-keys");
    let outcome = each(cx, &given.arguments, async |name| {
        cx.client().container_start(name, keys).await?;
        Ok(Some(name.to_owned()))
    })
    .await?;
    if outcome != 0 {
        return Err(Failure::new(format!("failed to start containers: {}", given.arguments.join(", "))));
    }
    Ok(outcome)
}

async fn attached(cx: &Context, given: &Given) -> Outcome {
    let [name] = given.arguments.as_slice() else {
        return Err("you cannot start and attach multiple containers at once".into());
    };
    let client = cx.client();
    let container = client.container_inspect(name).await?;
    let id = &container.id;
    let tty = container.config.tty;
    let stdin = given.bool("interactive") && container.config.open_stdin;
    check_terminal(cx, stdin, tty)?;
    let keys = given.text_opt("detach-keys").unwrap_or(&cx.config().detach_keys);
    let options = AttachOptions { stdin, stdout: true, stderr: true, logs: false, detach_keys: keys };
    let condition = if container.host_config.auto_remove { "removed" } else { "next-exit" };
    let signals = given.bool_or("sig-proxy", true).then(Signals::all);
    let hijacked = client.container_attach(id, options).await?;
    let waiting = client.container_wait(id, condition).await?;
    client.container_start(id, "").await?;
    let session = async {
        let connect = Connect { stdin, tty, keys: Keys::parse(keys) };
        match session::connect(cx, hijacked, connect).await? {
            Ended::Detached => Ok(0),
            Ended::Streams => exit_code(cx, waiting).await,
        }
    };
    tokio::select! {
        biased;
        ended = session => ended,
        failure = resize(cx, Target::Container(id), tty) => Err(failure),
        failure = forward(client, Target::Container(id), signals) => Err(failure),
    }
}
