//! Events of a container, followed by a case that has to know that something has happened by now.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::client::{Client, filters};
use crate::http;

/// What happens from now on.
#[derive(Debug)]
pub(crate) struct Happenings {
    stream: UnixStream,
    seen: String,
}

impl Happenings {
    /// Follows the events of a container, which need not be there yet. The engine keeps the last of all events
    /// only, so who wants to see an event for certain follows before it comes.
    pub(crate) fn of(client: &Client, container: &str) -> Self {
        let mut stream = http::open(&client.host.socket);
        let query = filters(&json!({"container": [container]}));
        let request = format!("GET /v1.51/events?filters={query} HTTP/1.1\r\nHost: docker\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let (head, rest) = http::read_head(&mut stream);
        assert_eq!(head.status, 200);
        Self { stream, seen: String::from_utf8_lossy(&rest).into_owned() }
    }

    /// What has happened, as far as it was waited for.
    fn actions(&self) -> Vec<&str> {
        let actions = self.seen.split("\"Action\":\"").skip(1);
        actions.map(|rest| rest.split('"').next().unwrap_or_default()).collect()
    }

    /// Waits until an action has come so many times; gives all that came until then.
    #[track_caller]
    pub(crate) fn come_to(&mut self, action: &str, times: usize) -> Vec<String> {
        while self.actions().iter().filter(|seen| **seen == action).count() < times {
            let mut block = [0; 4096];
            let count = self.stream.read(&mut block).unwrap_or_else(|error| {
                panic!("{error}: no {action:?} in {:?}", self.actions());
            });
            assert!(count > 0, "the events ended: {:?}", self.actions());
            self.seen.push_str(&String::from_utf8_lossy(&block[..count]));
        }
        self.actions().into_iter().map(str::to_owned).collect()
    }
}
