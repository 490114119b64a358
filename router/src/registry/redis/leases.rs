//! Leases: a gateway lives while its lease is renewed, and is dead once it was declared so.

use std::collections::BTreeSet;
use std::time::Duration;

use corelane_protocol::id::{BootId, NodeId};
use fred::interfaces::HashesInterface as _;
use fred::types::Value;

use super::Inner;
use super::row::{hex, parse_hex};
use super::script::{Call, pairs, texts};
use crate::registry::{Gateway, RegistryError};

/// A look at the leases counts for so long.
pub(super) const LOOK_COUNTS: Duration = Duration::from_secs(2);

impl Inner {
    pub(super) async fn join(&self, gateway: Gateway) -> Result<bool, RegistryError> {
        let Gateway { node, boot } = gateway;
        if self.roster.is_dead(boot) {
            return Ok(false);
        }
        let joined = self.take_lease(boot, Some(&node)).await?;
        if joined {
            self.roster.joined(boot, node);
        }
        Ok(joined)
    }

    pub(super) async fn renew(&self, boot: BootId) -> Result<bool, RegistryError> {
        if self.roster.is_dead(boot) {
            return Ok(false);
        }
        // Where Redis came back empty a gateway that is linked here does not become another one by that.
        let node = self.roster.node_of_joined(boot);
        self.take_lease(boot, node.as_ref()).await
    }

    async fn take_lease(&self, boot: BootId, node: Option<&NodeId>) -> Result<bool, RegistryError> {
        let node = node.map_or("", NodeId::as_str).to_owned();
        let call = Call::new(self.lease_keys(), [hex(boot.0), node, self.lease_ms()]);
        let taken = self.ask(self.scripts.lease.run(&self.client, call)).await?;
        Ok(taken == ["1"])
    }

    pub(super) async fn leave(&self, boot: BootId) -> Result<(), RegistryError> {
        let args = [String::new(), String::new(), hex(boot.0)];
        let _turn = self.roster.turn.lock().await;
        let call = Call::new(self.lease_keys(), args);
        self.ask(self.scripts.bury.run(&self.client, call)).await?;
        self.roster.died(boot, false);
        Ok(())
    }

    /// Begins the leases of boots that Redis forgot: of these, and of those that are missed here.
    pub(super) async fn expect_renewals(&self, boots: &BTreeSet<BootId>) -> Result<(), RegistryError> {
        let missing = self.roster.missing(boots);
        if missing.is_empty() {
            return Ok(());
        }
        let mut args = vec![self.lease_ms()];
        args.extend(missing.into_iter().map(|boot| hex(boot.0)));
        let call = Call::new([self.keys.dead(), self.keys.lease()], args);
        let begun = self.ask(self.scripts.expect.run(&self.client, call)).await?;
        for boot in begun {
            tracing::warn!(boot, "a boot is waited for and not known: its lease begins now");
        }
        Ok(())
    }

    pub(super) async fn reap(&self) -> Result<Vec<BootId>, RegistryError> {
        let look = Call::new([self.keys.lease()], [self.lease_ms()]);
        let lapsed = self.ask(self.scripts.lapsed.run(&self.client, look)).await?;
        let Some((looked_at, lapsed)) = lapsed.split_first() else {
            return Ok(Vec::new());
        };
        if let Ok(server_ms) = looked_at.parse() {
            self.health().heard(server_ms, self.mono());
        }
        if !lapsed.is_empty() && self.health().may_bury(self.mono()) {
            self.bury_lapsed(looked_at, lapsed).await?;
        }
        Ok(self.roster.take_unnamed())
    }

    async fn bury_lapsed(&self, looked_at: &str, lapsed: &[String]) -> Result<(), RegistryError> {
        let mut args = vec![looked_at.to_owned(), LOOK_COUNTS.as_millis().to_string()];
        args.extend_from_slice(lapsed);
        let _turn = self.roster.turn.lock().await;
        let call = Call::new(self.lease_keys(), args);
        let buried = self.ask(self.scripts.bury.run(&self.client, call)).await?;
        for boot in buried.iter().filter_map(|boot| parse_hex(boot)) {
            self.roster.died(BootId(boot), true);
        }
        Ok(())
    }

    pub(super) async fn live_gateways(&self) -> Result<Vec<Gateway>, RegistryError> {
        let live = self
            .ask(async { texts(self.client.hgetall::<Value, _>(self.keys.gateways()).await?) })
            .await?;
        let gateways = pairs(live).into_iter().map(|(boot, node)| {
            let boot = parse_hex(&boot).map(BootId)?;
            let node = NodeId::new(&node).ok()?;
            Some(Gateway { node, boot })
        });
        let unreadable = || RegistryError::Unavailable("the list of gateways is not readable".to_owned());
        let gateways = gateways.collect::<Option<Vec<_>>>().ok_or_else(unreadable)?;
        Ok(self.roster.without_dead(gateways, |gateway| gateway.boot))
    }

    /// Whether a boot may claim: it lives, or Redis says so.
    pub(super) async fn may_claim(&self, boot: BootId) -> Result<bool, RegistryError> {
        if self.roster.is_dead(boot) || self.roster.lives(boot) {
            return Ok(!self.roster.is_dead(boot));
        }
        let node = self
            .ask(
                self.client
                    .hget::<Option<String>, _, _>(self.keys.gateways(), hex(boot.0)),
            )
            .await?;
        let Some(node) = node.and_then(|node| NodeId::new(&node).ok()) else {
            return Ok(false);
        };
        self.roster.is_alive(boot, node);
        Ok(true)
    }

    fn lease_keys(&self) -> [String; 3] {
        [self.keys.dead(), self.keys.gateways(), self.keys.lease()]
    }
}
