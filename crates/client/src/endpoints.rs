//! The calls of the API, one function each, with the types of `yare_api`.

use serde::de::DeserializeOwned;
use yare_api::{
    ContainerCreateRequest, ContainerCreateResponse, ContainerInspectResponse, ContainerPruneResponse,
    ContainerSummary, ContainerTopResponse, ContainerUpdateRequest, ContainerUpdateResponse,
    ContainerWaitResponse, EventMessage, ExecConfig, ExecInspectResponse, ExecStartConfig, FilesystemChange,
    HistoryResponseItem, IDResponse, ImageDeleteResponseItem, ImageInspect, ImagePruneResponse, ImageSummary,
    Network, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest,
    NetworkPruneResponse, SystemDataUsageResponse, SystemInfo, SystemVersion, Volume, VolumeCreateOptions,
    VolumeListResponse, VolumePruneResponse,
};

use crate::{Client, Hijacked, JsonLines, Request, Response, Result};

/// What an attach connects.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttachOptions<'a> {
    /// Send stdin.
    pub stdin: bool,
    /// Receive stdout.
    pub stdout: bool,
    /// Receive stderr.
    pub stderr: bool,
    /// The log so far, before what comes.
    pub logs: bool,
    /// Detach keys in Docker's notation; empty for the engine's own.
    pub detach_keys: &'a str,
}

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Go on until the container stops.
    pub follow: bool,
    /// Unix time with optional nanoseconds after a dot; empty for no bound.
    pub since: String,
    /// As `since`.
    pub until: String,
    /// Write the time before each line.
    pub timestamps: bool,
    /// Write the log's extra attributes before each line.
    pub details: bool,
    /// Number of lines from the end, or `all`.
    pub tail: String,
}

fn container(id: &str, tail: &str) -> String {
    format!("/containers/{}{tail}", Request::segment(id))
}

fn image(name: &str, tail: &str) -> String {
    format!("/images/{}{tail}", Request::segment(name))
}

fn filtered(request: Request, filters: &str) -> Request {
    if filters.is_empty() { request } else { request.query("filters", filters) }
}

