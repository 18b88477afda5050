//! One container: what is recorded of it, and what of it is alive.

use crate::lifecycle::{RestartPolicy, State};
use crate::session::Session;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use yare_api::container::{
    ContainerConfig, ContainerWaitExitError, ContainerWaitResponse, HostConfig, MountPoint,
};
use yare_api::network::EndpointSettings;
use yare_errdefs::{Error, Result};
use yare_oci::runtime::IdMap;
use yare_oci::{DiffId, Digest};
use yare_shim::AttachSpec;
use yare_specgen::Plan;

/// What is recorded of a container, as JSON.
///
/// Records outlive the program that wrote them: a member that is added has a default, so that it never refuses
/// the record of a container that is older than it (a test reads one).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    /// Without a slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The image's id.
    pub image: Digest,
    /// The image as the user named it.
    pub image_name: String,
    /// The image's layers, bottom first: what keeps them even when the image has lost its name.
    pub layers: Vec<DiffId>,
    /// The merged config, as inspect shows it.
    #[serde(default)]
    pub config: ContainerConfig,
    /// The host config, as inspect shows it.
    #[serde(default)]
    pub host_config: HostConfig,
    /// Wanted endpoints by network.
    #[serde(default)]
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Other containers that it has names for on the default bridge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<crate::links::Link>,
    /// The settled plan that a start renders.
    #[serde(default)]
    pub plan: Plan,
    /// Its mounts as inspect shows them, volumes resolved to their folders.
    #[serde(default)]
    pub mounts: Vec<MountPoint>,
    /// Where mounts come from when their source does not say it all, by destination.
    #[serde(default)]
    pub origins: BTreeMap<String, Origin>,
    /// Names of the volumes that were made for it and go with it.
    #[serde(default)]
    pub anonymous: Vec<String>,
    /// What it does now.
    #[serde(default)]
    pub state: StateRecord,
    /// Its places in networks while it runs; the first has the way out. Older records have one at the most.
    #[serde(default, alias = "endpoint", deserialize_with = "one_or_many")]
    pub endpoints: Vec<yare_net::EndpointRecord>,
}

pub(crate) fn one_or_many<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<yare_net::EndpointRecord>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Endpoints {
        Many(Vec<yare_net::EndpointRecord>),
        One(Option<Box<yare_net::EndpointRecord>>),
    }
    Ok(match Endpoints::deserialize(deserializer)? {
        Endpoints::Many(many) => many,
        Endpoints::One(one) => one.into_iter().map(|one| *one).collect(),
    })
}

impl Record {
    /// Whether it removes itself at its end.
    pub fn auto_remove(&self) -> bool {
        self.host_config.auto_remove
    }

    /// Whether the image is its own or mounted in it.
    pub fn uses_image(&self, id: &Digest) -> bool {
        let mut mounted = self.origins.values().filter_map(|origin| origin.image.as_ref());
        self.image == *id || mounted.any(|image| image.id == *id)
    }

    /// Since when a stopped container is of no use: its last end, or its making where it never ran.
    pub fn unused_since(&self) -> Timestamp {
        self.state.finished_at.unwrap_or(self.created)
    }

    /// When it comes back by itself.
    pub fn restart_policy(&self) -> RestartPolicy {
        let policy = &self.host_config.restart_policy;
        RestartPolicy::parse(&policy.name, policy.maximum_retry_count).unwrap_or_default()
    }

    /// The attributes of its events: labels, image and name.
    pub fn event_attributes(&self) -> BTreeMap<String, String> {
        let mut attributes: BTreeMap<String, String> = self.config.labels.clone().unwrap_or_default();
        attributes.insert("image".to_owned(), self.image_name.clone());
        attributes.insert("name".to_owned(), self.name.clone());
        attributes
    }
}

/// What of a volume, or which image, is mounted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// A path within it, relative; empty for all of it.
    pub subpath: String,
    /// The image, as long as it is one.
    pub image: Option<MountedImage>,
    /// How owners appear.
    pub id_map: Option<IdMap>,
}

/// An image that is mounted: the container holds it as it holds its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedImage {
    /// Its id.
    pub id: Digest,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
}

