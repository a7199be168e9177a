//! Counts rejected webhooks, so that operators see how many there are, and why.
//!
//! Anybody can send them, so none writes a log line or a row of its own. Each is counted in memory,
//! by minute and reason; a few each second have a line in the log, and the next line says how many
//! had none. Once a second the counts are added to the table `rejected_webhooks`, in one statement,
//! which is small whatever was sent. While the database is away they are kept, up to `MAX_KEPT`
//! minutes and reasons; a crash loses the last second.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use poem::Request;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    http::ApiState,
    signature::ID_HEADER,
    store::{
        StoreError,
        rejected_webhooks::{self, RejectedWebhooks, WebhookRejection},
    },
};

/// How often the counts are written.
const EVERY: Duration = Duration::from_secs(1);
/// How long a process that stops waits for the last addition.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Log lines in each second.
const MAX_LINES: u32 = 5;
const SECOND: Duration = Duration::from_secs(1);
/// Most minutes and reasons that wait to be written.
const MAX_KEPT: usize = 500;
/// Most characters that are kept of an answer, and of what a webhook calls itself.
const MAX_DETAIL: usize = 200;
const MAX_ID: usize = 100;

/// The webhooks that this process rejected and has not written yet.
#[derive(Debug, Default)]
pub struct Rejections(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<(DateTime<Utc>, WebhookRejection), RejectedWebhooks>,
    lines: Lines,
}

/// How many log lines there may be.
#[derive(Debug, Default)]
struct Lines {
    /// When the present second began.
    since: Option<Instant>,
    /// Lines of it.
    written: u32,
    /// Webhooks without a line, since the last line.
    left_out: u64,
}

impl Lines {
    /// For one more webhook: how many before it had no line, where it has one itself.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            (self.since, self.written) = (Some(now), 0);
        }
        if self.written == MAX_LINES {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// How many have had no line, once their second is over.
    fn rest(&mut self, now: Instant) -> u64 {
        let is_over = self.since.is_none_or(|since| now.duration_since(since) >= SECOND);
        if is_over { std::mem::take(&mut self.left_out) } else { 0 }
    }
}

impl Rejections {
    /// Keeps that a webhook was rejected for this reason, and answered so.
    pub fn note(&self, request: &Request, reason: WebhookRejection, detail: &str) {
        let id = request.headers().get(ID_HEADER);
        let id = id.map(|id| String::from_utf8_lossy(id.as_bytes()));
        self.note_event(request, id.as_deref(), reason, detail);
    }

    /// The same of one event of a webhook, with its id.
    pub fn note_event(
        &self,
        request: &Request,
        id: Option<&str>,
        reason: WebhookRejection,
        detail: &str,
    ) {
        let remote = request.remote_addr().as_socket_addr().map(|address| address.ip().to_string());
        let id = id.map(|id| plain(id, MAX_ID));
        let at = crate::http::now();
        let rejected = RejectedWebhooks {
            // A time of this century can be cut to its minute.
            minute: at.duration_trunc(TimeDelta::minutes(1)).unwrap_or(at).into(),
            reason: reason.as_str().to_owned(),
            count: 1,
            last_at: at.into(),
            last_detail: plain(detail, MAX_DETAIL),
            last_remote: remote.unwrap_or_else(|| "unknown".to_owned()),
            last_webhook_id: id,
        };
        let mut state = self.state();
        if let Some(not_logged) = state.lines.take(Instant::now()) {
            tracing::warn!(
                reason = reason.as_str(),
                detail = rejected.last_detail,
                remote = rejected.last_remote,
                webhook_id = rejected.last_webhook_id,
                not_logged,
                "a webhook was rejected"
            );
        }
        state.keep(reason, rejected);
    }

