//! One `io_uring`: made, restricted to what the engine does, filled and entered.
//!
//! Owns: the ring, its receive buffers, and the submissions that did not fit into the submission queue yet
//! (they wait in order; none is dropped). Counts what is in flight, so that a drop knows when the kernel
//! has let go of all memory.
#![expect(
    unsafe_code,
    reason = "submissions carry addresses that the kernel reads and writes"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use corelane_protocol::arena::Span;
use io_uring::register::Restriction;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::address::AddressCell;
use crate::buffers::Buffers;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::preflight;
use crate::token::{Op, Token};

/// Submission entries: what one enter can hand over.
const SUBMISSIONS: u32 = 1024;
/// Completion entries. More are kept by the kernel (`NODROP`) and flushed by entering again.
const COMPLETIONS: u32 = 8192;
/// Group id of the only buffer ring.
const BUFFER_GROUP: u16 = 0;
/// `IORING_REGISTER_FILES_UPDATE`, which the crate does not export.
const REGISTER_FILES_UPDATE: u8 = 6;
/// Completions that end a wait which gathers.
const GATHER_COUNT: usize = 32;
/// Threads of the kernel that run shutdowns, per ring.
const WORKERS_MAX: u32 = 2;
/// `POLLRDHUP` and `POLLIN`: bytes or FIN. Errors and hang-ups are always reported.
const READABLE: u32 = (libc::POLLIN | libc::POLLRDHUP) as u16 as u32;

/// What a completion says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Completion {
    pub(crate) token: Option<Token>,
    pub(crate) result: i32,
    /// The operation goes on.
    pub(crate) more: bool,
    pub(crate) buffer: Option<u16>,
}

pub(crate) struct Ring {
    uring: IoUring,
    pub(crate) buffers: Buffers,
    waiting: VecDeque<squeue::Entry>,
    /// Submissions, queued ones included, whose last completion was not read.
    in_flight: u64,
    pub(crate) enters: u64,
    /// Whether the kernel can gather completions (`IORING_FEAT_MIN_TIMEOUT`).
    can_gather: bool,
}

impl Ring {
    /// A ring with `slots` direct descriptors and `receive_buffers` buffers. With `bell` it signals that
    /// eventfd whenever it has something to say (and is told to be quiet until [`Ring::listen_bell`]).
    pub(crate) fn new(
        config: &EngineConfig,
        receive_buffers: u16,
        bell: Option<RawFd>,
    ) -> Result<Self, EngineError> {
        let refused = preflight::explain;
        let uring: IoUring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_r_disabled()
            .dontfork()
            .build(SUBMISSIONS)
            .map_err(|source| refused("io_uring_setup", source))?;
        let can_gather = uring.params().is_feature_min_timeout();
        let buffers = Buffers::new(receive_buffers, config.receive_buffer_bytes)
            .map_err(|source| refused("mapping receive buffers", source))?;
        let submitter = uring.submitter();
        submitter
            .register_files_sparse(config.slots_per_ring)
            .map_err(|source| refused("registering direct descriptors", source))?;
        // SAFETY: the ring of buffers and the buffers are mapped as long as `buffers`, which is dropped
        // after `uring` (field order) and only when nothing is in flight (`Engine::drop`).
        unsafe {
            submitter.register_buf_ring_with_flags(buffers.ring_address(), buffers.count(), BUFFER_GROUP, 0)
        }
        .map_err(|source| refused("registering receive buffers", source))?;
        submitter
            .register_iowq_max_workers(&mut [WORKERS_MAX, WORKERS_MAX])
            .map_err(|source| refused("bounding kernel workers", source))?;
        if let Some(bell) = bell {
            submitter
                .register_eventfd(bell)
                .map_err(|source| refused("registering the eventfd", source))?;
        }
        submitter
            .register_restrictions(&mut restrictions())
            .map_err(|source| refused("restricting the ring", source))?;
        submitter
            .register_enable_rings()
            .map_err(|source| refused("enabling the ring", source))?;
        let mut ring = Self {
            uring,
            buffers,
            waiting: VecDeque::new(),
            in_flight: 0,
            enters: 0,
            can_gather,
        };
        ring.silence_bell();
        Ok(ring)
    }