/// Containers.
impl Client {
    /// `POST /containers/create`.
    ///
    /// # Errors
    /// As [`Client::send`], like all calls below.
    pub async fn container_create(
        &self,
        name: &str,
        platform: &str,
        body: &ContainerCreateRequest,
    ) -> Result<ContainerCreateResponse> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let request = Request::post("/containers/create")
            .query_opt("name", some(name))
            .query_opt("platform", some(platform));
        self.json(request.json(body)).await
    }

    /// `POST /containers/{id}/start`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_start(&self, id: &str, detach_keys: &str) -> Result<()> {
        let keys = (!detach_keys.is_empty()).then_some(detach_keys);
        self.call(Request::post(container(id, "/start")).query_opt("detachKeys", keys)).await?;
        Ok(())
    }

    /// `POST /containers/{id}/stop`; no timeout means the container's own.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_stop(&self, id: &str, signal: &str, timeout: Option<i64>) -> Result<()> {
        self.call(stopping(container(id, "/stop"), signal, timeout)).await?;
        Ok(())
    }

    /// `POST /containers/{id}/restart`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_restart(&self, id: &str, signal: &str, timeout: Option<i64>) -> Result<()> {
        self.call(stopping(container(id, "/restart"), signal, timeout)).await?;
        Ok(())
    }

    /// `POST /containers/{id}/kill`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_kill(&self, id: &str, signal: &str) -> Result<()> {
        let signal = (!signal.is_empty()).then_some(signal);
        self.call(Request::post(container(id, "/kill")).query_opt("signal", signal)).await?;
        Ok(())
    }

    /// `POST /containers/{id}/{verb}` for `pause` and `unpause`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_pause(&self, id: &str, pause: bool) -> Result<()> {
        self.call(Request::post(container(id, if pause { "/pause" } else { "/unpause" }))).await?;
        Ok(())
    }

    /// `POST /containers/{id}/rename`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_rename(&self, id: &str, name: &str) -> Result<()> {
        self.call(Request::post(container(id, "/rename")).query("name", name)).await?;
        Ok(())
    }

    /// `DELETE /containers/{id}`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_remove(&self, id: &str, force: bool, volumes: bool, link: bool) -> Result<()> {
        let request =
            Request::delete(container(id, "")).flag("force", force).flag("link", link).flag("v", volumes);
        self.call(request).await?;
        Ok(())
    }

    /// `POST /containers/{id}/wait`; returns once the engine watches, and the reply gives the exit.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_wait(&self, id: &str, condition: &str) -> Result<Response> {
        let condition = (!condition.is_empty()).then_some(condition);
        self.send(Request::post(container(id, "/wait")).query_opt("condition", condition)).await
    }

    /// `POST /containers/{id}/wait` with the default condition, until it is met.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_wait_exit(&self, id: &str) -> Result<ContainerWaitResponse> {
        self.json(Request::post(container(id, "/wait"))).await
    }

    /// `POST /containers/{id}/attach`, hijacked.
    ///
    /// # Errors
    /// As [`Client::hijack`].
    pub async fn container_attach(&self, id: &str, options: AttachOptions<'_>) -> Result<Hijacked> {
        let keys = (!options.detach_keys.is_empty()).then_some(options.detach_keys);
        let request = Request::post(container(id, "/attach"))
            .query_opt("detachKeys", keys)
            .flag("logs", options.logs)
            .flag("stderr", options.stderr)
            .flag("stdin", options.stdin)
            .flag("stdout", options.stdout)
            .flag("stream", true);
        self.hijack(request).await
    }

    /// `GET /containers/{id}/logs`; the reply is raw or multiplexed as the container has a terminal or not.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_logs(&self, id: &str, options: &LogsOptions) -> Result<Response> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let request = Request::get(container(id, "/logs"))
            .flag("details", options.details)
            .flag("follow", options.follow)
            .query_opt("since", some(&options.since))
            .flag("stderr", true)
            .flag("stdout", true)
            .query("tail", options.tail.clone())
            .flag("timestamps", options.timestamps)
            .query_opt("until", some(&options.until));
        self.send(request).await
    }

    /// `POST /containers/{id}/resize`, in characters.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let request = Request::post(container(id, "/resize"));
        self.call(request.query("h", rows.to_string()).query("w", columns.to_string())).await?;
        Ok(())
    }

    /// `GET /containers/json`; `filters` is the API's JSON or empty.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_list(
        &self,
        all: bool,
        limit: Option<i64>,
        size: bool,
        filters: &str,
    ) -> Result<Vec<ContainerSummary>> {
        let request = Request::get("/containers/json").flag("all", all).flag("size", size);
        self.json(filtered(request.query_opt("limit", limit.map(|limit| limit.to_string())), filters)).await
    }

    /// `GET /containers/{id}/json`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_inspect(&self, id: &str) -> Result<ContainerInspectResponse> {
        self.json(Request::get(container(id, "/json"))).await
    }

    /// `POST /containers/{id}/update`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_update(
        &self,
        id: &str,
        body: &ContainerUpdateRequest,
    ) -> Result<ContainerUpdateResponse> {
        self.json(Request::post(container(id, "/update")).json(body)).await
    }

    /// `GET /containers/{id}/top`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_top(&self, id: &str, ps_args: &[String]) -> Result<ContainerTopResponse> {
        let arguments = (!ps_args.is_empty()).then(|| ps_args.join(" "));
        self.json(Request::get(container(id, "/top")).query_opt("ps_args", arguments)).await
    }

    /// `GET /containers/{id}/changes`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_changes(&self, id: &str) -> Result<Option<Vec<FilesystemChange>>> {
        self.json(Request::get(container(id, "/changes"))).await
    }

    /// `GET /containers/{id}/stats`, one document or one a second.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_stats<T: DeserializeOwned>(&self, id: &str, stream: bool) -> Result<JsonLines<T>> {
        let request = Request::get(container(id, "/stats")).query("stream", if stream { "1" } else { "0" });
        self.stream(request).await
    }

    /// `POST /containers/prune`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn container_prune(&self, filters: &str) -> Result<ContainerPruneResponse> {
        self.json(filtered(Request::post("/containers/prune"), filters)).await
    }

    /// `POST /containers/{id}/exec`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn exec_create(&self, id: &str, body: &ExecConfig) -> Result<IDResponse> {
        self.json(Request::post(container(id, "/exec")).json(body)).await
    }

    /// `POST /exec/{id}/start`, detached.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn exec_start(&self, id: &str, body: &ExecStartConfig) -> Result<()> {
        self.call(Request::post(format!("/exec/{}/start", Request::segment(id))).json(body)).await?;
        Ok(())
    }

    /// `POST /exec/{id}/start`, hijacked.
    ///
    /// # Errors
    /// As [`Client::hijack`].
    pub async fn exec_attach(&self, id: &str, body: &ExecStartConfig) -> Result<Hijacked> {
        self.hijack(Request::post(format!("/exec/{}/start", Request::segment(id))).json(body)).await
    }

    /// `POST /exec/{id}/resize`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let request = Request::post(format!("/exec/{}/resize", Request::segment(id)));
        self.call(request.query("h", rows.to_string()).query("w", columns.to_string())).await?;
        Ok(())
    }

    /// `POST /yare/exec/{id}/kill`, which Docker does not have; an empty signal is SIGKILL.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn exec_kill(&self, id: &str, signal: &str) -> Result<()> {
        let signal = (!signal.is_empty()).then_some(signal);
        let path = format!("/yare/exec/{}/kill", Request::segment(id));
        self.call(Request::post(path).query_opt("signal", signal)).await?;
        Ok(())
    }

    /// `GET /exec/{id}/json`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInspectResponse> {
        self.json(Request::get(format!("/exec/{}/json", Request::segment(id)))).await
    }
}

