//! Users of different gateways talk, two by two and in a group, whichever router serves the conversation; and it is the same
//! history that each router reads.

use corelane_system_tests::client::{Client, to_group};
use corelane_system_tests::cluster::Cluster;
use corelane_system_tests::talk::{receive, send};

#[test]
#[ignore = "needs ops/services up redis kafka tikv"]
fn users_of_different_gateways_talk_and_each_router_reads_the_same_history() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 2, 2);
    for conv in cluster.talk_across("pair") {
        let histories = cluster.histories(&conv);
        assert_eq!(histories[0], histories[1], "{conv}");
        assert_eq!(histories[0].1, 2, "{conv}: {}", histories[0].0);
    }
    for router in &cluster.routers {
        assert!(router.persisted() > 0, "{} serves conversations", router.node());
    }
}

#[test]
#[ignore = "needs ops/services up redis kafka tikv"]
fn a_group_over_two_gateways_reads_all_that_is_said_in_it_in_one_order() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 2, 2);
    let names = ["alice", "bob", "carol", "dave"];
    let mut members: Vec<Client> = (0..)
        .zip(names)
        .map(|(number, name): (usize, &str)| Client::login(&cluster.gateways[number % 2].gateway, name))
        .collect();
    let gateway = &cluster.gateways[0].gateway;
    ureq::post(format!("{}/v1/groups", gateway.http))
        .header("Authorization", &format!("Bearer {}", gateway.admin_key()))
        .send_json(serde_json::json!({"group": "team", "members": names}))
        .expect("the group is created, whichever router serves it");
    for (number, name) in names.iter().enumerate() {
        let text = format!("{name} says something");
        let seq = send(&mut members[number], &to_group("team"), &text);
        assert_eq!(seq, number as u64 + 2, "behind the creation");
        for other in (0..names.len()).filter(|other| *other != number) {
            let message = receive(&mut members[other], &text);
            assert_eq!(
                (message.seq, message.sender.as_str()),
                (seq, *name),
                "{}",
                names[other]
            );
        }
    }
    let histories = cluster.histories("g:team");
    assert_eq!(histories[0], histories[1]);
    assert_eq!(histories[0].1, 1 + names.len(), "{}", histories[0].0);
}
