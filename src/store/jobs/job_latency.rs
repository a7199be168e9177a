//! How long jobs wait for the database, and how much of it posts leave them.
//!
//! Posts and jobs share the database. A writer of posts that takes all it can leaves the jobs less
//! and less when more is posted than can be carried to its end. Then each transaction costs more:
//! it is polled, and its client is sent `pending`, because it has not ended before these jobs were
//! due.
//!
//! So this watches how long the two statements of a job's run take, each with its wait for a
//! writer: the claim, from when free slots ask for jobs, and the outcome, from when the run has
//! ended. Nothing but this process and its database delays these. A slow third party or client
//! takes its time between the two; with full slots nothing asks for jobs; a claim from a paused
//! queue, or one that finds nothing, is as fast as any other, and so is the outcome of a run that
//! an open circuit postpones. What waits for somebody else's lock is not counted (see
//! [`crate::store::postgres::batch::Batch::answered`]).
//!
//! While the two together take longer than allowed, the writer of posts pauses after each batch: at
//! twice the time that is allowed, as long as the batch took. Latency grows while more is accepted
//! than ends and falls while less is, so it settles where both are equal. A pause also makes the
//! next batch larger, and each of its posts cheaper.
//!
//! A small batch of posts is followed by a pause, too, while outcomes are written that take longer:
//! the database is busy with those, and gains more from fewer batches than the posts lose by
//! waiting. The pause is no longer than the batch was, so their latency doubles at most.
//!
//! There is a second way in which slow jobs make more work. A transaction that has not ended when
//! its first poll and its first notification are due costs both, which delays those after it; so a
//! short stall could leave a process late for good at a load that it otherwise carries. Therefore
//! what is scheduled is claimed with a [`lag`](JobLatency::lag) while jobs take more than half of
//! that time, so that each transaction costs no more than usual. The lag is one and a half times
//! what exceeds that half. Where the database is so far away that jobs always take so long, it is
//! always there. Once more creates are due than have slots, it grows by how late they are, and fewer
//! posts are written than creates end (`job_backlog` beside this).
//!
//! What slows jobs and posts alike, such as reports that use all cores, is not the posts' doing,
//! and pausing them would gain the jobs little. So the two statements may always take as long as two
//! batches of posts do.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::job_backlog::{FRESH, JobBacklog, kept};
use crate::{domain::JobKind, store::postgres::batch::SEVERAL};

/// The average is over this time.
const AVERAGED: Duration = Duration::from_millis(100);
/// Latency is normal up to this many times the lowest of the last minutes: where each commit
/// crosses a network, jobs take long however little there is to do.
const NORMAL: f64 = 2.0;
/// Latency is normal up to what this number of batches of posts takes: a job's run has as many
/// statements.
const STATEMENTS: f64 = 2.0;
/// In which the lowest latency is forgotten: it counts as twice as long after this time. A time of
/// too much to do is shorter, and must not become what is normal.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// The minimum share of its time that the writer spends on posts. Without it, other load on the
/// database would make a process refuse posts that it can carry when it is alone.
const LEAST: f64 = 0.25;
/// Where its third party answers at once, one job ends a transaction: its create. While more is
/// posted than ends, that takes twice what it may without a pause of posts. So it ends within half
/// of the time until its first poll is due, as [`ON_TIME`] has it.
const ENDED_WITHIN: u32 = 4;
/// From this number of posts on a batch is large: what it costs however small it is, is less than
/// half of it.
const LARGE: usize = 32;

/// There is no lag while jobs take no more than this part of the delay from the accept to the first
/// scheduled job.
const ON_TIME: f64 = 0.5;
/// The lag, as a multiple of what exceeds that part. A job takes a third longer than on average at
/// worst, because an outcome waits for one to two batches: for the rest of the one under way, and
/// for its own.
const LAG_OF_EXCESS: f64 = 1.5;
/// The greatest lag of scheduled jobs.
const LONGEST_LAG: Duration = Duration::from_secs(10);

/// What a job's run waits for in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Claim,
    Outcome,
}

