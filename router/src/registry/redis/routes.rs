//! Routes: claimed by compare-and-set, given up, looked up.

use std::collections::HashSet;

use corelane_protocol::id::{AppId, AppUser, BootId, ConnId, UserId};
use fred::error::{Error, ErrorKind};
use fred::interfaces::HashesInterface as _;
use fred::types::Value;

use super::Inner;
use super::groups::Memory;
use super::keys::Group;
use super::row::{self, Held, RowError, hex};
use super::script::{BATCH, Call, Script, of_each, pairs, texts};
use super::sweep::FLOOR_MS;
use crate::registry::policy::{Session, Verdict, code, judge, kicks};
use crate::registry::{ClaimOutcome, ClaimRequest, RegistryError, Route};

/// A claim is judged anew so often when others of the same user come between.
const CLAIM_TRIES: u32 = 16;
/// Sessions that are taken out in one script.
const LEAVE_BATCH: usize = 64;

/// What became of a change of a user's hash.
enum Changed {
    Done,
    /// The claim ended before.
    Ended,
    /// It was not made: the hash holds this.
    Held(Vec<(String, String)>),
}

/// A session to be taken out.
pub(super) struct Leaving {
    pub(super) at: AppUser,
    pub(super) boot: BootId,
    pub(super) conn: ConnId,
    pub(super) owner_seq: u64,
    pub(super) field: String,
    /// A late repeat of its claim must not bring it back.
    pub(super) ends: bool,
}

impl Inner {
    pub(super) async fn claim(&self, claim: ClaimRequest) -> Result<ClaimOutcome, RegistryError> {
        let at = AppUser {
            app: claim.app,
            user: claim.user,
        };
        let wanted = Session {
            route: claim.route,
            issued_at_s: claim.issued_at_s,
            again: claim.again,
        };
        let refused = |code| Ok(ClaimOutcome::Refused { code });
        if !self.may_claim(wanted.route.boot).await? {
            return refused(code::POSITION_LOST);
        }
        // The usual user has no other session: that is assumed first, and costs nothing where it is wrong but a look.
        let mut held: Vec<(String, String)> = Vec::new();
        for _ in 0..CLAIM_TRIES {
            let (live, dead) = self.split(&held)?;
            let give_way = match judge(&live, &wanted) {
                Verdict::Held => return Ok(ClaimOutcome::Held { kicks: Vec::new() }),
                Verdict::Refused(code) => return refused(code),
                Verdict::Granted(give_way) => give_way,
            };
            match self.change(&at, &held, &wanted, &give_way, &dead).await? {
                Changed::Done => {
                    return Ok(ClaimOutcome::Held {
                        kicks: kicks(give_way, &wanted.route),
                    });
                }
                Changed::Ended => return refused(code::REPLACED),
                Changed::Held(now) => held = now,
            }
        }
        let reason = format!("{CLAIM_TRIES} times another claim of the same user came between");
        Err(RegistryError::Unavailable(reason))
    }

    /// Sessions of boots that are not dead, and of those that are.
    fn split(&self, held: &[(String, String)]) -> Result<(Vec<Session>, Vec<Session>), RegistryError> {
        let sessions = held.iter().map(|(field, value)| row::parse(field, value));
        let sessions: Vec<Session> = sessions.collect::<Result<_, _>>().map_err(unreadable)?;
        Ok(self.roster.split(sessions, |session| session.route.boot))
    }

