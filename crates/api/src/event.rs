//! Events.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::null::{empty, wire};
use std::collections::BTreeMap;

wire! {
    "PascalCase";

    /// One object of `GET /events`. `status`, `id` and `from` repeat what containers and images have,
    /// for clients older than 1.22.
    EventMessage {
        #[serde(rename = "status", skip_serializing_if = "empty")]
        status: String,
        #[serde(rename = "id", skip_serializing_if = "empty")]
        id: String,
        #[serde(rename = "from", skip_serializing_if = "empty")]
        from: String,
        r#type: String,
        action: String,
        actor: EventActor,
        #[serde(rename = "scope", skip_serializing_if = "empty")]
        scope: String,
        #[serde(rename = "time", skip_serializing_if = "empty")]
        time: i64,
        #[serde(rename = "timeNano", skip_serializing_if = "empty")]
        time_nano: i64,
    }

    EventActor {
        #[serde(rename = "ID")]
        id: String,
        attributes: BTreeMap<String, String>,
    }
}
