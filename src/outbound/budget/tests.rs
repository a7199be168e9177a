//! A database that leases at once, in this process.

use futures_util::future::join_all;
use uuid::Uuid;

use super::*;

const MS: Duration = Duration::from_millis(1);
const CLIENT: Uuid = Uuid::nil();
const OTHER: Uuid = Uuid::max();

/// The row in the database, by this machine's clock.
#[derive(Clone)]
struct Row {
    base: BootInstant,
    next: Arc<Mutex<Duration>>,
    leases: Arc<Mutex<Vec<u32>>>,
}

impl Row {
    fn new() -> Self {
        Self { base: BootInstant::now(), next: Arc::default(), leases: Arc::default() }
    }

    fn budget(&self, rate: CallRate) -> CallBudget {
        let row = self.clone();
        CallBudget::new(
            rate,
            Arc::new(move |wanted| {
                let row = row.clone();
                Box::pin(async move { Ok(row.lease(wanted)) })
            }),
        )
    }

    fn lease(&self, wanted: CallsWanted) -> CallsLeased {
        let asked = BootInstant::now();
        let now = asked - self.base;
        let mut next = self.next.lock().unwrap();
        let start = now.max(*next);
        let count = match start - now {
            ahead if ahead <= wanted.near => wanted.all,
            ahead if ahead <= wanted.far => wanted.next,
            _ => 0,
        };
        if count > 0 {
            *next = start + wanted.rate.gap() * count;
            self.leases.lock().unwrap().push(count);
        }
        let micros = |time: Duration| time.as_micros() as i64;
        let answered = BootInstant::now();
        CallsLeased { asked, answered, database_now: micros(now), start: micros(start), count }
    }
}

/// Sends through a turn of its own; returns when that was.
async fn call(budget: &CallBudget) -> BootInstant {
    let turn = CallTurn::of_call(Some(budget), None);
    let time = turn.take().await.unwrap().unwrap();
    let now = BootInstant::now();
    assert!(time.from <= now, "sent before its time");
    now
}

#[tokio::test]
async fn several_processes_share_one_budget() {
    let (row, rate) = (Row::new(), CallRate::per_second(100));
    let budgets: Vec<CallBudget> = (0..3).map(|_| row.budget(rate)).collect();
    let calls = budgets.iter().flat_map(|budget| (0..30).map(move |_| call(budget)));
    let began = BootInstant::now();
    let mut sent = join_all(calls).await;
    sent.sort();
    // 90 calls, 14 ms apart.
    let took = began.elapsed();
    assert!(took >= MS * 1_100, "{took:?}");
    for window in sent.windows(81) {
        assert!(window[80] - window[0] >= MS * 850, "{:?}", window[80] - window[0]);
    }
    let leases = row.leases.lock().unwrap().clone();
    assert!(leases.iter().all(|count| *count <= rate.block()), "{leases:?}");
    assert!(leases.len() <= 30, "{leases:?}");
}

#[tokio::test]
async fn a_job_does_not_begin_where_it_would_wait_for_long() {
    let (row, rate) = (Row::new(), CallRate::per_second(10));
    let budget = row.budget(rate);
    let turns: Vec<_> = (0..100).map(|_| CallTurn::of_job(Some(&budget), None, CLIENT)).collect();
    let (begun, postponed): (Vec<_>, Vec<_>) = turns.into_iter().partition(Result::is_ok);
    // 140 ms apart: those of a second and a half.
    assert_eq!(begun.len(), 11);
    let waits: Vec<Duration> = postponed.into_iter().map(Result::unwrap_err).collect();
    assert!(waits[0] < MS * 800, "{:?}", waits[0]);
    let last = waits[86];
    assert!(last >= MS * 7_000 && last <= MS * 13_000, "{last:?}");
    // One that ends without a call makes room.
    drop(begun);
    assert!(CallTurn::of_job(Some(&budget), None, CLIENT).is_ok());
}

/// One client has a backlog: as many jobs of it have begun as may, and all that returned were
/// postponed for minutes.
#[tokio::test]
async fn a_backlog_of_one_client_delays_no_other() {
    let (row, rate) = (Row::new(), CallRate::per_second(50));
    let budget = row.budget(rate);
    let of = |client| CallTurn::of_job(Some(&budget), None, client);
    let mut begun = Vec::new();
    while let Ok(turn) = of(CLIENT) {
        begun.push(turn);
    }
    assert!(begun.len() >= 50, "{}", begun.len());
    let postponed: Vec<Duration> = (0..20_000).map(|_| of(CLIENT).unwrap_err()).collect();
    assert!(postponed[19_999] >= MS * 300_000);
    let calls = begun.iter().map(|turn| async move {
        let is_sent = turn.take().await.is_ok();
        (is_sent, BootInstant::now())
    });
    let other = async {
        // Behind all of them.
        tokio::task::yield_now().await;
        let turn = of(OTHER).expect("it waits for its own client's jobs alone");
        turn.take().await.unwrap();
        BootInstant::now()
    };
    let (calls, other) = tokio::join!(join_all(calls), other);
    let before = calls.iter().filter(|(is_sent, at)| *is_sent && *at < other).count();
    // Those for which a lease had come before.
    assert!(before <= rate.block() as usize + 2, "{before} of the backlog went before it");
}

#[tokio::test]
async fn two_backlogs_share_the_calls() {
    let budget = Row::new().budget(CallRate::per_second(50));
    let of = |client| CallTurn::of_job(Some(&budget), None, client);
    let mut begun = Vec::new();
    while let Ok(turn) = of(CLIENT) {
        begun.push(turn);
    }
    // Each of its jobs waits for one of the other client besides.
    let mut of_other = Vec::new();
    while let Ok(turn) = of(OTHER) {
        of_other.push(turn);
    }
    assert!((begun.len() / 2 - 2..=begun.len() / 2 + 2).contains(&of_other.len()));
    let mut last = Duration::ZERO;
    for _ in 0..100 {
        of(OTHER).unwrap_err();
        last = of(CLIENT).unwrap_err();
    }
    // 100 times 28 ms, seven tenths of it, for each of the two.
    assert!(last >= MS * 3_500, "{last:?}");
}

#[tokio::test]
async fn the_next_call_of_a_turn_goes_first() {
    let (row, rate) = (Row::new(), CallRate::per_second(50));
    let budget = row.budget(rate);
    let turn = CallTurn::of_job(Some(&budget), None, CLIENT).unwrap();
    turn.take().await.unwrap();
    let others: Vec<_> = (0..20)
        .map(|_| {
            let budget = budget.clone();
            tokio::spawn(async move { call(&budget).await })
        })
        .collect();
    tokio::task::yield_now().await;
    turn.take().await.unwrap();
    let now = BootInstant::now();
    let mut sent = Vec::new();
    for other in others {
        sent.push(other.await.unwrap());
    }
    let before = sent.iter().filter(|at| **at < now).count();
    assert!(before <= 3, "{before} went before it");
    assert!(turn.waited() > Duration::ZERO);
}

#[tokio::test]
async fn without_a_lease_nothing_is_sent() {
    let budget = CallBudget::new(
        CallRate::per_second(50),
        Arc::new(|_| Box::pin(async { Err("away".to_owned()) })),
    );
    let waited = budget.wait(Order::First, None, MS * 300).await;
    assert_eq!(waited.unwrap_err(), OverBudget);
    let none = CallTurn::of_call(None, None).take().await;
    assert_eq!(none.unwrap(), None);
}
