//! What every registry must do, run against each adapter.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test says so by failing"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_protocol::id::{AppId, BootId, ConnId, NodeId, UserId};
use corelane_protocol::limits::LEASE;
use corelane_protocol::terminal::Terminal;
use corelane_router::registry::memory::MemoryRegistry;
use corelane_router::registry::{
    ClaimOutcome, ClaimRequest, Gateway, Registry, Route, SESSIONS_PER_USER_MAX,
};

const APP: AppId = AppId(1);
const ONE: BootId = BootId(1);
const TWO: BootId = BootId(2);

/// A registry and the clock that its leases run by, in ms.
trait Fixture {
    type Registry: Registry;

    fn make() -> (Self::Registry, Arc<AtomicU64>);
}

struct Memory;

impl Fixture for Memory {
    type Registry = MemoryRegistry;

    fn make() -> (MemoryRegistry, Arc<AtomicU64>) {
        let clock = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&clock);
        (
            MemoryRegistry::new(5, move || Duration::from_millis(read.load(Ordering::SeqCst))),
            clock,
        )
    }
}

macro_rules! contract {
    ($($adapter:ident: $fixture:ty,)* => $tests:tt) => { $(mod $adapter { contract!(@ $fixture, $tests); })* };
    (@ $fixture:ty, { $($test:ident,)* }) => {
        $(#[tokio::test]
        async fn $test() {
            super::$test::<$fixture>().await;
        })*
    };
}

contract!(memory: super::Memory, => {
    a_newer_login_replaces_by_class_and_device,
    a_repeated_claim_changes_nothing,
    a_late_claim_does_not_come_back,
    a_claim_made_again_gives_way_to_a_later_login,
    unclaiming_another_claim_changes_nothing,
    sessions_of_a_user_are_bounded,
    a_dead_boot_loses_its_routes_and_stays_dead,
    a_lapse_that_nobody_used_is_renewed,
    only_what_a_shard_claimed_is_kept_of_it,
    lookup_keeps_the_order_and_tenants_apart,
});

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn claim(boot: BootId, owner_seq: u64, terminal: Terminal, device: &str) -> ClaimRequest {
    let route = Route {
        gateway: NodeId::new(&format!("gateway-{}", boot.0)).unwrap(),
        boot,
        conn: ConnId::new(0, owner_seq as u32, 1),
        terminal,
        device: device.to_owned(),
        owner_seq,
    };
    ClaimRequest {
        app: APP,
        user: user("alice"),
        route,
        issued_at_s: 100,
        again: false,
    }
}

async fn joined<F: Fixture>() -> (F::Registry, Arc<AtomicU64>) {
    let (registry, clock) = F::make();
    for boot in [ONE, TWO] {
        let gateway = Gateway {
            node: NodeId::new(&format!("gateway-{}", boot.0)).unwrap(),
            boot,
        };
        assert!(registry.join(gateway).await.unwrap());
    }
    (registry, clock)
}

/// The routes that a claim kicked; panics if it was refused.
async fn held(registry: &impl Registry, claim: &ClaimRequest) -> Vec<Route> {
    match registry.claim(claim.clone()).await.unwrap() {
        ClaimOutcome::Held { kicks } => kicks,
        ClaimOutcome::Refused { code } => panic!("refused with {code}"),
    }
}

async fn refused(registry: &impl Registry, claim: &ClaimRequest) -> u16 {
    match registry.claim(claim.clone()).await.unwrap() {
        ClaimOutcome::Held { kicks } => panic!("held, kicks {kicks:?}"),
        ClaimOutcome::Refused { code } => code,
    }
}

async fn routes(registry: &impl Registry) -> Vec<Route> {
    registry.sessions(APP, user("alice")).await.unwrap()
}

async fn a_newer_login_replaces_by_class_and_device<F: Fixture>() {
    let (registry, _) = joined::<F>().await;
    let phone = claim(ONE, 1, Terminal::Ios, "a");
    assert!(held(&registry, &phone).await.is_empty());
    let other_phone = claim(TWO, 1, Terminal::Ios, "b");
    assert_eq!(
        held(&registry, &other_phone).await,
        [phone.route],
        "one phone of a class"
    );
    assert!(
        held(&registry, &claim(ONE, 2, Terminal::Android, "c"))
            .await
            .is_empty(),
        "another class"
    );
    let tab = claim(ONE, 3, Terminal::Web, "x");
    assert!(held(&registry, &tab).await.is_empty());
    assert!(
        held(&registry, &claim(ONE, 4, Terminal::Web, "y"))
            .await
            .is_empty(),
        "browsers by device"
    );
    assert_eq!(
        held(&registry, &claim(TWO, 5, Terminal::Web, "x")).await,
        [tab.route]
    );
    assert_eq!(routes(&registry).await.len(), 4);
}

