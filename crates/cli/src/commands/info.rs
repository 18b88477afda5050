//! `info`.

use std::fmt::Write as _;

use yare_api::SystemInfo;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, compile};
use crate::opts::quote;
use crate::plugins::{self, Metadata, Plugin};
use crate::session::Input;
use crate::table::Outcome;

/// `info`.
pub(crate) async fn info(cx: &Context, given: &Given) -> Outcome {
    let info = cx.client().system_info().await;
    match given.text("format") {
        "" => {}
        format => return formatted(cx, format, &info?),
    }
    let plugins = plugins::list(cx);
    cx.write(client_text(cx, &plugins))?;
    for plugin in &plugins {
        if let Err(why) = &plugin.metadata {
            let path = quote(&plugin.path.display().to_string());
            cx.warn(format_args!("WARNING: Plugin {path} is not valid: {why}"));
        }
    }
    cx.write("\n")?;
    match info {
        Ok(info) => {
            cx.write(format!("Server:\n{}", server_text(&info)?))?;
            for warning in info.warnings.unwrap_or_default() {
                cx.warn(warning);
            }
            Ok(0)
        }
        Err(error) => {
            cx.write("Server:\n")?;
            let mut failure = Failure::from(error);
            failure.text = format!("{}\nerrors pretty printing info", failure.text);
            Err(failure)
        }
    }
}

/// Our own half of the text for people.
fn client_text(cx: &Context, plugins: &[Plugin]) -> String {
    let (version, context) = (&cx.version, &cx.chosen.context);
    let mut text = format!("Client:\n Version:    {version}\n Context:    {context}\n Debug Mode: false\n");
    if !plugins.is_empty() {
        text.push_str(" Plugins:\n");
    }
    for plugin in plugins {
        let Ok(metadata) = &plugin.metadata else { continue };
        let Metadata { short_description, vendor, version, .. } = metadata;
        let _ = writeln!(text, "  {}: {short_description} ({vendor})", plugin.name);
        if !version.is_empty() {
            let _ = writeln!(text, "    Version:  {version}");
        }
        let _ = writeln!(text, "    Path:     {}", plugin.path.display());
    }
    text
}

/// Plugins as Docker's client lists them in JSON.
fn plugin_documents(cx: &Context, format: &str) -> Vec<serde_json::Value> {
    // Each of them is asked, which takes its time.
    if !["ClientInfo", "json"].iter().any(|word| format.contains(word)) {
        return Vec::new();
    }
    let document = |plugin: Plugin| {
        let about = plugin.metadata.as_ref().ok();
        let mut document = about.map_or_else(|| serde_json::json!({}), |about| serde_json::json!(about));
        document["Name"] = plugin.name.into();
        document["Path"] = plugin.path.display().to_string().into();
        if let Err(why) = plugin.metadata {
            document["Err"] = why.into();
        }
        document
    };
    plugins::list(cx).into_iter().map(document).collect()
}

fn formatted(cx: &Context, format: &str, info: &SystemInfo) -> Outcome {
    let mut document = Json::of(info);
    if let Json::Object(members) = &mut document {
        let client = serde_json::json!({"Debug": false, "Version": cx.version, "Context": cx.chosen.context, "Plugins": plugin_documents(cx, format), "Warnings": null});
        members.push(("ClientInfo".to_owned(), client.into()));
    }
    if format == "json" {
        cx.line(document.compact())?;
        return Ok(0);
    }
    let template = compile(format, false)
        .map_err(|why| Failure::new(format!("template parsing error: {why}")).with_code(64))?;
    cx.line(template.render(&document).map_err(|why| format!("template parsing error: {why}"))?)?;
    Ok(0)
}

fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, " {name}: {value}");
}

fn line_if(text: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        line(text, name, value);
    }
}

fn list(text: &mut String, title: &str, items: impl IntoIterator<Item = impl std::fmt::Display>) {
    let mut items = items.into_iter().peekable();
    if items.peek().is_some() {
        let _ = writeln!(text, " {title}:");
        for item in items {
            let _ = writeln!(text, "  {item}");
        }
    }
}

/// The engine's half of the text for people.
pub(crate) fn server_text(info: &SystemInfo) -> Result<String, Failure> {
    let mut text = String::new();
    counts(&mut text, info);
    plugins(&mut text, info);
    runtimes(&mut text, info);
    security(&mut text, info)?;
    machine(&mut text, info);
    registries(&mut text, info);
    text.push('\n');
    Ok(text)
}

fn counts(text: &mut String, info: &SystemInfo) {
    line(text, "Containers", info.containers);
    line(text, " Running", info.containers_running);
    line(text, " Paused", info.containers_paused);
    line(text, " Stopped", info.containers_stopped);
    line(text, "Images", info.images);
    line_if(text, "Server Version", &info.server_version);
    line_if(text, "Storage Driver", &info.driver);
    for [name, value] in info.driver_status.iter().flatten() {
        let _ = writeln!(text, "  {name}: {value}");
    }
    line_if(text, "Logging Driver", &info.logging_driver);
    line_if(text, "Cgroup Driver", &info.cgroup_driver);
    line_if(text, "Cgroup Version", &info.cgroup_version);
}

