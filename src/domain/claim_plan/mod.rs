//! What a claim of one queue looks at: where in the order of `run_at` it starts, and how much of
//! the free slots each client gets.
//!
//! **Where it starts.** While any snapshot is held in the database, the index entries of finished
//! jobs cannot be removed, and a scan that starts at the oldest entry walks all of them. So a claim
//! starts at the *floor*: all older jobs were claimed, as far as this process knows. A claim that
//! takes everything that is due moves the floor to the time until which it looked. A job that is
//! committed later with an older `run_at` lowers it again ([`ClaimPlan::lower`]).
//!
//! **Who gets how much.** As long as claims take everything that is due, clients are not
//! distinguished. When a claim is full, the client that holds most is set *apart*: the scan for the
//! others passes over its jobs, so that they are found behind any backlog, and its jobs are claimed
//! by a scan of their own with the slots that the others leave. Clients that are apart take turns.
//! A client returns to the others once its own scan takes all that it has due.
//!
//! **Stragglers.** A job whose `run_at` is older than the floor, because it was written while this
//! process was not there or its announcement was lost, is found by a look over the whole index now
//! and then, and claimed by its id.
//!
//! **What one client may hold.** Where jobs wait for something that is the client's own
//! ([`HoldLimit::LeaveAsMuchFree`]), a client holds no more slots than are free, so that one whose
//! callbacks hang cannot take them all.

#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet, VecDeque},
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// How many of a queue's slots one client may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldLimit {
    /// All: what its jobs wait for is the same for all clients.
    None,
    /// As many as it leaves free.
    LeaveAsMuchFree,
}

/// One claim of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimScans {
    /// Jobs to claim by their ids.
    pub stragglers: Vec<String>,
    /// Most jobs of all scans together, besides the stragglers.
    pub most: usize,
    /// Most jobs of the clients that are not apart; these come first.
    pub most_of_others: usize,
    /// The floor of the scan for these; `None` where it is not known.
    pub since: Option<DateTime<Utc>>,
    /// The clients that are apart, in the order of their turns. What the others leave is split
    /// evenly among the first ones.
    pub apart: Vec<ApartScan>,
    /// Whether clients that are apart wait for a later turn.
    pub is_turn_short: bool,
    /// Clients whose jobs are passed over: those that are apart, and those that may hold no more.
    pub excluded: Vec<Uuid>,
}

/// The scan for one client's jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApartScan {
    pub client: Uuid,
    /// Its oldest job is not older, as far as is known.
    pub since: Option<DateTime<Utc>>,
    /// Most jobs that it may take.
    pub most: usize,
}

impl ClaimScans {
    /// Whether this job is claimed by its id.
    pub fn has_straggler(&self, job_id: &str) -> bool {
        self.stragglers.iter().any(|straggler| straggler == job_id)
    }

    /// The limit of the apart scan at `position`, after the others took `others` jobs. The sum over
    /// all positions is what is left, or less.
    pub fn limit_of(&self, position: usize, others: usize) -> usize {
        let left = self.most.saturating_sub(others);
        let share = (left + self.apart.len() - 1 - position) / self.apart.len();
        share.min(self.apart[position].most)
    }
}

/// A due job that is older than the floor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Straggler {
    pub job_id: String,
    pub client: Uuid,
}

/// What is known of a queue's jobs and of who holds its slots.
#[derive(Debug)]
pub struct ClaimPlan {
    hold_limit: HoldLimit,
    /// Most jobs of one claim.
    max_batch: usize,
    floor: Option<DateTime<Utc>>,
    apart: HashMap<Uuid, Apart>,
    held: HashMap<Uuid, usize>,
    /// Of all clients together.
    held_count: usize,
    stragglers: VecDeque<Straggler>,
    turn: u64,
}

#[derive(Debug, Clone, Copy)]
struct Apart {
    since: Option<DateTime<Utc>>,
    /// The turn in which it was last served.
    served: u64,
    /// It had nothing due then, and nothing has woken the queue since.
    is_idle: bool,
}

impl ClaimPlan {
    /// Nothing is known yet. One claim takes at most `max_batch` jobs.
    pub fn new(hold_limit: HoldLimit, max_batch: usize) -> Self {
        Self {
            hold_limit,
            max_batch,
            floor: None,
            apart: HashMap::new(),
            held: HashMap::new(),
            held_count: 0,
            stragglers: VecDeque::new(),
            turn: 0,
        }
    }

