//! What clients ask and tell beside sending: sync, pull, read marks, presence, typing, steps of calls; and bounces.
//!
//! Owns nothing that lasts. Questions are answered side by side, at most [`QUESTIONS_MAX`] of a link at a time; one more
//! is answered `overloaded`. Typing and calls go through one queue per link of [`STEPS_MAX`], so that the steps of a call
//! keep their order; when it is full typing is dropped and a call step is answered `overloaded`.

use std::sync::Arc;

use corelane_protocol::bus::class;
use corelane_protocol::frame::body::{
    Call, ConvSeq, Presence, PullPage, PullRequired, ReadUpTo, SyncPage, Target, Typing, UserPresence,
};
use corelane_protocol::frame::error::ErrorCode;
use corelane_protocol::frame::read::{Place, PullView};
use corelane_protocol::frame::{FrameKind, encode, encode_error};
use corelane_protocol::id::{AppId, ConvId, UserId};
use corelane_router_core::Notice;
use corelane_router_core::event::Input;
use tokio::sync::{Semaphore, mpsc};

use crate::hub::{LinkHandle, Outgoing};
use crate::intake::{BounceRecord, Request, What};
use crate::registry::{Registry as _, RegistryError, Route};
use crate::shared::Shared;
use crate::store::{MessageStore as _, NOBODY_LEFT, Readable, StoreError};

/// Questions of one link that are being answered.
const QUESTIONS_MAX: usize = 256;
/// Typing, call steps and bounces of one link that wait.
const STEPS_MAX: usize = 1024;
/// A step of a call that is not delivered within this time is not worth it, in ms.
const CALL_EXPIRY_MS: u64 = 30_000;
/// The same for typing.
const TYPING_EXPIRY_MS: u64 = 5_000;

type Refusal = (ErrorCode, String);

impl From<StoreError> for RequestError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Damaged { .. } | StoreError::Failed(_)) {
            tracing::error!(%error, "the store could not answer");
        }
        Self(error.code(), error.to_string())
    }
}

impl From<RegistryError> for RequestError {
    fn from(error: RegistryError) -> Self {
        Self(ErrorCode::Unavailable, error.to_string())
    }
}

/// Why a request is refused: what the `Error` frame says.
#[derive(Debug)]
pub(crate) struct RequestError(pub(crate) ErrorCode, pub(crate) String);

impl From<Refusal> for RequestError {
    fn from((code, text): Refusal) -> Self {
        Self(code, text)
    }
}

enum Step {
    Request(Request),
    Bounce(BounceRecord),
}

/// The requests of one link.
pub(crate) struct Requests {
    boot: u64,
    shared: Arc<Shared>,
    link: LinkHandle,
    permits: Arc<Semaphore>,
    steps: mpsc::Sender<Step>,
}

impl Requests {
    pub(crate) fn start(boot: u64, shared: Arc<Shared>, link: LinkHandle) -> Self {
        let (steps, mut queue) = mpsc::channel(STEPS_MAX);
        let (worker_shared, worker_link) = (Arc::clone(&shared), link.clone());
        tokio::spawn(async move {
            while let Some(step) = queue.recv().await {
                match step {
                    Step::Request(request) => answer(&worker_shared, &worker_link, boot, request).await,
                    Step::Bounce(bounce) => bounced(&worker_shared, boot, bounce).await,
                }
            }
        });
        Self {
            boot,
            shared,
            link,
            permits: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            steps,
        }
    }

    /// Takes a request and sees that it is answered.
    pub(crate) fn take(&mut self, request: Request) {
        let (conn, reference) = (request.conn, request.reference);
        let silent = matches!(request.what, What::Typing { .. });
        let taken = if matches!(request.what, What::Typing { .. } | What::Call { .. }) {
            self.steps.try_send(Step::Request(request)).is_ok()
        } else if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            let (shared, link, boot) = (Arc::clone(&self.shared), self.link.clone(), self.boot);
            tokio::spawn(async move {
                answer(&shared, &link, boot, request).await;
                drop(permit);
            });
            true
        } else {
            false
        };
        if !taken && !silent {
            let text = "too many requests of this gateway are being answered; try again";
            let body = encode_error(reference, ErrorCode::Overloaded, text);
            self.link.send(vec![Outgoing::frame(conn, reference, 0, body)]);
        }
    }

    /// Takes a bounce. When the queue is full it is dropped: whoever comes back syncs.
    pub(crate) fn bounced(&mut self, bounce: BounceRecord) {
        let _ = self.steps.try_send(Step::Bounce(bounce));
    }
}

