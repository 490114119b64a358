//! Two logins of one user at two gateways in the same moment: whoever comes first, the sessions that remain are those that
//! the login policy allows. Each router names them and no other, by what Redis holds; messages reach them, and who is closed
//! is told why.

use std::sync::Barrier;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use corelane_protocol::terminal::Terminal;
use corelane_system_tests::Gateway;
use corelane_system_tests::client::{Client, to_user};
use corelane_system_tests::cluster::Cluster;
use corelane_system_tests::talk;

/// Names how often each case is tried; 13 times if it is not set.
const ROUNDS: &str = "CORELANE_TEST_LOGINS";
/// Close code of who gave way to a newer login.
const REPLACED: u16 = 4501;
/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// Two terminals of a user, and how many of them may be online together.
struct Case {
    terminals: [(Terminal, &'static str); 2],
    remain: usize,
}

const CASES: [Case; 4] = [
    Case {
        terminals: [(Terminal::Desktop, "one"), (Terminal::Desktop, "other")],
        remain: 1,
    },
    Case {
        terminals: [(Terminal::Web, "tab"), (Terminal::Web, "tab")],
        remain: 1,
    },
    Case {
        terminals: [(Terminal::Web, "tab"), (Terminal::Web, "other tab")],
        remain: 2,
    },
    Case {
        terminals: [(Terminal::Ios, "phone"), (Terminal::Pad, "tablet")],
        remain: 2,
    },
];

/// What a login saw, one after the other; the last two are its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Welcome,
    Reached,
    Closed(u16),
}

/// Tells what becomes of a login that said `Hello`, until it is closed or `last` has reached it.
fn follow(client: &mut Client, last: &str, tell: impl Fn(Seen)) {
    if let Err(code) = client.welcome() {
        return tell(Seen::Closed(code));
    }
    tell(Seen::Welcome);
    loop {
        match client.try_message() {
            Ok(message) if message.payload == last.as_bytes() => return tell(Seen::Reached),
            Ok(_) => {}
            Err(code) => return tell(Seen::Closed(code)),
        }
    }
}

/// Waits until so many logins are welcome and the others are closed; the places of those that are welcome.
fn remaining(seen: &Receiver<(usize, Seen)>, count: usize) -> Vec<usize> {
    let mut states = [None, None];
    loop {
        let is_welcome = |place: &usize| states.get(*place) == Some(&Some(Seen::Welcome));
        let welcome: Vec<usize> = (0..states.len()).filter(is_welcome).collect();
        if states.iter().all(Option::is_some) && welcome.len() == count {
            let closed = states.iter().flatten().filter(|state| **state != Seen::Welcome);
            closed.for_each(|state| assert_eq!(*state, Seen::Closed(REPLACED)));
            return welcome;
        }
        let (place, what) = seen
            .recv_timeout(LIMIT)
            .unwrap_or_else(|_| panic!("{count} may remain, and the two are {states:?}"));
        if let Some(state) = states.get_mut(place) {
            *state = Some(what);
        }
    }
}

/// The gateways at which a router says that a user is.
fn sessions(gateway: &Gateway, user: &str) -> Vec<String> {
    let text = gateway
        .get(&format!("/v1/users/{user}/sessions"))
        .expect("sessions are told");
    let sessions: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a list");
    let place = |session: &serde_json::Value| session.get("gateway")?.as_str().map(str::to_owned);
    let mut places: Vec<String> = sessions.iter().filter_map(place).collect();
    places.sort_unstable();
    places
}

/// One user logs in twice, then `witness` writes to him.
fn round(cluster: &Cluster, witness: &mut Client, number: usize, case: &Case) {
    let (user, last) = (format!("user-{number}"), format!("the last one of {number}"));
    let (tell, seen) = channel();
    let together = Barrier::new(case.terminals.len());
    // All that takes time comes before.
    let logins: Vec<(Client, String)> = cluster
        .gateways
        .iter()
        .map(|member| {
            (
                Client::connect(&member.gateway, &user),
                member.gateway.token(&user),
            )
        })
        .collect();
    std::thread::scope(|scope| {
        for (place, ((mut client, token), (terminal, device))) in
            logins.into_iter().zip(case.terminals).enumerate()
        {
            let (tell, last, together) = (tell.clone(), &last, &together);
            scope.spawn(move || {
                together.wait();
                client.say_hello(&token, terminal, device);
                follow(&mut client, last, |what| {
                    // Nobody listens any more when the test has failed.
                    let _ = tell.send((place, what));
                });
            });
        }
        let stay = remaining(&seen, case.remain);
        let expected: Vec<&str> = cluster
            .gateways
            .iter()
            .enumerate()
            .filter(|(place, _)| stay.contains(place))
            .map(|(_, member)| member.node())
            .collect();
        for member in &cluster.gateways {
            assert_eq!(sessions(&member.gateway, &user), expected, "round {number}");
        }
        talk::send(witness, &to_user(&user), &last);
        let mut reached: Vec<(usize, Seen)> = stay
            .iter()
            .map(|_| seen.recv_timeout(LIMIT).expect("the last one arrives"))
            .collect();
        reached.sort_unstable_by_key(|(place, _)| *place);
        let expected: Vec<(usize, Seen)> = stay.iter().map(|place| (*place, Seen::Reached)).collect();
        assert_eq!(reached, expected, "round {number}");
    });
}

#[test]
#[ignore = "needs ops/services up redis kafka tikv"]
fn two_logins_at_two_gateways_at_once_leave_the_sessions_that_the_policy_allows() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 2, 2);
    let mut witness = Client::login(&cluster.gateways[0].gateway, "witness");
    let rounds = std::env::var(ROUNDS).map_or(13, |text| {
        let count = text.parse::<usize>();
        count.unwrap_or_else(|_| panic!("{ROUNDS} is {text}; allowed is a number"))
    });
    for (number, case) in (0..rounds * CASES.len()).zip(CASES.iter().cycle()) {
        round(&cluster, &mut witness, number, case);
    }
}
