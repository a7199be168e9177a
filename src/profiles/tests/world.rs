//! No payment is doubled at a third party that keeps its word, whatever becomes of its answers.
//!
//! The third party here knows what was delivered and when; calls to it are lost before or after
//! they are delivered, come late, or are answered by a gateway. The job is a model of the real one:
//! it does what [`Profile::begin_create`] and its likes say, and waits between two tries.

use std::time::Duration;

use proptest::{prelude::*, sample::select};

use super::{BY_ID, BY_PROVIDER_ID, ID, IN_LIST, content, inputs, profile, values, with};
use crate::profiles::{Answer, CreateMeans, CreateStep, Profile, Sent, ThirdParty};

const BACKOFF: u64 = 120;
/// A request without an answer may still be stored this much later.
const LATEST: u64 = 150;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It is not delivered, and there is no answer.
    Lost,
    /// It is delivered, and there is no answer.
    AnswerLost,
    /// It is delivered after these seconds, and there is no answer.
    Late(u64),
    /// It is delivered, and a gateway answers with a page.
    Garbled,
    /// A gateway answers 503.
    Busy,
    /// A create is refused.
    Refused,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Answered),
        2 => Just(Fate::Lost),
        2 => Just(Fate::AnswerLost),
        // Before the next try, and after its lookup.
        1 => (1..=BACKOFF).prop_map(Fate::Late),
        2 => (BACKOFF + 1..=LATEST).prop_map(Fate::Late),
        1 => Just(Fate::Garbled),
        1 => Just(Fate::Busy),
        1 => Just(Fate::Refused),
    ]
}

/// A third party, by what its profile says of it.
struct World {
    profile: Profile,
    doubles: bool,
    /// How long a repeated create is recognised.
    key_lives: u64,
    /// How long a lookup does not show what was stored.
    lag: u64,
    /// When each payment was or will be stored.
    stored: Vec<u64>,
    now: u64,
}

impl World {
    fn deliver(&mut self, at: u64) {
        let known = self.stored.iter_mut().find(|first| at.abs_diff(**first) <= self.key_lives);
        match known {
            // Of two with the same key the first one is stored.
            Some(first) if !self.doubles => *first = at.min(*first),
            _ => self.stored.push(at),
        }
    }

    fn exists(&self) -> bool {
        self.stored.iter().any(|at| *at <= self.now)
    }

    fn is_visible(&self) -> bool {
        self.stored.iter().any(|at| at + self.lag <= self.now)
    }