/// What a container does now, and what it did last.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct StateRecord {
    /// One of the seven words.
    pub status: State,
    /// Process id of its pid 1 on the host, 0 without one.
    pub pid: i32,
    /// Last exit code.
    pub exit_code: i32,
    /// Why the last start failed.
    pub error: String,
    /// Whether the kernel killed something in it for memory.
    pub oom_killed: bool,
    /// Last start.
    pub started_at: Option<Timestamp>,
    /// Last end.
    pub finished_at: Option<Timestamp>,
    /// Restarts by the policy since a user last started it.
    pub restarts: u32,
    /// Pause before the last of them.
    pub restart_delay: Duration,
    /// Whether a user asked for its end.
    pub stopped_by_user: bool,
    /// How it is, if it has a health check and has run.
    pub health: Option<crate::health::Health>,
}

impl Default for StateRecord {
    fn default() -> Self {
        Self {
            status: State::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: None,
            finished_at: None,
            restarts: 0,
            restart_delay: Duration::ZERO,
            stopped_by_user: false,
            health: None,
        }
    }
}

/// What waiters watch.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Whether there is a process, or will be again without a user's doing.
    pub running: bool,
    /// How many runs have ended.
    pub exits: u64,
    /// Whether the container is gone.
    pub removed: bool,
    /// Exit code of the last run.
    pub code: i32,
    /// Why the last run cannot be vouched for: its shim died before it ended, and output may be lost.
    pub error: Option<String>,
    /// Why its removal has failed.
    pub stuck: Option<String>,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    record: RwLock<Arc<Record>>,
    /// Held by the one life-cycle operation that is under way.
    pub operation: Arc<tokio::sync::Mutex<()>>,
    /// Held from the end of a run until that end is on record: so long the run directory keeps what the
    /// shim said, and no new run may take its place.
    pub settling: Arc<tokio::sync::Mutex<()>>,
    /// Whether its record was deleted. Held from reading the record to handing it to the writer, so that
    /// states reach the disk in their order, and none after the deletion.
    pub deleted: Mutex<bool>,
    /// What is alive of it. Held only for moments, never across I/O.
    pub live: Mutex<Live>,
    /// Tells waiters.
    pub progress: watch::Sender<Progress>,
}

/// The living part.
#[derive(Debug, Default)]
pub struct Live {
    /// A handle on pid 1 while there is one.
    pub pidfd: Option<Arc<OwnedFd>>,
    /// Attachments made before the start; the start hands them to the shim. Each with the number of its
    /// [`Place`].
    pub pending: Vec<(u64, AttachSpec, OwnedFd)>,
    /// The number of the last one.
    pub places: u64,
    /// Whether this run has lost its shim.
    pub orphaned: bool,
    /// Whether it stays at its end although it removes itself: it is being restarted.
    pub stays: bool,
    /// Ends the pause before a restart.
    pub restart: Option<tokio::task::AbortHandle>,
}

/// A client's place among those who wait for a start. It is given up with the client.
#[derive(Debug)]
pub struct Place {
    container: Arc<Container>,
    number: u64,
}

impl Place {
    /// Keeps a stream for the start that comes; gives it back when the container runs. Both are
    /// decided under the lock under which a start takes the streams.
    pub fn take(
        container: &Arc<Container>,
        spec: AttachSpec,
        stream: OwnedFd,
    ) -> std::result::Result<Self, OwnedFd> {
        let mut live = container.live.lock();
        if live.pidfd.is_some() {
            return Err(stream);
        }
        live.places += 1;
        let number = live.places;
        live.pending.push((number, spec, stream));
        Ok(Self { container: Arc::clone(container), number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.container.live.lock().pending.retain(|(number, ..)| *number != self.number);
    }
}

/// When a waiter is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// As soon as it does not run, or at its next end, even if its restart policy brings it back.
    NotRunning,
    /// At the end of the run that is or the one that comes.
    NextExit,
    /// When it is gone, or its removal has failed.
    Removed,
}

impl Condition {
    /// Reads the API's word; empty is `not-running`.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            other => Err(Error::invalid(format!("invalid condition: {other:?}"))),
        }
    }

    /// Whether it is met, for one who has waited since `seen` runs had ended.
    fn is_met(self, progress: &Progress, seen: u64) -> bool {
        let ended = progress.exits > seen;
        progress.removed
            || match self {
                Self::NotRunning => !progress.running || ended,
                Self::NextExit => ended,
                Self::Removed => progress.stuck.is_some(),
            }
    }
}

