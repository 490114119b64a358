//! The contract: one body per property, generic over the registry.

use std::collections::BTreeMap;
use std::time::Duration;

use corelane_protocol::id::{AppId, BootId, ConnId, NodeId};
use corelane_protocol::limits::LEASE;
use corelane_protocol::terminal::Terminal;
use corelane_router::registry::{ClaimRequest, Gateway, Registry, Route, RouterJoin, SESSIONS_PER_USER_MAX};

use super::support::{
    APP, Fixture, Memory, ONE, Redis, RedisCluster, TWO, claim, gateway, held, listed, refused, router,
    routes, user,
};

macro_rules! contract {
    ($($(#[$attribute:meta])* $adapter:ident: $fixture:ty,)* => $tests:tt) => {
        $(mod $adapter { contract!(@ [$(#[$attribute])*] $fixture, $tests); })*
    };
    (@@ [$($attributes:tt)*] $fixture:ty, $test:ident) => {
        #[tokio::test]
        $($attributes)*
        async fn $test() {
            super::$test::<$fixture>().await;
        }
    };
    (@ $attributes:tt $fixture:ty, { $($test:ident,)* }) => {
        $(contract!(@@ $attributes $fixture, $test);)*
    };
}

contract!(
    memory: super::Memory,
    #[ignore = "needs ops/services up redis"]
    redis: super::Redis,
    #[ignore = "needs ops/services up redis"]
    redis_cluster: super::RedisCluster,
    => {
    a_newer_login_replaces_by_class_and_device,
    a_repeated_claim_changes_nothing,
    a_late_claim_does_not_come_back,
    a_claim_made_again_gives_way_to_a_later_login,
    unclaiming_another_claim_changes_nothing,
    sessions_of_a_user_are_bounded,
    a_dead_boot_loses_its_routes_and_stays_dead,
    a_session_of_a_dead_boot_is_in_nobodys_way,
    a_boot_that_never_joined_claims_nothing,
    a_lapse_that_nobody_used_is_renewed,
    a_boot_that_is_waited_for_and_not_known_is_declared_dead_after_a_lease,
    a_boot_that_is_waited_for_comes_back_within_a_lease,
    waiting_for_a_boot_does_not_renew_its_lease,
    a_boot_that_left_is_not_waited_for,
    only_what_a_shard_claimed_is_kept_of_it,
    lookup_keeps_the_order_and_tenants_apart,
    names_of_any_characters_are_kept_apart,
    many_users_are_found_in_one_lookup,
    routers_are_listed_from_their_join_to_their_leave,
    the_list_has_another_version_when_its_members_changed_and_only_then,
    a_router_whose_lease_ran_out_is_taken_out_by_whoever_looks,
    a_lapse_of_a_router_that_nobody_saw_is_renewed,
    of_one_name_there_is_one_router_while_its_lease_stands,
    versions_are_above_what_anybody_knew,
    what_is_drained_is_noted_of_members_only,
});

async fn joined<F: Fixture>() -> F {
    let fixture = F::make().await;
    for boot in [ONE, TWO] {
        assert!(fixture.registry().join(gateway(boot)).await.unwrap());
    }
    fixture
}

async fn a_newer_login_replaces_by_class_and_device<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let phone = claim(ONE, 1, Terminal::Ios, "a");
    assert!(held(registry, &phone).await.is_empty());
    let other_phone = claim(TWO, 1, Terminal::Ios, "b");
    assert_eq!(
        held(registry, &other_phone).await,
        [phone.route],
        "one phone of a class"
    );
    assert!(
        held(registry, &claim(ONE, 2, Terminal::Android, "c"))
            .await
            .is_empty(),
        "another class"
    );
    let tab = claim(ONE, 3, Terminal::Web, "x");
    assert!(held(registry, &tab).await.is_empty());
    assert!(
        held(registry, &claim(ONE, 4, Terminal::Web, "y"))
            .await
            .is_empty(),
        "browsers by device"
    );
    assert_eq!(
        held(registry, &claim(TWO, 5, Terminal::Web, "x")).await,
        [tab.route]
    );
    assert_eq!(routes(registry).await.len(), 4);
}

async fn a_repeated_claim_changes_nothing<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let first = claim(ONE, 1, Terminal::Web, "x");
    for _ in 0..3 {
        assert!(held(registry, &first).await.is_empty());
    }
    assert_eq!(routes(registry).await, [first.route]);
}

async fn a_late_claim_does_not_come_back<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let old = claim(ONE, 1, Terminal::Web, "x");
    held(registry, &old).await;
    let new = claim(ONE, 2, Terminal::Web, "x");
    assert_eq!(held(registry, &new).await, std::slice::from_ref(&old.route));
    assert_eq!(refused(registry, &old).await, 4501, "replaced is replaced");
    assert!(
        registry
            .unclaim(APP, user("alice"), new.route.clone())
            .await
            .unwrap()
    );
    assert_eq!(refused(registry, &new).await, 4501, "given up is given up");
    // The end of a session may overtake its claim.
    let third = claim(ONE, 3, Terminal::Web, "x");
    assert!(
        !registry
            .unclaim(APP, user("alice"), third.route.clone())
            .await
            .unwrap()
    );
    assert_eq!(refused(registry, &third).await, 4501);
    // Of two claims of one boot the one with the larger count is the newer, whichever comes first.
    held(registry, &claim(ONE, 9, Terminal::Web, "x")).await;
    assert_eq!(refused(registry, &claim(ONE, 8, Terminal::Web, "x")).await, 4501);
    assert_eq!(routes(registry).await.len(), 1);
}

async fn a_claim_made_again_gives_way_to_a_later_login<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let later = claim(ONE, 1, Terminal::Ios, "a");
    held(registry, &later).await;
    let again = ClaimRequest {
        again: true,
        issued_at_s: 500,
        ..claim(TWO, 1, Terminal::Ios, "b")
    };
    assert_eq!(
        refused(registry, &again).await,
        4501,
        "the other logged in after the loss"
    );
    registry.unclaim(APP, user("alice"), later.route).await.unwrap();
    let older = ClaimRequest {
        again: true,
        issued_at_s: 200,
        ..claim(ONE, 2, Terminal::Ios, "a")
    };
    held(registry, &older).await;
    assert_eq!(
        held(registry, &again).await,
        [older.route],
        "of two made again the newer token stays"
    );
}

async fn unclaiming_another_claim_changes_nothing<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(registry, &first).await;
    let other = Route {
        owner_seq: 7,
        ..first.route.clone()
    };
    assert!(!registry.unclaim(APP, user("alice"), other).await.unwrap());
    assert_eq!(routes(registry).await, [first.route]);
}

async fn sessions_of_a_user_are_bounded<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    for number in 0..SESSIONS_PER_USER_MAX as u64 {
        held(
            registry,
            &claim(ONE, number + 1, Terminal::Web, &format!("tab{number}")),
        )
        .await;
    }
    assert_eq!(
        refused(registry, &claim(ONE, 999, Terminal::Web, "one more")).await,
        4505
    );
    held(registry, &claim(ONE, 1000, Terminal::Web, "tab0")).await;
    assert_eq!(routes(registry).await.len(), SESSIONS_PER_USER_MAX);
}

async fn a_dead_boot_loses_its_routes_and_stays_dead<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    held(registry, &claim(ONE, 1, Terminal::Web, "x")).await;
    let other = claim(TWO, 1, Terminal::Web, "y");
    held(registry, &other).await;
    fixture.pass(LEASE / 2).await;
    assert!(registry.renew(TWO).await.unwrap());
    fixture.pass(LEASE / 2 + Duration::from_millis(1)).await;
    assert_eq!(registry.reap().await.unwrap(), [ONE]);
    assert_eq!(routes(registry).await, std::slice::from_ref(&other.route));
    assert!(!registry.renew(ONE).await.unwrap());
    let node = NodeId::new("gateway-1").unwrap();
    assert!(
        !registry.join(Gateway { node, boot: ONE }).await.unwrap(),
        "its boot never comes back"
    );
    assert_eq!(refused(registry, &claim(ONE, 2, Terminal::Web, "x")).await, 4003);
    let live: Vec<BootId> = registry
        .live_gateways()
        .await
        .unwrap()
        .iter()
        .map(|gateway| gateway.boot)
        .collect();
    assert_eq!(live, [TWO]);
    registry.leave(TWO).await.unwrap();
    assert!(routes(registry).await.is_empty());
    assert!(
        registry.reap().await.unwrap().is_empty(),
        "who left in order is not reaped"
    );
}