    /// The answer to a create, and whether it was sent.
    fn create(&mut self, fate: Fate) -> (u16, String) {
        let existed = self.exists();
        match fate {
            Fate::Lost => return (504, String::new()),
            Fate::Busy => return (503, String::new()),
            Fate::Refused => return (422, "{}".to_owned()),
            Fate::Late(delay) => {
                self.deliver(self.now + delay);
                return (504, String::new());
            }
            Fate::AnswerLost | Fate::Garbled | Fate::Answered => self.deliver(self.now),
        }
        match fate {
            Fate::AnswerLost => (504, String::new()),
            Fate::Garbled => (200, "<html>".to_owned()),
            _ if existed && self.profile.name() != "by-provider-id" => {
                (409, r#"{"code":"DUPLICATE"}"#.to_owned())
            }
            _ => (201, r#"{"theirs":"p_1","status":"open"}"#.to_owned()),
        }
    }

    fn look_up(&self, fate: Fate) -> (u16, String) {
        let item = format!(r#"{{"id":"{ID}","reference":"{ID}","status":"open"}}"#);
        match (fate, self.profile.name(), self.is_visible()) {
            (Fate::Answered, "in-list", true) => (200, format!(r#"{{"data":[{item}]}}"#)),
            (Fate::Answered, "in-list", false) => (200, r#"{"data":[]}"#.to_owned()),
            (Fate::Answered, _, true) => (200, item),
            (Fate::Answered, ..) => (404, r#"{"code":"NOT_FOUND"}"#.to_owned()),
            (Fate::Garbled, ..) => (200, "<html>".to_owned()),
            // A wrong path or another environment behind the same host.
            (Fate::Refused, ..) => (404, r#"{"message":"no route"}"#.to_owned()),
            _ => (504, String::new()),
        }
    }

    /// Tries until something is decided, or the fates are used up.
    fn run(&mut self, fates: &[Fate]) -> Option<CreateStep> {
        let (content, values) = (content(&[]), values(&[]));
        let inputs = inputs(&content, &values);
        let mut fates = fates.iter().copied();
        let mut posts: Vec<u64> = Vec::new();
        let mut has_provider_id = false;
        let mut first_bytes = None;
        loop {
            let since = |at: &u64| Duration::from_secs(self.now - at);
            let sent = Sent {
                since_first: posts.first().map(since),
                since_last: posts.last().map(since),
                has_provider_id,
            };
            let mut step = self.profile.begin_create(&sent);
            if step == CreateStep::LookUp {
                let (code, body) = self.look_up(fates.next()?);
                let answer = Answer { code, body: Ok(&body) };
                let read = self.profile.read_lookup(&inputs, &answer, sent.since_last);
                step = self.profile.after_lookup(&sent, read.means);
            }
            if matches!(step, CreateStep::Post | CreateStep::Repeat) {
                let bytes = self.profile.create_request(&inputs).unwrap();
                assert_eq!(*first_bytes.get_or_insert_with(|| bytes.clone()), bytes);
                let fate = fates.next()?;
                posts.push(self.now);
                let (code, body) = self.create(fate);
                let answer = Answer { code, body: Ok(&body) };
                let read = self.profile.read_create(ID, &answer);
                if read.means == CreateMeans::Refused {
                    assert_eq!(fate, Fate::Refused, "{read:?}");
                    posts.pop();
                }
                if matches!(read.means, CreateMeans::Created | CreateMeans::Exists) {
                    assert!(self.exists(), "{read:?}");
                }
                has_provider_id |= read.provider_id.is_some();
                step = self.profile.after_create(&sent, read.means);
            }
            match step {
                CreateStep::Wait | CreateStep::Hold => self.now += BACKOFF,
                CreateStep::LookUp | CreateStep::Post | CreateStep::Repeat => unreachable!(),
                decided => return Some(decided),
            }
        }
    }
}

/// The kinds of third party, the last one with what a lookup needs to be relied upon.
fn world(kind: usize, lag: u64) -> World {
    let new = "repeat = \"new-transaction\"";
    let refused = "repeat = \"refused\"";
    let duplicate = "{ code = 201, means = \"created\" }";
    let duplicate_ = "{ code = 201, means = \"created\" }, \
                      { code = 409, at = \"/code\", is = \"DUPLICATE\", means = \"exists\" }";
    let (text, doubles, lag) = match kind {
        0 => (BY_ID.to_owned(), false, 0),
        1 => (BY_PROVIDER_ID.to_owned(), false, 0),
        2 => (with(IN_LIST, duplicate, duplicate_), false, lag),
        // It makes a second transaction, and nothing says when an absence can be relied upon.
        3 => (with(BY_ID, refused, new), true, 0),
        _ => {
            let text = with(IN_LIST, refused, new);
            // The latest storing and the lag of the list.
            (with(&text, "settle_after = \"30s\"", "settle_after = \"3m\""), true, lag)
        }
    };
    let key_lives = 70 * 60;
    World { profile: profile(&text), doubles, key_lives, lag, stored: Vec::new(), now: 1_000 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_doubled(
        kind in 0..5_usize,
        lag in 0..=30_u64,
        fates in proptest::collection::vec(fate(), 0..60),
    ) {
        let mut world = world(kind, lag);
        let decided = world.run(&fates);
        prop_assert!(world.stored.len() <= 1, "{:?} {:?}", world.stored, decided);
        if decided == Some(CreateStep::Done) {
            prop_assert_eq!(world.stored.len(), 1);
        }
        // Where a lookup by our id has said that nothing is there, what is stored late after that
        // is found by reconciliation.
        if decided == Some(CreateStep::Refused) && kind == 1 {
            prop_assert!(world.stored.is_empty(), "{:?}", world.stored);
        }
    }

    /// Where calls come through again, so does the transaction, unless it is an operator's.
    #[test]
    fn nothing_is_given_up_while_it_can_be_decided(
        kind in select(vec![0_usize, 2]),
        fates in proptest::collection::vec(
            fate().prop_filter("no refusal", |fate| *fate != Fate::Refused), 0..20,
        ),
    ) {
        let mut world = world(kind, 30);
        let fates: Vec<Fate> = fates.into_iter().chain([Fate::Answered; 4]).collect();
        prop_assert_eq!(world.run(&fates), Some(CreateStep::Done));
        prop_assert_eq!(world.stored.len(), 1);
    }
}