impl Container {
    /// A container from its record.
    pub fn new(record: Record) -> Self {
        let progress = Progress {
            running: record.state.status.counts_as_running(),
            code: record.state.exit_code,
            ..Progress::default()
        };
        Self {
            id: record.id.clone(),
            record: RwLock::new(Arc::new(record)),
            operation: Arc::default(),
            settling: Arc::default(),
            deleted: Mutex::default(),
            live: Mutex::default(),
            progress: watch::Sender::new(progress),
        }
    }

    /// The record as it is now.
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.read())
    }

    /// Changes the record in memory and gives the new one; the caller decides whether it is written.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Arc<Record> {
        let mut record = self.record.write();
        let changed = Arc::make_mut(&mut record);
        change(changed);
        Arc::clone(&record)
    }

    /// The record after a life-cycle operation that is under way: a client may see a program's output, and
    /// ask for more, before the start that it waits for is on record.
    pub async fn settled(&self) -> Arc<Record> {
        drop(self.operation.lock().await);
        self.record()
    }

    /// The first twelve digits.
    pub fn short_id(&self) -> &str {
        &self.id[..12]
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.record.read().state.status
    }

    /// Tells waiters how far it is. Whether it runs is read at this moment, so that of two who tell, the last
    /// one is right.
    pub fn note_progress(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(|progress| {
            progress.running = self.state().counts_as_running();
            change(progress);
        });
    }

    /// Waits for a condition. What counts as the next exit is fixed when this is called, not when the
    /// result is awaited.
    pub fn wait(
        self: &Arc<Self>,
        condition: Condition,
    ) -> impl Future<Output = ContainerWaitResponse> + Send + 'static + use<> {
        let mut watching = self.progress.subscribe();
        let seen = watching.borrow().exits;
        async move {
            let end = match watching.wait_for(|progress| condition.is_met(progress, seen)).await {
                Ok(progress) => progress.clone(),
                Err(_) => Progress::default(),
            };
            let stuck = end.stuck.filter(|_| condition == Condition::Removed);
            let error = stuck.or(end.error).map(|message| ContainerWaitExitError { message });
            ContainerWaitResponse { status_code: i64::from(end.code), error }
        }
    }
}

/// A client attached to a container.
#[derive(Debug)]
pub struct Attached {
    /// Whether the stream is raw (a terminal) rather than multiplexed.
    pub tty: bool,
    /// The streams.
    pub session: Session,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version that kept records wrote it.
    const OLD: &str = include_str!("../fixtures/record-1.json");

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let record: Record = serde_json::from_str(OLD).unwrap();
        assert_eq!((record.name.as_str(), record.state.status), ("web", State::Running));
        assert_eq!(record.plan.argv, ["sleep", "1000"]);
        assert_eq!((record.mounts.len(), record.plan.devices.len(), record.plan.ports.len()), (2, 1, 1));
        assert_eq!((record.endpoints.len(), record.endpoints[0].ports.len()), (1, 1));
        assert_eq!(record.host_config.memory, 64 << 20);
    }

    #[test]
    fn what_a_record_lacks_has_a_default() {
        let mut record: serde_json::Value = serde_json::from_str(OLD).unwrap();
        for part in ["config", "host_config", "networks", "plan", "mounts", "anonymous", "state", "endpoint"]
        {
            record.as_object_mut().unwrap().remove(part);
        }
        let record: Record = serde_json::from_value(record).unwrap();
        assert_eq!(record.state.status, State::Created);
    }

    #[test]
    fn waiters_are_answered_at_each_end_and_when_a_removal_fails() {
        let restarting = Progress { running: true, exits: 1, ..Progress::default() };
        assert!(Condition::NotRunning.is_met(&restarting, 0), "it ended, though it comes back");
        assert!(!Condition::NotRunning.is_met(&restarting, 1));
        assert!(Condition::NextExit.is_met(&restarting, 0) && !Condition::NextExit.is_met(&restarting, 1));
        assert!(!Condition::Removed.is_met(&restarting, 0));
        let stopped = Progress::default();
        assert!(Condition::NotRunning.is_met(&stopped, 0) && !Condition::NextExit.is_met(&stopped, 0));
        let stuck = Progress { stuck: Some("disk".to_owned()), ..Progress::default() };
        assert!(Condition::Removed.is_met(&stuck, 0) && !Condition::NextExit.is_met(&stuck, 0));
        let removed = Progress { removed: true, ..Progress::default() };
        assert!(Condition::NextExit.is_met(&removed, 0) && Condition::Removed.is_met(&removed, 0));
    }
}
