//! The fuzzer's targets without a fuzzer: over their seeds, and over some thousand inputs made of
//! these. `just fuzz` goes on where this ends.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    prop_oneof,
    sample::Index,
    test_runner::{Config, RngSeed, TestRunner},
};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use targets::TARGETS;

/// Inputs of each target where nothing else is said, and where they begin.
const INPUTS: u32 = 2_000;
const SEED: u64 = 20_261_124;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// The names of the files of a folder, without this ending.
fn names(folder: &Path, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.into_string().unwrap());
    names.map(|name| name.strip_suffix(ending).unwrap_or(&name).to_owned()).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = folder("seeds").join(target);
    names(&folder, "").iter().map(|name| fs::read(folder.join(name)).unwrap()).collect()
}

/// The words of a dictionary: one a line in quotes, with `\"`, `\\` and `\xNN`.
fn words(target: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(folder("dictionaries").join(format!("{target}.dict"))).unwrap();
    text.lines().map(unquoted).collect()
}

fn unquoted(line: &str) -> Vec<u8> {
    let inner = line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).unwrap();
    let (mut word, mut rest) = (Vec::new(), inner.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => match rest.next().unwrap() {
                b'x' => {
                    let digits: Vec<u8> = rest.by_ref().take(2).collect();
                    let digits = String::from_utf8(digits).unwrap();
                    word.push(u8::from_str_radix(&digits, 16).unwrap());
                }
                escaped => word.push(escaped),
            },
            byte => word.push(byte),
        }
    }
    word
}

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    /// Everything from here on comes from another seed.
    Splice(Index, Vec<u8>),
}

impl Change {
    fn make(self, input: &mut Vec<u8>) {
        let place = |index: &Index, input: &[u8]| index.index(input.len() + 1);
        match self {
            Self::Set(index, byte) => {
                if !input.is_empty() {
                    let place = index.index(input.len());
                    input[place] = byte;
                }
            }
            Self::Insert(index, word) => {
                let place = place(&index, input);
                input.splice(place..place, word);
            }
            Self::Remove(index, count) => {
                let place = place(&index, input);
                let end = input.len().min(place + usize::from(count));
                input.drain(place..end);
            }
            Self::Splice(index, other) => {
                input.truncate(place(&index, input));
                let rest = place(&index, &other);
                input.extend(&other[rest..]);
            }
        }
    }
}

/// Changed seeds, and now and then anything.
fn inputs(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let seeds = proptest::sample::select(seeds(target));
    let words = proptest::sample::select(words(target));
    let change = prop_oneof![
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => (any::<Index>(), words).prop_map(|(at, word)| Change::Insert(at, word)),
        1 => (any::<Index>(), vec(any::<u8>(), 1..5)).prop_map(|(at, all)| Change::Insert(at, all)),
        2 => (any::<Index>(), 1u8..9).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (any::<Index>(), seeds.clone()).prop_map(|(at, seed)| Change::Splice(at, seed)),
    ];
    let changed = (seeds, vec(change, 1..6)).prop_map(|(mut input, changes)| {
        changes.into_iter().for_each(|change| change.make(&mut input));
        input
    });
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..80)]
}

#[test]
fn every_target_has_seeds_a_dictionary_and_a_fuzzer() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&folder("seeds"), ""), targets);
    assert_eq!(names(&folder("dictionaries"), ".dict"), targets);
    assert_eq!(names(&folder("fuzz_targets"), ".rs"), targets);
    for (name, _) in TARGETS {
        assert!(seeds(name).len() >= 5, "{name} has few seeds");
    }
}

#[test]
fn the_seeds_hold() {
    for (name, target) in TARGETS {
        for seed in seeds(name) {
            println!("{name}: {:?}", String::from_utf8_lossy(&seed));
            target(&seed);
        }
    }
}

/// `PROPTEST_CASES` makes more inputs, `PROPTEST_RNG_SEED` others.
fn some_thousand_inputs_hold(nth: usize) {
    let (name, target) = TARGETS[nth];
    let given = |variable| std::env::var_os(variable).is_some();
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if !given("PROPTEST_CASES") {
        config.cases = INPUTS;
    }
    if !given("PROPTEST_RNG_SEED") {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    let run = TestRunner::new(config).run(&inputs(name), |input| {
        target(&input);
        Ok(())
    });
    if let Err(wrong) = run {
        panic!("{name}: {wrong}");
    }
}

/// One test each, so that they share the machine.
macro_rules! each {
    ($($test:ident = $nth:literal),+) => {
        $(
            #[test]
            fn $test() {
                assert_eq!(stringify!($test), TARGETS[$nth].0);
                some_thousand_inputs_hold($nth);
            }
        )+
    };
}

each! {
    accept_body = 0, config = 1, cursor = 2, operator_body = 3, path_template = 4,
    peer_answer = 5, peer_body = 6, provider_webhook = 7, secret = 8, signature = 9, url = 10,
    webhook_body = 11
}
