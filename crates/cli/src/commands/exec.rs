//! `exec`.

use yare_api::{ExecConfig, ExecStartConfig};

use super::run::{Target, check_terminal, forward, resize};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts::env;
use crate::session::{self, Connect, Ended, Keys, Signals};
use crate::table::Outcome;

/// `exec`.
pub(crate) async fn exec(cx: &Context, given: &Given) -> Outcome {
    let config = config(cx, given)?;
    let client = cx.client();
    let (tty, detach) = (config.tty, given.bool("detach"));
    if !detach {
        check_terminal(cx, config.attach_stdin, tty)?;
    }
    let id = client.exec_create(given.argument(0), &config).await?.id;
    let start = ExecStartConfig { detach, tty, console_size: config.console_size };
    if detach {
        client.exec_start(&id, &start).await?;
        return Ok(0);
    }
    let (mut endings, signals) = if given.bool_or("sig-proxy", true) && !tty {
        (None, Some(Signals::all()))
    } else {
        // Signals end the client, not the program in the container; the terminal is put back first.
        (Some(Signals::endings()), None)
    };
    let ending = async {
        match &mut endings {
            Some(endings) => endings.number().await,
            None => std::future::pending().await,
        }
    };
    let hijacked = client.exec_attach(&id, &start).await?;
    let connect = Connect { stdin: config.attach_stdin, tty, keys: Keys::parse(&config.detach_keys) };
    let session = async {
        if session::connect(cx, hijacked, connect).await? == Ended::Detached {
            return Ok(0);
        }
        let exec = client.exec_inspect(&id).await?;
        Ok(exec.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0))
    };
    tokio::select! {
        biased;
        ended = session => ended,
        failure = resize(cx, Target::Exec(&id), tty) => Err(failure),
        failure = forward(client, Target::Exec(&id), signals) => Err(failure),
        number = ending => Err(Failure::silent(128 + number)),
    }
}

/// The body of the create call.
pub(crate) fn config(cx: &Context, given: &Given) -> Result<ExecConfig, Failure> {
    let detach = given.bool("detach");
    let tty = given.bool("tty");
    let environment = env::collect(&given.list("env-file"), &given.list("env"), &cx.environment)?;
    let size = if tty { session::size(cx.stdio.output) } else { None };
    Ok(ExecConfig {
        user: given.text("user").to_owned(),
        privileged: given.bool("privileged"),
        tty,
        console_size: size.map(|(rows, columns)| [u32::from(rows), u32::from(columns)]),
        attach_stdin: !detach && given.bool("interactive"),
        attach_stderr: !detach,
        attach_stdout: !detach,
        detach_keys: given.text_opt("detach-keys").unwrap_or(&cx.config().detach_keys).to_owned(),
        env: (!environment.is_empty()).then_some(environment),
        working_dir: given.text("workdir").to_owned(),
        cmd: Some(given.arguments.get(1..).unwrap_or_default().to_vec()),
    })
}
