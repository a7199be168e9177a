//! The last answers to a job's polls, for the operator who looks into a stopped one. Pure.
//!
//! The row carries them from one run to the next. Equal answers in a row are one entry with a
//! count, so that hours of `processing` are one line.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Most answers that are kept.
const MAX_ANSWERS: usize = 4;
/// Most characters of one.
const MAX_CHARS: usize = 500;

/// An answer, and how often it was given in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAnswer {
    /// The number of the last poll that was answered so.
    #[serde(rename = "attempt")]
    pub poll: u32,
    /// When that was.
    pub at: DateTime<Utc>,
    /// When it was first answered so.
    pub since: DateTime<Utc>,
    /// How often in a row.
    pub times: u32,
    /// What was answered: code, word or error, and an excerpt.
    #[serde(rename = "error")]
    pub answer: String,
    /// Whether it could not be used.
    pub strange: bool,
}

/// The last answers, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LastAnswers(Vec<LastAnswer>);

impl LastAnswers {
    /// As an earlier run wrote them; none where that cannot be read.
    pub fn parse(text: &str) -> Self {
        let mut answers: Self = serde_json::from_str(text).unwrap_or_default();
        for answer in &mut answers.0 {
            answer.answer = answer.answer.chars().take(MAX_CHARS).collect();
        }
        answers.0.drain(..answers.0.len().saturating_sub(MAX_ANSWERS));
        answers
    }

    /// Adds the answer to a poll; returns whether no kept one is like it.
    pub fn add(&mut self, poll: u32, at: DateTime<Utc>, answer: &str, strange: bool) -> bool {
        let answer: String = answer.chars().take(MAX_CHARS).collect();
        let is_new = self.0.iter().all(|kept| kept.answer != answer);
        match self.0.last_mut().filter(|last| last.answer == answer) {
            Some(last) => {
                last.poll = poll;
                last.at = at;
                last.times = last.times.saturating_add(1);
            }
            None => {
                if self.0.len() == MAX_ANSWERS {
                    self.0.remove(0);
                }
                self.0.push(LastAnswer { poll, at, since: at, times: 1, answer, strange });
            }
        }
        is_new
    }

    /// The last one.
    pub fn last(&self) -> Option<&LastAnswer> {
        self.0.last()
    }

    /// As JSON: `[{attempt, at, since, times, error, strange}]`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_are_counted_and_few_are_kept() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let mut answers = LastAnswers::default();
        assert!(answers.add(1, at(1), "a", true));
        assert!(!answers.add(2, at(2), "a", true));
        for poll in 3..=6 {
            assert!(answers.add(poll, at(poll.into()), &poll.to_string(), false));
        }
        assert!(answers.add(7, at(7), "a", true), "the first ones are forgotten");
        assert!(!answers.add(8, at(8), "a", true));
        let last = answers.last().unwrap();
        assert_eq!((last.poll, last.times, last.since, last.at), (8, 2, at(7), at(8)));
        assert_eq!(answers.0.len(), MAX_ANSWERS);
        assert_eq!(LastAnswers::parse(&answers.to_json().to_string()), answers);
        assert_eq!(LastAnswers::parse("no JSON"), LastAnswers::default());
    }
}
