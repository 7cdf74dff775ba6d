//! The capabilities that this program's file grants, where no service gives them (a container with a user of its own).
//!
//! The file of the image permits them without making them effective: the kernel then starts edged also where some are
//! withheld, where with effective ones it would refuse the whole program (capabilities(7), "capability-dumb binaries").

use std::io;

use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities};

/// What the unit of `systemd/` has, and nothing else: an ability that somebody grants beyond them stays unused.
const WANTED: CapabilitySet =
    CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::NET_RAW);

/// Makes those that are permitted effective, and passes them on to gobgpd. Called first thing, before threads start, which
/// inherit them. Changes nothing where they are effective already, as under the unit and for root.
pub fn take() -> io::Result<()> {
    let mut held = capabilities(None)?;
    let withheld = held.permitted.intersection(WANTED).difference(held.effective);
    if withheld.is_empty() {
        return Ok(());
    }
    held.effective |= withheld;
    held.inheritable |= withheld;
    set_capabilities(None, held)?;
    for capability in withheld.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}