fn plugins(text: &mut String, info: &SystemInfo) {
    let _ = writeln!(text, " Plugins:");
    let join = |names: &Option<Vec<String>>| names.clone().unwrap_or_default().join(" ");
    let _ = writeln!(text, "  Volume: {}", join(&info.plugins.volume));
    let _ = writeln!(text, "  Network: {}", join(&info.plugins.network));
    if info.plugins.authorization.as_ref().is_some_and(|names| !names.is_empty()) {
        let _ = writeln!(text, "  Authorization: {}", join(&info.plugins.authorization));
    }
    let _ = writeln!(text, "  Log: {}", join(&info.plugins.log));
    list(text, "CDI spec directories", &info.cdi_spec_dirs);
    let devices = info.discovered_devices.iter().flatten();
    let devices: Vec<String> = devices.map(|device| format!("{}: {}", device.source, device.id)).collect();
    list(text, "Discovered Devices", &devices);
}

fn runtimes(text: &mut String, info: &SystemInfo) {
    let swarm = &info.swarm.local_node_state;
    line(text, "Swarm", if swarm.is_empty() { "inactive" } else { swarm });
    if !info.runtimes.is_empty() {
        let names: Vec<&str> = info.runtimes.keys().map(String::as_str).collect();
        line(text, "Runtimes", names.join(" "));
        line(text, "Default Runtime", &info.default_runtime);
    }
    line_if(text, "Init Binary", &info.init_binary);
    line_if(text, "Isolation", &info.isolation);
    if info.os_type == "linux" {
        line(text, "containerd version", &info.containerd_commit.id);
        line(text, "runc version", &info.runc_commit.id);
        line(text, "init version", &info.init_commit.id);
    }
}

/// `name=seccomp,profile=default` and the like.
fn security(text: &mut String, info: &SystemInfo) -> Result<(), Failure> {
    if info.security_options.is_empty() {
        return Ok(());
    }
    let mut lines = Vec::new();
    for option in &info.security_options {
        if option.is_empty() {
            return Err("invalid empty security option".into());
        }
        // Engines before 1.13 send bare names.
        if !option.contains('=') {
            lines.push(option.clone());
            continue;
        }
        let mut extras = Vec::new();
        for pair in option.split(',') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name.is_empty() || value.is_empty() {
                return Err("invalid empty security option".into());
            }
            match name {
                "name" => lines.push(value.to_owned()),
                "profile" => extras.push(format!(" Profile: {value}")),
                _ => extras.push(format!(" {name}: {value}")),
            }
        }
        lines.extend(extras);
    }
    list(text, "Security Options", lines);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
fn machine(text: &mut String, info: &SystemInfo) {
    line_if(text, "Kernel Version", &info.kernel_version);
    line_if(text, "Operating System", &info.operating_system);
    line_if(text, "OSType", &info.os_type);
    line_if(text, "Architecture", &info.architecture);
    line(text, "CPUs", info.n_cpu);
    line(text, "Total Memory", yare_api::units::bytes_size(info.mem_total as f64));
    line_if(text, "Name", &info.name);
    line_if(text, "ID", &info.id);
    line(text, "Docker Root Dir", &info.docker_root_dir);
    line(text, "Debug Mode", info.debug);
    if info.debug {
        line(text, " File Descriptors", info.n_fd);
        line(text, " Goroutines", info.n_goroutines);
        line(text, " System Time", &info.system_time);
        line(text, " EventsListeners", info.n_events_listener);
    }
    line_if(text, "HTTP Proxy", &info.http_proxy);
    line_if(text, "HTTPS Proxy", &info.https_proxy);
    line_if(text, "No Proxy", &info.no_proxy);
    list(text, "Labels", &info.labels);
    line(text, "Experimental", info.experimental_build);
}

fn registries(text: &mut String, info: &SystemInfo) {
    if let Some(config) = &info.registry_config {
        let insecure = config.index_configs.iter().filter(|(_, index)| !index.secure).map(|(name, _)| name);
        list(text, "Insecure Registries", insecure.chain(&config.insecure_registry_cidrs));
        list(text, "Registry Mirrors", config.mirrors.iter().flatten());
    }
    line(text, "Live Restore Enabled", info.live_restore_enabled);
    line_if(text, "Product License", &info.product_license);
    if let Some(pools) = info.default_address_pools.as_ref().filter(|pools| !pools.is_empty()) {
        let _ = writeln!(text, " Default Address Pools:");
        for pool in pools {
            let _ = writeln!(text, "   Base: {}, Size: {}", pool.base, pool.size);
        }
    }
    if let Some(firewall) = &info.firewall_backend {
        line(text, "Firewall Backend", &firewall.driver);
        for [name, value] in firewall.info.iter().flatten() {
            let _ = writeln!(text, "  {name}: {value}");
        }
    }
}

/// `system dial-stdio`: our streams are a connection to the engine.
pub(crate) async fn dial_stdio(cx: &Context, _given: &Given) -> Outcome {
    use tokio::io::AsyncReadExt as _;
    let yare_client::Hijacked { mut reader, mut writer, .. } = cx.client().dial().await?;
    let send = async {
        let mut input = Input::new(cx.stdio.input);
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let count = input.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                drop(writer.close().await);
                return std::future::pending::<Outcome>().await;
            }
            if writer.send(&buffer[..count]).await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    let receive = async {
        let mut output = crate::session::Output::new(cx.stdio.output);
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let count = reader.read(&mut buffer).await?;
            if count == 0 {
                return Ok(0);
            }
            output.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        ended = send => ended,
        ended = receive => ended,
    }
}
