//! Changed limits of a container that exists.

use crate::check::{self, Report};
use crate::plan::BlockIoPlan;
use crate::{HostFacts, limits};
use yare_api::{ContainerUpdateRequest, HostConfig};
use yare_errdefs::Error;
use yare_oci::runtime::Resources;

/// What an update comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The whole host config afterwards.
    pub host_config: HostConfig,
    /// All limits afterwards.
    pub resources: Resources,
    /// All limits on block devices afterwards.
    pub block_io: BlockIoPlan,
    /// What the reply warns about.
    pub warnings: Vec<String>,
}

/// Puts the members of an update that are not zero over the present host config and checks the whole.
///
/// # Errors
/// Everything that is wrong, in Docker's words.
pub fn settle_update(
    request: &ContainerUpdateRequest,
    current: &HostConfig,
    facts: &HostFacts,
) -> Result<Update, Vec<Error>> {
    let mut report = Report::default();
    let mut next = current.clone();
    put(request, &mut next);
    // Docker looks at the request alone first: a too small number must not hide behind a present one.
    let mut alone = HostConfig::default();
    put(request, &mut alone);
    limits::check(&mut alone, facts, true, &mut report);
    if report.errors.is_empty() {
        let mut whole = Report::default();
        limits::check(&mut next, facts, true, &mut whole);
        report.errors.append(&mut whole.errors);
    }
    conflicts(request, current, &mut report);
    if !request.restart_policy.name.is_empty() {
        check::restart_policy(&request.restart_policy, &mut report);
        if current.auto_remove && request.restart_policy.name != "no" {
            report.error("Restart policy cannot be updated because AutoRemove is enabled for the container");
        }
        next.restart_policy = request.restart_policy.clone();
    }
    if !report.errors.is_empty() {
        return Err(report.errors);
    }
    let (resources, block_io) = (limits::resources(&next), limits::block_io_plan(&next));
    Ok(Update { resources, block_io, host_config: next, warnings: report.warnings })
}

fn conflicts(request: &ContainerUpdateRequest, current: &HostConfig, report: &mut Report) {
    if request.nano_cpus > 0 && current.cpu_period > 0 {
        report.error("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set");
    }
    if request.nano_cpus > 0 && current.cpu_quota > 0 {
        report.error("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set");
    }
    if request.cpu_quota > 0 && current.nano_cpus > 0 {
        report.error("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    if request.cpu_period > 0 && current.nano_cpus > 0 {
        report.error("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set");
    }
    let swap = current.memory_swap;
    if request.memory != 0 && request.memory_swap == 0 && swap > 0 && request.memory > swap {
        report.error(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
}

fn put(request: &ContainerUpdateRequest, next: &mut HostConfig) {
    let numbers = [
        (request.cpu_shares, &mut next.cpu_shares),
        (request.memory, &mut next.memory),
        (request.nano_cpus, &mut next.nano_cpus),
        (request.cpu_period, &mut next.cpu_period),
        (request.cpu_quota, &mut next.cpu_quota),
        (request.cpu_realtime_period, &mut next.cpu_realtime_period),
        (request.cpu_realtime_runtime, &mut next.cpu_realtime_runtime),
        (request.memory_reservation, &mut next.memory_reservation),
        (request.memory_swap, &mut next.memory_swap),
    ];
    for (wanted, have) in numbers {
        if wanted != 0 {
            *have = wanted;
        }
    }
    if request.blkio_weight != 0 {
        next.blkio_weight = request.blkio_weight;
    }
    for (wanted, have) in
        [(&request.cpuset_cpus, &mut next.cpuset_cpus), (&request.cpuset_mems, &mut next.cpuset_mems)]
    {
        if !wanted.is_empty() {
            have.clone_from(wanted);
        }
    }
    if let Some(limit) = request.pids_limit.filter(|limit| *limit != 0) {
        next.pids_limit = (limit > 0).then_some(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updated(request: &str, current: &str) -> Result<Update, String> {
        let facts = HostFacts { cpus: 2, ..HostFacts::default() };
        let request = serde_json::from_str(request).unwrap();
        let current = serde_json::from_str(current).unwrap();
        settle_update(&request, &current, &facts).map_err(|errors| errors[0].to_string())
    }

    #[test]
    fn zero_leaves_a_limit_as_it_is() {
        let current = r#"{"Memory":67108864,"MemorySwap":134217728,"PidsLimit":10}"#;
        let update = updated(r#"{"CpuShares":512,"RestartPolicy":{"Name":"always"}}"#, current).unwrap();
        assert_eq!((update.host_config.memory, update.host_config.cpu_shares), (67108864, 512));
        assert_eq!(update.host_config.restart_policy.name, "always");
        assert_eq!(update.resources.pids.unwrap().limit, 10);
        assert_eq!(updated(r#"{"PidsLimit":-1}"#, current).unwrap().resources.pids, None);
    }

    #[test]
    fn refuses_with_the_texts_of_docker() {
        let current = r#"{"Memory":67108864,"MemorySwap":134217728,"AutoRemove":true,"CpuQuota":5000}"#;
        for (request, text) in [
            (r#"{"Memory":1}"#, "Minimum memory limit allowed is 6MB"),
            (
                r#"{"RestartPolicy":{"Name":"always"}}"#,
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ),
            (
                r#"{"NanoCpus":1000000000}"#,
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set.",
            ),
        ] {
            assert_eq!(updated(request, current).unwrap_err(), text);
        }
        let swap = updated(r#"{"Memory":268435456}"#, r#"{"Memory":67108864,"MemorySwap":134217728}"#);
        assert!(swap.is_err());
    }
}
