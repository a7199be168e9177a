//! The plan against a queue in memory that answers its scans as the database does.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn client(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number) + 1)
}

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms)
}

/// A queue of jobs that are all due, and its claims.
struct Queue {
    plan: ClaimPlan,
    slots: usize,
    now: i64,
    /// Client and `run_at`, in the order of `run_at`.
    waiting: Vec<(Uuid, i64)>,
    running: Vec<Uuid>,
    /// There is a reason to claim.
    wakes: bool,
}

impl Queue {
    fn new(hold_limit: HoldLimit, slots: usize) -> Self {
        let mut plan = ClaimPlan::new(hold_limit, 500);
        // A first claim of an empty queue: the floor is known from then on.
        let scans = plan.scans(slots);
        plan.claimed(&scans, slots, at(0), &[]);
        Self { plan, slots, now: 0, waiting: Vec::new(), running: Vec::new(), wakes: false }
    }

    /// A job that is committed now, with a `run_at` of `late` ms ago.
    fn post(&mut self, client: Uuid, late: i64) {
        self.now += 1;
        let run_at = self.now - late;
        let position = self.waiting.partition_point(|(_, other)| *other <= run_at);
        self.waiting.insert(position, (client, run_at));
        self.plan.lower(at(run_at));
        self.plan.wake();
        self.wakes = true;
    }

    fn free(&self) -> usize {
        self.slots - self.running.len()
    }

    fn take(&mut self, most: usize, fits: impl Fn(&(Uuid, i64)) -> bool) -> Vec<(Uuid, i64)> {
        let mut taken = Vec::new();
        self.waiting.retain(|job| {
            let takes = taken.len() < most && fits(job);
            if takes {
                taken.push(*job);
            }
            !takes
        });
        taken
    }

    /// Makes one claim; `free` slots are free.
    fn claim(&mut self, free: usize) {
        self.now += 1;
        let scans = self.plan.scans(free);
        let since = |since: Option<DateTime<Utc>>| since.unwrap_or(DateTime::<Utc>::MIN_UTC);
        let mut jobs = self.take(scans.most_of_others, |(client, run_at)| {
            at(*run_at) >= since(scans.since) && !scans.excluded.contains(client)
        });
        let others = jobs.len();
        for (position, scan) in scans.apart.iter().enumerate() {
            jobs.extend(self.take(scans.limit_of(position, others), |(client, run_at)| {
                *client == scan.client && at(*run_at) >= since(scan.since)
            }));
        }
        assert!(jobs.len() <= free, "{scans:?} took more than is free");
        self.running.extend(jobs.iter().map(|(client, _)| *client));
        jobs.iter().for_each(|(client, _)| self.plan.hold(*client));
        let jobs: Vec<_> =
            jobs.into_iter().map(|(client, run_at)| (client, Some(at(run_at)))).collect();
        self.wakes = self.plan.claimed(&scans, free, at(self.now), &jobs);
    }

    /// Claims while there is a reason to, and a free slot.
    fn claim_all(&mut self) {
        let mut claims = 0;
        while self.wakes && self.free() > 0 {
            self.claim(self.free());
            claims += 1;
            assert!(claims < 10_000, "claims without end: {:?}", self.plan);
        }
    }

    fn end(&mut self, index: usize) -> Uuid {
        let client = self.running.swap_remove(index);
        self.wakes |= self.plan.release(client);
        self.claim_all();
        client
    }

    fn held(&self) -> HashMap<Uuid, usize> {
        let mut held = HashMap::new();
        self.running.iter().for_each(|client| *held.entry(*client).or_default() += 1);
        held
    }
}

#[derive(Debug, Clone)]
enum Step {
    Post { client: u8, late: i64, count: usize },
    Claim,
    End(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_u8..4, 0_i64..5, 1_usize..30).prop_map(|(client, late, count)| Step::Post {
            client,
            late,
            count
        }),
        Just(Step::Claim),
        any::<prop::sample::Index>().prop_map(Step::End),
    ];
    prop::collection::vec(step, 1..40)
}

fn walk(queue: &mut Queue, steps: Vec<Step>, mut after: impl FnMut(&Queue)) {
    for step in steps {
        match step {
            Step::Post { client: number, late, count } => {
                (0..count).for_each(|_| queue.post(client(number), late));
            }
            Step::Claim => queue.claim_all(),
            Step::End(index) if !queue.running.is_empty() => {
                let index = index.index(queue.running.len());
                queue.end(index);
            }
            Step::End(_) => {}
        }
        after(queue);
    }
}