    /// A job with this `run_at` was committed: no scan starts behind it.
    pub fn lower(&mut self, run_at: DateTime<Utc>) {
        // Where a caller adds a delay to a time itself, the database may have rounded otherwise.
        let run_at = run_at - TimeDelta::microseconds(1);
        let lower = |since: &mut Option<DateTime<Utc>>| *since = since.map(|at| at.min(run_at));
        lower(&mut self.floor);
        self.apart.values_mut().for_each(|apart| lower(&mut apart.since));
    }

    /// From here on every job that this process knows of is found by the next claims. `None` where
    /// no floor is known.
    pub fn covered_from(&self) -> Option<DateTime<Utc>> {
        let floor = self.floor?;
        self.apart.values().try_fold(floor, |lowest, apart| Some(lowest.min(apart.since?)))
    }

    /// Whether clients are apart.
    pub fn has_apart(&self) -> bool {
        !self.apart.is_empty()
    }

    /// The floors are no longer relied on: scans start where nothing is known.
    pub fn forget_floors(&mut self) {
        self.floor = None;
        self.apart.clear();
    }

    /// Jobs may have become due since the last claim.
    pub fn wake(&mut self) {
        self.apart.values_mut().for_each(|apart| apart.is_idle = false);
    }

    /// What a look found below [`Self::covered_from`].
    pub fn found(&mut self, stragglers: Vec<Straggler>) {
        self.stragglers = stragglers.into();
    }

    /// Whether stragglers are left to be claimed.
    pub fn has_stragglers(&self) -> bool {
        !self.stragglers.is_empty()
    }

    /// The claim to make while `free` slots are free, at least one.
    pub fn scans(&mut self, free: usize) -> ClaimScans {
        let limits_holds = self.hold_limit == HoldLimit::LeaveAsMuchFree;
        if limits_holds {
            // A share of the others' scan could give it more than it may hold.
            for (client, held) in &self.held {
                if 2 * held >= free {
                    let apart = Apart { since: self.floor, served: 0, is_idle: false };
                    self.apart.entry(*client).or_insert(apart);
                }
            }
        }
        let most = if limits_holds { free.div_ceil(2) } else { free }.min(self.max_batch);
        let stragglers = self.take_stragglers(most, free);
        let most = most - stragglers.len();
        let most_of_others = match self.hold_limit {
            HoldLimit::LeaveAsMuchFree => free.div_ceil(4).min(most),
            HoldLimit::None if self.apart.is_empty() => most,
            HoldLimit::None => most.div_ceil(2),
        };
        let mut apart: Vec<(&Apart, ApartScan)> = self
            .apart
            .iter()
            .map(|(client, apart)| {
                let most = self.allowance(*client, free).min(most);
                (apart, ApartScan { client: *client, since: apart.since, most })
            })
            .filter(|(_, scan)| scan.most > 0)
            .collect();
        apart.sort_by_key(|(apart, scan)| (apart.served, scan.client));
        let later = apart.split_off(most.min(apart.len()));
        let is_turn_short = later.iter().any(|(apart, _)| !apart.is_idle);
        ClaimScans {
            stragglers,
            most,
            most_of_others,
            since: self.floor,
            apart: apart.into_iter().map(|(_, scan)| scan).collect(),
            is_turn_short,
            excluded: self.apart.keys().copied().collect(),
        }
    }

    /// Half of the claim at most; a single slot goes to stragglers every other time.
    fn take_stragglers(&mut self, most: usize, free: usize) -> Vec<String> {
        let share = if most == 1 { (self.turn % 2) as usize } else { most / 2 };
        let mut taken_of = HashMap::<Uuid, usize>::new();
        let (mut taken, mut left) = (Vec::new(), VecDeque::new());
        for straggler in std::mem::take(&mut self.stragglers) {
            let of_client = taken_of.entry(straggler.client).or_default();
            if taken.len() < share && *of_client < self.allowance(straggler.client, free) {
                *of_client += 1;
                taken.push(straggler.job_id);
            } else {
                left.push_back(straggler);
            }
        }
        self.stragglers = left;
        taken
    }

