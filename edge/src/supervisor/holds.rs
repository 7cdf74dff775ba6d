//! What an operator says of endpoints, carried out: kept on disk, taken back when its time is over, and put over what
//! the sources say of endpoints before workers get them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use edge_config::snapshot::{EndpointSet, EndpointState, Endpoints};
use tokio::time::Instant;

use super::{DISK_PATIENCE, Supervisor};
use crate::control::holds::{Ask, Holds, Standing};

impl Supervisor {
    /// Carries out a command about an endpoint and says what is in force then.
    pub(super) async fn hold(&mut self, ask: Ask) -> Result<Holds, String> {
        let mut holds = (*self.holds).clone();
        holds.ask(ask, SystemTime::now())?;
        let now = match ask.standing {
            Standing::Enabled => "enabled",
            Standing::Drained => "drained",
            Standing::Disabled => "disabled",
        };
        tracing::info!(endpoint = %ask.endpoint, seconds = ask.seconds, "{now} by command");
        self.holds = Arc::new(holds);
        self.publish();
        self.show();
        self.remember_holds().await?;
        Ok((*self.holds).clone())
    }

    /// Takes back what is over.
    pub(super) async fn lapse_holds(&mut self) {
        let mut holds = (*self.holds).clone();
        if holds.lapse(SystemTime::now()) {
            tracing::info!("the time of a command about endpoints is over");
            self.holds = Arc::new(holds);
            self.publish();
            if let Err(error) = self.remember_holds().await {
                tracing::warn!("endpoints are enabled again: {error}");
            }
        }
    }

    /// When the next one is over.
    pub(super) fn next_hold(&self) -> Option<Instant> {
        let next = self.holds.next()?;
        Some(Instant::now() + next.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Endpoints as they are told to be.
    pub(super) fn held_endpoints(&self, endpoints: Endpoints) -> Endpoints {
        if self.holds.0.is_empty() {
            return endpoints;
        }
        let state = |address: SocketAddr, state: EndpointState| self.holds.of(address).of(state);
        let one = |set: Arc<EndpointSet>| match &*set {
            EndpointSet::Addresses(list) if list.iter().any(|one| state(one.address, one.state) != one.state) => {
                let mut list = list.clone();
                list.iter_mut().for_each(|one| one.state = state(one.address, one.state));
                Arc::new(EndpointSet::Addresses(list))
            }
            _ => set,
        };
        endpoints.into_iter().map(one).collect()
    }

    async fn remember_holds(&self) -> Result<(), String> {
        let store = self.store.clone();
        let holds = Arc::clone(&self.holds);
        let write = tokio::task::spawn_blocking(move || store.put_holds(&holds));
        match tokio::time::timeout(DISK_PATIENCE, write).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(format!("in force, but a restart forgets it: {error}")),
            Ok(Err(error)) => Err(format!("in force, but a restart forgets it: {error}")),
            Err(_) => Err("in force, but not on disk yet: it does not answer".to_owned()),
        }
    }
}
