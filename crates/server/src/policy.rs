//! Sockets with less than all rights.
//!
//! Every operation names what it [needs](Operation::needs); a policy grants some of that. What is not granted is
//! denied before anything of the request but its head is read. The check stands behind the route table: it is
//! made of the very row that would answer, so no spelling of a path leads around it, and what takes a
//! connection over (attach, exec, sessions of builds) is a row like any other.

use std::fmt;

use yare_api::{ContainerInspectResponse, ImageInspect, LogConfig, Volume};
use yare_errdefs::{Error, Result};

use crate::route::{Operation, Route};

/// One right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Lists, inspects, events, figures.
    Read,
    /// What containers print.
    Logs,
    /// Values of environments and options, which hold passwords.
    Values,
    /// Starting and ending of containers that are there.
    Operate,
    /// Figures alone, for Prometheus.
    Metrics,
}

impl Grant {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Logs, Self::Values, Self::Operate, Self::Metrics];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Logs => "logs",
            Self::Values => "values",
            Self::Operate => "operate",
            Self::Metrics => "metrics",
        }
    }
}

/// What an operation needs of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: every client begins with it.
    Nothing,
    /// One of these.
    One(&'static [Grant]),
    /// All rights there are: a socket without a policy.
    Everything,
}

impl Operation {
    /// What it needs. There is no default: who adds an operation decides.
    pub(crate) fn needs(self) -> Need {
        use Grant::{Logs, Metrics, Operate, Read, Values};
        match self {
            Self::Ping | Self::Version => Need::Nothing,
            Self::Metrics => Need::One(&[Metrics, Read]),
            Self::Info
            | Self::Events
            | Self::DiskUsage
            | Self::Cleaning
            | Self::ContainerList
            | Self::ContainerInspect
            | Self::ContainerTop
            | Self::ContainerChanges
            | Self::ContainerStats
            | Self::ExecInspect
            | Self::ImageList
            | Self::ImageInspect
            | Self::VolumeList
            | Self::VolumeInspect
            | Self::NetworkList
            | Self::NetworkInspect
            | Self::PluginList
            | Self::PluginInspect => Need::One(&[Read]),
            Self::ContainerLogs => Need::One(&[Logs]),
            // Commands of steps have the arguments of the build in them.
            Self::ImageHistory => Need::One(&[Values]),
            Self::ContainerStart
            | Self::ContainerStop
            | Self::ContainerRestart
            | Self::ContainerKill
            | Self::ContainerPause
            | Self::ContainerUnpause => Need::One(&[Operate]),
            Self::ContainerWait => Need::One(&[Operate, Read]),
            // Files and content: as good as a shell in the container, or as its image.
            Self::ContainerExport
            | Self::ContainerPathStat
            | Self::ContainerArchive
            | Self::ContainerExtract
            | Self::ImageSaveOne
            | Self::ImageSave
            | Self::VolumeExport
            | Self::VolumeImport
            // Streams into containers, and processes in them.
            | Self::ContainerAttach
            | Self::ContainerAttachSocket
            | Self::ContainerResize
            | Self::ExecCreate
            | Self::ExecStart
            | Self::ExecResize
            | Self::ExecKill
            // Requests that the engine makes for a client, to a host that the client names.
            | Self::Auth
            | Self::ImageSearch
            | Self::DistributionInspect
            | Self::ImageCreate
            | Self::ImagePush
            // Whatever makes, changes or removes.
            | Self::ContainerCreate
            | Self::ContainerPrune
            | Self::ContainerCommit
            | Self::ContainerUpdate
            | Self::ContainerRename
            | Self::ContainerRemove
            | Self::ImageTag
            | Self::ImageRemove
            | Self::ImagePrune
            | Self::ImageLoad
            | Self::Build
            | Self::BuildPrune
            | Self::BuildCancel
            | Self::BuildKit
            | Self::BuildKitSession
            | Self::VolumeCreate
            | Self::VolumeRemove
            | Self::VolumePrune
            | Self::NetworkCreate
            | Self::NetworkConnect
            | Self::NetworkDisconnect
            | Self::NetworkRemove
            | Self::NetworkPrune
            // The engine itself.
            | Self::RegistryStatus
            | Self::RegistryEnable
            | Self::RegistryDisable
            // What they will be once they are built is not known.
            | Self::NotBuilt(_)
            | Self::Swarm => Need::Everything,
        }
    }
}

/// What may be done over a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    socket: String,
    grants: Vec<Grant>,
}

impl Policy {
    /// A policy of the socket that is called so in messages. Without a grant nothing but `/_ping` and `/version`
    /// is answered.
    pub fn new(socket: impl Into<String>, grants: &[Grant]) -> Self {
        Self { socket: socket.into(), grants: grants.to_vec() }
    }

