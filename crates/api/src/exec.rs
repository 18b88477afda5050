//! Programs run in a running container.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::null::{empty, wire};

wire! {
    "PascalCase";

    /// What `POST /containers/{id}/exec` takes.
    ExecConfig {
        user: String,
        privileged: bool,
        tty: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        console_size: Option<[u32; 2]>,
        attach_stdin: bool,
        attach_stderr: bool,
        attach_stdout: bool,
        #[serde(skip_serializing_if = "empty")]
        detach_keys: String,
        env: Option<Vec<String>>,
        working_dir: String,
        @() cmd: Option<Vec<String>>,
    }

    /// What `POST /exec/{id}/start` takes.
    ExecStartConfig {
        detach: bool,
        tty: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        console_size: Option<[u32; 2]>,
    }

    /// What `GET /exec/{id}/json` replies.
    ExecInspectResponse {
        #[serde(rename = "ID")]
        id: String,
        running: bool,
        exit_code: Option<i64>,
        process_config: ProcessConfig,
        open_stdin: bool,
        open_stderr: bool,
        open_stdout: bool,
        can_remove: bool,
        #[serde(rename = "ContainerID")]
        container_id: String,
        detach_keys: String,
        pid: i64,
    }
}

wire! {
    "lowercase";

    ProcessConfig {
        tty: bool,
        entrypoint: String,
        arguments: Vec<String>,
        privileged: bool,
        #[serde(skip_serializing_if = "empty")]
        user: String,
    }
}
