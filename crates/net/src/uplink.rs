//! The way out of a network namespace that is not the host's.

use crate::error::NetError;
use crate::firewall;
use crate::rules::{self, Family};

/// Keeps away from the network namespace of the calling thread what pasta, its way out, should not send.
pub fn guard_uplink() -> Result<(), NetError> {
    [Family::V4, Family::V6].into_iter().try_for_each(|family| {
        firewall::install(&rules::for_uplink(family))
            .map_err(|error| NetError::kernel("guard the way out of this network", error))
    })
}
