//! What must hold between any two inputs, checked in builds with debug assertions.
//!
//! A sweep visits every slot, so with many connections it is made rarely; the cheap facts are checked each time.

use corelane_protocol::proxy::HEADER_BYTES_MAX;

use crate::decode::HELD_BYTES_MAX;
use crate::links::LINKS_MAX;
use crate::memory::weight_of;
use crate::outbound::Sending;
use crate::shard::Shard;
use crate::table::{OPENING_BYTES_MAX, Stage, flag};

impl Shard {
    /// Checks; in release builds does nothing.
    pub(crate) fn check(&mut self) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.inputs += 1;
        assert!(self.unblocked.is_empty(), "what could be read was read");
        let pace = if self.conns.slots() <= 1024 && self.conns.len() <= 64 {
            8
        } else {
            16 * u64::from(self.conns.slots())
        };
        if self.inputs.is_multiple_of(pace.max(1)) {
            self.sweep();
        }
    }

    fn sweep(&self) {
        let (mut owned, mut holders, mut sessions, mut count, mut active) = (0_u64, 0, 0, 0, 0);
        let mut on_links = [0_u32; LINKS_MAX];
        for id in (0..self.conns.slots()).filter_map(|slot| self.conns.id_at(slot)) {
            let Some(conn) = self.conns.get(id) else {
                continue;
            };
            count += 1;
            let weight = weight_of(conn);
            assert_eq!(weight, conn.weight, "{id:?} was weighed after its last change");
            owned += u64::from(weight);
            holders += usize::from(weight > 0);
            active += usize::from(conn.window.is_some());
            assert!(conn.window.as_ref().is_none_or(|window| window.is_sound()));
            for link in conn.window.iter().flat_map(|window| window.links()) {
                assert!(
                    self.links.is_established(link),
                    "{id:?} waits for a link that is up"
                );
                if let Some(count) = on_links.get_mut(link.get()) {
                    *count += 1;
                }
            }
            let live = conn.stage == Stage::Live;
            sessions += usize::from(live);
            assert!(
                !live || conn.session.is_some(),
                "{id:?} is live, so somebody is logged in"
            );
            assert!(
                live || !conn.has(flag::DEMOTED),
                "only live connections are demoted"
            );
            assert!(live || conn.window.is_none(), "only live connections forward");
            assert!(
                !matches!(conn.out.sending, Sending::Ready(_))
                    || conn.has(flag::LISTED)
                    || conn.stage == Stage::Closed,
                "{id:?} is ready, so it is listed"
            );
            assert!(
                conn.out
                    .backlog
                    .as_ref()
                    .is_none_or(|backlog| backlog.len() > 0 || conn.has(flag::LISTED))
            );
            let held_max = if live || conn.stage == Stage::Echo {
                HELD_BYTES_MAX
            } else {
                OPENING_BYTES_MAX
            };
            assert!(
                conn.held_bytes() <= held_max,
                "{id:?} in {:?} holds {} bytes",
                conn.stage,
                conn.held_bytes()
            );
            assert!(
                conn.stage != Stage::Proxy || conn.held_bytes() < HEADER_BYTES_MAX,
                "{id:?} holds no whole PROXY header"
            );
            let due = self.wheel.due(id.slot());
            assert!(
                due.is_some() || conn.stage == Stage::Closed,
                "{id:?} in {:?} has a timer",
                conn.stage
            );
        }
        assert_eq!(count, self.conns.len(), "connections are counted right");
        assert_eq!(
            sessions,
            self.conns.sessions(),
            "exactly the live ones are indexed"
        );
        assert_eq!(owned, self.memory.bytes(), "owned bytes are counted right");
        assert_eq!(
            holders,
            self.memory.holders(),
            "all that own bytes are in the list"
        );
        assert_eq!(
            active,
            self.windows.len(),
            "every window is in the list of windows"
        );
        self.sweep_links(&on_links);
    }

    fn sweep_links(&self, on_links: &[u32; LINKS_MAX]) {
        for link in self.links.indexes() {
            assert_eq!(
                on_links.get(link.get()).copied(),
                Some(self.windows.unanswered_on(link)),
                "what is unanswered on {link:?} is counted right"
            );
            let routers = &self.links.routers;
            assert_eq!(
                routers.is_listed(link),
                routers.of_link(link).is_some(),
                "{link:?}"
            );
        }
        assert!(
            self.links.home.is_none_or(|home| self.links.is_established(home)),
            "the home is linked"
        );
    }
}