/// How long jobs wait for the database; shared by those who report it and those who go by it.
#[derive(Debug, Clone)]
pub struct JobLatency {
    /// How long after the accept the first scheduled jobs are due.
    soon: Duration,
    recent: Arc<Mutex<RecentSteps>>,
}

#[derive(Debug, Default)]
struct RecentSteps {
    claims: Option<Recent>,
    outcomes: Option<Recent>,
    /// Batches of posts, without the wait for a writer.
    posts: Option<Recent>,
    /// Batches of several outcomes, likewise.
    outcome_batches: Option<Recent>,
    creates: JobBacklog,
    notifications: JobBacklog,
}

impl RecentSteps {
    /// Of the jobs that every transaction needs.
    fn backlog(&mut self, queue: JobKind) -> Option<&mut JobBacklog> {
        match queue {
            JobKind::CreateAtThirdParty => Some(&mut self.creates),
            JobKind::NotifyClient => Some(&mut self.notifications),
            JobKind::CreateTransaction | JobKind::UpdateStatus => None,
        }
    }

    /// Those that are behind.
    fn behind(&self, soon: Duration, now: Instant) -> impl Iterator<Item = &JobBacklog> {
        let all = [&self.creates, &self.notifications];
        all.into_iter().filter(move |jobs| jobs.behind(soon, now).is_some())
    }
}

#[derive(Debug, Clone, Copy)]
struct Recent {
    average: Duration,
    lowest: Duration,
    at: Instant,
}

/// What is known of the last moments; zero for what is not.
struct Averages {
    /// The two steps of a job together, and the lowest that they took.
    job: Duration,
    lowest: Duration,
    /// A batch of posts.
    posts: Duration,
}

impl Recent {
    /// What there was `before`, with another report.
    fn after(before: Option<Self>, latency: Duration, now: Instant) -> Self {
        let Some(before) = before else {
            return Self { average: latency, lowest: latency, at: now };
        };
        let elapsed = now.saturating_duration_since(before.at);
        let kept = kept(AVERAGED, before.at, now);
        let average = before.average.mul_f64(kept) + latency.mul_f64(1.0 - kept);
        let lowest = before.lowest.mul_f64(elapsed.div_duration_f64(FORGOTTEN).min(1.0).exp2());
        Self { average, lowest: lowest.min(average), at: now }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < FRESH
    }
}

/// Zero where nothing is known of the last moments.
fn average(recent: Option<Recent>, now: Instant) -> Duration {
    let fresh = recent.filter(|recent| recent.is_fresh(now));
    fresh.map_or(Duration::ZERO, |recent| recent.average)
}

impl JobLatency {
    /// The first poll and the first notification are due `soon` after the accept.
    pub fn new(soon: Duration) -> Self {
        Self { soon, recent: Arc::default() }
    }

    /// A step took this long, with its wait for a writer.
    pub fn report(&self, step: Step, latency: Duration, now: Instant) {
        let mut steps = self.recent();
        let recent = match step {
            Step::Claim => &mut steps.claims,
            Step::Outcome => &mut steps.outcomes,
        };
        *recent = Some(Recent::after(*recent, latency, now));
    }

    /// A claim gave jobs of this queue of which the least late one was this late; zero where it gave
    /// none.
    pub fn claimed(&self, queue: JobKind, least_late: Duration, now: Instant) {
        if let Some(backlog) = self.recent().backlog(queue) {
            backlog.claimed(least_late, self.soon, now);
        }
    }

    /// A run has ended: its outcome was known after `handled`, and written after `written` more.
    pub fn ran(&self, queue: JobKind, handled: Duration, written: Duration, now: Instant) {
        if let Some(backlog) = self.recent().backlog(queue) {
            backlog.ran(handled, written, now);
        }
    }

    /// A batch of as many outcomes was written within this time, without the wait for a writer.
    pub fn wrote_outcomes(&self, count: usize, took: Duration, now: Instant) {
        if count >= SEVERAL {
            let batches = &mut self.recent().outcome_batches;
            *batches = Some(Recent::after(*batches, took, now));
        }
    }

    /// How long a batch of outcomes takes; zero where few are written.
    pub fn outcome_batch(&self, now: Instant) -> Duration {
        average(self.recent().outcome_batches, now)
    }

