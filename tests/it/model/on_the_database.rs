//! The model and the real thing, side by side: random walks, each step made in both, and everything
//! that can be seen compared after each.
//!
//! Requests and webhooks go over HTTP; the handlers of the jobs run as they are, against the
//! sandbox; their outcomes, the claims and the rescues are the real SQL. What a test does itself is
//! what workers do between these: it decides when. So a walk is the same whenever its seed is.
//!
//! `PROPTEST_CASES` and `PROPTEST_RNG_SEED` make more or other walks; a walk that fails is cut
//! down to the shortest one that does, and printed.

use std::{
    collections::VecDeque,
    mem::{Discriminant, discriminant},
};

use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};
use quartet::domain::{DeadLetterKind, JobKind, ReportedStatus, Status};
use uuid::Uuid;

use super::{
    COMPLETED, DECLINED, NO_FAULTS, PENDING,
    actions::{Action, Scenario},
    real::Real,
    rules::Rules,
    scenario,
    state::{Answer, Budget, KINDS, State},
};

/// Walks where nothing else is said, and where they begin.
const WALKS: u32 = 48;
const SEED: u64 = 20_261_124;
const LONGEST_WALK: usize = 45;

/// What both can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub transaction: Option<Row>,
    /// Status and attempts, in the order of [`KINDS`].
    pub jobs: Vec<(String, i32)>,
    /// Kind, and queue or reported status, of the open dead letters, sorted.
    pub letters: Vec<(String, String)>,
    /// Settlements by machines and by operators, as the evidence has them.
    pub settlements: (i64, i64),
    pub has_ambiguous_create: bool,
    /// What the third party shows.
    pub third_party: Option<String>,
    /// The last version that was sent, and the last that was acknowledged.
    pub told: (i64, i64),
}

/// The transaction's row.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Row {
    pub status: String,
    pub version: i32,
    pub notified_version: i32,
    pub settled_by: Option<String>,
}

impl Observed {
    fn of(state: &State) -> Self {
        let word = |kind: DeadLetterKind| kind.as_str().to_owned();
        let of_jobs = KINDS.into_iter().filter_map(|kind| {
            state.letter_of(kind).map(|letter| (word(letter), kind.as_str().to_owned()))
        });
        let conflict = word(DeadLetterKind::StatusConflict);
        let conflicts = state.conflicts.iter().map(|status| (conflict.clone(), status.to_string()));
        let unknown = word(DeadLetterKind::UnknownTransaction);
        let early = state.unknown.iter().map(|status| (unknown.clone(), status.to_string()));
        let mut letters: Vec<_> = of_jobs.chain(conflicts).chain(early).collect();
        letters.sort();
        let transaction = state.is_accepted.then(|| Row {
            status: state.status.to_string(),
            version: state.version.into(),
            notified_version: state.notified_version.into(),
            settled_by: state.settled_by.map(|by| by.to_string()),
        });
        let jobs = state.jobs.iter().map(|job| (job.row.as_str().to_owned(), job.attempts.into()));
        Self {
            transaction,
            jobs: if state.is_accepted { jobs.collect() } else { Vec::new() },
            letters,
            settlements: (
                state.seen.machine_settlements.into(),
                state.seen.operator_settlements.into(),
            ),
            has_ambiguous_create: state.has_ambiguous_create,
            third_party: state.third_party.map(|status| status.to_string()),
            told: (state.sent.into(), state.told.into()),
        }
    }
}

/// What the walks are in.
fn scenarios() -> Vec<Scenario> {
    let faults = Budget { rescues: 2, lost_answers: 1, operator: 2, outages: 2, refusals: 2 };
    let all = Scenario {
        refuses: true,
        client_leaves: true,
        polls_idly: true,
        ..scenario(&[(COMPLETED, 2), (DECLINED, 1), (PENDING, 1)], faults)
    };
    let early = Scenario { is_early: true, ..all.clone() };
    let calm =
        Scenario { polls_idly: true, ..scenario(&[(COMPLETED, 2), (PENDING, 1)], NO_FAULTS) };
    vec![all, early, calm]
}

/// Which scenario, and which of the possible steps each time.
fn walks() -> impl Strategy<Value = (usize, Vec<u16>)> {
    (0..scenarios().len(), vec(any::<u16>(), 15..LONGEST_WALK))
}

