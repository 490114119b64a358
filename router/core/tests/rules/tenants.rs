//! One commit holds messages of many tenants: each is published once, to its own users, and the commit comes to its end.

use crate::bench::{Bench, append, user};
use corelane_protocol::id::ConvId;

#[test]
fn every_tenant_is_published_once_and_to_its_own() {
    let mut bench = Bench::new();
    let pair = ConvId::direct(&user("alice"), &user("bob"));
    // Sorts before every other conversation of its tenant.
    let first = ConvId::direct(&user(" "), &user(" "));
    let apps = [0, 1, 2, u32::MAX - 1, u32::MAX];
    let mut appends = vec![append(0, &pair, 0)];
    for app in apps {
        appends.extend([&pair, &first].map(|conv| append(app, conv, app)));
    }
    bench.submit(appends);
    bench.commit();
    for app in apps {
        let expected: &[u64] = if app == 0 { &[1, 2] } else { &[1] };
        for name in ["alice", "bob"] {
            let key = (app, name.to_owned(), pair.to_string());
            assert_eq!(bench.got.remove(&key).as_deref(), Some(expected), "{key:?}");
        }
        let key = (app, " ".to_owned(), first.to_string());
        assert_eq!(bench.got.remove(&key).as_deref(), Some(&[1][..]), "{key:?}");
    }
    assert!(bench.got.is_empty(), "{:?}", bench.got);
    assert_eq!(bench.cleared, [1, 2], "nothing is left to be published");
}
