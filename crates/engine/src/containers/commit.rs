//! An image from a container: its image's layers, and one of what it changed.

use crate::Engine;
use crate::container::{Container, Record};
use crate::images::{self, blocking};
use crate::lifecycle::State;
use crate::task;
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::{ContainerConfig, IDResponse};
use yare_errdefs::{Error, Result};
use yare_image::{Capture, ImageId};
use yare_oci::Reference;

/// What to commit, and as what.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Name or id of the container.
    pub container: String,
    /// Repository, or `repository:tag`; empty leaves the image untagged.
    pub repository: String,
    /// Tag, where the repository has none.
    pub tag: String,
    /// Remark in the history.
    pub comment: String,
    /// Who made it.
    pub author: String,
    /// Freeze the container while it is read.
    pub pause: bool,
    /// Dockerfile lines that change the config.
    pub changes: Vec<String>,
    /// A config that counts before the container's own.
    pub config: Option<ContainerConfig>,
}

/// Makes an image of a container, which may run. Goes on when the caller leaves, so that what was frozen is
/// thawed.
pub async fn commit(engine: &Arc<Engine>, request: CommitRequest) -> Result<IDResponse> {
    if request.container.is_empty() {
        return Err(Error::invalid("invalid name or ID supplied: \"\""));
    }
    let container = engine.containers.find(&request.container)?;
    let reference = reference(&request.repository, &request.tag)?;
    let config = config(&request, &container.record())?;
    let engine = Arc::clone(engine);
    let commit = async move { commit_found(&engine, &container, request, config, reference).await };
    tokio::spawn(commit)
        .await
        .unwrap_or_else(|error| Err(Error::internal("the commit broke off").caused_by(error)))
}

fn reference(repository: &str, tag: &str) -> Result<Option<Reference>> {
    Ok(match (repository, tag) {
        ("", _) => None,
        (repository, "") => Some(images::parse(repository)?.or_latest()),
        (repository, tag) => {
            let named = images::parse(repository)?.with_tag(tag);
            Some(named.map_err(|error| Error::invalid(error.to_string()))?)
        }
    })
}

async fn commit_found(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    request: CommitRequest,
    config: yare_oci::ContainerConfig,
    reference: Option<Reference>,
) -> Result<IDResponse> {
    match container.state() {
        State::Dead => {
            return Err(Error::conflict(format!(
                "You cannot commit container {} which is Dead",
                container.id
            )));
        }
        State::Removing => {
            let why = format!("You cannot commit container {} which is being removed", container.id);
            return Err(Error::conflict(why));
        }
        _ => {}
    }
    // Without control groups nobody can be stopped in the middle; as with Docker, it is done beside a running one then.
    let frozen = request.pause && container.state() == State::Running && engine.cgroups.has_groups();
    if frozen {
        freeze(engine, container).await?;
    }
    let record = container.record();
    let capture = Capture {
        snapshot: record.id.clone(),
        layers: record.layers.clone(),
        parent: ImageId(record.image),
        config,
        author: request.author,
        comment: request.comment.clone(),
        created: engine.clock.now(),
        created_by: record.config.cmd.clone().unwrap_or_default().join(" "),
        reference: reference.clone(),
    };
    let image = blocking({
        let engine = Arc::clone(engine);
        move || engine.images.capture(capture)
    })
    .await;
    if frozen {
        thaw(engine, container).await?;
    }
    let id =
        image.map_err(|error| Error::wrap(format!("cannot commit container {}", container.id), error))?;
    let name = reference.as_ref().map(Reference::familiar).unwrap_or_default();
    if reference.is_some() {
        images::publish(engine, "tag", &id, &name);
    }
    let attributes = [("comment", request.comment), ("imageID", id.to_string()), ("imageRef", name)];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value));
    engine.publish_container(container, "commit", BTreeMap::from(attributes));
    Ok(IDResponse { id: id.to_string() })
}

/// In a run directory: the container is frozen for a commit. An engine that finds it lets the container go on.
pub(crate) const FROZEN: &str = "frozen";

