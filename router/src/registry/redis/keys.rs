//! Names of the keys.
//!
//! ```text
//! route:{rNNNN}:<app>:<user>      hash   terminal:device -> session (see `row.rs`)
//! held:{rNNNN}:<boot>             hash   connection -> whose, the index of what a boot holds
//! claims:{rNNNN}:<writer>         string number of the last change that this router made in the slot group
//! ended:{rNNNN}                   zset   claims that ended lately
//! born:{rNNNN}                    string the incarnation in which the group was empty
//! incarnation:{leases}            string 16 hex digits
//! drawing:{leases}                string who draws a new incarnation
//! gateways:{leases}               hash   boot -> node, of all that are not dead
//! lease:{leases}                  zset   boot by the end of its lease (ms since 1970 by the server's clock), also of those
//!                                        that are missed and may come back
//! dead:{leases}                   zset   boot by when it was declared dead
//! routers:{leases}                hash   boot -> node, address, HTTP address, cluster, of the routers in the list
//! routerlease:{leases}            zset   boot by the end of its lease
//! routerlist:{leases}             string version of the list
//! drained:{leases}                hash   boot -> version up to which the router has drained
//! sweep:{leases}, floor:{leases}  string which router does the hourly and the daily work
//! ```
//!
//! `NNNN` is the slot group of (app, user), below 1,024: all keys of a group are in one slot of a Redis Cluster, so one
//! script can change them together. The same holds for the leases. Every key stands behind the configured prefix.

use corelane_protocol::hash::registry_slot_of;
use corelane_protocol::id::{AppId, BootId, UserId};

/// Slot groups.
pub(super) const GROUPS: u16 = 1024;

/// A slot group, below [`GROUPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group(u16);

impl Group {
    pub(super) fn of(app: AppId, user: &UserId) -> Self {
        Self(registry_slot_of(app, user))
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..GROUPS).map(Self)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The names, behind a prefix.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    fn grouped(&self, kind: &str, group: Group) -> String {
        format!("{}{kind}:{{r{:04}}}", self.prefix, group.0)
    }

    fn leases_tag(&self, kind: &str) -> String {
        format!("{}{kind}:{{leases}}", self.prefix)
    }

    pub(super) fn route(&self, app: AppId, user: &UserId) -> String {
        let routes = self.grouped("route", Group::of(app, user));
        format!("{routes}:{}:{user}", app.0)
    }

    pub(super) fn held(&self, group: Group, boot: BootId) -> String {
        format!("{}:{:016x}", self.grouped("held", group), boot.0)
    }

    pub(super) fn claims(&self, group: Group, writer: u64) -> String {
        format!("{}:{writer:016x}", self.grouped("claims", group))
    }

    pub(super) fn ended(&self, group: Group) -> String {
        self.grouped("ended", group)
    }

    pub(super) fn born(&self, group: Group) -> String {
        self.grouped("born", group)
    }

    pub(super) fn incarnation(&self) -> String {
        self.leases_tag("incarnation")
    }

    pub(super) fn drawing(&self) -> String {
        self.leases_tag("drawing")
    }

    pub(super) fn gateways(&self) -> String {
        self.leases_tag("gateways")
    }

    pub(super) fn lease(&self) -> String {
        self.leases_tag("lease")
    }

    pub(super) fn dead(&self) -> String {
        self.leases_tag("dead")
    }

    pub(super) fn routers(&self) -> String {
        self.leases_tag("routers")
    }

    pub(super) fn router_lease(&self) -> String {
        self.leases_tag("routerlease")
    }

    pub(super) fn router_list(&self) -> String {
        self.leases_tag("routerlist")
    }

    pub(super) fn drained(&self) -> String {
        self.leases_tag("drained")
    }

    pub(super) fn sweep(&self) -> String {
        self.leases_tag("sweep")
    }

    pub(super) fn floor(&self) -> String {
        self.leases_tag("floor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented_and_never_change() {
        let keys = Keys::new("a.".to_owned());
        let alice = UserId::new("alice").unwrap();
        let group = Group::of(AppId(7), &alice);
        assert_eq!(
            keys.route(AppId(7), &alice),
            format!("a.route:{{r{:04}}}:7:alice", group.0)
        );
        let group = Group(9);
        let boot = BootId(0xab);
        assert_eq!(keys.held(group, boot), "a.held:{r0009}:00000000000000ab");
        assert_eq!(keys.claims(group, 1), "a.claims:{r0009}:0000000000000001");
        assert_eq!(keys.ended(group), "a.ended:{r0009}");
        assert_eq!(keys.born(group), "a.born:{r0009}");
        assert_eq!(keys.incarnation(), "a.incarnation:{leases}");
        assert_eq!(keys.lease(), "a.lease:{leases}");
        assert_eq!(keys.routers(), "a.routers:{leases}");
        assert_eq!(keys.router_lease(), "a.routerlease:{leases}");
        assert_eq!(keys.router_list(), "a.routerlist:{leases}");
        assert_eq!(keys.drained(), "a.drained:{leases}");
        assert_eq!(Group::all().count(), 1024);
    }
}
