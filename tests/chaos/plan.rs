//! The schedule of faults: drawn from the seed as a whole before anything runs, so that the same
//! seed and length give the same schedule whatever happens meanwhile.
//!
//! Kinds are dealt from a shuffled deck, so that a short run has each of them as well. Only the
//! restores, which stop everything, are drawn first: one a minute. Faults overlap, but never two on
//! the same target; each is over before the run's end.

use std::{fmt, time::Duration};

use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use sha2::{Digest, Sha256};

/// The processes: their names.
pub const NODES: [&str; 5] = ["api-1", "api-2", "worker-1", "worker-2", "all-1"];
/// Those that serve the API, and those that run jobs.
pub const APIS: [Node; 3] = [Node(0), Node(1), Node(4)];
pub const WORKERS: [Node; 3] = [Node(2), Node(3), Node(4)];

/// Silence after which a worker counts as dead: a freeze is longer.
pub const DEAD_AFTER: Duration = Duration::from_millis(1_000);
/// From one fault's beginning to the next one's, in milliseconds.
const GAP: std::ops::Range<u64> = 250..1_100;
/// Before the first fault there is some load.
const LEAD: Duration = Duration::from_millis(500);
/// How long a target is left alone after it was healed: a process starts meanwhile.
const RESPITE: Duration = Duration::from_millis(700);
/// How far a peer's clock may be wrong without a signature being refused; on the safe side.
const TOLERATED: std::ops::Range<i64> = 30..240;
const NOT_TOLERATED: std::ops::Range<i64> = 330..3_600;
/// How far the clock of a process is off, as faketime reads it.
pub const AHEAD: &str = "+20m";
/// From one restore to the next; a shorter run has none.
const RESTORE_EVERY: Duration = Duration::from_secs(60);
/// When in its minute a restore begins, in milliseconds.
const RESTORE_AT: std::ops::Range<u64> = 15_000..45_000;
/// How old its dump is, in milliseconds.
const DUMP_AGE: std::ops::Range<u64> = 1_000..6_000;
/// How long everything is away while a dump is restored.
pub const RESTORING: Duration = Duration::from_secs(6);
/// However long the run is.
const LONGEST_SNAPSHOT: Duration = Duration::from_secs(10 * 60);

/// One of [`NODES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node(pub usize);

/// A stretch of network with a proxy in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// From a process to Postgres.
    Database(Node),
    /// From a process to the third party.
    ThirdParty(Node),
    /// From the third party to a process.
    Webhooks(Node),
    /// From all processes to the client.
    Callbacks,
}

/// What is wrong with a stretch of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Connections are broken, and new ones refused.
    Cut,
    /// What is sent arrives when it is over.
    Hold,
    /// What is sent is lost; connections stay open, and break when it is over.
    Lose,
    /// Requests arrive, answers are lost.
    Mute,
    /// Everything takes this much longer.
    Slow(Duration),
}

/// Whose clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    ThirdParty,
    Client,
}

/// How the client does not acknowledge anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Silence {
    Refuses,
    Hangs,
    Resets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// `kill -9`, and a new start.
    Kill(Node),
    /// SIGSTOP for longer than its leases live, and SIGCONT.
    Freeze(Node),
    /// SIGTERM, as in a deployment, and a new start.
    Replace(Node),
    /// Postgres is stopped as by a crash, and started again.
    CrashDatabase,
    /// Postgres has no connection left, and those of one process break.
    Crowd(Node),
    Network(Way, Trouble),
    /// Creates are answered 429 or 503.
    Busy(u16),
    /// This many creates are refused for good.
    Refuse(usize),
    Client(Silence),
    /// A peer's clock is this many seconds ahead.
    Skew(Peer, i64),
    /// `kill -9`, and a new start with a clock that is [`AHEAD`]; right again after another one.
    WrongClock(Node),
    /// A session keeps a snapshot of the database, as `pg_dump` does.
    HoldSnapshot,
    /// A dump is taken, and everything is stopped and goes on with it, [`RESTORING`] before the
    /// end.
    Restore,
}

/// What two faults may not be about at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Node(Node),
    Way(Way),
    Postgres,
    Creates,
    Client,
    Clock(Peer),
    Snapshot,
    /// All processes and Postgres.
    Everything,
}

/// A fault: what, when it begins, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    pub at: Duration,
    pub lasts: Duration,
    pub action: Action,
}

/// All faults of a run, in the order in which they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub length: Duration,
    pub faults: Vec<Fault>,
}

/// Kinds of faults, as they stand in the deck.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kill,
    Freeze,
    Replace,
    CrashDatabase,
    Crowd,
    Cut,
    Hold,
    Lose,
    Mute,
    Slow,
    Busy,
    Refuse,
    Client,
    Skew,
    WrongClock,
    HoldSnapshot,
}

