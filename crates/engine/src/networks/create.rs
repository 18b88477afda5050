//! Making a network.

use super::record::{self, Known, NetworkRecord};
use super::{UserNetwork, open_user};
use crate::Engine;
use crate::images::blocking;
use crate::records::Table;
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::{NetworkCreateRequest, NetworkCreateResponse};
use yare_errdefs::{Error, Result};

/// Makes a network. Goes on when the caller leaves.
pub async fn create(engine: &Arc<Engine>, request: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
    let engine = Arc::clone(engine);
    engine.clone().detached(async move { create_now(&engine, &request).await }).await
}

async fn create_now(engine: &Arc<Engine>, request: &NetworkCreateRequest) -> Result<NetworkCreateResponse> {
    let _changing = engine.networks.changing.lock().await;
    if engine.networks.named(&request.name).is_some() {
        return Err(Error::conflict(format!("network with name {} already exists", request.name)));
    }
    let record = Arc::new(plan(engine, request)?);
    let id = record.id.clone();
    // Commit point: from here on the next engine would make the bridge.
    engine.records.put(Table::Networks, &id, crate::to_json(&*record)).await?;
    let opened = blocking({
        let (engine, record) = (Arc::clone(engine), Arc::clone(&record));
        move || open_user(&record, &engine.networks.ports, &engine.config)
    });
    let bridge = match opened.await {
        Ok(bridge) => bridge,
        Err(error) => {
            engine.records.delete(Table::Networks, &id).await?;
            return Err(error);
        }
    };
    let network = UserNetwork { record: Arc::clone(&record), bridge: Ok(bridge) };
    engine.networks.by_id.write().insert(id.clone(), Arc::new(network));
    super::publish(engine, "create", &record.name, BTreeMap::new());
    Ok(NetworkCreateResponse { id, warning: String::new() })
}

fn plan(engine: &Engine, request: &NetworkCreateRequest) -> Result<NetworkRecord> {
    let others: Vec<_> = engine.networks.all().iter().map(|network| Arc::clone(&network.record)).collect();
    let default = engine.bridge.as_ref().map(|bridge| (bridge.bridge().to_owned(), bridge.subnet()));
    let avoid: Vec<_> =
        others.iter().map(|other| other.subnet).chain(default.as_ref().map(|(_, net)| *net)).collect();
    let free = || {
        yare_net::free_on_host(&engine.config.address_pools, &avoid).map_err(|error| {
            Error::wrap("could not find an available, non-overlapping IPv4 address pool", error)
        })
    };
    let known = Known {
        id: crate::random_id(),
        created: engine.clock.now(),
        others: &others,
        default: default.clone(),
        default6: engine.bridge.as_ref().and_then(|bridge| bridge.config().ipv6).map(|half| half.subnet),
        free: &free,
    };
    record::plan(request, &known)
}
