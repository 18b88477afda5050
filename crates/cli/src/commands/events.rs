//! `events`.

use yare_api::EventMessage;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, Render, compile};
use crate::opts;
use crate::session::Signals;
use crate::table::Outcome;

/// `events`.
pub(crate) async fn events(cx: &Context, given: &Given) -> Outcome {
    let now = cx.now();
    let since = opts::time::unix(given.text("since"), &now)?;
    let until = opts::time::unix(given.text("until"), &now)?;
    let filters = opts::filters(&given.list("filter"), &[]);
    let template = match given.text("format") {
        "" => None,
        "json" => Some(compile("{{json .}}", false)?),
        text => Some(compile(&text.replace("\\t", "\t").replace("\\n", "\n"), false).map_err(|why| {
            Failure::new(format!("Error parsing format: template parsing error: {why}")).with_code(64)
        })?),
    };
    let mut signals = Signals::endings();
    let follow = async {
        let mut stream = cx.client().events(&since, &until, &filters).await?;
        while let Some(event) = stream.next().await? {
            cx.line(text(&event, template.as_deref(), now.time_zone())?)?;
            cx.flush()?;
        }
        Ok(0)
    };
    tokio::select! {
        biased;
        done = follow => done,
        number = signals.number() => Ok(128 + number),
    }
}

/// One event as a line.
pub(crate) fn text(
    event: &EventMessage,
    template: Option<&dyn Render>,
    zone: &jiff::tz::TimeZone,
) -> Result<String, Failure> {
    if let Some(template) = template {
        return template
            .render(&Json::of(event))
            .map_err(|why| Failure::new(format!("template parsing error: {why}")));
    }
    let time = if event.time_nano != 0 {
        jiff::Timestamp::from_nanosecond(i128::from(event.time_nano))
    } else {
        jiff::Timestamp::from_second(event.time)
    };
    let mut line = String::new();
    if let Ok(time) = time
        && (event.time != 0 || event.time_nano != 0)
    {
        let local = time.to_zoned_datetime(zone.clone());
        let stamp = local.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string();
        line = format!("{} ", stamp.strip_suffix("+00:00").map_or(stamp.clone(), |utc| format!("{utc}Z")));
    }
    line.push_str(&format!("{} {} {}", event.r#type, event.action, event.actor.id));
    if !event.actor.attributes.is_empty() {
        let pairs: Vec<String> =
            event.actor.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        line.push_str(&format!(" ({})", pairs.join(", ")));
    }
    Ok(line)
}
