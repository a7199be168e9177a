//! Which connections have answered before, and whether a peer may be sent a create over one of
//! them.
//!
//! A peer may close a connection that is kept open at any moment, also while a request is on its
//! way. A lookup is then sent again; a create cannot be, because nobody knows whether it was read.
//! So a create goes over a connection that was used within the last second, or over a new one; and
//! over a used one only while the peer keeps its connections: after [`PROOF`] calls in a row that
//! were answered on used connections, and then over no more of them at a time than have been
//! answered, plus one. A single connection that breaks instead of answering takes that back for a
//! while, longer each time.
//!
//! A peer that speaks HTTP/2 says when it ends a connection, and which requests it has not
//! processed, so that it needs no such proof.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hyper_util::client::legacy::{self, connect::HttpInfo};
use reqwest::{Response, Version};

use super::cause_in;

/// Answers on used connections, one after the other, after which a peer is taken to keep them.
const PROOF: u32 = 20;
/// First and longest time for which no create goes over a used connection after one broke.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Answers on used connections, one after the other, after which an earlier break is forgotten.
const FORGET: u32 = 1_000;
/// How often connections are looked for that were idle for too long.
const SWEEP: Duration = Duration::from_secs(1);

/// Both ends of a connection.
type Ends = (SocketAddr, SocketAddr);

/// The connections of one pool that have answered.
#[derive(Debug)]
pub(super) struct Answered {
    /// For how long the pool keeps an idle connection.
    idle_timeout: Duration,
    state: Mutex<AnsweredState>,
}

#[derive(Debug)]
struct AnsweredState {
    last_used: HashMap<Ends, Instant>,
    swept: Instant,
}

impl Answered {
    pub fn new(idle_timeout: Duration) -> Self {
        let state = AnsweredState { last_used: HashMap::new(), swept: Instant::now() };
        Self { idle_timeout, state: Mutex::new(state) }
    }

    /// Notes an answer. Returns whether its connection had answered before, and how many
    /// connections have been closed since the last answer because they were idle.
    pub fn note(&self, response: &Response) -> (bool, u64) {
        let Some(info) = response.extensions().get::<HttpInfo>() else { return (false, 0) };
        self.used(ends(info), Instant::now())
    }

    fn used(&self, ends: Ends, now: Instant) -> (bool, u64) {
        let mut state = lock(&self.state);
        let before = state.last_used.insert(ends, now);
        let is_kept = |used: &Instant| now.duration_since(*used) < self.idle_timeout;
        let mut closed = 0;
        if now.duration_since(state.swept) >= SWEEP {
            state.swept = now;
            let known = state.last_used.len();
            state.last_used.retain(|_, used| is_kept(used));
            closed = (known - state.last_used.len()) as u64;
        }
        (before.as_ref().is_some_and(is_kept), closed)
    }

    /// Forgets the connection on which a call failed; returns whether it had answered before.
    pub fn forget(&self, error: &reqwest::Error) -> bool {
        let Some(connected) = cause_in(error).and_then(legacy::Error::connect_info) else {
            return false;
        };
        let mut extras = Default::default();
        connected.get_extras(&mut extras);
        let Some(info) = extras.get::<HttpInfo>() else { return false };
        let used = lock(&self.state).last_used.remove(&ends(info));
        used.is_some_and(|used| used.elapsed() < self.idle_timeout)
    }
}

fn ends(info: &HttpInfo) -> Ends {
    (info.local_addr(), info.remote_addr())
}

/// Whether creates may go over used connections of one peer. Clones are of the same peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust(Arc<Mutex<TrustState>>);

#[derive(Debug, Default)]
struct TrustState {
    /// Answers on used connections since one broke.
    answers: u32,
    /// Creates among them.
    creates: u32,
    /// Creates under way over connections that may have been used.
    creates_under_way: u32,
    held_until: Option<Instant>,
    /// How long the last hold was.
    hold: Duration,
    is_http2: bool,
}

impl Trust {
    /// Whether the last answer was over HTTP/2, and no new connection over it has failed since.
    pub fn is_http2(&self) -> bool {
        lock(&self.0).is_http2
    }

    /// A new connection over HTTP/2 alone failed: the peer may not speak it any more.
    pub fn http2_failed(&self) {
        lock(&self.0).is_http2 = false;
    }

    /// A call was answered.
    pub fn answered(&self, version: Version, is_reused: bool, is_create: bool) {
        let mut state = lock(&self.0);
        state.is_http2 = version == Version::HTTP_2;
        if is_reused {
            state.answers = state.answers.saturating_add(1);
            state.creates = state.creates.saturating_add(is_create.into());
        }
        if state.answers >= FORGET {
            state.hold = Duration::ZERO;
        }
    }