    /// How much later than they are due scheduled jobs are claimed.
    pub fn lag(&self, now: Instant) -> Duration {
        let late = self.averages(now).job.saturating_sub(self.soon.mul_f64(ON_TIME));
        let behind = self.recent().creates.behind(self.soon, now).unwrap_or_default();
        late.mul_f64(LAG_OF_EXCESS).saturating_add(behind).min(LONGEST_LAG)
    }

    /// Whether jobs take longer than they may.
    pub fn is_slow(&self, now: Instant) -> bool {
        self.part(now) < 1.0 || self.recent().behind(self.soon, now).next().is_some()
    }

    /// Notes a batch of as many posts that took this long; returns how long the database is left to
    /// the jobs after it.
    pub fn pause_after(&self, count: usize, took: Duration, now: Instant) -> Duration {
        {
            let posts = &mut self.recent().posts;
            *posts = Some(Recent::after(*posts, took, now));
        }
        let share = took.mul_f64(1.0 / self.part(now) - 1.0).max(self.gathering(count, took, now));
        let steps = self.recent();
        let pauses = steps.behind(self.soon, now).map(|jobs| jobs.pause_after(count, took, now));
        pauses.fold(share, Duration::max)
    }

    /// How long the next posts gather, so that their batch is larger than the last one.
    fn gathering(&self, count: usize, took: Duration, now: Instant) -> Duration {
        if !(SEVERAL..LARGE).contains(&count) {
            return Duration::ZERO;
        }
        self.outcome_batch(now).saturating_sub(took).min(took)
    }

    /// The part of their writer's time that posts have.
    fn part(&self, now: Instant) -> f64 {
        let Averages { job, lowest, posts } = self.averages(now);
        if job.is_zero() {
            return 1.0;
        }
        let normal = lowest.mul_f64(NORMAL).max(posts.mul_f64(STATEMENTS));
        let allowed = self.soon / ENDED_WITHIN;
        allowed.max(normal).div_duration_f64(job).clamp(LEAST, 1.0)
    }

    fn averages(&self, now: Instant) -> Averages {
        let is_fresh = |recent: &Recent| recent.is_fresh(now);
        let steps = self.recent();
        let both = [steps.claims, steps.outcomes].into_iter().flatten().filter(is_fresh);
        let (job, lowest) = both.fold((Duration::ZERO, Duration::ZERO), |(job, lowest), recent| {
            (job + recent.average, lowest + recent.lowest)
        });
        Averages { job, lowest, posts: average(steps.posts, now) }
    }

    fn recent(&self) -> MutexGuard<'_, RecentSteps> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A job that takes this long in the database: its claim a third of it.
    fn report_job(latency: &JobLatency, took: Duration, now: Instant) {
        latency.report(Step::Claim, took / 3, now);
        latency.report(Step::Outcome, took * 2 / 3, now);
    }

    /// Jobs take this long for half a second.
    fn report(latency: &JobLatency, took: Duration, from: Instant) -> Instant {
        for step in 0..50 {
            report_job(latency, took, from + ms(step * 10));
        }
        from + ms(490)
    }

    #[test]
    fn the_longer_jobs_take_the_longer_is_the_pause() {
        let latency = JobLatency::new(SOON);
        let batch = ms(10);
        let now = report(&latency, ms(5), Instant::now());
        assert_eq!(latency.pause_after(64, batch, now), Duration::ZERO);
        let now = report(&latency, ms(49), now);
        assert_eq!(latency.pause_after(64, batch, now), Duration::ZERO);
        let now = report(&latency, ms(100), now);
        let pause = latency.pause_after(64, batch, now);
        assert!((ms(9)..ms(11)).contains(&pause), "{pause:?}");
        let now = report(&latency, Duration::from_secs(3_600), now);
        assert_eq!(latency.pause_after(64, batch, now), ms(30), "a quarter is left for posts");
        let now = report(&latency, ms(5), now);
        let now = report(&latency, ms(5), now);
        let now = report(&latency, ms(5), now);
        assert_eq!(latency.pause_after(64, batch, now), Duration::ZERO, "as before");
    }