/// One of what can happen: first of which sort, so that a dozen things that an operator may do do
/// not keep everything else from happening.
fn choose(actions: Vec<Action>, pick: u16) -> Option<Action> {
    let mut sorts: Vec<(Discriminant<Action>, Vec<Action>)> = Vec::new();
    for action in actions {
        let sort = discriminant(&action);
        match sorts.iter_mut().find(|(other, _)| *other == sort) {
            Some((_, same)) => same.push(action),
            None => sorts.push((sort, vec![action])),
        }
    }
    let [which, sort] = pick.to_le_bytes().map(usize::from);
    let (_, same) = sorts.get(sort % sorts.len().max(1))?;
    Some(same[which % same.len()])
}

/// Makes the steps that `step` names, until it names none, in both; they must agree after each.
async fn walk(
    real: &Real,
    scenario: &Scenario,
    mut step: impl FnMut(&State) -> Option<Action>,
) -> Result<(), String> {
    real.clean_up().await;
    let mut life = real.begin(Uuid::now_v7(), scenario.clone());
    let mut state = scenario.start.clone();
    let mut steps = Vec::new();
    while let Some(action) = step(&state) {
        assert!(scenario.actions(&state).contains(&action), "{action:?} cannot happen");
        steps.push(action);
        let next = scenario.next(&Rules::REAL, &state, action);
        let told = |wrong| format!("{wrong}\nafter {steps:#?}");
        life.apply(action, &state, &next).await.map_err(told)?;
        let (predicted, found) = (Observed::of(&next), life.observe().await);
        if predicted != found {
            return Err(told(format!("the model says {predicted:#?}\nbut it is {found:#?}")));
        }
        state = next;
    }
    Ok(())
}

/// Random walks seldom come this way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_was_overtaken_by_another_end_is_kept_as_a_conflict() {
    let (create, poll) = (JobKind::CreateAtThirdParty, JobKind::UpdateStatus);
    let mut steps = VecDeque::from([
        Action::Accept,
        Action::Claim(create),
        Action::Call(create, Answer::Created(PENDING)),
        Action::Write { kind: create, is_answered: true },
        Action::Settle,
        Action::Claim(poll),
        Action::Call(poll, Answer::Found(COMPLETED)),
        Action::Webhook(0),
    ]);
    let scenario = scenario(&[(DECLINED, 1)], NO_FAULTS);
    let real = Real::start().await;
    let walked = walk(&real, &scenario, |state| {
        let stale = || state.stale.first().copied().map(Action::WriteStale);
        steps.pop_front().or_else(stale)
    });
    walked.await.unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn the_database_does_what_the_model_says() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let real = runtime.block_on(Real::start());
    let given = |variable| std::env::var_os(variable).is_some();
    let mut config =
        Config { failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    if !given("PROPTEST_CASES") {
        config.cases = WALKS;
    }
    if !given("PROPTEST_RNG_SEED") {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    let scenarios = scenarios();
    let walked = TestRunner::new(config).run(&walks(), |(nth, picks)| {
        let (scenario, mut picks) = (&scenarios[nth], picks.into_iter());
        let step = |state: &State| choose(scenario.actions(state), picks.next()?);
        let walked = runtime.block_on(walk(&real, scenario, step));
        walked.map_err(TestCaseError::fail)
    });
    if let Err(wrong) = walked {
        panic!("{wrong}");
    }
    println!("steps made: {}", real.steps());
}

/// The words of a report, as the sandbox has them.
pub fn word(status: ReportedStatus) -> quartet::sandbox::Status {
    match status {
        ReportedStatus::Pending => quartet::sandbox::Status::Pending,
        ReportedStatus::Completed => quartet::sandbox::Status::Completed,
        ReportedStatus::Declined => quartet::sandbox::Status::Declined,
    }
}

/// The kinds of job in the model and the word that a dead letter's cause ends with.
pub fn cause(letter: super::state::Letter, id: Uuid, job: impl Fn(JobKind) -> String) -> String {
    match letter {
        super::state::Letter::Job(kind) => format!("job:{}", job(kind)),
        super::state::Letter::Conflict(status) => {
            format!("conflict:{id}:{}", Status::as_str(status))
        }
        super::state::Letter::Unknown(status) => format!("unknown:{id}:{status}"),
    }
}
