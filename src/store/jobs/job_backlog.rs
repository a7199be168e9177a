//! Whether jobs fall behind because of the database, and how many posts are accepted then.
//!
//! [`super::job_latency`] leaves jobs more of the database while claims and outcomes are slow. That
//! is too little once more jobs are due than have slots, as after a pause or an outage: claims and
//! outcomes take as long as full slots let them, however many wait. Each transaction that waits so
//! long for its create costs a poll and a notification more. So fewer end than are accepted, at a
//! load that the process carries otherwise, and it would stay behind for good.
//!
//! The jobs of a queue are late as a whole when even the least late one of each claim is late, as in
//! CoDel. That may be the third party's doing, or a client's: slots are held while they are called,
//! and no database is spared by refusing posts. So jobs are *behind* only if, besides, their runs
//! wait longer for their outcome to be written than for all else. Then half as many posts are
//! accepted as jobs of that queue end, and the rest are refused in their turn
//! ([`crate::store::postgres::coalesce`]), until they are on time. Two queues matter: every
//! transaction needs a create, and a notification of how it ended.

use std::time::{Duration, Instant};

/// Posts that are accepted for each job that ends; the other half takes the backlog down.
const POSTS_FOR_EACH: f64 = 0.5;
/// What averages are over.
const AVERAGED: Duration = Duration::from_secs(1);
/// A report that is older says nothing: there was nothing to do since, or the worker has ended.
pub(super) const FRESH: Duration = Duration::from_secs(2);
/// Longest pause after a batch of posts, however few jobs end: less than what counts as a stall
/// of the writer.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What is known of this process's jobs of one queue.
#[derive(Debug, Default)]
pub(super) struct JobBacklog {
    /// How late the least late one of a claim was, but no more than twice what is late.
    late: Option<Average>,
    /// The same of the last claim, whatever it was.
    last: Duration,
    /// How long a run took until its outcome was known, and from then until it was written.
    handled: Option<Average>,
    written: Option<Average>,
    ended: Rate,
}

#[derive(Debug, Clone, Copy)]
struct Average {
    value: Duration,
    at: Instant,
}

impl Average {
    /// What there was `before`, with another value.
    fn after(before: Option<Self>, value: Duration, now: Instant) -> Self {
        let Some(before) = before else { return Self { value, at: now } };
        let kept = kept(AVERAGED, before.at, now);
        Self { value: before.value.mul_f64(kept) + value.mul_f64(1.0 - kept), at: now }
    }
}

/// How much is left at `now` of an average over this time.
pub(super) fn kept(over: Duration, at: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(at).div_duration_f64(over)).exp()
}

/// How many there were in a second, of late.
#[derive(Debug, Default)]
struct Rate {
    rate: f64,
    at: Option<Instant>,
}

impl Rate {
    fn add(&mut self, now: Instant) {
        self.rate = self.at(now) + 1.0 / AVERAGED.as_secs_f64();
        self.at = Some(now);
    }

    fn at(&self, now: Instant) -> f64 {
        self.at.map_or(0.0, |at| self.rate * kept(AVERAGED, at, now))
    }
}

impl JobBacklog {
    /// A claim gave jobs of which the least late one was this late; zero where it gave none. Those
    /// that are no more than `soon` late are on time.
    pub fn claimed(&mut self, least_late: Duration, soon: Duration, now: Instant) {
        // A single one that is very late, as after a rescue, is no backlog.
        self.late = Some(Average::after(self.late, least_late.min(2 * soon), now));
        self.last = least_late;
    }

    /// A run has ended.
    pub fn ran(&mut self, handled: Duration, written: Duration, now: Instant) {
        self.handled = Some(Average::after(self.handled, handled, now));
        self.written = Some(Average::after(self.written, written, now));
        self.ended.add(now);
    }

    /// How late the jobs are because of the database; `None` where most are on time.
    pub fn behind(&self, soon: Duration, now: Instant) -> Option<Duration> {
        let fresh = |average: &Option<Average>| {
            average.filter(|average| now.saturating_duration_since(average.at) < FRESH)
        };
        let is_late = fresh(&self.late)?.value > soon;
        let is_database = fresh(&self.written)?.value > fresh(&self.handled)?.value;
        (is_late && is_database).then_some(self.last)
    }