    /// Puts `wanted` in and takes the others out, if the hash holds what it was judged by.
    async fn change(
        &self,
        at: &AppUser,
        held: &[(String, String)],
        wanted: &Session,
        give_way: &[Session],
        dead: &[Session],
    ) -> Result<Changed, RegistryError> {
        let group = Group::of(at.app, &at.user);
        let route = &wanted.route;
        let mut keys = vec![
            self.keys.route(at.app, &at.user),
            self.keys.held(group, route.boot),
        ];
        let mut out = Vec::new();
        for Session { route, .. } in give_way.iter().chain(dead) {
            let index = self.keys.held(group, route.boot);
            // The keys of a group come before those of the script.
            out.extend([
                row::field(route),
                row::conn_field(route.conn),
                (FIRST_KEY + keys.len()).to_string(),
            ]);
            keys.push(index);
        }
        let claim = |route: &Route| row::claim(route.boot, route.conn, route.owner_seq);
        let ends = give_way.iter().map(|session| claim(&session.route));
        let mut args = vec![claim(route)];
        push_list(
            &mut args,
            held.iter()
                .flat_map(|(field, value)| [field.clone(), value.clone()]),
        );
        push_list(&mut args, out);
        push_list(&mut args, ends);
        args.extend([
            row::field(route),
            row::value(wanted),
            row::conn_field(route.conn),
            row::entry(at, route),
        ]);
        let mut answer = self
            .change_group(group, &self.scripts.claim, Call::new(keys, args))
            .await?;
        let rest = answer.split_off(1.min(answer.len()));
        match answer.first().map(String::as_str) {
            Some("done") => Ok(Changed::Done),
            Some("ended") => Ok(Changed::Ended),
            Some("changed") => Ok(Changed::Held(pairs(rest))),
            _ => Err(RegistryError::Unavailable(format!(
                "a claim had the answer {answer:?}"
            ))),
        }
    }

    /// Runs a script that changes a slot group, after those that are under way there.
    async fn change_group(
        &self,
        group: Group,
        script: &Script,
        call: Call,
    ) -> Result<Vec<String>, RegistryError> {
        let mut memory = self.groups.lock(group).await;
        let ticket = self.health().ticket()?;
        let change = self.groups.next_change();
        let mut keys = vec![
            self.keys.born(group),
            self.keys.claims(group, memory.writer()),
            self.keys.ended(group),
        ];
        keys.extend(call.keys);
        let mut args = vec![
            hex(*self.incarnation.borrow()),
            change.to_string(),
            FLOOR_MS.to_string(),
        ];
        // It counts as one that may have been made from before it is sent, also if nobody waits for the answer any more.
        let before = memory.sent(change);
        push_list(&mut args, before.iter().map(u64::to_string));
        args.extend(call.args);
        match script.run(&self.client, Call { keys, args }).await {
            Ok(answer) => {
                self.answered(&mut memory, change, &answer)?;
                self.health().confirm(ticket)?;
                Ok(answer)
            }
            Err(error) => {
                if was_not_made(&error) {
                    memory.not_made(change);
                }
                Err(self.failed(&error))
            }
        }
    }

    fn answered(&self, memory: &mut Memory, change: u64, answer: &[String]) -> Result<(), RegistryError> {
        match answer.first().map(String::as_str) {
            Some("done") => memory.made(change),
            Some("forgot") => {
                let reason = "it forgot what it was told";
                self.doubt(reason);
                return Err(RegistryError::Unavailable(reason.to_owned()));
            }
            _ => memory.not_made(change),
        }
        Ok(())
    }

    pub(super) async fn unclaim(&self, at: AppUser, route: &Route) -> Result<bool, RegistryError> {
        let leaving = Leaving {
            boot: route.boot,
            conn: route.conn,
            owner_seq: route.owner_seq,
            field: row::field(route),
            ends: true,
            at,
        };
        let group = Group::of(leaving.at.app, &leaving.at.user);
        Ok(self.take_out(group, &[leaving]).await? > 0)
    }

    pub(super) async fn keep_only(
        &self,
        boot: BootId,
        shard: u16,
        up_to: u64,
        claimed: &HashSet<(ConnId, u64)>,
    ) -> Result<Vec<(AppUser, ConnId)>, RegistryError> {
        if self.roster.is_dead(boot) {
            return Ok(Vec::new());
        }
        let groups: Vec<Group> = Group::all().collect();
        let calls = groups
            .iter()
            .map(|group| Call::new([self.keys.held(*group, boot)], [shard.to_string()]));
        let held = self
            .ask(self.scripts.held.run_all(&self.client, calls.collect()))
            .await?;
        let mut stale = Vec::new();
        for (group, held) in groups.into_iter().zip(held) {
            let held = read_index(held).map_err(unreadable)?;
            let ended = held
                .into_iter()
                .filter(|held| held.owner_seq <= up_to && !claimed.contains(&(held.conn, held.owner_seq)));
            let leaving: Vec<Leaving> = ended.map(|held| Leaving::of(boot, held, true)).collect();
            self.take_out(group, &leaving).await?;
            stale.extend(leaving.into_iter().map(|leaving| (leaving.at, leaving.conn)));
        }
        Ok(stale)
    }

