//! Sessions as they stand in Redis: text that an operator can read with `HGETALL`.
//!
//! ```text
//! in the hash of a user       field ios:<device>
//!                             value 1 TAB boot TAB connection TAB claim TAB token issued at, s TAB again 0|1 TAB gateway
//! in the index of a boot      field <connection>
//!                             value claim TAB app TAB terminal TAB user TAB device
//! in the ended claims         boot:connection:claim
//! ```
//!
//! The leading 1 is the version of the format: a router refuses to read another one. Boots and connections are 16 hex
//! digits; names hold no control characters, and the device stands last.

use corelane_protocol::id::{AppId, AppUser, BootId, ConnId, NodeId, UserId};
use corelane_protocol::terminal::Terminal;
use thiserror::Error;

use crate::registry::Route;
use crate::registry::policy::Session;

const VERSION: &str = "1";

/// What stands in Redis is no session of this version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field:?} = {value:?} is no session that this version can read; was it written by a newer router?")]
pub(super) struct RowError {
    field: String,
    value: String,
}

/// What the index of a boot says of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) at: AppUser,
    pub(super) conn: ConnId,
    pub(super) owner_seq: u64,
    terminal: Terminal,
    device: String,
}

/// Field of a session in the hash of its user.
pub(super) fn field(route: &Route) -> String {
    join_field(route.terminal, &route.device)
}

fn join_field(terminal: Terminal, device: &str) -> String {
    format!("{}:{device}", terminal.name())
}

/// How the value of a claim's session begins.
pub(super) fn value_begin(boot: BootId, conn: ConnId, owner_seq: u64) -> String {
    format!("{VERSION}\t{}\t{}\t{owner_seq}\t", hex(boot.0), hex(conn.0))
}

/// Value of a session in the hash of its user.
pub(super) fn value(session: &Session) -> String {
    let Session {
        route,
        issued_at_s,
        again,
    } = session;
    let begin = value_begin(route.boot, route.conn, route.owner_seq);
    format!("{begin}{issued_at_s}\t{}\t{}", u8::from(*again), route.gateway)
}

/// Reads a session.
pub(super) fn parse(field: &str, value: &str) -> Result<Session, RowError> {
    parse_session(field, value).ok_or_else(|| RowError {
        field: field.to_owned(),
        value: value.to_owned(),
    })
}

fn parse_session(field: &str, value: &str) -> Option<Session> {
    let (terminal, device) = field.split_once(':')?;
    let parts: Vec<&str> = value.split('\t').collect();
    let [VERSION, boot, conn, owner_seq, issued_at_s, again, gateway] = parts.as_slice() else {
        return None;
    };
    Some(Session {
        route: Route {
            gateway: NodeId::new(gateway).ok()?,
            boot: BootId(parse_hex(boot)?),
            conn: ConnId(parse_hex(conn)?),
            terminal: Terminal::from_name(terminal)?,
            device: device.to_owned(),
            owner_seq: owner_seq.parse().ok()?,
        },
        issued_at_s: issued_at_s.parse().ok()?,
        again: *again == "1",
    })
}

/// Field of a connection in the index of its boot.
pub(super) fn conn_field(conn: ConnId) -> String {
    hex(conn.0)
}

/// How the entry of a claim in the index begins.
pub(super) fn entry_begin(owner_seq: u64) -> String {
    format!("{owner_seq}\t")
}

/// Entry of a session in the index of its boot.
pub(super) fn entry(at: &AppUser, route: &Route) -> String {
    format!(
        "{}{}\t{}\t{}\t{}",
        entry_begin(route.owner_seq),
        at.app.0,
        route.terminal.name(),
        at.user,
        route.device
    )
}

/// Reads an entry of the index of a boot.
pub(super) fn parse_entry(conn: &str, entry: &str) -> Result<Held, RowError> {
    parse_held(conn, entry).ok_or_else(|| RowError {
        field: conn.to_owned(),
        value: entry.to_owned(),
    })
}

fn parse_held(conn: &str, entry: &str) -> Option<Held> {
    let parts: Vec<&str> = entry.splitn(5, '\t').collect();
    let [owner_seq, app, terminal, user, device] = parts.as_slice() else {
        return None;
    };
    Some(Held {
        at: AppUser {
            app: AppId(app.parse().ok()?),
            user: UserId::new(user).ok()?,
        },
        conn: ConnId(parse_hex(conn)?),
        owner_seq: owner_seq.parse().ok()?,
        terminal: Terminal::from_name(terminal)?,
        device: (*device).to_owned(),
    })
}

/// A claim among those that ended.
pub(super) fn claim(boot: BootId, conn: ConnId, owner_seq: u64) -> String {
    format!("{:016x}:{:016x}:{owner_seq}", boot.0, conn.0)
}

/// How boots, incarnations and connections are written.
pub(super) fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// Reads what [`hex`] wrote.
pub(super) fn parse_hex(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok())?
}

impl Held {
    /// Field of the session in the hash of its user.
    pub(super) fn field(&self) -> String {
        join_field(self.terminal, &self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(device: &str) -> Session {
        Session {
            route: Route {
                gateway: NodeId::new("gateway 1").unwrap(),
                boot: BootId(0xabc),
                conn: ConnId::new(3, 4, 5),
                terminal: Terminal::Web,
                device: device.to_owned(),
                owner_seq: 77,
            },
            issued_at_s: 1_700_000_000,
            again: true,
        }
    }

    #[test]
    fn a_session_is_read_as_it_was_written() {
        for device in ["", "x", "a:b\tc", "\u{e9}"] {
            let session = session(device);
            let value = value(&session);
            assert!(value.starts_with(&value_begin(BootId(0xabc), session.route.conn, 77)));
            assert_eq!(parse(&field(&session.route), &value).unwrap(), session);
        }
        assert_eq!(
            value(&session("x")),
            "1\t0000000000000abc\t00c0000100000005\t77\t1700000000\t1\tgateway 1"
        );
    }

    #[test]
    fn an_entry_names_whose_it_is() {
        let at = AppUser {
            app: AppId(7),
            user: UserId::new("alice").unwrap(),
        };
        for device in ["", "a:b\tc"] {
            let route = session(device).route;
            let read = parse_entry(&conn_field(route.conn), &entry(&at, &route)).unwrap();
            assert_eq!((&read.at, read.conn, read.owner_seq), (&at, route.conn, 77));
            assert_eq!(read.field(), field(&route));
        }
    }

    #[test]
    fn another_version_is_refused_and_shown() {
        let text = parse("web:x", "2\tanything").unwrap_err().to_string();
        assert!(text.contains("web:x") && text.contains("newer router"), "{text}");
    }
}
