//! Processes.

use super::{Assembly, Operation, source};
use crate::proto::Platform as WirePlatform;
use crate::proto::graph::{self as wire, Device, ExecOp, Meta, Mount, SecretEnv};
use std::collections::BTreeMap;
use yare_build::graph::{
    MountKind, Op, OutputOp, RunDefinition, RunDevice, RunMount, RunOp, Sharing, Ulimit, VertexId,
};
use yare_errdefs::{Error, Result};
use yare_oci::Platform;
use yare_oci::path::clean;

/// What a process without a path gets.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Mode of a cache directory that is new.
const CACHE_MODE: u32 = 0o755;

/// A process that was added.
struct Added<'e> {
    run: VertexId,
    root: &'e Mount,
    /// Its mounts that are kept: their output, and their place among its mounts.
    outputs: Vec<(i64, usize)>,
}

impl Assembly {
    pub(super) fn exec(
        &mut self,
        operation: &Operation<'_>,
        exec: &ExecOp,
    ) -> Result<BTreeMap<i64, VertexId>> {
        let Added { run, root, outputs } = self.run(operation, exec)?;
        let mut made = BTreeMap::new();
        if root.output >= 0 && !root.read_only {
            made.insert(root.output, run);
        } else if root.output >= 0 {
            made.insert(root.output, self.input(operation, root.input)?);
        }
        for (output, mount) in outputs {
            let vertex = self.push(operation, &name_of(exec), Op::Output(OutputOp { run, mount }));
            made.insert(output, vertex);
        }
        for mount in exec.mounts.iter().filter(|mount| mount.read_only && mount.output >= 0) {
            let shown = self.input(operation, mount.input)?;
            made.entry(mount.output).or_insert(shown);
        }
        Ok(made)
    }

    /// A process that somebody runs apart from the graph, over vertices that are its inputs.
    pub(crate) fn container(
        &mut self,
        name: &str,
        (inputs, platform): (Vec<VertexId>, Option<WirePlatform>),
        exec: &ExecOp,
    ) -> Result<VertexId> {
        let op = wire::Op { platform, exec: Some(exec.clone()), ..wire::Op::default() };
        super::check_size(&op)?;
        let operation = Operation { digest: name, op, name: None, no_cache: true, inputs };
        self.run(&operation, exec).map(|added| added.run)
    }

    /// Adds a process.
    fn run<'e>(&mut self, operation: &Operation<'_>, exec: &'e ExecOp) -> Result<Added<'e>> {
        let meta = exec.meta.as_ref().ok_or_else(|| Error::invalid("invalid exec: it names no process"))?;
        let root = exec.mounts.iter().find(|mount| clean(&mount.dest) == "/" && !mount.dest.is_empty());
        let root = root.ok_or_else(|| Error::invalid("invalid exec: it has no root mount"))?;
        if root.kind != wire::BIND || clean(&root.selector) != "/" {
            return Err(Error::unimplemented(
                "a root that is not a whole file system is not built into this Yare yet",
            ));
        }
        let base = self.input(operation, root.input)?;
        let mut spec = process(meta, (exec.network, exec.security))?;
        let device = |device: &Device| RunDevice { name: device.name.clone(), optional: device.optional };
        spec.devices = exec.devices.iter().map(device).collect();
        spec.read_only = root.read_only;
        let mut outputs = Vec::new();
        for mount in exec.mounts.iter().filter(|mount| !std::ptr::eq(*mount, root)) {
            let (made, kept) = self.mount(operation, mount)?;
            if kept {
                outputs.push((mount.output, spec.mounts.len()));
            }
            spec.mounts.push(made);
        }
        spec.mounts.extend(exec.secret_env.iter().map(secret_env));
        let proxies = proxies(meta);
        let platform = operation.op.platform.as_ref().map_or_else(Platform::host, source::platform);
        let run = RunOp { base, spec, proxies, platform: Box::new(platform) };
        let run = self.push(operation, &name_of(exec), Op::Run(Box::new(run)));
        Ok(Added { run, root, outputs })
    }