    /// Takes sessions of one group out, each if it is still there. Returns how many were.
    pub(super) async fn take_out(&self, group: Group, all: &[Leaving]) -> Result<usize, RegistryError> {
        let mut count = 0;
        for batch in all.chunks(LEAVE_BATCH) {
            let keys = batch.iter().flat_map(|leaving| {
                [
                    self.keys.route(leaving.at.app, &leaving.at.user),
                    self.keys.held(group, leaving.boot),
                ]
            });
            let mut args = Vec::new();
            push_list(&mut args, batch.iter().flat_map(Leaving::args));
            let call = Call::new(keys.collect::<Vec<_>>(), args);
            let answer = self.change_group(group, &self.scripts.leave, call).await?;
            count += answer.iter().filter(|held| *held == "1").count();
        }
        Ok(count)
    }

    pub(super) async fn lookup(
        &self,
        app: AppId,
        users: &[UserId],
    ) -> Result<Vec<Vec<Route>>, RegistryError> {
        let mut found = Vec::with_capacity(users.len());
        for batch in users.chunks(BATCH) {
            for held in self.ask(self.read_hashes(app, batch)).await? {
                let (live, _) = self.split(&pairs(held))?;
                found.push(live.into_iter().map(|session| session.route).collect());
            }
        }
        Ok(found)
    }

    async fn read_hashes(&self, app: AppId, users: &[UserId]) -> Result<Vec<Vec<String>>, Error> {
        let pipeline = self.client.pipeline();
        for user in users {
            let _: () = pipeline.hgetall(self.keys.route(app, user)).await?;
        }
        let results = pipeline.try_all::<Value>().await;
        of_each(results, users.len())?
            .into_iter()
            .map(|result| texts(result?))
            .collect()
    }
}

/// Keys of a group before those of a script, and Lua counts from 1.
const FIRST_KEY: usize = 3 + 1;

impl Leaving {
    /// From the index of its boot.
    pub(super) fn of(boot: BootId, held: Held, ends: bool) -> Self {
        Self {
            boot,
            conn: held.conn,
            owner_seq: held.owner_seq,
            field: held.field(),
            ends,
            at: held.at,
        }
    }

    fn args(&self) -> [String; 5] {
        let claim = row::claim(self.boot, self.conn, self.owner_seq);
        [
            self.field.clone(),
            row::value_begin(self.boot, self.conn, self.owner_seq),
            row::conn_field(self.conn),
            row::entry_begin(self.owner_seq),
            if self.ends { claim } else { String::new() },
        ]
    }
}

/// Reads what the index of a boot holds.
pub(super) fn read_index(held: Vec<String>) -> Result<Vec<Held>, RowError> {
    let entries = pairs(held).into_iter();
    entries
        .map(|(conn, entry)| row::parse_entry(&conn, &entry))
        .collect()
}

/// Whether a failed script did not come to its end and will not: it was not sent, or its answer is the server's error
/// (which begins with a word in capitals). The number of the change is written last.
fn was_not_made(error: &Error) -> bool {
    let code = error.details().split(' ').next().unwrap_or_default();
    let is_code = code.len() > 1 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    is_code || matches!(error.kind(), ErrorKind::Backpressure)
}

pub(super) fn unreadable(error: RowError) -> RegistryError {
    RegistryError::Unavailable(error.to_string())
}

fn push_list(args: &mut Vec<String>, list: impl IntoIterator<Item = String>) {
    let list: Vec<String> = list.into_iter().collect();
    args.push(list.len().to_string());
    args.extend(list);
}