async fn freeze(engine: &Arc<Engine>, container: &Container) -> Result<()> {
    let note = task::run_dir(engine, &container.id).join(FROZEN);
    std::fs::write(&note, "")
        .map_err(|error| Error::internal(format!("cannot write {}", note.display())).caused_by(error))?;
    super::stop::pause(engine, &container.id).await.inspect_err(|_| forget(engine, container))
}

async fn thaw(engine: &Arc<Engine>, container: &Container) -> Result<()> {
    // A user may have been faster, or it has ended.
    let thawed = match container.state() {
        State::Paused => super::stop::unpause(engine, &container.id).await,
        _ => Ok(()),
    };
    forget(engine, container);
    thawed
}

fn forget(engine: &Engine, container: &Container) {
    // With the run directory it may be gone already.
    let _ = std::fs::remove_file(task::run_dir(engine, &container.id).join(FROZEN));
}

/// The new image's config: the one that was sent, else the container's; changed by the instructions; then
/// completed with what the container has.
fn config(request: &CommitRequest, record: &Record) -> Result<yare_oci::ContainerConfig> {
    let own = of_container(&record.config);
    let mut config = request.config.as_ref().map_or_else(|| own.clone(), of_container);
    yare_image::changes::apply(&mut config, &request.changes)?;
    complete(&mut config, own);
    Ok(config)
}

/// The part of a container's config that an image has.
fn of_container(config: &ContainerConfig) -> yare_oci::ContainerConfig {
    yare_oci::ContainerConfig {
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.clone().unwrap_or_default(),
        env: config.env.clone().unwrap_or_default(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: config.volumes.clone().unwrap_or_default(),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone().unwrap_or_default(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        healthcheck: config.healthcheck.clone(),
        on_build: config.on_build.clone().unwrap_or_default(),
        shell: config.shell.clone().unwrap_or_default(),
        args_escaped: config.args_escaped,
        ..yare_oci::ContainerConfig::default()
    }
}

/// Fills in what a config lacks, as dockerd merges an image's into a container's.
fn complete(config: &mut yare_oci::ContainerConfig, own: yare_oci::ContainerConfig) {
    fn or<T: Default + PartialEq>(value: &mut T, other: T) {
        if *value == T::default() {
            *value = other;
        }
    }
    or(&mut config.user, own.user);
    for (port, empty) in own.exposed_ports {
        config.exposed_ports.entry(port).or_insert(empty);
    }
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let known: Vec<String> = config.env.iter().map(|entry| name(entry)).collect();
    config.env.extend(own.env.into_iter().filter(|entry| !known.contains(&name(entry))));
    for (label, value) in own.labels {
        config.labels.entry(label).or_insert(value);
    }
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd = own.cmd;
        }
        if config.entrypoint.is_none() {
            config.entrypoint = own.entrypoint;
        }
    }
    or(&mut config.healthcheck, own.healthcheck);
    or(&mut config.working_dir, own.working_dir);
    config.volumes.extend(own.volumes);
    or(&mut config.stop_signal, own.stop_signal);
    or(&mut config.stop_timeout, own.stop_timeout);
    or(&mut config.shell, own.shell);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_sent_counts_before_what_the_container_has() {
        let own = yare_oci::ContainerConfig {
            user: "bob".into(),
            env: strings(&["A=1", "B=2"]),
            cmd: Some(strings(&["sleep"])),
            entrypoint: Some(strings(&["init"])),
            working_dir: "/srv".into(),
            ..Default::default()
        };
        let mut sent = yare_oci::ContainerConfig {
            env: strings(&["B=3"]),
            cmd: Some(strings(&["x"])),
            ..Default::default()
        };
        complete(&mut sent, own.clone());
        assert_eq!((sent.user.as_str(), sent.working_dir.as_str()), ("bob", "/srv"));
        assert_eq!(sent.env, ["B=3", "A=1"]);
        assert_eq!((sent.cmd, sent.entrypoint), (Some(strings(&["x"])), own.entrypoint.clone()));
        let mut other =
            yare_oci::ContainerConfig { entrypoint: Some(strings(&["mine"])), ..Default::default() };
        complete(&mut other, own);
        assert_eq!(
            (other.cmd, other.entrypoint),
            (None, Some(strings(&["mine"]))),
            "the command belonged to another"
        );
    }
}