    #[test]
    fn posts_gather_while_outcomes_take_longer_and_no_longer_than_they_took() {
        let (latency, now) = (JobLatency::new(SOON), Instant::now());
        let pause = |count, took| latency.pause_after(count, ms(took), now);
        assert_eq!(pause(8, 4), Duration::ZERO, "no outcomes are written");
        latency.wrote_outcomes(SEVERAL - 1, ms(20), now);
        assert_eq!(pause(8, 4), Duration::ZERO, "few outcomes are written");
        latency.wrote_outcomes(SEVERAL, ms(20), now);
        assert_eq!([pause(8, 4), pause(8, 15), pause(8, 20)], [ms(4), ms(5), ms(0)]);
        assert_eq!(pause(SEVERAL - 1, 4), Duration::ZERO, "alone");
        assert_eq!(pause(LARGE, 4), Duration::ZERO, "large enough");
        let later = now + FRESH;
        assert_eq!(latency.pause_after(8, ms(4), later), Duration::ZERO, "no longer");
    }

    #[test]
    fn a_distant_database_is_no_reason_to_pause() {
        let latency = JobLatency::new(SOON);
        let now = report(&latency, ms(120), Instant::now());
        let now = report(&latency, ms(200), now);
        assert_eq!(latency.pause_after(64, ms(60), now), Duration::ZERO);
    }

    #[test]
    fn what_slows_posts_as_much_as_jobs_is_no_reason_to_pause() {
        let latency = JobLatency::new(SOON);
        let now = report(&latency, ms(5), Instant::now());
        // Four reports read all tables.
        let now = report(&latency, ms(120), now);
        for batch in 0..10 {
            latency.pause_after(64, ms(60), now + ms(batch * 60));
        }
        let now = report(&latency, ms(120), now + ms(100));
        assert_eq!(latency.pause_after(64, ms(60), now), Duration::ZERO);
        let now = report(&latency, ms(600), now);
        let pause = latency.pause_after(64, ms(60), now);
        assert!(pause > ms(15), "jobs alone are slower now: {pause:?}");
    }

    #[test]
    fn claims_that_find_nothing_hide_no_slow_outcomes() {
        let latency = JobLatency::new(SOON);
        let start = report(&latency, ms(5), Instant::now());
        for step in 0..500 {
            let now = start + ms(step);
            latency.report(Step::Claim, ms(1), now);
            if step % 50 == 0 {
                latency.report(Step::Outcome, ms(99), now);
            }
        }
        let pause = latency.pause_after(64, ms(10), start + ms(500));
        assert!((ms(9)..ms(11)).contains(&pause), "{pause:?}");
    }

    #[test]
    fn jobs_that_run_no_more_delay_nobody() {
        let latency = JobLatency::new(SOON);
        let now = report(&latency, ms(5), Instant::now());
        let now = report(&latency, ms(400), now);
        assert!(latency.pause_after(64, ms(10), now + FRESH / 2) > Duration::ZERO);
        assert_eq!(latency.pause_after(64, ms(10), now + FRESH), Duration::ZERO);
    }

    #[test]
    fn what_is_scheduled_lags_by_what_jobs_take_longer() {
        let latency = JobLatency::new(SOON);
        let now = report(&latency, ms(90), Instant::now());
        assert_eq!(latency.lag(now), Duration::ZERO);
        let now = report(&latency, ms(400), now);
        let lag = latency.lag(now);
        assert!((ms(440)..=ms(451)).contains(&lag), "{lag:?}");
        assert_eq!(latency.lag(now + FRESH), Duration::ZERO, "nothing is known");
        let now = report(&latency, Duration::from_secs(3_600), now);
        assert_eq!(latency.lag(now), LONGEST_LAG);
    }