async fn a_lapse_that_nobody_used_is_renewed<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(registry, &first).await;
    fixture.pass(LEASE * 3).await;
    assert!(registry.renew(ONE).await.unwrap());
    assert_eq!(registry.reap().await.unwrap(), [TWO]);
    assert_eq!(routes(registry).await, [first.route]);
}

async fn a_boot_that_is_waited_for_and_not_known_is_declared_dead_after_a_lease<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let forgotten = BootId(99);
    registry.expect_renewals([forgotten].into()).await.unwrap();
    fixture.pass(LEASE / 2).await;
    for boot in [ONE, TWO] {
        assert!(registry.renew(boot).await.unwrap());
    }
    // Who waits for longer puts nothing off.
    registry.expect_renewals([forgotten].into()).await.unwrap();
    assert!(registry.reap().await.unwrap().is_empty());
    assert_eq!(
        refused(registry, &claim(forgotten, 1, Terminal::Web, "x")).await,
        4003
    );
    assert_eq!(registry.live_gateways().await.unwrap().len(), 2);
    fixture.pass(LEASE / 2 + Duration::from_millis(1)).await;
    assert_eq!(registry.reap().await.unwrap(), [forgotten]);
    assert!(!registry.renew(forgotten).await.unwrap());
    assert!(
        !registry.join(gateway(forgotten)).await.unwrap(),
        "it has to take another boot"
    );
    registry.expect_renewals([forgotten].into()).await.unwrap();
    fixture.pass(LEASE / 4).await;
    assert!(registry.reap().await.unwrap().is_empty(), "it dies once");
}