    /// A job of `client` was claimed.
    pub fn hold(&mut self, client: Uuid) {
        *self.held.entry(client).or_default() += 1;
        self.held_count += 1;
    }

    /// Whether a job of `client` that falls due now may run at once, where the queue has `slots`:
    /// as far as is known nothing of the client waits that would be claimed before it. The slots of
    /// a claim under way count as free: most claims use few of them, and a client that is not apart
    /// gets a quarter at most.
    pub fn takes_at_once(&self, client: Uuid, slots: usize) -> bool {
        let free = slots.saturating_sub(self.held_count);
        !self.apart.contains_key(&client)
            && self.stragglers.is_empty()
            && self.allowance(client, free) > 0
    }

    /// Records what the scans returned while `free` slots were free: the client and `run_at` of each
    /// job, with `None` for a time before all others; every one is [held](Self::hold) already. They
    /// covered the jobs that were due at `until`. Returns whether another claim may give more at
    /// once.
    pub fn claimed(
        &mut self,
        scans: &ClaimScans,
        free: usize,
        until: DateTime<Utc>,
        jobs: &[(Uuid, Option<DateTime<Utc>>)],
    ) -> bool {
        self.turn += 1;
        let excluded: HashSet<Uuid> = scans.excluded.iter().copied().collect();
        let mut last: HashMap<Uuid, (usize, Option<DateTime<Utc>>)> = HashMap::new();
        for (client, run_at) in jobs {
            let (count, latest) = last.entry(*client).or_default();
            *count += 1;
            *latest = (*latest).max(*run_at);
        }
        let others = jobs.iter().filter(|(client, _)| !excluded.contains(client));
        let (count_of_others, latest_of_others) =
            others.fold((0, None), |(count, latest), (_, run_at)| (count + 1, latest.max(*run_at)));
        let others_are_full = count_of_others >= scans.most_of_others;
        if others_are_full {
            self.floor = latest_of_others.or(self.floor);
            let of_others = last.iter().filter(|(client, _)| !excluded.contains(client));
            let most_held =
                of_others.max_by_key(|(client, _)| (self.held.get(client), Reverse(**client)));
            if let Some((client, (_, latest))) = most_held {
                self.apart
                    .insert(*client, Apart { since: *latest, served: self.turn, is_idle: false });
            }
        } else {
            self.floor = Some(until);
        }

        let free = free.saturating_sub(jobs.len());
        let mut is_more = others_are_full || scans.is_turn_short;
        for (position, scan) in scans.apart.iter().enumerate() {
            let limit = scans.limit_of(position, count_of_others);
            let (count, latest) = last.get(&scan.client).copied().unwrap_or_default();
            let held = self.held.get(&scan.client).copied().unwrap_or_default();
            let Some(apart) = self.apart.get_mut(&scan.client) else { continue };
            if limit == 0 {
                is_more = true;
            } else if count >= limit {
                let since = latest.or(apart.since);
                *apart = Apart { since, served: self.turn, is_idle: false };
                // A client that may hold no more waits for a slot to be released.
                is_more |=
                    self.hold_limit == HoldLimit::None || self.allowance(scan.client, free) > 0;
            } else if self.hold_limit == HoldLimit::LeaveAsMuchFree && 2 * held >= free {
                *apart = Apart { since: Some(until), served: self.turn, is_idle: true };
            } else {
                self.apart.remove(&scan.client);
            }
        }
        is_more
    }

    /// A job of `client` has left its slot. Returns whether a client that may hold no more waited
    /// for
    /// that.
    pub fn release(&mut self, client: Uuid) -> bool {
        if let Some(held) = self.held.get_mut(&client) {
            *held -= 1;
            self.held_count -= 1;
            if *held == 0 {
                self.held.remove(&client);
            }
        }
        self.hold_limit == HoldLimit::LeaveAsMuchFree && !self.apart.is_empty()
    }

    /// How many slots of `free` the client may take.
    fn allowance(&self, client: Uuid, free: usize) -> usize {
        let held = self.held.get(&client).copied().unwrap_or_default();
        match self.hold_limit {
            HoldLimit::None => free,
            HoldLimit::LeaveAsMuchFree => free.saturating_sub(held).div_ceil(2),
        }
    }
}