    /// The socket's name.
    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    pub(crate) fn grants(&self, grant: Grant) -> bool {
        self.grants.contains(&grant)
    }

    /// Whether only figures can be had, which are nobody's secret.
    pub(crate) fn is_for_metrics(&self) -> bool {
        self.grants == [Grant::Metrics]
    }

    /// Lets an operation pass, or says why not.
    pub(crate) fn check(&self, route: &Route) -> Result<()> {
        let allowed = match route.operation.needs() {
            Need::Nothing => true,
            Need::One(grants) => grants.iter().any(|grant| self.grants(*grant)),
            Need::Everything => false,
        };
        if allowed { Ok(()) } else { Err(self.denied(format_args!("{} {}", route.verb, route.pattern))) }
    }

    fn denied(&self, what: impl fmt::Display) -> Error {
        let grants: Vec<_> = self.grants.iter().map(|grant| grant.name()).collect();
        Error::denied(format!(
            "{what} is denied: the policy of the socket {} allows only: {}",
            self.socket,
            if grants.is_empty() { "nothing".to_owned() } else { grants.join(", ") }
        ))
    }

    /// Flags of `ps` may ask for environments. What shapes its table is denied: with columns of one's own choice, or
    /// without titles, a number that is something else passes for that of a process, and rows of any process of the
    /// host for the container's.
    pub(crate) fn check_ps(&self, arguments: &str) -> Result<()> {
        let is_plain = || arguments.chars().all(|letter| PS_LETTERS.contains(letter) || letter == ' ');
        if arguments.is_empty() {
            Ok(())
        } else if !self.grants(Grant::Values) {
            Err(self.denied("top with arguments for ps"))
        } else if is_plain() {
            Ok(())
        } else {
            Err(self.denied(format_args!("top with arguments for ps of more than the letters {PS_LETTERS}")))
        }
    }
}

/// What flags of `ps` may be made of: they choose processes and one of its own tables, where the number of a process
/// stands before anything that has spaces in it.
const PS_LETTERS: &str = "AFHaefjluwxy-";

/// What takes the place of a value.
const HIDDEN: &str = "(hidden)";

/// Something that holds values which not everybody may see.
pub(crate) trait Hide {
    /// Takes them out, as far as they are not granted.
    fn hide(&mut self, policy: &Policy);
}

/// The names of an environment stay.
fn hide_environment(environment: &mut Option<Vec<String>>) {
    for entry in environment.iter_mut().flatten() {
        if let Some((name, _)) = entry.split_once('=') {
            *entry = format!("{name}={HIDDEN}");
        }
    }
}

fn hide_all<'a>(values: impl IntoIterator<Item = &'a mut String>) {
    values.into_iter().for_each(|value| HIDDEN.clone_into(value));
}

impl Hide for ContainerInspectResponse {
    fn hide(&mut self, policy: &Policy) {
        if !policy.grants(Grant::Logs) {
            // What a probe prints.
            let probes = self.state.health.iter_mut().filter_map(|health| health.log.as_mut()).flatten();
            hide_all(probes.map(|probe| &mut probe.output));
        }
        if policy.grants(Grant::Values) {
            return;
        }
        hide_environment(&mut self.config.env);
        hide_all(self.config.on_build.iter_mut().flatten());
        let LogConfig { config, .. } = &mut self.host_config.log_config;
        hide_all(config.iter_mut().flat_map(|options| options.values_mut()));
        let mounts = self.host_config.mounts.iter_mut().flatten();
        let drivers = mounts.filter_map(|mount| mount.volume_options.as_mut()?.driver_config.as_mut());
        hide_all(
            drivers.flat_map(|driver| driver.options.iter_mut().flat_map(|options| options.values_mut())),
        );
    }
}

impl Hide for ImageInspect {
    fn hide(&mut self, policy: &Policy) {
        if !policy.grants(Grant::Values) {
            hide_environment(&mut self.config.env);
            hide_all(self.config.on_build.iter_mut().flatten());
        }
    }
}

impl Hide for Volume {
    fn hide(&mut self, policy: &Policy) {
        if !policy.grants(Grant::Values) {
            hide_all(self.options.iter_mut().flat_map(|options| options.values_mut()));
        }
    }
}

impl Hide for yare_api::VolumeListResponse {
    fn hide(&mut self, policy: &Policy) {
        self.volumes.iter_mut().flatten().for_each(|volume| volume.hide(policy));
    }
}

impl Hide for yare_api::SystemDataUsageResponse {
    fn hide(&mut self, policy: &Policy) {
        self.volumes.iter_mut().flatten().for_each(|volume| volume.hide(policy));
        if !policy.grants(Grant::Values) {
            hide_all(self.build_cache.iter_mut().flatten().map(|result| &mut result.description));
        }
    }
}
