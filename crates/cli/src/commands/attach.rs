//! `attach`.

use yare_client::AttachOptions;

use super::run::{Target, check_terminal, exit_code, forward, resize};
use crate::context::Context;
use crate::flags::Given;
use crate::session::{self, Connect, Ended, Keys, Signals};
use crate::table::Outcome;

/// `attach`.
pub(crate) async fn attach(cx: &Context, given: &Given) -> Outcome {
    let client = cx.client();
    let name = given.argument(0);
    let container = client.container_inspect(name).await?;
    if !container.state.running {
        return Err("cannot attach to a stopped container, start it first".into());
    }
    if container.state.paused {
        return Err("cannot attach to a paused container, unpause it first".into());
    }
    if container.state.restarting {
        return Err("cannot attach to a restarting container, wait until it is running".into());
    }
    let tty = container.config.tty;
    let stdin = !given.bool("no-stdin") && container.config.open_stdin;
    check_terminal(cx, stdin, tty)?;
    let keys = given.text_opt("detach-keys").unwrap_or(&cx.config().detach_keys);
    let options = AttachOptions { stdin, stdout: true, stderr: true, logs: false, detach_keys: keys };
    let id = &container.id;
    let signals = (given.bool_or("sig-proxy", true) && !tty).then(Signals::all);
    let waiting = client.container_wait(id, "").await?;
    let hijacked = client.container_attach(id, options).await?;
    if tty && let Some((rows, columns)) = session::size(cx.stdio.output) {
        // A size that differs and then the right one: programs redraw only when it changes.
        drop(client.container_resize(id, rows + 1, columns + 1).await);
    }
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