    /// A used connection broke instead of answering.
    pub fn broke(&self) {
        self.broke_at(Instant::now());
    }

    fn broke_at(&self, now: Instant) {
        let mut state = lock(&self.0);
        (state.answers, state.creates) = (0, 0);
        // Many connections that break together are one event.
        if state.held_until.is_none_or(|until| until <= now) {
            state.hold = (state.hold * 2).clamp(HOLD.0, HOLD.1);
            state.held_until = Some(now + state.hold);
        }
    }

    /// Leave to send a create over a used connection; `None`: a new one is to be opened.
    pub fn lease(&self) -> Option<ReuseLease> {
        self.lease_at(Instant::now())
    }

    fn lease_at(&self, now: Instant) -> Option<ReuseLease> {
        let mut state = lock(&self.0);
        if state.held_until.is_some_and(|until| until > now) {
            return None;
        }
        let is_proven = state.answers >= PROOF && state.creates_under_way <= state.creates;
        if !state.is_http2 && !is_proven {
            return None;
        }
        state.creates_under_way += 1;
        Some(ReuseLease(self.clone()))
    }
}

/// Leave to send one create over a used connection.
#[derive(Debug)]
pub(super) struct ReuseLease(Trust);

impl Drop for ReuseLease {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.creates_under_way = state.creates_under_way.saturating_sub(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(4);

    fn ends(port: u16) -> Ends {
        (([127, 0, 0, 1], port).into(), ([127, 0, 0, 1], 443).into())
    }

    #[test]
    fn a_connection_is_used_until_it_was_idle_for_too_long() {
        let answered = Answered::new(IDLE);
        let start = Instant::now();
        assert_eq!(answered.used(ends(1), start), (false, 0));
        assert_eq!(answered.used(ends(1), start + IDLE / 2), (true, 0));
        assert_eq!(answered.used(ends(2), start + IDLE), (false, 0));
        // The first one was closed, and its port is another connection's now.
        assert_eq!(answered.used(ends(1), start + IDLE * 2), (false, 1));
    }

    fn prove(trust: &Trust) {
        for _ in 0..PROOF {
            trust.answered(Version::HTTP_11, true, false);
        }
    }

    #[test]
    fn creates_go_over_used_connections_once_those_have_answered_and_slowly_at_first() {
        let trust = Trust::default();
        for _ in 0..100 {
            trust.answered(Version::HTTP_11, false, false);
        }
        assert!(trust.lease().is_none(), "nothing was answered on a used connection");
        prove(&trust);
        let first = trust.lease().unwrap();
        assert!(trust.lease().is_none(), "one at a time, until one is answered");
        trust.answered(Version::HTTP_11, true, true);
        let second = trust.lease().unwrap();
        assert!(trust.lease().is_none());
        drop((first, second));
        assert!(trust.lease().is_some());
    }

    #[test]
    fn a_break_takes_it_back_for_longer_each_time() {
        let trust = Trust::default();
        let mut now = Instant::now();
        let mut holds = Vec::new();
        for _ in 0..8 {
            trust.broke_at(now);
            prove(&trust);
            let began = now;
            while trust.lease_at(now).is_none() {
                // More breaks during a hold do not prolong it.
                if now == began {
                    trust.broke_at(now);
                    prove(&trust);
                }
                now += Duration::from_millis(500);
            }
            holds.push((now - began).as_secs());
        }
        assert_eq!(holds, [1, 2, 4, 8, 16, 32, 60, 60]);
        for _ in 0..FORGET {
            trust.answered(Version::HTTP_11, true, false);
        }
        trust.broke_at(now);
        prove(&trust);
        assert!(trust.lease_at(now + HOLD.0).is_some());
    }

    #[test]
    fn http2_needs_no_proof_and_is_held_as_well() {
        let trust = Trust::default();
        trust.answered(Version::HTTP_2, false, false);
        let _many: Vec<_> = (0..50).map(|_| trust.lease().unwrap()).collect();
        trust.broke();
        assert!(trust.lease().is_none());
    }

    #[test]
    fn http2_that_failed_is_needed_again_for_creates_without_proof() {
        let trust = Trust::default();
        trust.answered(Version::HTTP_2, false, false);
        trust.http2_failed();
        assert!(!trust.is_http2() && trust.lease().is_none());
        trust.answered(Version::HTTP_2, false, false);
        assert!(trust.is_http2() && trust.lease().is_some());
    }
}
