//! A router that may have been paused while others took over stores nothing before it has looked; one that is not in the
//! list stores nothing before it is in it again.

use std::time::Duration;

use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::id::ConvId;
use corelane_router_core::event::{Input, LaneList, LaneRole};

use crate::bench::{Bench, append, user};

fn pair() -> ConvId {
    ConvId::direct(&user("alice"), &user("bob"))
}

#[test]
fn a_list_that_is_too_old_is_looked_at_again_first() {
    let mut bench = Bench::without_list();
    bench.input(Input::Lanes(LaneList {
        until: Duration::from_millis(bench.now_ms() + 3),
        ..LaneList::alone(1, 1)
    }));
    bench.submit(vec![append(0, &pair(), 1)]);
    assert_eq!(bench.batches.len(), 1, "it is believed");
    bench.commit();
    bench.outcomes();
    bench.submit((2..=4).map(|number| append(0, &pair(), number)).collect());
    assert!(bench.batches.is_empty() && bench.answers.is_empty());
    assert_eq!(bench.looks, 1, "once");
    bench.list(1, LaneRole::Served);
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(2), Ok(3), Ok(4)]);
}

#[test]
fn what_waits_is_refused_where_nobody_waits_for_it() {
    let mut bench = Bench::new();
    bench.submit((1..=2).map(|number| append(0, &pair(), number)).collect());
    let lapsed = || {
        Input::Lanes(LaneList {
            roles: vec![LaneRole::Foreign],
            lapsed: true,
            ..LaneList::alone(2, 1)
        })
    };
    bench.input(lapsed());
    assert_eq!(bench.outcomes(), [Err(ErrorCode::Retry)], "one is being stored");
    bench.send(7, append(0, &pair(), 3), false, u64::MAX);
    bench.input(lapsed());
    assert_eq!(bench.outcomes(), [Err(ErrorCode::Retry)]);
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(1)]);
    assert_eq!(bench.drained, [1, 2]);
    bench.list(3, LaneRole::Held);
    bench.send(7, append(0, &pair(), 3), true, u64::MAX);
    bench.list(3, LaneRole::Served);
    bench.commit();
    assert_eq!(bench.outcomes(), [Ok(2)]);
}
