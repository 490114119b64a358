//! A router that is alone serves all lanes at once: its list costs nothing.

use corelane_protocol::id::ConvId;

use crate::bench::{Bench, append, user};

#[test]
fn a_lone_router_admits_at_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.drained, [1]);
    let pair = ConvId::direct(&user("alice"), &user("bob"));
    bench.submit(vec![append(0, &pair, 1)]);
    assert_eq!(bench.batches.len(), 1);
    assert_eq!(bench.looks, 0);
}