const DECK: [Kind; 19] = [
    Kind::Kill,
    Kind::Kill,
    Kind::Freeze,
    Kind::Freeze,
    Kind::Replace,
    Kind::CrashDatabase,
    Kind::Crowd,
    Kind::Cut,
    Kind::Hold,
    Kind::Lose,
    Kind::Mute,
    Kind::Slow,
    Kind::Busy,
    Kind::Refuse,
    Kind::Client,
    Kind::Skew,
    Kind::Skew,
    Kind::WrongClock,
    Kind::HoldSnapshot,
];

impl Plan {
    /// The schedule of this seed for a run of this length.
    pub fn draw(seed: u64, length: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut faults = restores(&mut rng, length);
        let mut deck = Vec::new();
        let mut at = LEAD;
        loop {
            if deck.is_empty() {
                deck.extend(DECK);
                deck.shuffle(&mut rng);
            }
            // Every figure is drawn whether there is room for the fault or not.
            let Some(kind) = deck.pop() else { break };
            let (action, lasts) = kind.draw(&mut rng, length);
            let fault = Fault { at, lasts, action };
            if fault.end() <= length && faults.iter().all(|other| !other.collides(&fault)) {
                faults.push(fault);
                at += Duration::from_millis(rng.random_range(GAP));
            } else {
                at += Duration::from_millis(rng.random_range(GAP)) / 4;
            }
            if at >= length {
                break;
            }
        }
        faults.sort_by_key(|fault| fault.at);
        Self { seed, length, faults }
    }

