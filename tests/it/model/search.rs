//! Every state that a scenario can come to, breadth first: what it finds wrong has no shorter way.
//!
//! A crate such as stateright searches the same way; it brings a web server along, and this is a
//! page.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    rc::Rc,
};

use super::{
    actions::{Action, Scenario},
    properties::{check_rest, check_step},
    rules::Rules,
    state::State,
};

/// What was searched.
#[derive(Debug, Clone, Copy)]
pub struct Searched {
    pub states: usize,
    pub steps: usize,
    /// States in which nothing runs or waits any more.
    pub at_rest: usize,
}

/// The shortest way to what must not be.
#[derive(Debug)]
pub struct Counterexample {
    pub violated: &'static str,
    pub steps: Vec<Action>,
    pub end: State,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after:", self.violated)?;
        for (nth, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {:>2}. {step:?}", nth + 1)?;
        }
        write!(f, "in {:#?}", self.end)
    }
}

/// The states found so far, and how each was first reached.
#[derive(Default)]
struct Found {
    states: Vec<Rc<State>>,
    reached: Vec<Option<(usize, Action)>>,
    index: HashMap<Rc<State>, usize>,
}

impl Found {
    /// The state's place, and whether it is new.
    fn insert(&mut self, state: State, reached: Option<(usize, Action)>) -> (usize, bool) {
        if let Some(place) = self.index.get(&state) {
            return (*place, false);
        }
        let (place, state) = (self.states.len(), Rc::new(state));
        self.states.push(state.clone());
        self.reached.push(reached);
        self.index.insert(state, place);
        (place, true)
    }

    fn counterexample(
        &self,
        violated: &'static str,
        at: usize,
        last: Option<(Action, State)>,
    ) -> Box<Counterexample> {
        let mut steps = Vec::new();
        let mut place = at;
        while let Some((from, action)) = self.reached[place] {
            steps.push(action);
            place = from;
        }
        steps.reverse();
        let end = match last {
            Some((action, state)) => {
                steps.push(action);
                state
            }
            None => State::clone(&self.states[at]),
        };
        Box::new(Counterexample { violated, steps, end })
    }
}

/// Searches all of `scenario`. `also` is asked about every state, beside the properties.
pub fn search(
    scenario: &Scenario,
    rules: &Rules,
    also: impl Fn(&State) -> Result<(), &'static str>,
) -> Result<Searched, Box<Counterexample>> {
    let mut found = Found::default();
    found.insert(scenario.start.clone(), None);
    let mut waiting = VecDeque::from([0]);
    // Who leads where, backwards.
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let (mut at_rest, mut steps) = (Vec::new(), 0);

    while let Some(place) = waiting.pop_front() {
        let state = found.states[place].clone();
        also(&state).map_err(|violated| found.counterexample(violated, place, None))?;
        if state.is_at_rest() {
            check_rest(&state).map_err(|violated| found.counterexample(violated, place, None))?;
            at_rest.push(place);
        }
        for action in scenario.actions(&state) {
            let next = scenario.next(rules, &state, action);
            steps += 1;
            if let Err(violated) = check_step(&state, action, &next) {
                return Err(found.counterexample(violated, place, Some((action, next))));
            }
            let (to, is_new) = found.insert(next, Some((place, action)));
            if is_new {
                before.push(Vec::new());
                waiting.push_back(to);
            }
            before[to].push(place);
        }
    }

    let searched = Searched { states: found.states.len(), steps, at_rest: at_rest.len() };
    if let Some(stuck) = never_at_rest(&before, at_rest) {
        return Err(found.counterexample("it can never come to rest", stuck, None));
    }
    Ok(searched)
}

/// A state from which no way leads to one of `at_rest`.
fn never_at_rest(before: &[Vec<usize>], at_rest: Vec<usize>) -> Option<usize> {
    let mut comes_to_rest = vec![false; before.len()];
    let mut waiting = at_rest;
    while let Some(place) = waiting.pop() {
        if !std::mem::replace(&mut comes_to_rest[place], true) {
            waiting.extend(&before[place]);
        }
    }
    comes_to_rest.iter().position(|comes| !comes)
}