    /// Seven tenths of what the database can do are posted, for half a minute, and after five
    /// seconds it does nothing for one second. A transaction that has not ended when its first poll
    /// and notification are claimed costs twice as much. Returns how long the last ones took.
    fn stall(lags: bool) -> Duration {
        const STEP: Duration = Duration::from_millis(1);
        const COST: f64 = 0.000_470;
        let (latency, start) = (JobLatency::new(SOON), Instant::now());
        // When each was accepted, what it costs yet, and whether it costs more than usual.
        let mut waiting = std::collections::VecDeque::<(Instant, f64, bool)>::new();
        let (mut arrived, mut took) = (0.0, Duration::ZERO);
        for step in 0..30_000 {
            let now = start + STEP * step;
            arrived += 0.7 * STEP.as_secs_f64() / COST;
            while arrived >= 1.0 {
                arrived -= 1.0;
                waiting.push_back((now, COST, false));
            }
            let claimed_after = SOON + if lags { latency.lag(now) } else { Duration::ZERO };
            for (at, cost, costs_more) in &mut waiting {
                if !*costs_more && now - *at >= claimed_after {
                    (*cost, *costs_more) = (*cost + COST, true);
                }
            }
            let is_stalled = (5_000..6_000).contains(&step);
            let mut left = if is_stalled { 0.0 } else { STEP.as_secs_f64() };
            while let Some((at, cost, _)) = waiting.front_mut() {
                let done = cost.min(left);
                (*cost, left) = (*cost - done, left - done);
                if *cost > 0.0 {
                    break;
                }
                took = now - *at;
                report_job(&latency, took, now);
                waiting.pop_front();
            }
        }
        took
    }

    #[test]
    fn a_stall_is_caught_up_with() {
        assert!(stall(true) < ms(20), "{:?}", stall(true));
        assert!(stall(false) > ms(2_000), "late for good: {:?}", stall(false));
    }

    /// One database, shared in equal parts by the writer of posts and the two of the jobs, for as
    /// long as they have something to do. Twice as much is posted as can be carried to its end.
    /// Returns how many were accepted and ended in each second, and how long jobs took at most, all
    /// after five seconds.
    fn overload(paused: bool) -> (f64, f64, Duration) {
        const POST: f64 = 0.000_130;
        const JOBS: f64 = 0.000_340;
        const STEP: Duration = Duration::from_millis(1);
        const BATCH: f64 = 64.0;
        let (latency, start) = (JobLatency::new(SOON), Instant::now());
        let (mut accepted, mut ended, mut longest) = (0.0, 0.0, Duration::ZERO);
        let (mut behind, mut written) = (0.0, 0.0);
        let (mut batch_began, mut pause_until) = (start, start);
        for step in 0..15_000 {
            let now = start + STEP * step;
            let (posts_run, jobs_run) = (now >= pause_until, behind > 0.0);
            let (posts, jobs) = match (posts_run, jobs_run) {
                (true, true) => (1.0 / 3.0, 2.0 / 3.0),
                (true, false) => (1.0, 0.0),
                (false, _) => (0.0, 1.0),
            };
            let done = (jobs * STEP.as_secs_f64() / JOBS).min(behind);
            let new = posts * STEP.as_secs_f64() / POST;
            behind += new - done;
            written += new;
            let took = Duration::from_secs_f64(behind * JOBS + 0.005);
            report_job(&latency, took, now);
            if written >= BATCH {
                written = 0.0;
                let pause = latency.pause_after(64, now - batch_began, now);
                pause_until = now + if paused { pause } else { Duration::ZERO };
                batch_began = pause_until;
            }
            if step >= 5_000 {
                (accepted, ended) = (accepted + new, ended + done);
                longest = longest.max(took);
            }
        }
        (accepted / 10.0, ended / 10.0, longest)
    }

    #[test]
    fn as_much_is_accepted_as_ends() {
        let capacity = 1.0 / 0.000_470;
        let (accepted, ended, longest) = overload(true);
        let case = format!("{accepted:.0}/s accepted, {ended:.0}/s ended, {longest:?}");
        assert!((accepted - ended).abs() < 0.02 * capacity, "{case}");
        assert!(ended > 0.95 * capacity, "{case}");
        // The create ends well before the poll and the first notification are due.
        assert!(longest < ms(200) / 2, "{case}");

        let (accepted, ended, longest) = overload(false);
        let case = format!("{accepted:.0}/s accepted, {ended:.0}/s ended, {longest:?}");
        assert!(ended < 0.95 * accepted && longest > ms(500), "jobs fall behind: {case}");
    }
}
