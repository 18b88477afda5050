//! `update`.

use yare_api::ContainerUpdateRequest;

use crate::context::{Context, each};
use crate::flags::Given;
use crate::opts;
use crate::table::Outcome;

/// `update`.
pub(crate) async fn update(cx: &Context, given: &Given) -> Outcome {
    if given.is_plain() {
        return Err("you must provide one or more flags when using this command".into());
    }
    let request = request(given)?;
    let mut warnings = std::cell::RefCell::new(Vec::new());
    let outcome = each(cx, &given.arguments, async |name| {
        let updated = cx.client().container_update(name, &request).await?;
        warnings.borrow_mut().extend(updated.warnings.unwrap_or_default());
        Ok(Some(name.to_owned()))
    })
    .await;
    if !warnings.get_mut().is_empty() {
        cx.write(warnings.get_mut().join("\n"))?;
    }
    outcome
}

/// The body of the call.
pub(crate) fn request(given: &Given) -> Result<ContainerUpdateRequest, String> {
    let int = |name: &str| given.int(name).unwrap_or(0);
    let bytes = |name: &str| given.bytes(name).unwrap_or(0);
    Ok(ContainerUpdateRequest {
        cpu_shares: int("cpu-shares"),
        memory: bytes("memory"),
        nano_cpus: given.text_opt("cpus").map_or(Ok(0), opts::size::nano_cpus)?,
        blkio_weight: u16::try_from(int("blkio-weight")).unwrap_or(u16::MAX),
        cpu_period: int("cpu-period"),
        cpu_quota: int("cpu-quota"),
        cpu_realtime_period: int("cpu-rt-period"),
        cpu_realtime_runtime: int("cpu-rt-runtime"),
        cpuset_cpus: given.text("cpuset-cpus").to_owned(),
        cpuset_mems: given.text("cpuset-mems").to_owned(),
        memory_reservation: bytes("memory-reservation"),
        memory_swap: bytes("memory-swap"),
        pids_limit: given.int("pids-limit"),
        restart_policy: given.text_opt("restart").map(opts::restart::parse).transpose()?.unwrap_or_default(),
        ..ContainerUpdateRequest::default()
    })
}
