//! One function per operation: decode, one call of the engine, encode.

mod build;
mod containers;
mod exec;
mod files;
mod images;
mod networks;
mod system;
mod volumes;

use std::sync::Arc;

use yare_buildkit::BuildKit;
use yare_engine::Engine;
use yare_errdefs::{Error, Result};

pub(crate) use system::ping;

use crate::edge::Call;
use crate::reply::Reply;
use crate::route::Operation;

/// Answers a call.
pub(crate) async fn answer(engine: &Arc<Engine>, buildkit: &BuildKit, call: Call) -> Result<Reply> {
    match call.operation {
        Operation::Ping => Ok(ping(&call)),
        Operation::Version => system::version(),
        Operation::Info => system::info(engine, &call),
        Operation::Events => system::events(engine, &call),
        Operation::DiskUsage => system::disk_usage(engine, &call).await,
        Operation::Metrics => Ok(system::metrics(engine, &call)),
        Operation::Cleaning => system::cleaning(engine).await,
        Operation::RegistryStatus => system::registry(engine).await,
        Operation::RegistryEnable => system::enable_registry(engine, call).await,
        Operation::RegistryDisable => system::disable_registry(engine).await,
        Operation::Auth => system::auth(engine, call).await,
        Operation::ContainerList => containers::list(engine, &call).await,
        Operation::ContainerCreate => containers::create(engine, call).await,
        Operation::ContainerPrune => containers::prune(engine, &call).await,
        Operation::ContainerInspect => containers::inspect(engine, &call).await,
        Operation::ContainerTop => containers::top(engine, &call).await,
        Operation::ContainerChanges => containers::changes(engine, &call).await,
        Operation::ContainerExport => containers::export(engine, &call).await,
        Operation::ContainerStats => containers::stats(engine, &call),
        Operation::ContainerPathStat => files::stat(engine, &call).await,
        Operation::ContainerArchive => files::archive(engine, &call).await,
        Operation::ContainerExtract => files::extract(engine, call).await,
        Operation::ContainerCommit => containers::commit(engine, call).await,
        Operation::ContainerLogs => containers::logs(engine, &call).await,
        Operation::ContainerResize => containers::resize(engine, &call).await,
        Operation::ContainerStart => containers::start(engine, &call).await,
        Operation::ContainerStop => containers::stop(engine, &call).await,
        Operation::ContainerRestart => containers::restart(engine, &call).await,
        Operation::ContainerKill => containers::kill(engine, &call).await,
        Operation::ContainerUpdate => containers::update(engine, call).await,
        Operation::ContainerRename => containers::rename(engine, &call).await,
        Operation::ContainerPause => containers::pause(engine, &call).await,
        Operation::ContainerUnpause => containers::unpause(engine, &call).await,
        Operation::ContainerAttach => containers::attach(engine, call).await,
        Operation::ContainerAttachSocket => containers::attach_socket(engine, call).await,
        Operation::ContainerWait => containers::wait(engine, &call),
        Operation::ContainerRemove => containers::remove(engine, &call).await,
        Operation::ExecCreate => exec::create(engine, call).await,
        Operation::ExecStart => exec::start(engine, call).await,
        Operation::ExecResize => exec::resize(engine, &call).await,
        Operation::ExecKill => exec::kill(engine, &call).await,
        Operation::ExecInspect => exec::inspect(engine, &call),
        Operation::ImageList => images::list(engine, &call),
        Operation::ImageCreate => images::create(engine, call).await,
        Operation::ImageInspect => images::inspect(engine, &call),
        Operation::ImageHistory => images::history(engine, &call),
        Operation::ImageTag => images::tag(engine, &call).await,
        Operation::ImageRemove => images::remove(engine, &call).await,
        Operation::ImagePrune => images::prune(engine, &call).await,
        Operation::ImageSaveOne => images::save(engine, vec![call.name().to_owned()], &call),
        Operation::ImageSave => images::save(engine, call.query.all("names"), &call),
        Operation::ImageLoad => images::load(engine, call),
        Operation::ImagePush => images::push(engine, &call).await,
        Operation::ImageSearch => images::search(engine, &call).await,
        Operation::DistributionInspect => images::distribution(engine, &call).await,
        Operation::Build => build::build(engine, call).await,
        Operation::BuildPrune => build::prune(engine, &call).await,
        Operation::BuildCancel => build::cancel(&call),
        Operation::BuildKit => build::buildkit(buildkit, call),
        Operation::BuildKitSession => build::session(buildkit, call),
        Operation::VolumeList => volumes::list(engine, &call),
        Operation::VolumeExport => volumes::export(engine, &call).await,
        Operation::VolumeImport => volumes::import(engine, call).await,
        Operation::VolumeCreate => volumes::create(engine, call).await,
        Operation::VolumeInspect => volumes::inspect(engine, &call),
        Operation::VolumeRemove => volumes::remove(engine, &call).await,
        Operation::VolumePrune => volumes::prune(engine, &call).await,
        Operation::NetworkList => networks::list(engine, &call),
        Operation::NetworkInspect => networks::inspect(engine, &call),
        Operation::NetworkCreate => networks::create(engine, call).await,
        Operation::NetworkConnect => networks::connect(engine, call).await,
        Operation::NetworkDisconnect => networks::disconnect(engine, call).await,
        Operation::NetworkRemove => networks::remove(engine, &call).await,
        Operation::NetworkPrune => networks::prune(engine, &call).await,
        Operation::PluginList => system::plugins(),
        Operation::PluginInspect => Err(Error::not_found(format!("plugin {:?} not found", call.name()))),
        // The edge answers these two itself.
        Operation::NotBuilt(feature) => Err(Error::unimplemented(feature)),
        Operation::Swarm => Err(Error::unavailable("there is no swarm here")),
    }
}