async fn a_repeated_claim_changes_nothing<F: Fixture>() {
    let (registry, _) = joined::<F>().await;
    let first = claim(ONE, 1, Terminal::Web, "x");
    for _ in 0..3 {
        assert!(held(&registry, &first).await.is_empty());
    }
    assert_eq!(routes(&registry).await, [first.route]);
}

async fn a_late_claim_does_not_come_back<F: Fixture>() {
    let (registry, _) = joined::<F>().await;
    let old = claim(ONE, 1, Terminal::Web, "x");
    held(&registry, &old).await;
    let new = claim(ONE, 2, Terminal::Web, "x");
    assert_eq!(held(&registry, &new).await, std::slice::from_ref(&old.route));
    assert_eq!(refused(&registry, &old).await, 4501, "replaced is replaced");
    assert!(
        registry
            .unclaim(APP, user("alice"), new.route.clone())
            .await
            .unwrap()
    );
    assert_eq!(refused(&registry, &new).await, 4501, "given up is given up");
    // The end of a session may overtake its claim.
    let third = claim(ONE, 3, Terminal::Web, "x");
    assert!(
        !registry
            .unclaim(APP, user("alice"), third.route.clone())
            .await
            .unwrap()
    );
    assert_eq!(refused(&registry, &third).await, 4501);
    // Of two claims of one boot the one with the larger count is the newer, whichever comes first.
    held(&registry, &claim(ONE, 9, Terminal::Web, "x")).await;
    assert_eq!(refused(&registry, &claim(ONE, 8, Terminal::Web, "x")).await, 4501);
    assert_eq!(routes(&registry).await.len(), 1);
}

async fn a_claim_made_again_gives_way_to_a_later_login<F: Fixture>() {
    let (registry, _) = joined::<F>().await;
    let later = claim(ONE, 1, Terminal::Ios, "a");
    held(&registry, &later).await;
    let again = ClaimRequest {
        again: true,
        issued_at_s: 500,
        ..claim(TWO, 1, Terminal::Ios, "b")
    };
    assert_eq!(
        refused(&registry, &again).await,
        4501,
        "the other logged in after the loss"
    );
    registry.unclaim(APP, user("alice"), later.route).await.unwrap();
    let older = ClaimRequest {
        again: true,
        issued_at_s: 200,
        ..claim(ONE, 2, Terminal::Ios, "a")
    };
    held(&registry, &older).await;
    assert_eq!(
        held(&registry, &again).await,
        [older.route],
        "of two made again the newer token stays"
    );
}

async fn unclaiming_another_claim_changes_nothing<F: Fixture>() {
    let (registry, _) = joined::<F>().await;
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(&registry, &first).await;
    let other = Route {
        owner_seq: 7,
        ..first.route.clone()
    };
    assert!(!registry.unclaim(APP, user("alice"), other).await.unwrap());
    assert_eq!(routes(&registry).await, [first.route]);
}

async fn sessions_of_a_user_are_bounded<F: Fixture>() {
    let (registry, _) = joined::<F>().await;
    for number in 0..SESSIONS_PER_USER_MAX as u64 {
        held(
            &registry,
            &claim(ONE, number + 1, Terminal::Web, &format!("tab{number}")),
        )
        .await;
    }
    assert_eq!(
        refused(&registry, &claim(ONE, 999, Terminal::Web, "one more")).await,
        4505
    );
    held(&registry, &claim(ONE, 1000, Terminal::Web, "tab0")).await;
    assert_eq!(routes(&registry).await.len(), SESSIONS_PER_USER_MAX);
}