fn stopping(path: String, signal: &str, timeout: Option<i64>) -> Request {
    let signal = (!signal.is_empty()).then_some(signal);
    Request::post(path).query_opt("signal", signal).query_opt("t", timeout.map(|seconds| seconds.to_string()))
}

/// Images.
impl Client {
    /// `GET /images/json`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn image_list(&self, all: bool, filters: &str) -> Result<Vec<ImageSummary>> {
        self.json(filtered(Request::get("/images/json").flag("all", all), filters)).await
    }

    /// `GET /images/{name}/json`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn image_inspect(&self, name: &str) -> Result<ImageInspect> {
        self.json(Request::get(image(name, "/json"))).await
    }

    /// `GET /images/{name}/history`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn image_history(
        &self,
        name: &str,
        platform: Option<String>,
    ) -> Result<Vec<HistoryResponseItem>> {
        self.json(Request::get(image(name, "/history")).query_opt("platform", platform)).await
    }

    /// `POST /images/{name}/tag`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn image_tag(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        self.call(Request::post(image(name, "/tag")).query("repo", repository).query("tag", tag)).await?;
        Ok(())
    }

    /// `DELETE /images/{name}`; `platforms` are the API's JSON platforms.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn image_remove(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
        platforms: &[String],
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        let mut request = Request::delete(image(name, "")).flag("force", force).flag("noprune", no_prune);
        for platform in platforms {
            request = request.query("platforms", platform);
        }
        self.json(request).await
    }

    /// `POST /images/prune`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn image_prune(&self, filters: &str) -> Result<ImagePruneResponse> {
        self.json(filtered(Request::post("/images/prune"), filters)).await
    }
}

/// Volumes and networks.
impl Client {
    /// `GET /volumes`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn volume_list(&self, filters: &str) -> Result<VolumeListResponse> {
        self.json(filtered(Request::get("/volumes"), filters)).await
    }

    /// `POST /volumes/create`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn volume_create(&self, body: &VolumeCreateOptions) -> Result<Volume> {
        self.json(Request::post("/volumes/create").json(body)).await
    }

    /// `DELETE /volumes/{name}`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        self.call(Request::delete(format!("/volumes/{}", Request::segment(name))).flag("force", force))
            .await?;
        Ok(())
    }

    /// `POST /volumes/prune`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn volume_prune(&self, filters: &str) -> Result<VolumePruneResponse> {
        self.json(filtered(Request::post("/volumes/prune"), filters)).await
    }

    /// `GET /networks`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn network_list(&self, filters: &str) -> Result<Vec<Network>> {
        self.json(filtered(Request::get("/networks"), filters)).await
    }

    /// `GET /networks/{id}`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn network_inspect(&self, id: &str) -> Result<Network> {
        self.json(Request::get(format!("/networks/{}", Request::segment(id)))).await
    }

    /// `POST /networks/create`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn network_create(&self, body: &NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        self.json(Request::post("/networks/create").json(body)).await
    }

    /// `DELETE /networks/{id}`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn network_remove(&self, id: &str) -> Result<()> {
        self.call(Request::delete(format!("/networks/{}", Request::segment(id)))).await?;
        Ok(())
    }

    /// `POST /networks/{id}/connect`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn network_connect(&self, id: &str, body: &NetworkConnectRequest) -> Result<()> {
        self.call(Request::post(format!("/networks/{}/connect", Request::segment(id))).json(body)).await?;
        Ok(())
    }

    /// `POST /networks/{id}/disconnect`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn network_disconnect(&self, id: &str, body: &NetworkDisconnectRequest) -> Result<()> {
        self.call(Request::post(format!("/networks/{}/disconnect", Request::segment(id))).json(body)).await?;
        Ok(())
    }

    /// `POST /networks/prune`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn network_prune(&self, filters: &str) -> Result<NetworkPruneResponse> {
        self.json(filtered(Request::post("/networks/prune"), filters)).await
    }
}

/// The engine as a whole.
impl Client {
    /// `GET /version`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn system_version(&self) -> Result<SystemVersion> {
        self.json(Request::get("/version")).await
    }

    /// `GET /info`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn system_info(&self) -> Result<SystemInfo> {
        self.json(Request::get("/info")).await
    }

    /// `GET /system/df`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn system_df(&self) -> Result<SystemDataUsageResponse> {
        self.json(Request::get("/system/df")).await
    }

    /// `GET /events`; `since` and `until` as the API takes them, or empty.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn events(&self, since: &str, until: &str, filters: &str) -> Result<JsonLines<EventMessage>> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let request = Request::get("/events").query_opt("since", some(since)).query_opt("until", some(until));
        self.stream(filtered(request, filters)).await
    }
}