async fn a_boot_that_is_waited_for_comes_back_within_a_lease<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let forgotten = BootId(99);
    registry.expect_renewals([forgotten].into()).await.unwrap();
    fixture.pass(LEASE / 10 * 9).await;
    for boot in [ONE, TWO, forgotten] {
        assert!(registry.join(gateway(boot)).await.unwrap());
    }
    let first = claim(forgotten, 1, Terminal::Web, "x");
    held(registry, &first).await;
    fixture.pass(LEASE / 2).await;
    assert!(registry.reap().await.unwrap().is_empty());
    assert_eq!(routes(registry).await, [first.route]);
    assert!(registry.renew(forgotten).await.unwrap());
}

async fn waiting_for_a_boot_does_not_renew_its_lease<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    fixture.pass(LEASE / 2).await;
    assert!(registry.renew(TWO).await.unwrap());
    registry.expect_renewals([ONE, TWO].into()).await.unwrap();
    fixture.pass(LEASE / 2 + Duration::from_millis(1)).await;
    registry.expect_renewals([ONE, TWO].into()).await.unwrap();
    assert_eq!(registry.reap().await.unwrap(), [ONE]);
}

async fn a_boot_that_left_is_not_waited_for<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    registry.leave(ONE).await.unwrap();
    registry.expect_renewals([ONE].into()).await.unwrap();
    fixture.pass(LEASE / 2).await;
    assert!(registry.renew(TWO).await.unwrap());
    fixture.pass(LEASE / 2 + Duration::from_millis(1)).await;
    assert!(registry.reap().await.unwrap().is_empty());
    assert!(!registry.join(gateway(ONE)).await.unwrap());
}

async fn only_what_a_shard_claimed_is_kept_of_it<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
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
        assert!(held(registry, each).await.is_empty());
    }
    let claimed = [
        (stays.route.conn, stays.route.owner_seq),
        // Another claim of the connection than the one that holds the route.
        (claimed_anew.route.conn, 99),
    ];
    // Claims above a number came later, perhaps at another router: none of them is touched.
    let dropped = registry.keep_only(ONE, 3, 0, [].into()).await.unwrap();
    assert_eq!(dropped, []);
    let dropped = registry
        .keep_only(ONE, 3, u64::MAX, claimed.into())
        .await
        .unwrap();
    let mut conns: Vec<ConnId> = dropped.iter().map(|(_, conn)| *conn).collect();
    conns.sort_unstable();
    assert_eq!(conns, [ended.route.conn, claimed_anew.route.conn]);
    assert!(
        dropped
            .iter()
            .all(|(at, _)| at.app == APP && at.user == user("alice"))
    );
    let kept = [&stays, &other_shard, &lower_shard, &other_boot].map(|each| each.route.clone());
    assert_eq!(sorted(routes(registry).await), sorted(kept.to_vec()));
    assert_eq!(
        registry
            .keep_only(ONE, 3, u64::MAX, claimed.into())
            .await
            .unwrap(),
        [],
        "done is done"
    );
    // What was dropped holds nothing any more: its boot ends without it, and its place is free.
    held(registry, &on_shard(TWO, 3, 6, "ended")).await;
    registry.leave(ONE).await.unwrap();
    assert_eq!(routes(registry).await.len(), 2);
    assert!(
        registry
            .keep_only(ONE, 3, u64::MAX, [].into())
            .await
            .unwrap()
            .is_empty(),
        "a dead boot has no routes"
    );
}