    /// A mount beside the root, and whether what is written to it is kept.
    fn mount(&mut self, operation: &Operation<'_>, mount: &Mount) -> Result<(RunMount, bool)> {
        let target = if mount.dest.is_empty() { String::new() } else { clean(&mount.dest) };
        let source = clean(&mount.selector);
        let (kind, kept) = match mount.kind {
            wire::BIND => {
                let from = self.input(operation, mount.input)?;
                let kept = mount.output >= 0 && !mount.read_only;
                if kept && source != "/" {
                    let text = "a part of a file system that a step writes to and that is kept";
                    return Err(Error::unimplemented(format!("{text} is not built into this Yare yet")));
                }
                let bind = MountKind::Bind { from, source, writable: !mount.read_only };
                (if kept { MountKind::Kept { from } } else { bind }, kept)
            }
            wire::CACHE => (self.cache(operation, mount, source, &target)?, false),
            wire::TMPFS => {
                let size = mount.tmpfs.map_or(0, |tmpfs| tmpfs.size);
                (MountKind::Tmpfs { size: u64::try_from(size).unwrap_or_default() }, false)
            }
            wire::SECRET => (secret(mount)?, false),
            wire::SSH => (agent(mount), false),
            other => return Err(Error::invalid(format!("a mount of the kind {other} is not known"))),
        };
        if target.is_empty() && mount.kind != wire::SSH {
            return Err(Error::invalid("invalid exec: a mount has no destination"));
        }
        Ok((RunMount { target, kind }, kept))
    }

    fn cache(
        &mut self,
        operation: &Operation<'_>,
        mount: &Mount,
        source: String,
        target: &str,
    ) -> Result<MountKind> {
        let options = mount.cache.clone().unwrap_or_default();
        Ok(MountKind::Cache {
            id: if options.id.is_empty() { target.to_owned() } else { options.id },
            from: if mount.input == -1 { None } else { Some(self.input(operation, mount.input)?) },
            source,
            read_only: mount.read_only,
            sharing: match options.sharing {
                wire::PRIVATE => Sharing::Private,
                wire::LOCKED => Sharing::Locked,
                _ => Sharing::Shared,
            },
            mode: CACHE_MODE,
            uid: 0,
            gid: 0,
        })
    }
}

fn name_of(exec: &ExecOp) -> String {
    exec.meta.as_ref().map(|meta| meta.args.join(" ")).unwrap_or_default()
}

/// What a process is, without what is mounted.
///
/// # Errors
/// It asks for something that is not understood.
fn process(meta: &Meta, (network, security): (i32, i32)) -> Result<RunDefinition> {
    if meta.args.iter().all(String::is_empty) {
        return Err(Error::invalid("invalid exec: it has no arguments"));
    }
    let mut env = meta.env.clone();
    if !env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.push(PATH.to_owned());
    }
    Ok(RunDefinition {
        argv: meta.args.clone(),
        env,
        cwd: clean(&meta.cwd),
        user: meta.user.clone(),
        network: match network {
            wire::NETWORK_HOST => "host",
            wire::NETWORK_NONE => "none",
            _ => "default",
        }
        .to_owned(),
        insecure: security == wire::SECURITY_INSECURE,
        hostname: if meta.hostname.is_empty() { "buildkitsandbox".to_owned() } else { meta.hostname.clone() },
        extra_hosts: meta.extra_hosts.iter().map(|host| format!("{}:{}", host.host, host.ip)).collect(),
        valid_codes: meta.valid_codes.clone(),
        ulimits: meta.ulimits.iter().map(ulimit).collect(),
        cgroup_parent: meta.cgroup_parent.clone(),
        ..RunDefinition::default()
    })
}

fn ulimit(limit: &wire::Ulimit) -> Ulimit {
    Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard }
}

fn proxies(meta: &Meta) -> BTreeMap<String, String> {
    let proxies = meta.proxies.clone().unwrap_or_default();
    let rows = [
        ("HTTP_PROXY", proxies.http),
        ("HTTPS_PROXY", proxies.https),
        ("FTP_PROXY", proxies.ftp),
        ("NO_PROXY", proxies.no),
        ("ALL_PROXY", proxies.all),
    ];
    let given = rows.into_iter().filter(|(_, value)| !value.is_empty());
    given.flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_lowercase(), value)]).collect()
}

fn secret_env(secret: &SecretEnv) -> RunMount {
    let kind = MountKind::Secret {
        id: secret.id.clone(),
        env: secret.name.clone(),
        required: !secret.optional,
        mode: 0,
        uid: 0,
        gid: 0,
    };
    RunMount { target: String::new(), kind }
}

fn secret(mount: &Mount) -> Result<MountKind> {
    let options =
        mount.secret.clone().ok_or_else(|| Error::invalid("invalid exec: a secret has no options"))?;
    if options.id.is_empty() {
        return Err(Error::invalid("invalid exec: a secret has no id"));
    }
    Ok(MountKind::Secret {
        id: options.id,
        env: String::new(),
        required: !options.optional,
        mode: options.mode & 0o777,
        uid: options.uid,
        gid: options.gid,
    })
}

fn agent(mount: &Mount) -> MountKind {
    let options = mount.ssh.clone().unwrap_or_default();
    MountKind::Ssh {
        id: options.id,
        required: !options.optional,
        mode: options.mode & 0o777,
        uid: options.uid,
        gid: options.gid,
    }
}
