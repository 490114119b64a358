//! A storm of logins does not keep a gateway from renewing its lease.

mod link_support;

use corelane_protocol::frame;
use corelane_protocol::link::body::{ArchivedRenewed, Renew};
use corelane_protocol::link::record::RecordKind;
use link_support::{Gateway, router};

/// More than the queue of claims holds.
const CLAIMS: u64 = 20_000;

#[test]
fn a_renewal_is_answered_before_the_claims_that_were_read_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    for number in 1..=CLAIMS {
        gateway.push_claim(&format!("user{number}"), number << 8 | 1, number);
    }
    let renew = frame::archive(&Renew { sessions: CLAIMS });
    gateway.push(RecordKind::Renew, 0, 77, "", &renew);
    gateway.flush();
    let mut answered = 0;
    let mut answered_before = None;
    while answered < CLAIMS {
        let arrived = gateway.next();
        match arrived.kind {
            RecordKind::Claimed => answered += 1,
            RecordKind::Renewed => {
                let renewed = frame::access::<ArchivedRenewed>(&arrived.body).unwrap();
                assert!(renewed.alive);
                assert_eq!(arrived.reference, 77, "the answer names its renewal");
                answered_before = Some(answered);
            }
            _ => {}
        }
    }
    let answered_before = answered_before.expect("the renewal is answered before the last claim");
    assert!(answered_before < CLAIMS, "{answered_before}");
}