async fn answer(shared: &Shared, link: &LinkHandle, boot: u64, request: Request) {
    let (conn, reference) = (request.conn, request.reference);
    let Request { app, user, what, .. } = request;
    let outcome = match what {
        What::Sync { cursor, limit } => sync(shared, app, user, cursor, limit, reference).await.map(Some),
        What::Pull(view) => pull(shared, app, &user, view, reference).await.map(Some),
        What::Read(place) => read(shared, app, user, place, (boot, conn), reference)
            .await
            .map(Some),
        What::Delivered(marks) => {
            for mark in marks {
                shared.store.delivered(mark);
            }
            Ok(None)
        }
        What::Presence(users) => presence(shared, app, users, reference).await.map(Some),
        What::Typing { conv, on } => typing(shared, app, user, conv, on).await.map(|()| None),
        What::Call {
            conv,
            call_id,
            step,
            body,
        } => {
            let call = Call {
                target: Target::Conv(conv.as_bytes().to_vec()),
                from: user.as_str().to_owned(),
                call_id,
                step,
                body,
            };
            pass_call(shared, app, user, conv, call, (boot, conn))
                .await
                .map(|()| None)
        }
    };
    let (priority, body) = match outcome {
        Ok(None) => return,
        Ok(Some(frame)) => (2, frame),
        Err(RequestError(code, text)) => (0, encode_error(reference, code, &text)),
    };
    link.send(vec![Outgoing::frame(conn, reference, priority, body)]);
}

async fn sync(
    shared: &Shared,
    app: AppId,
    user: UserId,
    cursor: Vec<u8>,
    limit: u16,
    reference: u32,
) -> Result<Vec<u8>, RequestError> {
    let synced = shared.store.sync(app, user, cursor, limit).await?;
    shared.metrics.synced(synced.rows_read);
    let page = SyncPage {
        cursor: synced.cursor,
        more: synced.more,
        conversations: synced.conversations,
    };
    Ok(encode(FrameKind::SyncPage, reference, &page))
}

/// What a user may read of a conversation.
async fn readable(
    shared: &Shared,
    app: AppId,
    conv: &ConvId,
    user: &UserId,
) -> Result<Readable, RequestError> {
    let readable = shared.store.readable(app, conv.clone(), user.clone()).await?;
    readable.ok_or_else(|| RequestError(ErrorCode::NotMember, format!("{user} is no member of {conv}")))
}

async fn pull(
    shared: &Shared,
    app: AppId,
    user: &UserId,
    view: PullView,
    reference: u32,
) -> Result<Vec<u8>, RequestError> {
    let own = readable(shared, app, &view.conv, user).await?;
    let (from, to) = (view.from_seq.max(own.first), view.to_seq.min(own.last));
    let conv = view.conv.clone();
    let pulled = shared.store.pull(app, conv, from, to, view.limit).await?;
    if from > pulled.head.seq.saturating_add(1) {
        let text = format!("from_seq is {from}, the conversation ends at {}", pulled.head.seq);
        return Err(RequestError(ErrorCode::Ahead, text));
    }
    let is_member = own.last >= pulled.head.seq;
    let page = PullPage {
        conv: view.conv.as_bytes().to_vec(),
        next_seq: pulled.next_seq,
        head_seq: pulled.head.seq.min(own.last),
        head_n: if is_member { pulled.head.n } else { own.last_n },
        // What was said before he came is not his: it is cut as by retention, and so no hole.
        floor_seq: pulled.head.floor_seq.max(own.first.saturating_sub(1)),
        messages: pulled.messages.into_iter().map(|(_, frame)| frame).collect(),
    };
    Ok(encode(FrameKind::PullPage, reference, &page))
}

async fn read(
    shared: &Shared,
    app: AppId,
    user: UserId,
    place: Place,
    origin: (u64, u64),
    reference: u32,
) -> Result<Vec<u8>, RequestError> {
    let conv = place.conv;
    let own = readable(shared, app, &conv, &user).await?;
    let mark = shared
        .store
        .read(app, user.clone(), conv.clone(), place.seq.min(own.last))
        .await?;
    let body = ReadUpTo {
        conv: conv.as_bytes().to_vec(),
        whose: user.as_str().to_owned(),
        seq: mark.seq,
        n: mark.n,
    };
    if mark.moved {
        let mut users = vec![user.clone()];
        users.extend(peer_of(&conv, &user));
        let routes = routes_of(shared, app, users, Some(origin)).await?;
        let frame = encode(FrameKind::ReadUpTo, 0, &body);
        publish(shared, app, conv, user, routes, frame, (class::CONTROL, 0, 0)).await;
    }
    Ok(encode(FrameKind::ReadUpTo, reference, &body))
}

fn peer_of(conv: &ConvId, user: &UserId) -> Option<UserId> {
    let (small, large) = conv.direct_users()?;
    let peer = if small == *user { large } else { small };
    (peer != *user).then_some(peer)
}

async fn presence(
    shared: &Shared,
    app: AppId,
    users: Vec<UserId>,
    reference: u32,
) -> Result<Vec<u8>, RequestError> {
    let routes = shared.registry.lookup(app, users.clone()).await?;
    let users = users
        .into_iter()
        .zip(routes)
        .map(|(user, routes)| UserPresence {
            user: user.as_str().to_owned(),
            terminals: routes
                .iter()
                .fold(0, |mask, route| mask | 1 << (route.terminal as u8)),
        })
        .collect();
    Ok(encode(FrameKind::Presence, reference, &Presence { users }))
}