    /// How long no post is written after a batch of as many that took this long, while the jobs are
    /// behind.
    pub fn pause_after(&self, posts: usize, took: Duration, now: Instant) -> Duration {
        let pace = self.ended.at(now) * POSTS_FOR_EACH;
        let whole = Duration::try_from_secs_f64(posts as f64 / pace).unwrap_or(Duration::MAX);
        whole.saturating_sub(took).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::{
        domain::JobKind,
        store::jobs::job_latency::{JobLatency, Step},
    };

    const SOON: Duration = Duration::from_millis(200);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A thousand jobs a second end for five seconds, claimed this late.
    fn run(backlog: &mut JobBacklog, from: Instant, late: Duration, run: [Duration; 2]) -> Instant {
        for step in 0..5_000 {
            let now = from + ms(step);
            backlog.ran(run[0], run[1], now);
            if step % 50 == 0 {
                backlog.claimed(late, SOON, now);
            }
        }
        from + ms(4_999)
    }

    #[test]
    fn half_as_many_posts_are_accepted_as_jobs_end() {
        let mut backlog = JobBacklog::default();
        assert_eq!(backlog.behind(SOON, Instant::now()), None);
        let now = run(&mut backlog, Instant::now(), ms(3_000), [ms(10), ms(400)]);
        assert_eq!(backlog.behind(SOON, now), Some(ms(3_000)));
        let pause = backlog.pause_after(64, ms(8), now);
        assert!((ms(118)..ms(122)).contains(&pause), "{pause:?}");
        assert_eq!(backlog.pause_after(500, ms(8), now), LONGEST_PAUSE);
        assert_eq!(backlog.pause_after(64, ms(800), now), Duration::ZERO);
        assert_eq!(backlog.behind(SOON, now + FRESH), None, "nothing is known");
        assert_eq!(JobBacklog::default().pause_after(1, ms(1), now), LONGEST_PAUSE);
    }

    #[test]
    fn what_is_on_time_or_waits_for_the_third_party_refuses_nobody() {
        for (late, times) in [
            (ms(150), [ms(10), ms(400)]),
            (ms(90_000), [ms(5_000), ms(20)]),
            (ms(90_000), [ms(500), ms(400)]),
        ] {
            let mut backlog = JobBacklog::default();
            let now = run(&mut backlog, Instant::now(), late, times);
            assert_eq!(backlog.behind(SOON, now), None, "{late:?} {times:?}");
        }
    }

    #[test]
    fn one_that_was_given_back_late_is_no_backlog() {
        let mut backlog = JobBacklog::default();
        let now = run(&mut backlog, Instant::now(), ms(2), [ms(10), ms(20)]);
        // Alone in its claim, as a job of a worker that was rescued.
        backlog.claimed(Duration::from_secs(600), SOON, now + ms(5));
        assert_eq!(backlog.behind(SOON, now + ms(5)), None);
    }

    #[test]
    fn notifications_that_are_behind_count_as_creates_do() {
        let latency = JobLatency::new(SOON);
        let start = Instant::now();
        for step in 0..3_000 {
            let now = start + ms(step);
            for kind in [JobKind::CreateAtThirdParty, JobKind::NotifyClient] {
                let late = if kind == JobKind::NotifyClient { ms(20_000) } else { ms(1) };
                latency.claimed(kind, late, now);
                latency.ran(kind, ms(5), ms(300), now);
            }
            // What is not needed for a transaction's end may be as late as it is.
            latency.claimed(JobKind::UpdateStatus, ms(20_000), now);
        }
        let now = start + ms(3_000);
        assert!(latency.is_slow(now));
        let pause = latency.pause_after(64, ms(4), now);
        assert!((ms(120)..ms(140)).contains(&pause), "{pause:?}");
        assert_eq!(latency.lag(now), Duration::ZERO, "they would be later still");
    }

    /// Seven tenths of what the database can do are posted. No job is claimed for a minute, and then
    /// all are again. A transaction that is claimed late costs two and a half times as much. Returns
    /// how late creates are five minutes later, and how many were accepted in all.
    fn after_a_pause(spares: bool) -> (Duration, f64) {
        const POST: f64 = 0.000_130;
        const JOBS: f64 = 0.000_340;
        const AMPLIFIED: f64 = 2.5;
        const SLOTS: f64 = 1_000.0;
        const STEP: f64 = 0.001;
        let latency = JobLatency::new(SOON);
        let (start, begun) = (Instant::now(), 0.7 / (POST + JOBS) * STEP);
        // Accepted in a step, and how many of these have not ended; and how many in all.
        let (mut due, mut waiting) = (VecDeque::<(Instant, f64)>::new(), 0.0);
        let (mut offered, mut accepted, mut ended) = (0.0, 0.0, 0.0);
        // `owed`: what the last batch of posts took of the steps after it.
        let (mut pause_until, mut late, mut owed) = (start, ms(0), 0.0);
        for step in 0..360_000_u64 {
            let now = start + ms(step);
            offered = f64::min(offered + begun, 200.0);
            let mut left = STEP - owed;
            if now >= pause_until && offered >= 1.0 {
                let posts = offered.min(64.0);
                offered -= posts;
                accepted += posts;
                left -= posts * POST;
                due.push_back((now, posts));
                waiting += posts;
                let took = Duration::from_secs_f64(posts * POST);
                let pause = latency.pause_after(posts as usize, took, now);
                pause_until = now + if spares { pause } else { Duration::ZERO };
            }
            owed = f64::max(-left, 0.0);
            if (10_000..70_000).contains(&step) {
                continue;
            }
            late = due.front().map_or(ms(0), |(at, _)| now - *at);
            let cost = JOBS * if late > SOON + latency.lag(now) { AMPLIFIED } else { 1.0 };
            let written = Duration::from_secs_f64(f64::clamp(waiting, 0.0, SLOTS) * cost + 0.005);
            while let Some((_, count)) = due.front_mut().filter(|_| left > 0.0) {
                let done = count.min(left / cost);
                (*count, left) = (*count - done, left - done * cost);
                (ended, waiting) = (ended + done, waiting - done);
                if *count > 1e-9 {
                    break;
                }
                due.pop_front();
            }
            while ended >= 1.0 {
                ended -= 1.0;
                latency.ran(JobKind::CreateAtThirdParty, ms(15), written, now);
            }
            latency.report(Step::Claim, ms(5), now);
            latency.report(Step::Outcome, written, now);
            latency.claimed(JobKind::CreateAtThirdParty, late, now);
        }
        (late, accepted)
    }

    #[test]
    fn a_backlog_is_caught_up_with() {
        let (late, accepted) = after_a_pause(true);
        assert!(late < SOON, "{late:?}");
        let offered = 360.0 * 0.7 / 0.000_470;
        assert!(accepted > 0.6 * offered, "{accepted:.0} of {offered:.0}");
        let (late, _) = after_a_pause(false);
        assert!(late > Duration::from_secs(30), "behind for good: {late:?}");
    }
}