    /// A short name of the schedule: runs with the same one had the same faults.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.to_string());
        digest[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn restores(rng: &mut StdRng, length: Duration) -> Vec<Fault> {
    let count = length.as_secs() / RESTORE_EVERY.as_secs();
    let minutes = (0..count).map(|minute| RESTORE_EVERY * minute as u32);
    let mut millis = |range| Duration::from_millis(rng.random_range(range));
    let draw = |minute| Fault {
        at: minute + millis(RESTORE_AT),
        lasts: millis(DUMP_AGE) + RESTORING,
        action: Action::Restore,
    };
    minutes.map(draw).collect()
}

impl Kind {
    fn draw(self, rng: &mut StdRng, length: Duration) -> (Action, Duration) {
        let node = Node(rng.random_range(0..NODES.len()));
        let mut lasts = |millis: std::ops::Range<u64>| {
            let millis = rng.random_range(millis);
            Duration::from_millis(millis)
        };
        let freeze = DEAD_AFTER.as_millis() as u64 + 300;
        let lasts = match self {
            Self::Kill => lasts(200..3_000),
            Self::Freeze => lasts(freeze..4_000),
            Self::Replace => lasts(0..1_500),
            Self::CrashDatabase => lasts(200..2_500),
            Self::Crowd => lasts(1_000..3_000),
            Self::Cut | Self::Lose | Self::Mute => lasts(300..3_000),
            Self::Hold => lasts(300..4_000),
            Self::Slow | Self::Skew => lasts(1_000..5_000),
            Self::Busy | Self::Client => lasts(500..3_000),
            Self::WrongClock => lasts(2_000..6_000),
            Self::HoldSnapshot => {
                let run = length.min(LONGEST_SNAPSHOT / 2 * 3).as_millis() as u64;
                lasts(run / 4..run * 2 / 3)
            }
            Self::Refuse => Duration::ZERO,
        };
        let action = match self {
            Self::Kill => Action::Kill(node),
            Self::Freeze => Action::Freeze(node),
            Self::Replace => Action::Replace(node),
            Self::CrashDatabase => Action::CrashDatabase,
            Self::Crowd => Action::Crowd(node),
            Self::Cut => Action::Network(any_way(rng), Trouble::Cut),
            // Elsewhere what arrives late would be a message that overtakes: nobody can prevent
            // that.
            Self::Hold if rng.random() => Action::Network(Way::Database(node), Trouble::Hold),
            Self::Hold => Action::Network(Way::Webhooks(one_of(rng, &APIS)), Trouble::Hold),
            Self::Lose => Action::Network(any_way(rng), Trouble::Lose),
            Self::Mute => Action::Network(any_way(rng), Trouble::Mute),
            Self::Slow => {
                let delay = Duration::from_millis(rng.random_range(20..200));
                Action::Network(any_way(rng), Trouble::Slow(delay))
            }
            Self::Busy => Action::Busy(one_of(rng, &[429, 503])),
            Self::Refuse => Action::Refuse(rng.random_range(1..4)),
            Self::Client => {
                let kinds = [Silence::Refuses, Silence::Hangs, Silence::Resets];
                Action::Client(one_of(rng, &kinds))
            }
            Self::Skew => {
                let range = if rng.random() { TOLERATED } else { NOT_TOLERATED };
                let seconds = rng.random_range(range) * one_of(rng, &[-1, 1]);
                Action::Skew(one_of(rng, &[Peer::ThirdParty, Peer::Client]), seconds)
            }
            Self::WrongClock => Action::WrongClock(node),
            Self::HoldSnapshot => Action::HoldSnapshot,
        };
        (action, lasts)
    }
}

fn any_way(rng: &mut StdRng) -> Way {
    match rng.random_range(0..8) {
        0..4 => Way::Database(Node(rng.random_range(0..NODES.len()))),
        4..6 => Way::ThirdParty(one_of(rng, &WORKERS)),
        6 => Way::Webhooks(one_of(rng, &APIS)),
        _ => Way::Callbacks,
    }
}

fn one_of<T: Copy>(rng: &mut StdRng, choices: &[T]) -> T {
    *choices.choose(rng).expect("there is one")
}

impl Fault {
    /// When it is over.
    pub fn end(&self) -> Duration {
        self.at + self.lasts
    }

    /// Whether the other one would be about the same target at the same time.
    pub fn collides(&self, other: &Self) -> bool {
        self.action.target().overlaps(other.action.target())
            && self.at < other.end() + RESPITE
            && other.at < self.end() + RESPITE
    }
}

impl Target {
    fn overlaps(self, other: Self) -> bool {
        let is_part = |target| matches!(target, Self::Node(_) | Self::Postgres);
        self == other
            || (self == Self::Everything && is_part(other))
            || (other == Self::Everything && is_part(self))
    }
}

impl Action {
    pub fn target(&self) -> Target {
        match *self {
            Self::Kill(node)
            | Self::Freeze(node)
            | Self::Replace(node)
            | Self::WrongClock(node) => Target::Node(node),
            Self::CrashDatabase | Self::Crowd(_) => Target::Postgres,
            Self::Network(way, _) => Target::Way(way),
            Self::Busy(_) | Self::Refuse(_) => Target::Creates,
            Self::Client(_) => Target::Client,
            Self::Skew(peer, _) => Target::Clock(peer),
            Self::HoldSnapshot => Target::Snapshot,
            Self::Restore => Target::Everything,
        }
    }

    /// What the figures count it as.
    pub fn counted_as(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kills",
            Self::Freeze(_) => "freezes",
            Self::Replace(_) => "replacements",
            Self::CrashDatabase => "crashes of Postgres",
            Self::Crowd(_) => "times without connections",
            Self::Network(_, Trouble::Cut) => "cuts",
            Self::Network(_, Trouble::Slow(_)) => "slow links",
            Self::Network(..) => "black holes",
            Self::Busy(_) | Self::Refuse(_) => "refusals by the third party",
            Self::Client(_) => "silences of the client",
            Self::Skew(..) => "wrong clocks of peers",
            Self::WrongClock(_) => "wrong clocks of processes",
            Self::HoldSnapshot => "held snapshots",
            Self::Restore => "restores",
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NODES[self.0])
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(node) => write!(f, "{node} -> Postgres"),
            Self::ThirdParty(node) => write!(f, "{node} -> third party"),
            Self::Webhooks(node) => write!(f, "third party -> {node}"),
            Self::Callbacks => f.write_str("all -> client"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(node) => write!(f, "kill -9 of {node}, then a new start"),
            Self::Freeze(node) => write!(f, "{node} is frozen"),
            Self::Replace(node) => write!(f, "SIGTERM to {node}, then a new start"),
            Self::CrashDatabase => f.write_str("Postgres crashes, then recovers"),
            Self::Crowd(node) => {
                write!(f, "no connection left in Postgres, those of {node} break")
            }
            Self::Network(way, Trouble::Cut) => write!(f, "{way}: cut"),
            Self::Network(way, Trouble::Hold) => write!(f, "{way}: what is sent arrives later"),
            Self::Network(way, Trouble::Lose) => write!(f, "{way}: what is sent is lost"),
            Self::Network(way, Trouble::Mute) => write!(f, "{way}: answers are lost"),
            Self::Network(way, Trouble::Slow(by)) => {
                write!(f, "{way}: slower by {} ms", by.as_millis())
            }
            Self::Busy(code) => write!(f, "the third party answers creates with {code}"),
            Self::Refuse(creates) => write!(f, "the third party refuses {creates} creates"),
            Self::Client(Silence::Refuses) => f.write_str("the client answers 503"),
            Self::Client(Silence::Hangs) => f.write_str("the client does not answer"),
            Self::Client(Silence::Resets) => f.write_str("the client resets connections"),
            Self::Skew(Peer::ThirdParty, seconds) => {
                write!(f, "the third party's clock is off by {seconds} s")
            }
            Self::Skew(Peer::Client, seconds) => {
                write!(f, "the client's clock is off by {seconds} s")
            }
            Self::WrongClock(node) => {
                write!(f, "kill -9 of {node}, then a new start with its clock {AHEAD}")
            }
            Self::HoldSnapshot => f.write_str("a snapshot is held"),
            Self::Restore => f.write_str("a dump is taken, and restored at the end"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "   begins     lasts  (seed {}, {:.3} s)",
            self.seed,
            self.length.as_secs_f64()
        )?;
        for Fault { at, lasts, action } in &self.faults {
            let (at, lasts) = (at.as_secs_f64(), lasts.as_secs_f64());
            writeln!(f, "{at:>7.3} s  {lasts:>6.3} s  {action}")?;
        }
        Ok(())
    }
}