    /// Writes what is kept; it stays kept where that fails.
    async fn write(&self, state: &ApiState) -> Result<(), StoreError> {
        let kept = {
            let mut kept = self.state();
            let not_logged = kept.lines.rest(Instant::now());
            if not_logged > 0 {
                tracing::warn!(not_logged, "more webhooks were rejected");
            }
            std::mem::take(&mut kept.kept)
        };
        if kept.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = kept.values().cloned().collect();
        let written = rejected_webhooks::add(&state.pool, &rows).await;
        if written.is_err() {
            let mut state = self.state();
            for ((_, reason), rejected) in kept {
                state.keep(reason, rejected);
            }
        }
        written
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, reason: WebhookRejection, rejected: RejectedWebhooks) {
        let key = (rejected.minute.at(), reason);
        match self.kept.get_mut(&key) {
            Some(known) => {
                let count = known.count.saturating_add(rejected.count);
                if rejected.last_at >= known.last_at {
                    *known = rejected;
                }
                known.count = count;
            }
            None => {
                self.kept.insert(key, rejected);
                if self.kept.len() > MAX_KEPT {
                    self.kept.pop_first();
                }
            }
        }
    }
}

/// Writes the rejections of `state` until `stop`, and then once more.
pub async fn run(state: &ApiState, stop: CancellationToken) {
    let write = async || {
        if let Err(error) = state.rejected_webhooks.write(state).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "rejected webhooks could not be written yet");
        }
    };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => write().await,
            () = stop.cancelled() => break,
        }
    }
    if tokio::time::timeout(LAST_WRITE, write()).await.is_err() {
        tracing::warn!("the last rejected webhooks could not be written");
    }
}

/// The first characters of a sender's text, with those escaped that are not printed.
fn plain(text: &str, max: usize) -> String {
    let mut plain = String::new();
    for (index, char) in text.chars().enumerate() {
        if index == max {
            plain.push('…');
            break;
        }
        match char {
            '"' | '\'' | '\\' => plain.push(char),
            // At most ten characters, such as `\u{202e}`.
            _ => plain.extend(char.escape_debug()),
        }
    }
    // The table takes this much.
    plain.chars().take(max + max / 2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(minute: i64, count: i64, detail: &str) -> RejectedWebhooks {
        let at = DateTime::from_timestamp(1_795_000_020 + minute * 60, 0).unwrap();
        RejectedWebhooks {
            minute: at.into(),
            reason: WebhookRejection::TooOld.as_str().to_owned(),
            count,
            last_at: at.into(),
            last_detail: detail.to_owned(),
            last_remote: "192.0.2.1".to_owned(),
            last_webhook_id: None,
        }
    }

    #[test]
    fn a_few_lines_a_second_and_the_next_one_says_how_many_are_left_out() {
        let (mut lines, began) = (Lines::default(), Instant::now());
        let later = |ms| began + Duration::from_millis(ms);
        for _ in 0..MAX_LINES {
            assert_eq!(lines.take(later(10)), Some(0));
        }
        assert_eq!(lines.take(later(20)), None);
        assert_eq!(lines.take(later(900)), None);
        assert_eq!(lines.rest(later(950)), 0, "the second is not over");
        assert_eq!(lines.take(later(1_010)), Some(2));
        assert_eq!(lines.take(later(1_020)), Some(0));
        for _ in 0..10 {
            lines.take(later(1_030));
        }
        assert_eq!(lines.rest(later(2_010)), 7);
        assert_eq!(lines.rest(later(2_010)), 0, "it is said once");
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_same_minute_is_one_row() {
        let mut state = State::default();
        for _ in 0..1_000 {
            state.keep(WebhookRejection::TooOld, rejected(0, 2, "first"));
        }
        state.keep(WebhookRejection::TooOld, rejected(0, 1, "last"));
        let row = state.kept.values().next().unwrap();
        assert_eq!((state.kept.len(), row.count, row.last_detail.as_str()), (1, 2_001, "last"));
        for minute in 0..2_000 {
            state.keep(WebhookRejection::TooOld, rejected(minute, 1, ""));
        }
        assert_eq!(state.kept.len(), MAX_KEPT);
        assert!(state.kept.keys().all(|(minute, _)| *minute > rejected(1_000, 1, "").minute.at()));
    }

    #[test]
    fn a_senders_text_is_short_and_printed() {
        assert_eq!(plain("evt_1 \"a\\b\"", 100), "evt_1 \"a\\b\"");
        assert_eq!(plain("a\u{1b}[2J\u{202e}\n", 100), r"a\u{1b}[2J\u{202e}\n");
        assert_eq!(plain("abc", 2), "ab…");
        let hostile = plain(&"\u{202e}".repeat(1_000), MAX_ID);
        assert!(hostile.chars().count() <= 150, "{hostile}");
    }
}