async fn a_dead_boot_loses_its_routes_and_stays_dead<F: Fixture>() {
    let (registry, clock) = joined::<F>().await;
    held(&registry, &claim(ONE, 1, Terminal::Web, "x")).await;
    let other = claim(TWO, 1, Terminal::Web, "y");
    held(&registry, &other).await;
    clock.fetch_add(LEASE.as_millis() as u64 / 2, Ordering::SeqCst);
    assert!(registry.renew(TWO).await.unwrap());
    clock.fetch_add(LEASE.as_millis() as u64 / 2 + 1, Ordering::SeqCst);
    assert_eq!(registry.reap().await.unwrap(), [ONE]);
    assert_eq!(routes(&registry).await, std::slice::from_ref(&other.route));
    assert!(!registry.renew(ONE).await.unwrap());
    let node = NodeId::new("gateway-1").unwrap();
    assert!(
        !registry.join(Gateway { node, boot: ONE }).await.unwrap(),
        "its boot never comes back"
    );
    assert_eq!(refused(&registry, &claim(ONE, 2, Terminal::Web, "x")).await, 4003);
    let live: Vec<BootId> = registry
        .live_gateways()
        .await
        .unwrap()
        .iter()
        .map(|gateway| gateway.boot)
        .collect();
    assert_eq!(live, [TWO]);
    registry.leave(TWO).await.unwrap();
    assert!(routes(&registry).await.is_empty());
    assert!(
        registry.reap().await.unwrap().is_empty(),
        "who left in order is not reaped"
    );
}

async fn a_lapse_that_nobody_used_is_renewed<F: Fixture>() {
    let (registry, clock) = joined::<F>().await;
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(&registry, &first).await;
    clock.fetch_add(LEASE.as_millis() as u64 * 3, Ordering::SeqCst);
    assert!(registry.renew(ONE).await.unwrap());
    assert_eq!(registry.reap().await.unwrap(), [TWO]);
    assert_eq!(routes(&registry).await, [first.route]);
}

async fn only_what_a_shard_claimed_is_kept_of_it<F: Fixture>() {
    let (registry, clock) = joined::<F>().await;
    let on_shard = |boot, shard, owner_seq, device: &str| {
        let mut claim = claim(boot, owner_seq, Terminal::Web, device);
        claim.route.conn = ConnId::new(shard, owner_seq as u32, 1);
        claim
    };
    let stays = on_shard(ONE, 3, 1, "stays");
    let ended = on_shard(ONE, 3, 2, "ended");
    let claimed_anew = on_shard(ONE, 3, 3, "claimed anew");
    let other_shard = on_shard(ONE, 4, 4, "other shard");
    let lower_shard = on_shard(ONE, 2, 5, "lower shard");
    let other_boot = on_shard(TWO, 3, 2, "other boot");
    for each in [
        &stays,
        &ended,
        &claimed_anew,
        &other_shard,
        &lower_shard,
        &other_boot,
    ] {
        assert!(held(&registry, each).await.is_empty());
    }
    let claimed = [
        (stays.route.conn, stays.route.owner_seq),
        // Another claim of the connection than the one that holds the route.
        (claimed_anew.route.conn, 99),
    ];
    let dropped = registry.keep_only(ONE, 3, claimed.into()).await.unwrap();
    let mut conns: Vec<ConnId> = dropped.iter().map(|(_, conn)| *conn).collect();
    conns.sort_unstable();
    assert_eq!(conns, [ended.route.conn, claimed_anew.route.conn]);
    assert!(
        dropped
            .iter()
            .all(|(at, _)| at.app == APP && at.user == user("alice"))
    );
    let kept = [&stays, &other_shard, &lower_shard, &other_boot].map(|each| each.route.clone());
    assert_eq!(routes(&registry).await, kept);
    assert_eq!(
        registry.keep_only(ONE, 3, claimed.into()).await.unwrap(),
        [],
        "done is done"
    );
    // What was dropped holds nothing any more: its boot ends without it, and its place is free.
    held(&registry, &on_shard(TWO, 3, 6, "ended")).await;
    registry.leave(ONE).await.unwrap();
    assert_eq!(routes(&registry).await.len(), 2);
    assert!(
        registry.keep_only(ONE, 3, [].into()).await.unwrap().is_empty(),
        "a dead boot has no routes"
    );
    drop(clock);
}

async fn lookup_keeps_the_order_and_tenants_apart<F: Fixture>() {
    let (registry, _) = joined::<F>().await;
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(&registry, &first).await;
    let found = registry
        .lookup(APP, vec![user("bob"), user("alice")])
        .await
        .unwrap();
    assert_eq!(found, [vec![], vec![first.route]]);
    assert_eq!(
        registry.lookup(AppId(2), vec![user("alice")]).await.unwrap(),
        [vec![]]
    );
    assert_eq!(registry.incarnation(), registry.incarnation());
}
