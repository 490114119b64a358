//! The router list: who is in it, by leases of the server's clock, and how far each router has drained.
//!
//! Every change of the members is one script, which also moves the version: up by one, and at least to the server's
//! time in ms, so that versions rise even where the registry forgot the last one.

use std::collections::BTreeMap;

use corelane_protocol::id::{BootId, NodeId};

use super::Inner;
use super::leases::LOOK_COUNTS;
use super::row::{hex, parse_hex};
use super::script::Call;
use crate::registry::{RegistryError, RouterEntry, RouterJoin, RouterSet};

/// Between the parts of an entry: no part holds control characters.
const SEPARATOR: char = '\t';

/// The list as it stands in Redis.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    /// The server's time, as it was answered.
    looked_at: String,
    incarnation: Option<u64>,
    set: RouterSet,
    /// Boots whose leases ran out.
    lapsed: Vec<String>,
}

impl Inner {
    pub(super) async fn join_router(
        &self,
        entry: RouterEntry,
        above: u64,
    ) -> Result<RouterJoin, RegistryError> {
        let args = [
            hex(entry.boot.0),
            entry.node.as_str().to_owned(),
            text_of(&entry),
            self.lease_ms(),
            above.to_string(),
        ];
        let call = Call::new(self.router_keys(), args);
        let answer = self.ask(self.scripts.router_join.run(&self.client, call)).await?;
        let words: Vec<&str> = answer.iter().map(String::as_str).collect();
        let join = match words.as_slice() {
            ["joined", version] => version.parse().ok().map(|version| RouterJoin::Joined { version }),
            ["taken", boot, entry, until_ms] => taken(boot, entry, until_ms),
            _ => None,
        };
        join.ok_or_else(|| unreadable(&answer))
    }

    pub(super) async fn renew_router(&self, boot: BootId) -> Result<bool, RegistryError> {
        let [routers, leases, ..] = self.router_keys();
        let call = Call::new([routers, leases], [hex(boot.0), self.lease_ms()]);
        let renewed = self
            .ask(self.scripts.router_renew.run(&self.client, call))
            .await?;
        Ok(renewed == ["1"])
    }

    pub(super) async fn leave_router(&self, boot: BootId) -> Result<(), RegistryError> {
        let call = Call::new(self.router_keys(), [String::new(), String::new(), hex(boot.0)]);
        self.ask(self.scripts.router_leave.run(&self.client, call))
            .await?;
        Ok(())
    }

    pub(super) async fn set_router_drained(&self, boot: BootId, version: u64) -> Result<(), RegistryError> {
        let [routers, _, _, drained] = self.router_keys();
        let call = Call::new([routers, drained], [hex(boot.0), version.to_string()]);
        self.ask(self.scripts.router_drained.run(&self.client, call))
            .await?;
        Ok(())
    }

    pub(super) async fn routers(&self) -> Result<RouterSet, RegistryError> {
        let listed = self.read_routers().await?;
        // While the registry was away nobody could renew.
        if listed.lapsed.is_empty() || !self.health().may_bury(self.mono()) {
            return Ok(listed.set);
        }
        let mut args = vec![listed.looked_at, LOOK_COUNTS.as_millis().to_string()];
        args.extend(listed.lapsed);
        let call = Call::new(self.router_keys(), args);
        self.ask(self.scripts.router_leave.run(&self.client, call))
            .await?;
        Ok(self.read_routers().await?.set)
    }

    async fn read_routers(&self) -> Result<Listed, RegistryError> {
        let mut keys = self.router_keys().to_vec();
        keys.push(self.keys.incarnation());
        let call = Call::new(keys, [self.lease_ms()]);
        let answer = self.ask(self.scripts.router_list.run(&self.client, call)).await?;
        let listed = parse_list(&answer).ok_or_else(|| unreadable(&answer))?;
        if listed.incarnation != Some(*self.incarnation.borrow()) {
            let reason = "its incarnation changed";
            self.doubt(reason);
            return Err(RegistryError::Unavailable(reason.to_owned()));
        }
        Ok(listed)
    }