fn drain(queue: &mut Queue) {
    queue.claim_all();
    while !queue.running.is_empty() {
        queue.end(0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_job_is_claimed(
        steps in steps(),
        slots in 1_usize..40,
        leaves_free in any::<bool>(),
    ) {
        let limit = if leaves_free { HoldLimit::LeaveAsMuchFree } else { HoldLimit::None };
        let mut queue = Queue::new(limit, slots);
        walk(&mut queue, steps, |_| {});
        drain(&mut queue);
        prop_assert_eq!(&queue.waiting, &[], "{:?}", queue.plan);
    }

    #[test]
    fn no_slot_stays_free_while_a_job_waits(steps in steps(), slots in 1_usize..40) {
        let mut queue = Queue::new(HoldLimit::None, slots);
        walk(&mut queue, steps, |_| {});
        queue.claim_all();
        prop_assert!(queue.free() == 0 || queue.waiting.is_empty(), "{:?}", queue.plan);
    }

    #[test]
    fn a_client_holds_no_more_than_it_leaves_free(steps in steps(), slots in 4_usize..60) {
        let mut queue = Queue::new(HoldLimit::LeaveAsMuchFree, slots);
        walk(&mut queue, steps, |_| {});
        queue.claim_all();
        // Nothing but one client's jobs comes while a slot is free.
        let before = queue.free();
        (0..100).for_each(|_| queue.post(client(9), 0));
        queue.claim_all();
        let held = queue.held().get(&client(9)).copied().unwrap_or_default();
        prop_assert!(held <= queue.free() + 1, "{held} held of {before} free: {:?}", queue.plan);
    }
}

#[test]
fn a_job_behind_anothers_backlog_gets_the_next_free_slot_but_one() {
    for slots in [1, 2, 7, 50] {
        let mut queue = Queue::new(HoldLimit::None, slots);
        (0..3_000).for_each(|_| queue.post(client(0), 0));
        queue.claim_all();
        for _ in 0..20 {
            queue.post(client(1), 0);
            let mut ended = 0;
            while queue.waiting.iter().any(|(other, _)| *other == client(1)) {
                let of_backlog = queue.running.iter().position(|other| *other == client(0));
                queue.end(of_backlog.unwrap_or_default());
                ended += 1;
                assert!(ended <= 2, "with {slots} slots: {:?}", queue.plan);
            }
        }
        drain(&mut queue);
    }
}

#[test]
fn hanging_clients_leave_slots_to_others() {
    let mut queue = Queue::new(HoldLimit::LeaveAsMuchFree, 50);
    for hanging in 0..4 {
        (0..200).for_each(|_| queue.post(client(hanging), 0));
        queue.claim_all();
    }
    assert!(queue.free() >= 3, "{:?}", queue.held());
    for _ in 0..100 {
        queue.post(client(9), 0);
        queue.claim_all();
        let running = queue.running.iter().position(|other| *other == client(9));
        queue.end(running.expect("it runs at once"));
    }
}

#[test]
fn a_job_runs_at_once_unless_its_own_client_waits_or_holds_too_much() {
    const SLOTS: usize = 8;
    let (hanging, other) = (client(0), client(1));
    let mut plan = ClaimPlan::new(HoldLimit::LeaveAsMuchFree, 500);
    for held in 0..4 {
        assert!(plan.takes_at_once(hanging, SLOTS), "{held} held");
        plan.hold(hanging);
    }
    assert!(!plan.takes_at_once(hanging, SLOTS), "it holds as many as are free");
    assert!(plan.takes_at_once(other, SLOTS));

    let scans = plan.scans(4);
    assert!(scans.excluded.contains(&hanging) && plan.has_apart());
    assert!(plan.takes_at_once(other, SLOTS), "only another client's jobs wait");
    plan.claimed(&scans, 4, at(0), &[]);
    for _ in 0..4 {
        plan.release(hanging);
    }
    assert!(!plan.takes_at_once(hanging, SLOTS), "what it has waiting is first");
    let scans = plan.scans(SLOTS);
    plan.claimed(&scans, SLOTS, at(1), &[]);
    assert!(plan.takes_at_once(hanging, SLOTS), "nothing was waiting");
}

#[test]
fn backlogs_share_the_slots_evenly() {
    let mut queue = Queue::new(HoldLimit::None, 10);
    for number in 0..3 {
        (0..1_000).for_each(|_| queue.post(client(number), 0));
    }
    queue.claim_all();
    let mut ended = HashMap::<Uuid, usize>::new();
    for _ in 0..900 {
        *ended.entry(queue.end(0)).or_default() += 1;
    }
    let (least, most) = (ended.values().min().unwrap(), ended.values().max().unwrap());
    assert!(ended.len() == 3 && most - least <= 20, "{ended:?}");
}

#[test]
fn a_scan_starts_behind_what_was_claimed() {
    let mut queue = Queue::new(HoldLimit::None, 100);
    queue.post(client(0), 0);
    queue.claim_all();
    assert_eq!(queue.plan.covered_from(), Some(at(queue.now)));
    queue.post(client(0), 3);
    let since = queue.plan.scans(1).since.unwrap();
    assert!(since <= at(queue.now - 3) && since > at(queue.now - 4), "{since}");
}

#[test]
fn stragglers_take_half_of_a_claim_and_every_other_single_slot() {
    let mut plan = ClaimPlan::new(HoldLimit::None, 500);
    let straggler = |number: u8| Straggler { job_id: number.to_string(), client: client(0) };
    plan.found((0..8).map(straggler).collect());
    assert_eq!(plan.scans(6).stragglers, ["0", "1", "2"]);
    let mut of_single = Vec::new();
    for _ in 0..4 {
        let scans = plan.scans(1);
        of_single.push(scans.stragglers.len());
        assert_eq!(scans.stragglers.len() + scans.most, 1);
        plan.claimed(&scans, 1, at(0), &[]);
    }
    assert_eq!(of_single, [0, 1, 0, 1]);
    assert!(plan.has_stragglers());
}