async fn lookup_keeps_the_order_and_tenants_apart<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let first = claim(ONE, 1, Terminal::Web, "x");
    held(registry, &first).await;
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

async fn a_session_of_a_dead_boot_is_in_nobodys_way<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    for number in 0..SESSIONS_PER_USER_MAX as u64 {
        let bot = claim(ONE, number + 1, Terminal::Bot, &format!("bot{number}"));
        held(registry, &bot).await;
    }
    registry.leave(ONE).await.unwrap();
    let bot = claim(TWO, 1, Terminal::Bot, "bot0");
    assert!(held(registry, &bot).await.is_empty(), "nobody is left to be told");
    let again = ClaimRequest {
        again: true,
        issued_at_s: 1,
        ..claim(TWO, 2, Terminal::Bot, "bot1")
    };
    assert!(
        held(registry, &again).await.is_empty(),
        "the dead do not outrank the living"
    );
    assert_eq!(routes(registry).await.len(), 2);
}

async fn a_boot_that_never_joined_claims_nothing<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let stranger = BootId(99);
    assert_eq!(
        refused(registry, &claim(stranger, 1, Terminal::Web, "x")).await,
        4003
    );
    assert!(!registry.renew(stranger).await.unwrap());
    assert!(routes(registry).await.is_empty());
}

async fn names_of_any_characters_are_kept_apart<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let names = ["a:b", "a", "{a}", "a}", "\u{e4} \u{1f600}", "*", "a b"];
    for (number, name) in names.iter().enumerate() {
        let mut claim = claim(ONE, number as u64 + 1, Terminal::Web, "de:vi\tce");
        claim.user = user(name);
        assert!(held(registry, &claim).await.is_empty());
    }
    let users = names.map(user).to_vec();
    let found = registry.lookup(APP, users).await.unwrap();
    for (number, routes) in found.iter().enumerate() {
        let route = &routes[..];
        assert_eq!(route.len(), 1, "{}", names[number]);
        assert_eq!(
            (route[0].owner_seq, route[0].device.as_str()),
            (number as u64 + 1, "de:vi\tce")
        );
    }
    let dropped = registry.keep_only(ONE, 0, u64::MAX, [].into()).await.unwrap();
    let mut dropped: Vec<String> = dropped
        .iter()
        .map(|(at, _)| at.user.as_str().to_owned())
        .collect();
    dropped.sort_unstable();
    let mut all = names.map(str::to_owned);
    all.sort_unstable();
    assert_eq!(dropped, all);
}

async fn many_users_are_found_in_one_lookup<F: Fixture>() {
    let fixture = joined::<F>().await;
    let registry = fixture.registry();
    let name = |number: u64| user(&format!("user{number}"));
    for number in (0..700).step_by(2) {
        let mut claim = claim(ONE, number + 1, Terminal::Web, "x");
        claim.user = name(number);
        held(registry, &claim).await;
    }
    let found = registry.lookup(APP, (0..700).map(name).collect()).await.unwrap();
    for (number, routes) in (0..700_u64).zip(&found) {
        let seqs: Vec<u64> = routes.iter().map(|route| route.owner_seq).collect();
        let expected: &[u64] = if number % 2 == 0 { &[number + 1] } else { &[] };
        assert_eq!(seqs, expected, "user{number}");
    }
    assert_eq!(found.len(), 700);
}

async fn routers_are_listed_from_their_join_to_their_leave<F: Fixture>() {
    let fixture = F::make().await;
    let registry = fixture.registry();
    assert!(registry.routers().await.unwrap().routers.is_empty());
    let (one, two) = (router("one", 1), router("two", 2));
    listed(registry, &two, 0).await;
    listed(registry, &one, 0).await;
    assert_eq!(registry.routers().await.unwrap().routers, [one, two.clone()]);
    registry.leave_router(ONE).await.unwrap();
    registry.leave_router(ONE).await.unwrap();
    assert_eq!(registry.routers().await.unwrap().routers, [two]);
    assert!(!registry.renew_router(ONE).await.unwrap());
    assert!(registry.renew_router(TWO).await.unwrap());
}

