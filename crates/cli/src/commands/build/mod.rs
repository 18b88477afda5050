//! `build`: a context and a Dockerfile become an image.
//!
//! The flags become one request (`options`, `attributes`), the words after them a context (`source`). The
//! engine is told of both (`send`), and answers with messages (`lines`): news of its steps (`graph`), which
//! are shown (`show`, `plain`, `terminal`, `account`), bytes of outputs (`receive`), and the outcome.

mod account;
mod answer;
mod attributes;
mod graph;
mod lines;
mod options;
mod pack;
mod plain;
mod receive;
mod send;
mod show;
mod source;
mod steps;
mod terminal;

use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior};
use yare_api::build::{BuildMessage, BuildResult};
use yare_client::Response;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::session::Signals;
use crate::table::Outcome;
use lines::Lines;
use options::Plan;
use receive::Receiver;
use send::Upload;
use show::Show;
pub(super) use steps::{Step, Steps};

/// `build`.
pub(crate) async fn build(cx: &Context, given: &Given) -> Outcome {
    // The connection goes with the work, which is how the engine learns that nobody wants it any more.
    until_called_off(build_to_the_end(cx, given), "ERROR: failed to build: ").await
}

/// Does the work unless a signal ends it first, so that the terminal is put back; `said` is before whatever is
/// told of a failure.
pub(super) async fn until_called_off(work: impl Future<Output = Outcome>, said: &str) -> Outcome {
    let mut signals = Signals::endings();
    let outcome = tokio::select! {
        outcome = work => outcome,
        number = signals.number() => return Err(Failure::new("ERROR: canceled").with_code(128 + number)),
    };
    outcome.map_err(|failure| match failure.text.as_str() {
        "" => failure,
        text => Failure { text: format!("{said}{text}"), ..failure },
    })
}

async fn build_to_the_end(cx: &Context, given: &Given) -> Outcome {
    let mut plan = options::plan(cx, given)?;
    let source = source::find(cx, given, &mut plan.request).await?;
    for path in plan.iidfile.iter().chain(&plan.metadata_file) {
        receive::forget(path)?;
    }
    let mut show = Show::new(cx, plan.display);
    let request = std::mem::take(&mut plan.request);
    let (call, explain) = (request.call.clone(), request.explain);
    let upload = Upload::default();
    let sent = send::send(cx, request, &plan.outputs, source, &upload);
    let sent = while_shown(sent, &mut show, &upload).await?;
    let mut receiver = Receiver::new(cx, &sent.destinations)?;
    let result = match follow(cx, sent.reply, &mut show, &mut receiver, &upload).await? {
        Ended::Done(result) => result,
        Ended::Failed { excerpt, failure } => {
            show.failed(&excerpt)?;
            return Err(failure);
        }
    };
    receiver.finish().await?;
    show.succeeded(&result, explain)?;
    drop(show);
    if !call.is_empty() {
        let answer = result.answer.as_ref().unwrap_or(&Value::Null);
        return answer::print(cx, &call, answer, plan.answer_as_json);
    }
    record(cx, &plan, result)
}

/// How a build ended.
enum Ended {
    /// With this.
    Done(BuildResult),
    /// With these lines of the Dockerfile, for this reason.
    Failed { excerpt: String, failure: Failure },
}

fn ticks(show: &Show<'_>) -> Interval {
    let mut ticks = tokio::time::interval(show.rate());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Keeps the display up to the moment until `work` is done.
async fn while_shown<T>(
    work: impl Future<Output = Result<T, Failure>>,
    show: &mut Show<'_>,
    upload: &Upload,
) -> Result<T, Failure> {
    let mut ticks = ticks(show);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => {
                show.upload(upload.progress())?;
                show.tick()?;
            }
        }
    }
}

/// Follows the engine's messages to the end.
async fn follow(
    cx: &Context,
    mut reply: Response,
    show: &mut Show<'_>,
    receiver: &mut Receiver,
    upload: &Upload,
) -> Result<Ended, Failure> {
    if reply.header("server").is_some_and(|server| server.starts_with("Docker/")) {
        let text = format!("the engine at {} is Docker's, which does not understand this client", cx.address);
        return Err(Failure::new(text).with_hint("use docker build, or give Yare's engine with -H"));
    }
    let mut ticks = ticks(show);
    let mut lines = Lines::default();
    let mut messages = Vec::new();
    loop {
        let chunk = tokio::select! {
            chunk = reply.chunk() => chunk,
            _ = ticks.tick() => {
                show.upload(upload.progress())?;
                show.tick()?;
                continue;
            }
        };
        show.upload(upload.progress())?;
        let ended = match chunk {
            Ok(Some(chunk)) => {
                lines.feed(&chunk, |line| decode(line, &mut messages))?;
                false
            }
            Ok(None) => {
                if let Some(line) = std::mem::take(&mut lines).finish() {
                    decode(&line, &mut messages)?;
                }
                true
            }
            Err(error) => return Err(upload.fault().unwrap_or_else(|| error.into())),
        };
        for message in messages.drain(..) {
            if let Some(status) = &message.status {
                show.status(status)?;
            }
            if !message.stream.is_empty() {
                show.text(&message.stream)?;
            }
            if !message.data.is_empty() {
                receiver.take(&message).await?;
            }
            if message.error_detail.is_some() || !message.error.is_empty() {
                return Ok(Ended::Failed { excerpt: message.excerpt.clone(), failure: failure(message) });
            }
            if let Some(result) = message.result {
                return Ok(Ended::Done(result));
            }
        }
        if ended {
            return Err(Failure::new("the engine ended its answer before the build was done").with_hint(
                "it may have been stopped: see its log, then build again; finished steps are kept",
            ));
        }
    }
}

fn decode(line: &[u8], messages: &mut Vec<BuildMessage>) -> Result<(), Failure> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let message = serde_json::from_slice(line)
        .map_err(|error| Failure::new(format!("cannot read the engine's answer: {error}")))?;
    messages.push(message);
    Ok(())
}

fn failure(message: BuildMessage) -> Failure {
    let text = match message.error_detail {
        Some(detail) if !detail.message.is_empty() => detail.message,
        _ => message.error,
    };
    let failure = Failure::new(format!("failed to solve: {}", text.trim_end()));
    if message.hint.is_empty() { failure } else { failure.with_hint(message.hint) }
}

/// Writes down what came of the build, where that was asked for.
fn record(cx: &Context, plan: &Plan, result: BuildResult) -> Outcome {
    if let Some(path) = &plan.iidfile {
        if result.image_id.is_empty() {
            return Err(Failure::new("cannot write the image ID: this build made no image")
                .with_hint("leave out --iidfile, or add --load"));
        }
        receive::write(path, result.image_id.as_bytes())?;
    }
    if let Some(path) = &plan.metadata_file {
        let mut metadata = result.metadata;
        let mut add = |name: &str, value: &str| {
            if !value.is_empty() {
                metadata.entry(name.to_owned()).or_insert_with(|| Value::from(value));
            }
        };
        // An image of several platforms has no config: its id is that of its index.
        if result.image_id != result.digest {
            add("containerimage.config.digest", &result.image_id);
        }
        add("containerimage.digest", &result.digest);
        add("image.name", &result.names.join(","));
        let document = Value::Object(metadata.into_iter().collect());
        receive::write(path, crate::format::json::pretty(&document, "  ").as_bytes())?;
    }
    if plan.print_id && !result.image_id.is_empty() {
        cx.line(&result.image_id)?;
    }
    Ok(0)
}
