//! Rows that dead routers left: no more of them are read than there is room for, and each is found by the router that
//! serves its lane.

use std::collections::BTreeSet;
use std::path::Path;

use corelane_protocol::frame::kind;
use corelane_protocol::hash::lane_of;
use corelane_protocol::id::{AppId, ClientMsgId, ConvId, NodeId, UserId};
use corelane_router_core::append::{Append, Batch, Committed, MemberChange};

use super::*;
use crate::bench::{self, BOOT};
use crate::clock::Clock;
use crate::driver::Driver;
use crate::registry::{RouterEntry, RouterSet};

const APP: AppId = AppId(1);
/// What the earlier life left.
const ROWS: usize = 3 * ADOPTED_MAX;
const DEADLINE: Duration = Duration::from_secs(20);

fn message(number: usize) -> Append {
    let name = |name: &str| UserId::new(name).unwrap();
    let mut id = [0x70; 16];
    let sent_at = Clock::start().now().wall_ms.to_be_bytes();
    id[..6].copy_from_slice(&sent_at[2..]);
    id[8..].copy_from_slice(&(number as u64 | 1 << 63).to_be_bytes());
    Append {
        app: APP,
        conv: ConvId::direct(&name("alice"), &name(&format!("user{number}"))),
        sender: name("alice"),
        client_msg_id: ClientMsgId(id),
        kind: kind::TEXT,
        flags: 0,
        ref_seq: 0,
        content_type: 0,
        payload: b"x".to_vec(),
        extensions: Vec::new(),
        origin_terminal: 1,
        origin_device: String::new(),
        members: MemberChange::default(),
        check_member: true,
        moves_read_mark: false,
    }
}

/// An earlier life that left rows; their ids.
async fn leave_rows(dir: &Path) -> BTreeSet<u64> {
    let (shared, _events) = bench::shared(dir);
    let mut rows = BTreeSet::new();
    for number in 0..ROWS {
        let append = message(number);
        let lane = lane_of(APP, &append.conv, shared.store.info().lanes);
        let appends = vec![append];
        match shared.store.commit(Batch { lane, appends }).await {
            Committed::Done { outbox, .. } => assert!(rows.insert(outbox)),
            Committed::Unknown(why) => panic!("{why}"),
        }
    }
    rows
}

fn list(version: u64, boots: &[u64]) -> Arc<RouterSet> {
    let entry = |boot: &u64| RouterEntry {
        node: NodeId::new(&format!("router-{boot}")).unwrap(),
        boot: BootId(*boot),
        address: String::new(),
        http: String::new(),
        cluster: 5,
    };
    Arc::new(RouterSet {
        version,
        routers: boots.iter().map(entry).collect(),
        ..RouterSet::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_can_be_published_no_more_rows_are_read_than_there_is_room_for() {
    let dir = tempfile::tempdir().unwrap();
    leave_rows(dir.path()).await;
    let (shared, events) = bench::shared(dir.path());
    let mut driver = Driver::new(Arc::clone(&shared), events);
    driver.locate_from(Duration::from_hours(1));
    tokio::spawn(driver.run());
    let adopting = adopt_once(&shared, &[0]);
    let ended = tokio::time::timeout(Duration::from_secs(1), adopting).await;
    assert!(ended.is_err(), "all rows were read");
    assert_eq!(shared.cluster.rows_held(), ADOPTED_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_makes_room_until_all_rows_are() {
    let dir = tempfile::tempdir().unwrap();
    leave_rows(dir.path()).await;
    let (shared, events) = bench::shared(dir.path());
    tokio::spawn(Driver::new(Arc::clone(&shared), events).run());
    let adopted = tokio::time::timeout(DEADLINE, adopt_once(&shared, &[0])).await;
    adopted.expect("there was room again").unwrap();
    let all = Arc::clone(&shared.adopting).acquire_many_owned(u32::try_from(ADOPTED_MAX).unwrap());
    let all = tokio::time::timeout(DEADLINE, all).await;
    let _all = all.expect("all of them were published").unwrap();
}

#[tokio::test]
async fn routers_share_out_what_is_left_and_what_the_dead_one_among_them_had_is_found_later() {
    let dir = tempfile::tempdir().unwrap();
    let left = leave_rows(dir.path()).await;
    let (shared, mut events) = bench::shared(dir.path());
    let mut adopted = BTreeSet::new();
    let mut taken = |lanes: &[Lane]| {
        let mut rows = BTreeSet::new();
        while let Ok(Event::Left(left)) = events.try_recv() {
            assert!(lanes.contains(&left.lane));
            rows.insert(left.row);
        }
        rows
    };
    shared.cluster.set_list(list(1, &[BOOT, BOOT + 1, BOOT + 2]));
    shared.adopting.add_permits(ROWS);
    let lanes = own_lanes(&shared);
    adopt_once(&shared, &[0]).await.unwrap();
    let first = taken(&lanes);
    assert!(!first.is_empty() && first.len() < ROWS / 2, "{}", first.len());
    adopted.extend(&first);
    // The others die before they took theirs.
    shared.cluster.set_list(list(2, &[BOOT]));
    adopt_once(&shared, &[0]).await.unwrap();
    adopted.extend(taken(&own_lanes(&shared)));
    assert_eq!(adopted, left);
    // Who is not in the list takes nothing.
    shared.cluster.set_list(list(3, &[BOOT + 1]));
    adopt_once(&shared, &[0]).await.unwrap();
    assert!(taken(&[]).is_empty());
}