async fn the_list_has_another_version_when_its_members_changed_and_only_then<F: Fixture>() {
    let fixture = F::make().await;
    let registry = fixture.registry();
    let version = async || registry.routers().await.unwrap().version;
    let first = listed(registry, &router("one", 1), 0).await;
    assert_eq!(version().await, first);
    assert_eq!(
        listed(registry, &router("one", 1), 0).await,
        first,
        "joining again"
    );
    registry.set_drained(ONE, first).await.unwrap();
    assert!(registry.renew_router(ONE).await.unwrap());
    registry.leave_router(TWO).await.unwrap();
    assert_eq!(version().await, first);
    let second = listed(registry, &router("two", 2), 0).await;
    assert!(second > first);
    registry.leave_router(TWO).await.unwrap();
    let third = version().await;
    assert!(third > second);
    fixture.pass(LEASE + Duration::from_millis(1)).await;
    assert!(version().await > third, "a lease ran out");
}

async fn a_router_whose_lease_ran_out_is_taken_out_by_whoever_looks<F: Fixture>() {
    let fixture = F::make().await;
    let registry = fixture.registry();
    let (one, two) = (router("one", 1), router("two", 2));
    listed(registry, &one, 0).await;
    listed(registry, &two, 0).await;
    fixture.pass(LEASE / 2).await;
    assert!(registry.renew_router(TWO).await.unwrap());
    fixture.pass(LEASE / 2 + Duration::from_millis(1)).await;
    let list = registry.routers().await.unwrap();
    assert_eq!(list.routers, [two]);
    assert!(!registry.renew_router(ONE).await.unwrap());
    let again = listed(registry, &one, 0).await;
    assert!(again > list.version);
    assert_eq!(registry.routers().await.unwrap().routers.len(), 2);
}

async fn a_lapse_of_a_router_that_nobody_saw_is_renewed<F: Fixture>() {
    let fixture = F::make().await;
    let registry = fixture.registry();
    let first = listed(registry, &router("one", 1), 0).await;
    fixture.pass(LEASE * 3).await;
    assert!(registry.renew_router(ONE).await.unwrap());
    assert_eq!(registry.routers().await.unwrap().version, first);
}

async fn of_one_name_there_is_one_router_while_its_lease_stands<F: Fixture>() {
    let fixture = F::make().await;
    let registry = fixture.registry();
    let (first, second) = (router("one", 1), router("one", 2));
    let version = listed(registry, &first, 0).await;
    let join = registry.join_router(second.clone(), 0).await.unwrap();
    let RouterJoin::Taken { by, lease_ends_ms } = join else {
        panic!("{join:?}")
    };
    assert_eq!(by, first);
    fixture.pass(LEASE / 2).await;
    assert!(registry.renew_router(ONE).await.unwrap());
    let join = registry.join_router(second.clone(), 0).await.unwrap();
    let RouterJoin::Taken {
        lease_ends_ms: later, ..
    } = join
    else {
        panic!("{join:?}")
    };
    assert!(later >= lease_ends_ms, "it lives: {later}, {lease_ends_ms}");
    fixture.pass(LEASE + Duration::from_millis(1)).await;
    assert!(listed(registry, &second, 0).await > version);
    assert_eq!(registry.routers().await.unwrap().routers, [second]);
}

async fn versions_are_above_what_anybody_knew<F: Fixture>() {
    let fixture = F::make().await;
    let registry = fixture.registry();
    let first = listed(registry, &router("one", 1), 0).await;
    let known = first + 1_000_000_000;
    let second = listed(registry, &router("two", 2), known).await;
    assert!(second > known);
    registry.leave_router(ONE).await.unwrap();
    assert!(registry.routers().await.unwrap().version > second);
}

async fn what_is_drained_is_noted_of_members_only<F: Fixture>() {
    let fixture = F::make().await;
    let registry = fixture.registry();
    let version = listed(registry, &router("one", 1), 0).await;
    registry.set_drained(TWO, version).await.unwrap();
    let list = registry.routers().await.unwrap();
    assert_eq!(list.drained, BTreeMap::from([(ONE, 0)]));
    registry.set_drained(ONE, version).await.unwrap();
    let list = registry.routers().await.unwrap();
    assert_eq!(list.drained, BTreeMap::from([(ONE, version)]));
    registry.leave_router(ONE).await.unwrap();
    listed(registry, &router("one", 1), 0).await;
    let list = registry.routers().await.unwrap();
    assert_eq!(list.drained, BTreeMap::from([(ONE, 0)]), "it has to say so anew");
}

fn sorted(mut routes: Vec<Route>) -> Vec<Route> {
    routes.sort_unstable_by_key(|route| (route.boot, route.conn));
    routes
}