    fn router_keys(&self) -> [String; 4] {
        [
            self.keys.routers(),
            self.keys.router_lease(),
            self.keys.router_list(),
            self.keys.drained(),
        ]
    }
}

fn unreadable(answer: &[String]) -> RegistryError {
    RegistryError::Unavailable(format!("what stands of routers is not readable: {answer:?}"))
}

fn text_of(entry: &RouterEntry) -> String {
    let RouterEntry {
        node, address, http, ..
    } = entry;
    let cluster = hex(entry.cluster);
    format!("{node}{SEPARATOR}{address}{SEPARATOR}{http}{SEPARATOR}{cluster}")
}

fn parse_entry(boot: &str, text: &str) -> Option<RouterEntry> {
    let mut parts = text.split(SEPARATOR);
    let (node, address, http) = (parts.next()?, parts.next()?, parts.next()?);
    // An older router names none.
    let cluster = parts.next().map_or(Some(0), parse_hex)?;
    Some(RouterEntry {
        node: NodeId::new(node).ok()?,
        boot: BootId(parse_hex(boot)?),
        address: address.to_owned(),
        http: http.to_owned(),
        cluster,
    })
}

fn taken(boot: &str, entry: &str, until_ms: &str) -> Option<RouterJoin> {
    Some(RouterJoin::Taken {
        by: parse_entry(boot, entry)?,
        lease_ends_ms: until_ms.parse().ok()?,
    })
}

fn parse_list(answer: &[String]) -> Option<Listed> {
    let [looked_at, incarnation, version, routers @ ..] = answer else {
        return None;
    };
    let mut set = RouterSet {
        version: version.parse().ok()?,
        routers: Vec::new(),
        drained: BTreeMap::new(),
    };
    let mut lapsed = Vec::new();
    for router in routers.chunks(4) {
        let [boot, entry, drained, has_lapsed] = router else {
            return None;
        };
        let entry = parse_entry(boot, entry)?;
        set.drained.insert(entry.boot, drained.parse().ok()?);
        set.routers.push(entry);
        if has_lapsed == "1" {
            lapsed.push(boot.clone());
        }
    }
    set.routers
        .sort_unstable_by(|one, other| one.node.cmp(&other.node));
    Some(Listed {
        looked_at: looked_at.clone(),
        incarnation: parse_hex(incarnation),
        set,
        lapsed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: &str, boot: u64) -> RouterEntry {
        RouterEntry {
            node: NodeId::new(node).unwrap(),
            boot: BootId(boot),
            address: format!("{node}:7090"),
            http: String::new(),
            cluster: 0xabc + boot,
        }
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let (one, two) = (entry("a b", 1), entry("c", 0xff));
        let mut answer = vec!["1700000000000".to_owned(), hex(5), "1700000000001".to_owned()];
        for (router, drained, has_lapsed) in [(&two, "7", "1"), (&one, "0", "0")] {
            answer.extend([hex(router.boot.0), text_of(router)]);
            answer.extend([drained, has_lapsed].map(str::to_owned));
        }
        let listed = parse_list(&answer).unwrap();
        assert_eq!(listed.set.version, 1_700_000_000_001);
        assert_eq!(listed.set.routers, [one, two]);
        let drained = BTreeMap::from([(BootId(1), 0), (BootId(0xff), 7)]);
        assert_eq!(listed.set.drained, drained);
        assert_eq!(listed.lapsed, [hex(0xff)]);
        assert_eq!(listed.incarnation, Some(5));
        answer.pop();
        assert_eq!(parse_list(&answer), None);
        let older = parse_entry(&hex(1), "a b\ta b:7090\t").unwrap();
        assert_eq!((older.address.as_str(), older.cluster), ("a b:7090", 0));
    }
}