async fn typing(
    shared: &Shared,
    app: AppId,
    user: UserId,
    conv: ConvId,
    on: bool,
) -> Result<(), RequestError> {
    let mut users = members(shared, app, &conv, &user).await?;
    users.retain(|member| *member != user);
    let routes = routes_of(shared, app, users, None).await?;
    let target = Target::Conv(conv.as_bytes().to_vec());
    let body = Typing {
        target,
        from: user.as_str().to_owned(),
        on,
    };
    let frame = encode(FrameKind::Typing, 0, &body);
    let expires_ms = shared.clock.now().wall_ms + TYPING_EXPIRY_MS;
    publish(
        shared,
        app,
        conv,
        user,
        routes,
        frame,
        (class::TRANSIENT, 3, expires_ms),
    )
    .await;
    Ok(())
}

/// The caller's other terminals hear of a step, too: those that ring must stop.
async fn pass_call(
    shared: &Shared,
    app: AppId,
    user: UserId,
    conv: ConvId,
    call: Call,
    origin: (u64, u64),
) -> Result<(), RequestError> {
    let users = members(shared, app, &conv, &user).await?;
    let routes = routes_of(shared, app, users, Some(origin)).await?;
    let frame = encode(FrameKind::Call, 0, &call);
    let expires_ms = shared.clock.now().wall_ms + CALL_EXPIRY_MS;
    publish(
        shared,
        app,
        conv,
        user,
        routes,
        frame,
        (class::CALL, 1, expires_ms),
    )
    .await;
    Ok(())
}

/// Everybody in a conversation; `user` must be one of them.
async fn members(
    shared: &Shared,
    app: AppId,
    conv: &ConvId,
    user: &UserId,
) -> Result<Vec<UserId>, RequestError> {
    let users = match conv.direct_users() {
        Some((small, large)) if small == large => vec![small],
        Some((small, large)) => vec![small, large],
        None => {
            let members = shared.store.members(app, conv.clone(), NOBODY_LEFT).await?;
            if members.version == 0 {
                return Err(RequestError(
                    ErrorCode::UnknownGroup,
                    format!("there is no {conv}"),
                ));
            }
            members.present()
        }
    };
    if users.contains(user) {
        Ok(users)
    } else {
        Err(RequestError(
            ErrorCode::NotMember,
            format!("{user} is no member of {conv}"),
        ))
    }
}

/// The sessions of these users, but for one.
async fn routes_of(
    shared: &Shared,
    app: AppId,
    users: Vec<UserId>,
    except: Option<(u64, u64)>,
) -> Result<Vec<Route>, RequestError> {
    let routes = shared.registry.lookup(app, users).await?;
    let is_meant = |route: &Route| except != Some((route.boot.0, route.conn.0));
    Ok(routes.into_iter().flatten().filter(is_meant).collect())
}

async fn publish(
    shared: &Shared,
    app: AppId,
    conv: ConvId,
    sender: UserId,
    routes: Vec<Route>,
    frame: Vec<u8>,
    (class, priority, expires_ms): (u8, u8, u64),
) {
    if routes.is_empty() {
        return;
    }
    let routes = routes.iter().map(core_route).collect();
    let notice = Notice {
        app,
        conv,
        class,
        priority,
        expires_ms,
        sender,
        routes,
        frame,
    };
    shared.input(Input::Notice(notice)).await;
}

/// A route in the words of the core.
pub(crate) fn core_route(route: &Route) -> corelane_router_core::event::Route {
    corelane_router_core::event::Route {
        boot: route.boot.0,
        conn: route.conn.0,
    }
}

/// Whoever left his connection before a record came, and is online elsewhere since, is told to pull. Who is offline
/// finds it at his next sync: it was stored before anybody looked for him.
async fn bounced(shared: &Shared, boot: u64, bounce: BounceRecord) {
    let BounceRecord {
        app,
        conv,
        seq,
        conns,
    } = bounce;
    let mut users: Vec<UserId> = {
        let gone = shared.gone();
        let users = conns.iter().filter_map(|conn| gone.user(boot, *conn));
        users
            .filter(|user| user.app == app)
            .map(|user| user.user.clone())
            .collect()
    };
    users.sort();
    users.dedup();
    if users.is_empty() {
        return;
    }
    let Some(sender) = users.first().cloned() else {
        return;
    };
    match routes_of(shared, app, users, None).await {
        Ok(routes) => {
            let upto = vec![ConvSeq {
                conv: conv.as_bytes().to_vec(),
                seq,
            }];
            let frame = encode(FrameKind::PullRequired, 0, &PullRequired { upto });
            publish(shared, app, conv, sender, routes, frame, (class::CONTROL, 0, 0)).await;
        }
        Err(RequestError(_, text)) => tracing::warn!(text, "a bounce could not be followed"),
    }
}
