//! What arrives for a lane that other routers have not finished waits, in its order, within its bounds.

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::ConvId;
use corelane_router_core::event::LaneRole;

use crate::bench::{Bench, append, user};

fn pair() -> ConvId {
    ConvId::direct(&user("alice"), &user("bob"))
}

#[test]
fn a_gained_lane_holds_what_arrives_in_order_until_it_is_free() {
    let mut bench = Bench::without_list();
    bench.list(5, LaneRole::Held);
    for number in 1..=3 {
        bench.send(7, append(0, &pair(), number), false, u64::MAX);
    }
    bench.list(5, LaneRole::Held);
    assert!(bench.batches.is_empty() && bench.answers.is_empty());
    bench.list(5, LaneRole::Served);
    let batch = &bench.batches[0];
    let ids: Vec<u8> = batch
        .appends
        .iter()
        .map(|append| append.client_msg_id.0[15])
        .collect();
    assert_eq!(ids, [1, 2, 3]);
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(1), Ok(2), Ok(3)]);
    assert_eq!(bench.looks, 0);
}

#[test]
fn what_waits_too_long_is_answered_and_nothing_behind_it_overtakes() {
    let mut bench = Bench::without_list();
    bench.list(5, LaneRole::Held);
    let soon = bench.now_ms() + 5;
    bench.send(7, append(0, &pair(), 1), false, soon);
    bench.send(7, append(0, &pair(), 2), false, u64::MAX);
    bench.send(8, append(0, &pair(), 3), false, u64::MAX);
    while bench.now_ms() <= soon {
        bench.list(5, LaneRole::Held);
    }
    let refused = [Err(ErrorCode::Overloaded), Err(ErrorCode::GateClosed)];
    assert_eq!(bench.outcomes(), refused);
    bench.list(5, LaneRole::Served);
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(1)], "another connection's");
}

#[test]
fn what_does_not_fit_is_overloaded() {
    let mut bench = Bench::without_list();
    bench.list(5, LaneRole::Held);
    bench.submit((1..=8_193).map(|number| append(0, &pair(), number)).collect());
    assert_eq!(bench.outcomes(), [Err(ErrorCode::Overloaded)]);
}

#[test]
fn a_lane_that_goes_before_it_was_free_has_nothing_to_drain() {
    let mut bench = Bench::without_list();
    bench.list(5, LaneRole::Held);
    bench.send(7, append(0, &pair(), 1), false, u64::MAX);
    bench.list(6, LaneRole::Foreign);
    assert_eq!(bench.outcomes(), [Err(ErrorCode::Retry)]);
    assert_eq!(bench.drained, [5, 6]);
    assert!(bench.batches.is_empty());
}
