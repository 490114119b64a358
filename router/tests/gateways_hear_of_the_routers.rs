//! Every link is told the routers there are, in the version that its handshake named, and again when one comes or goes.

mod link_support;

use link_support::{Gateway, router};

#[test]
fn a_new_link_is_told_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let (version, routers) = gateway.until("the list", |gateway| gateway.lists.pop());
    let address = router.link_addr().to_string();
    assert_eq!(routers, [("router".to_owned(), address)]);
    assert_eq!(version, gateway.list_version);
    router.shutdown();

    // A gateway that knew the earlier life takes the later one's list for the newer.
    let router = link_support::router(dir.path());
    let mut gateway = Gateway::link(dir.path(), &router, 11);
    let (later, _) = gateway.until("the list", |gateway| gateway.lists.pop());
    assert!(later > version);
}