    /// Installs `descriptor` in a free slot of the table. The caller may close its own copy then.
    pub(crate) fn install(&self, slot: u32, descriptor: RawFd) -> io::Result<()> {
        match self
            .uring
            .submitter()
            .register_files_update(slot, &[descriptor])?
        {
            1 => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// Arms an accept that puts the connection into `slot`.
    ///
    /// # Safety
    ///
    /// `peer` must live until the operation has completed.
    pub(crate) unsafe fn accept(&mut self, listener: RawFd, slot: u32, peer: &AddressCell, token: Token) {
        let Ok(target) = DestinationSlot::try_from_slot_target(slot) else {
            return;
        };
        let (address, len) = peer.pointers();
        let entry = opcode::Accept::new(Fd(listener), address, len).file_index(Some(target));
        // SAFETY: the address outlives the operation by the contract of this function.
        unsafe { self.push(entry.build(), token) };
    }

    /// Connects the socket in `slot`.
    ///
    /// # Safety
    ///
    /// `to` must live until the operation has completed.
    pub(crate) unsafe fn connect(&mut self, slot: u32, to: &mut AddressCell, token: Token) {
        let (address, _) = to.pointers();
        let entry = opcode::Connect::new(Fixed(slot), address, to.len());
        // SAFETY: the address outlives the operation by the contract of this function.
        unsafe { self.push(entry.build(), token) };
    }

    /// Sends all of `span` (the kernel goes on after short writes).
    ///
    /// # Safety
    ///
    /// The memory of `span` must live until the operation has completed.
    pub(crate) unsafe fn send(&mut self, slot: u32, span: &Span, token: Token) {
        let cells = span.cells();
        // A span counts its bytes in 32 bits.
        let len = u32::try_from(cells.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fixed(slot), cells.as_ptr().cast(), len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        // SAFETY: the bytes outlive the operation by the contract of this function.
        unsafe { self.push(entry.build(), token) };
    }

    /// Completes once when `slot` has something to receive.
    pub(crate) fn poll(&mut self, slot: u32, token: Token) {
        let entry = opcode::PollAdd::new(Fixed(slot), READABLE).build();
        // SAFETY: the entry carries no address.
        unsafe { self.push(entry, token) };
    }

    /// Receives once, into a buffer the kernel picks. Does not wait.
    pub(crate) fn receive_once(&mut self, slot: u32, token: Token) {
        let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
            .buf_group(BUFFER_GROUP)
            .flags(libc::MSG_DONTWAIT)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        // SAFETY: the entry carries no address; the buffer comes from the registered ring.
        unsafe { self.push(entry, token) };
    }

    /// Receives until further notice, each time into a buffer the kernel picks.
    pub(crate) fn receive_many(&mut self, slot: u32, token: Token) {
        let entry = opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build();
        // SAFETY: the entry carries no address; buffers come from the registered ring.
        unsafe { self.push(entry, token) };
    }

    /// Throws away what has been received; does not wait.
    pub(crate) fn discard(&mut self, slot: u32, token: Token) {
        // TCP with MSG_TRUNC drops bytes without copying them (tcp(7)), so the null address is never used.
        let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 1 << 30)
            .flags(libc::MSG_TRUNC | libc::MSG_DONTWAIT)
            .build();
        // SAFETY: nothing can be written through a null address.
        unsafe { self.push(entry, token) };
    }

    /// Cancels the operation that was submitted as `target`.
    pub(crate) fn cancel(&mut self, target: Token, token: Token) {
        let entry = opcode::AsyncCancel::new(target.pack()).build();
        // SAFETY: the entry carries no address.
        unsafe { self.push(entry, token) };
    }

    /// Sends FIN on `slot`.
    pub(crate) fn shutdown(&mut self, slot: u32, token: Token) {
        let entry = opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build();
        // SAFETY: the entry carries no address.
        unsafe { self.push(entry, token) };
    }

    /// Frees the direct descriptor in `slot`.
    pub(crate) fn close(&mut self, slot: u32, token: Token) {
        let entry = opcode::Close::new(Fixed(slot)).build();
        // SAFETY: the entry carries no address.
        unsafe { self.push(entry, token) };
    }

    /// Completes each time the eventfd is signalled (edge-triggered, so it need not be read).
    pub(crate) fn watch_bell(&mut self, bell: RawFd) {
        let entry = opcode::PollAdd::new(Fd(bell), READABLE).multi(true).build();
        // SAFETY: the entry carries no address.
        unsafe { self.push(entry, Token::of(Op::Bell)) };
    }

    /// Cancels whatever is in flight.
    fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
        // SAFETY: the entry carries no address.
        unsafe { self.push(entry, Token::of(Op::CancelAll)) };
    }

    /// Queues a submission. If the queue is full it is handed over; what the kernel does not take waits.
    ///
    /// # Safety
    ///
    /// Whatever the entry points to must live until the operation has completed.
    unsafe fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.pack());
        self.in_flight += 1;
        if self.waiting.is_empty() && self.uring.submission().is_full() {
            self.submit_queue();
        }
        // SAFETY: by the contract of this function.
        if !self.waiting.is_empty() || unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.waiting.push_back(entry);
        }
    }

    /// Hands the queue over in the middle of a turn. An error shows again when the turn enters the ring.
    fn submit_queue(&mut self) {
        self.enters += 1;
        let _ = self.uring.submit();
    }

    /// Moves what waited into the queue, as far as there is room.
    fn refill(&mut self) {
        while let Some(entry) = self.waiting.front() {
            // SAFETY: the entry came through `push`, whose contract holds until it has completed.
            if unsafe { self.uring.submission().push(entry) }.is_err() {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Whether entering now would do something: submissions wait, or completions are ready to be made.
    pub(crate) fn has_work(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow() || !self.waiting.is_empty()
    }

    /// Whether entering now would make completions out of what has happened.
    pub(crate) fn has_deferred(&mut self) -> bool {
        let submission = self.uring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Whether the kernel has completions for us, made or ready to be made.
    pub(crate) fn has_news(&mut self) -> bool {
        self.has_deferred() || !self.uring.completion().is_empty()
    }

    /// Enters without waiting: submits, and runs some of the kernel's deferred work (about 20 items).
    pub(crate) fn enter(&mut self) -> Result<(), EngineError> {
        self.refill();
        self.enters += 1;
        judge(self.uring.submit())
    }

    /// Enters and waits until something completes, at most `wait`. What completes within `gather` of now is gathered
    /// up to [`GATHER_COUNT`], where the kernel can (6.12); later, the first completion ends the wait.
    pub(crate) fn enter_and_wait(&mut self, wait: Duration, gather: Duration) -> Result<(), EngineError> {
        self.refill();
        self.enters += 1;
        let timespec = Timespec::from(wait);
        let mut args = SubmitArgs::new().timespec(&timespec);
        let mut wanted = 1;
        let gather = gather.min(wait);
        if self.can_gather && !gather.is_zero() {
            wanted = GATHER_COUNT;
            args = args.min_wait_usec(u32::try_from(gather.as_micros()).unwrap_or(u32::MAX));
        }
        judge(self.uring.submitter().submit_with_args(wanted, &args))
    }

    /// Appends all completions that are in the queue.
    pub(crate) fn completions(&mut self, into: &mut Vec<Completion>) {
        for entry in self.uring.completion() {
            let flags = entry.flags();
            let more = cqueue::more(flags);
            if !more {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            into.push(Completion {
                token: Token::unpack(entry.user_data()),
                result: entry.result(),
                more,
                buffer: cqueue::buffer_select(flags),
            });
        }
    }

    /// Lets completions signal the eventfd, before ring 0 goes to sleep.
    pub(crate) fn listen_bell(&mut self) {
        self.uring.completion().enable_eventfd();
    }

    /// While the engine is awake it looks by itself.
    pub(crate) fn silence_bell(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    /// Cancels everything and waits until the kernel has let go of all memory, for about `patience`.
    /// Returns whether it has.
    pub(crate) fn drain(&mut self, patience: Duration) -> bool {
        let step = Duration::from_millis(20);
        let mut steps = patience.as_millis() / step.as_millis();
        let mut scratch = Vec::new();
        while self.in_flight > 0 && steps > 0 {
            steps -= 1;
            self.cancel_all();
            if self.enter_and_wait(step, Duration::ZERO).is_err() {
                return false;
            }
            loop {
                self.completions(&mut scratch);
                scratch.clear();
                if self.in_flight == 0 || !self.has_work() {
                    break;
                }
                if self.enter().is_err() {
                    return false;
                }
            }
        }
        self.in_flight == 0
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.capacity() * size_of::<squeue::Entry>()
    }
}

/// What is no failure: a timeout, a signal, or a full completion queue, which the caller empties next.
fn judge(answer: io::Result<usize>) -> Result<(), EngineError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(EngineError::Enter { source: error }),
        },
    }
}

/// The engine's operations and no others, whatever a bug or an attacker in this process may try.
fn restrictions() -> Vec<Restriction> {
    let operations = [
        opcode::Accept::CODE,
        opcode::Connect::CODE,
        opcode::PollAdd::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Shutdown::CODE,
        opcode::Close::CODE,
        // Socket options on direct descriptors, from kernel 6.7.
        opcode::UringCmd16::CODE,
    ];
    let flags = squeue::Flags::FIXED_FILE | squeue::Flags::BUFFER_SELECT;
    let mut restrictions: Vec<_> = operations.into_iter().map(Restriction::sqe_op).collect();
    restrictions.push(Restriction::register_op(REGISTER_FILES_UPDATE));
    restrictions.push(Restriction::sqe_flags_allowed(flags.bits()));
    restrictions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says to `entry` in a restricted ring.
    fn answer_to(entry: squeue::Entry) -> i32 {
        let config = EngineConfig {
            slots_per_ring: 4,
            ..EngineConfig::default()
        };
        let mut ring = Ring::new(&config, 1, None).unwrap();
        // SAFETY: the entries of these tests carry no address.
        unsafe { ring.push(entry, Token::of(Op::CancelAll)) };
        let mut completions = Vec::new();
        ring.enter_and_wait(Duration::from_secs(10), Duration::ZERO)
            .unwrap();
        ring.completions(&mut completions);
        completions[0].result
    }

    #[test]
    fn commands_to_sockets_are_admitted_and_other_operations_are_not() {
        let command = opcode::UringCmd16::new(Fixed(0), 0).build();
        assert_eq!(
            answer_to(command),
            -libc::EBADF,
            "admitted, but the slot is empty"
        );
        assert_eq!(answer_to(opcode::Nop::new().build()), -libc::EACCES);
    }
}
