//! The engine's own log.

use serde_json::{Map, Value};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    /// An object a line, with dockerd's members.
    Json,
}

/// Writes to standard error from now on.
pub(crate) fn start(level: tracing::Level, format: Format) {
    use std::io::IsTerminal;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.event_format(Objects).boxed(),
    };
    // HTTP/2 would tell of every frame.
    let targets = tracing_subscriber::filter::Targets::new()
        .with_default(level)
        .with_target("h2", level.min(tracing::Level::INFO));
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}

/// Events as objects. What surrounds them (the request) is in the text form alone, as its id is.
struct Objects;

impl<S, N> FormatEvent<S, N> for Objects
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut members = Members::default();
        event.record(&mut members);
        let level = match *event.metadata().level() {
            // The word of dockerd's log.
            tracing::Level::WARN => "warning".to_owned(),
            level => level.to_string().to_lowercase(),
        };
        members.0.insert("level".to_owned(), level.into());
        members.0.insert("time".to_owned(), time.into());
        writeln!(writer, "{}", Value::Object(members.0))
    }
}

#[derive(Default)]
struct Members(Map<String, Value>);

impl Members {
    fn put(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            "message" => "msg",
            // These three are the line's own.
            name @ ("level" | "time" | "msg") => return drop(self.0.insert(format!("fields.{name}"), value)),
            name => name,
        };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Members {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn objects_have_dockerds_members() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines =
            tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).event_format(Objects);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let path = "/a\n\"b\"";
            tracing::warn!(uid = 7, ?path, time = "mine", is = true, "two\nlines");
            tracing::info!("next");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((&lines[0]["level"], &lines[0]["msg"]), (&"warning".into(), &"two\nlines".into()));
        assert_eq!((&lines[0]["uid"], &lines[0]["is"]), (&7.into(), &true.into()));
        assert_eq!((&lines[0]["path"], &lines[0]["fields.time"]), (&r#""/a\n\"b\"""#.into(), &"mine".into()));
        assert!(lines[1]["time"].as_str().unwrap().ends_with('Z'), "{text}");
        assert_eq!(lines[1]["level"], "info");
    }
}
