//! `stop`, `restart`, `kill`, `rm`, `pause`, `unpause`, `wait`, `rename`.

use crate::context::{Context, each};
use crate::failure::Failure;
use crate::flags::Given;
use crate::table::Outcome;

/// `-t`, or its former name.
fn timeout(given: &Given) -> Option<i64> {
    given.int("timeout").or_else(|| given.int("time"))
}

/// Does `one` to all containers at once and prints each name as it was given.
async fn together<'a, F, Fut>(cx: &'a Context, names: &'a [String], one: F) -> Outcome
where
    F: Fn(&'a str) -> Fut,
    Fut: Future<Output = Result<(), yare_client::Error>>,
{
    let outcomes = futures_util::future::join_all(names.iter().map(|name| one(name))).await;
    let mut failures = Vec::new();
    for (name, outcome) in names.iter().zip(outcomes) {
        match outcome {
            Ok(()) => cx.line(name)?,
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    for failure in &failures {
        cx.report(failure);
    }
    Ok(i32::from(!failures.is_empty()))
}

/// `stop`.
pub(crate) async fn stop(cx: &Context, given: &Given) -> Outcome {
    let (signal, timeout) = (given.text("signal"), timeout(given));
    together(cx, &given.arguments, |name| cx.client().container_stop(name, signal, timeout)).await
}

/// `restart`.
pub(crate) async fn restart(cx: &Context, given: &Given) -> Outcome {
    let (signal, timeout) = (given.text("signal"), timeout(given));
    together(cx, &given.arguments, |name| cx.client().container_restart(name, signal, timeout)).await
}

/// `kill`.
pub(crate) async fn kill(cx: &Context, given: &Given) -> Outcome {
    let signal = given.text("signal");
    if given.bool("exec") {
        return together(cx, &given.arguments, |id| cx.client().exec_kill(id, signal)).await;
    }
    together(cx, &given.arguments, |name| cx.client().container_kill(name, signal)).await
}

/// `pause`.
pub(crate) async fn pause(cx: &Context, given: &Given) -> Outcome {
    together(cx, &given.arguments, |name| cx.client().container_pause(name, true)).await
}

/// `unpause`.
pub(crate) async fn unpause(cx: &Context, given: &Given) -> Outcome {
    together(cx, &given.arguments, |name| cx.client().container_pause(name, false)).await
}

/// `rm`. With `-f`, a container that is not there is no failure.
pub(crate) async fn remove(cx: &Context, given: &Given) -> Outcome {
    let (force, volumes, link) = (given.bool("force"), given.bool("volumes"), given.bool("link"));
    let names: Vec<String> = given.arguments.iter().map(|name| name.trim_matches('/').to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err("invalid container name: cannot be empty".into());
    }
    let outcomes = futures_util::future::join_all(
        names.iter().map(|name| cx.client().container_remove(name, force, volumes, link)),
    )
    .await;
    let mut failed = false;
    let mut failures = Vec::new();
    for (name, outcome) in names.iter().zip(outcomes) {
        match outcome {
            Ok(()) => cx.line(name)?,
            Err(error) => {
                failed |= !(force && error.is_not_found());
                failures.push(Failure::from(error));
            }
        }
    }
    for failure in &failures {
        cx.report(failure);
    }
    Ok(i32::from(failed))
}

/// `wait`.
pub(crate) async fn wait(cx: &Context, given: &Given) -> Outcome {
    each(cx, &given.arguments, async |name| {
        let exit = cx.client().container_wait_exit(name).await?;
        cx.line(exit.status_code)?;
        cx.flush()?;
        Ok(None)
    })
    .await
}

/// `rename`.
pub(crate) async fn rename(cx: &Context, given: &Given) -> Outcome {
    let (old, new) = (given.argument(0).trim(), given.argument(1).trim());
    if old.is_empty() || new.is_empty() {
        return Err("Error: Neither old nor new names may be empty".into());
    }
    cx.client().container_rename(old, new).await.map_err(|error| {
        let hint = yare_errdefs::Classified::hint(&error);
        Failure { code: 1, text: format!("{error}\nError: failed to rename container named {old}"), hint }
    })?;
    Ok(0)
}
