//! A lane that went to another router takes nothing more; what has its place in it is stored and published, and then it
//! is drained.

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::ConvId;
use corelane_router_core::event::LaneRole;

use crate::bench::{Bench, append, user};

#[test]
fn a_lost_lane_is_drained_after_its_last_publication_and_takes_nothing_meanwhile() {
    let mut bench = Bench::new();
    let pair = ConvId::direct(&user("alice"), &user("bob"));
    bench.lookups_held = true;
    // The first takes the lane; the others wait for it.
    bench.submit((1..=3).map(|number| append(0, &pair, number)).collect());
    bench.list(2, LaneRole::Foreign);
    bench.send(7, append(0, &pair, 4), false, u64::MAX);
    bench.send(7, append(0, &pair, 5), false, u64::MAX);
    let refused = [Err(ErrorCode::Retry), Err(ErrorCode::GateClosed)];
    assert_eq!(bench.outcomes(), refused, "and none overtakes it");
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(1), Ok(2), Ok(3)]);
    assert_eq!(bench.drained, [1], "nothing is published yet");
    bench.answer_lookups();
    let bob = bench.got.get(&(0, "bob".to_owned(), pair.to_string()));
    assert_eq!(bob.unwrap()[..], [1, 2, 3]);
    assert_eq!(bench.drained, [1, 2]);
    assert_eq!(bench.looks, 0, "the sender's list was older than this router's");
}

#[test]
fn a_lane_that_comes_back_before_it_is_drained_goes_on() {
    let mut bench = Bench::new();
    let pair = ConvId::direct(&user("alice"), &user("bob"));
    bench.submit((1..=2).map(|number| append(0, &pair, number)).collect());
    bench.list(2, LaneRole::Foreign);
    bench.list(3, LaneRole::Served);
    bench.submit(vec![append(0, &pair, 3)]);
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(1), Ok(2), Ok(3)]);
    assert_eq!(bench.drained, [1, 3]);
}
