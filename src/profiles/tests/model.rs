//! For any profile that the loader accepts, and any sequence of answers: nothing is posted without
//! a proof of absence or a safe repeat, no list with two of ours is found, and an answer that
//! proves nothing is read neither as refused nor as created.
//!
//! What proves something is worked out here from the text of the generated profile, with
//! serde_json, and not by the code under test.

use std::{cell::Cell, time::Duration};

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use super::{ID, content, inputs, values};
use crate::profiles::{Answer, CreateMeans, CreateStep, LookupMeans, Profile, Sent, ThirdParty};

/// A rule as it is generated.
#[derive(Debug, Clone)]
struct Rule {
    codes: Vec<u16>,
    /// What must stand at `/code`.
    is: Option<&'static str>,
    any_body: bool,
    means: &'static str,
}

impl Rule {
    fn text(&self, fields: &str) -> String {
        let is = self.is.map(|is| format!(", at = \"/code\", is = \"{is}\"")).unwrap_or_default();
        let any_body = if self.any_body { ", any_body = true" } else { "" };
        let Self { codes, means, .. } = self;
        format!("  {{ code = {codes:?}{is}{any_body}, means = \"{means}\"{fields} }},\n")
    }

    /// `None`: what it tests cannot be read.
    fn matches(&self, code: u16, body: &Option<Value>) -> Option<bool> {
        if !self.codes.contains(&code) {
            return Some(false);
        }
        let Some(is) = self.is else { return Some(true) };
        body.as_ref().map(|body| body["code"] == is)
    }
}

/// A profile as it is generated; most are refused.
#[derive(Debug, Clone)]
struct Draft {
    by_id: bool,
    repeat: &'static str,
    repeat_within: Option<u64>,
    settle_after: Option<u64>,
    is_list: bool,
    create: Vec<Rule>,
    lookup: Vec<Rule>,
}

const CODES: [u16; 14] = [200, 201, 202, 302, 400, 401, 404, 405, 409, 429, 500, 501, 503, 504];

fn rule(means: &'static [&'static str]) -> impl Strategy<Value = Rule> {
    let codes = proptest::collection::vec(select(&CODES[..]), 1..3);
    let is = proptest::option::weighted(0.7, select(&["A", "B"][..]));
    (codes, is, proptest::bool::weighted(0.1), select(means))
        .prop_map(|(codes, is, any_body, means)| Rule { codes, is, any_body, means })
}

fn draft() -> impl Strategy<Value = Draft> {
    let create = &["created", "exists", "refused", "later", "unclear", "blocked", "ambiguous"][..];
    let lookup = &["found", "absent", "unclear", "no answer"][..];
    // Without these two a profile is always refused.
    let created = select(&[200_u16, 201, 202, 500][..]).prop_map(|code| Rule {
        codes: vec![code],
        is: None,
        any_body: false,
        means: "created",
    });
    let found = select(&[200_u16, 404][..]).prop_map(|code| Rule {
        codes: vec![code],
        is: None,
        any_body: false,
        means: "found",
    });
    let rules = |rules, last: BoxedStrategy<Rule>| {
        (proptest::collection::vec(rule(rules), 0..3), last).prop_map(|(mut rules, last)| {
            rules.push(last);
            rules
        })
    };
    (
        any::<bool>(),
        select(&["refused", "same-answer", "new-transaction"][..]),
        proptest::option::of(select(&[60_u64, 600][..])),
        proptest::option::of(select(&[30_u64, 300][..])),
        any::<bool>(),
        rules(create, created.boxed()),
        rules(lookup, found.boxed()),
    )
        .prop_map(|(by_id, repeat, repeat_within, settle_after, is_list, create, lookup)| {
            Draft {
                by_id,
                repeat,
                repeat_within,
                settle_after,
                is_list: is_list && by_id,
                create,
                lookup,
            }
        })
}

impl Draft {
    fn text(&self) -> String {
        let id = if self.by_id { "id" } else { "provider_id" };
        let theirs = if self.by_id { "" } else { ", provider_id = \"/theirs\"" };
        let seconds = |name: &str, value: Option<u64>| {
            value.map(|value| format!("{name} = \"{value}s\"\n")).unwrap_or_default()
        };
        let list = if self.is_list { "items = \"/list\"\nwhere = \"/id\"\n" } else { "" };
        let rules = |rules: &[Rule], fields: &dyn Fn(&Rule) -> String| -> String {
            rules.iter().map(|rule| rule.text(&fields(rule))).collect()
        };
        let exists = |rule: &Rule| match rule.means {
            "created" | "exists" => theirs.to_owned(),
            _ => String::new(),
        };
        let found = |rule: &Rule| match rule.means {
            "found" => ", status = \"/status?\"".to_owned(),
            _ => String::new(),
        };
        format!(
            "profile = 1\nname = \"generated\"\n[create]\npath = \"/p\"\n\
             body = {{ id = \"{{id}}\" }}\n\
             repeat = \"{}\"\n{}answers = [\n{}]\n[lookup]\nby = \"{id}\"\npath = \"/p/{{{id}}}\"\n\
             {list}{}answers = [\n{}]\n[status]\ncompleted = [\"done\"]\n",
            self.repeat,
            seconds("repeat_within", self.repeat_within),
            rules(&self.create, &exists),
            seconds("settle_after", self.settle_after),
            rules(&self.lookup, &found),
        )
    }

    /// The rule that decides, and whether one before it could not be read.
    fn decides<'a>(rules: &'a [Rule], code: u16, body: &Option<Value>) -> (Option<&'a Rule>, bool) {
        for rule in rules {
            match rule.matches(code, body) {
                Some(true) => return (Some(rule), false),
                Some(false) => {}
                None => return (None, true),
            }
        }
        (None, false)
    }

    /// Whether the answer to a lookup proves that the transaction is not there.
    fn proves_absence(&self, code: u16, body: &Option<Value>, since_post: Option<u64>) -> bool {
        let is_settled =
            since_post.zip(self.settle_after).is_none_or(|(since, after)| since >= after);
        let says_so = match Self::decides(&self.lookup, code, body).0 {
            Some(Rule { means: "absent", .. }) => true,
            Some(Rule { means: "found", .. }) if self.is_list => {
                body.as_ref().is_some_and(|body| body["list"] == json!([]))
            }
            _ => false,
        };
        // What concerns the way there or who asks proves nothing, whatever a profile says.
        let may = !matches!(code, 302 | 401 | 429 | 500 | 503 | 504);
        self.by_id && is_settled && says_so && may
    }
}

/// An answer: its code, and its body.
#[derive(Debug, Clone)]
struct Reply {
    code: u16,
    body: String,
    /// The seconds that pass until the next one.
    pause: u64,
}

fn reply() -> impl Strategy<Value = Reply> {
    let other = "7f1c2f0e-7a52-4b7e-9d6a-2d2a0a4d9b11".to_owned();
    let item =
        select(vec![ID.to_string(), other]).prop_map(|id| json!({ "id": id, "status": "done" }));
    let list = proptest::option::of(proptest::collection::vec(item, 0..4));
    let whole =
        (select(&["A", "B", "C"][..]), list, any::<bool>()).prop_map(|(code, list, theirs)| {
            let mut body = json!({ "code": code, "status": "done" });
            if let Some(list) = list {
                body["list"] = list.into();
            }
            if theirs {
                body["theirs"] = "p_1".into();
            }
            body.to_string()
        });
    let body = prop_oneof![
        6 => whole,
        1 => select(vec!["", "<html>", "[]", "{\"code\":\"A\"", "{\"code\":\"A\",\"code\":\"B\"}"])
            .prop_map(str::to_owned),
    ];
    (select(&CODES[..]), body, select(&[1_u64, 20, 120, 400][..]))
        .prop_map(|(code, body, pause)| Reply { code, body, pause })
}

impl Reply {
    /// `None`: it cannot be read for certain.
    fn json(&self) -> Option<Value> {
        let is_ambiguous = self.body.matches("\"code\"").count() > 1;
        let read: Option<Value> = serde_json::from_str(&self.body).ok();
        read.filter(|body| body.is_object() && !is_ambiguous)
    }
}

/// Runs a model of the create job; checks each step.
fn run(draft: &Draft, profile: &Profile, replies: &[Reply]) -> Result<usize, TestCaseError> {
    let (content, values) = (content(&[]), values(&[]));
    let inputs = inputs(&content, &values);
    let mut replies = replies.iter();
    let (mut now, mut posts, mut has_provider_id) = (0_u64, Vec::<u64>::new(), false);
    loop {
        let since = |at: Option<&u64>| at.map(|at| now - at);
        let (since_first, since_last) = (since(posts.first()), since(posts.last()));
        let sent = Sent {
            since_first: since_first.map(Duration::from_secs),
            since_last: since_last.map(Duration::from_secs),
            has_provider_id,
        };
        let mut step = profile.begin_create(&sent);
        let mut is_absent = false;
        if step == CreateStep::LookUp {
            let Some(reply) = replies.next() else { return Ok(posts.len()) };
            let body = reply.json();
            let answer = Answer { code: reply.code, body: Ok(&reply.body) };
            let read = profile.read_lookup(&inputs, &answer, sent.since_last);
            is_absent = draft.proves_absence(reply.code, &body, since_last);
            if read.means == LookupMeans::Absent {
                prop_assert!(is_absent, "{reply:?} {read:?}");
            }
            if read.means == LookupMeans::Found {
                let is_object = reply.body.starts_with('{') && reply.body.ends_with('}');
                prop_assert!((200..300).contains(&reply.code) && is_object, "{reply:?}");
                let ours = |list: &Vec<Value>| {
                    list.iter().filter(|item| item["id"] == ID.to_string()).count()
                };
                let list = body.as_ref().and_then(|body| body["list"].as_array());
                prop_assert!(!draft.is_list || list.map(ours) == Some(1), "{reply:?}");
            }
            step = profile.after_lookup(&sent, read.means);
            now += reply.pause;
        }
        match step {
            CreateStep::Post if draft.by_id => prop_assert!(is_absent),
            CreateStep::Post => prop_assert!(posts.is_empty()),
            CreateStep::Repeat => {
                let within = draft.repeat_within.unwrap_or(20 * 60);
                prop_assert!(draft.repeat != "new-transaction" && !draft.by_id);
                prop_assert!(since_first.is_some_and(|since| since < within), "{since_first:?}");
            }
            _ => {}
        }
        // Where the same request makes a second transaction, an absence must have had its time.
        if step == CreateStep::Post && !posts.is_empty() && draft.repeat == "new-transaction" {
            prop_assert!(draft.settle_after.is_some());
        }
        if matches!(step, CreateStep::Post | CreateStep::Repeat) {
            let Some(reply) = replies.next() else { return Ok(posts.len()) };
            let answer = Answer { code: reply.code, body: Ok(&reply.body) };
            let read = profile.read_create(ID, &answer);
            let (rule, is_unread) = Draft::decides(&draft.create, reply.code, &reply.json());
            if reply.code >= 500 || reply.code == 302 || is_unread {
                let proves = [CreateMeans::Created, CreateMeans::Exists, CreateMeans::Refused];
                prop_assert!(!proves.contains(&read.means), "{reply:?} {read:?}");
            }
            if read.means == CreateMeans::Created {
                prop_assert!(rule.is_some_and(|rule| rule.means == "created"), "{reply:?}");
                prop_assert!((200..300).contains(&reply.code), "{reply:?}");
                prop_assert!(draft.by_id || read.provider_id.is_some(), "{reply:?}");
            }
            if read.means == CreateMeans::Refused && reply.code < 300 {
                let says_so = rule.is_some_and(|rule| rule.means == "refused" && rule.is.is_some());
                prop_assert!(says_so, "{reply:?}");
            }
            // As the create job has it: what was certainly not done is forgotten, where it was the
            // first one.
            let is_not_done = match read.means {
                CreateMeans::Refused | CreateMeans::Blocked => true,
                CreateMeans::Later => !read.may_be_lost(),
                _ => false,
            };
            if is_not_done && read.means != CreateMeans::Refused {
                let is_said = rule.is_some_and(|rule| rule.means == "blocked" && rule.is.is_some());
                let says_so = (400..500).contains(&reply.code) && ![408, 409].contains(&reply.code);
                prop_assert!(is_said || says_so, "{reply:?} {read:?}");
            }
            if read.means == CreateMeans::Later && is_not_done {
                prop_assert_eq!(reply.code, 429, "{:?}", reply);
            }
            if !is_not_done || !posts.is_empty() {
                posts.push(now);
            }
            has_provider_id |= read.provider_id.is_some();
            step = profile.after_create(&sent, read.means);
            if step == CreateStep::Refused && !draft.by_id {
                prop_assert!(posts.is_empty(), "an earlier one may be there: {reply:?}");
            }
            now += reply.pause;
        }
        match step {
            CreateStep::Wait | CreateStep::Hold => now += 1,
            CreateStep::LookUp | CreateStep::Post | CreateStep::Repeat => {
                prop_assert!(false, "{step:?} is no end of a try");
            }
            CreateStep::Done | CreateStep::Refused | CreateStep::Operator(_) => {
                return Ok(posts.len());
            }
        }
    }
}

/// Failures are not kept in a file: a profile that was one is added to the loader's tests.
fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn no_accepted_profile_breaks_the_rules() {
    let (accepted, posted, reposted) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(config(2_000));
    let replies = proptest::collection::vec(proptest::collection::vec(reply(), 0..16), 12);
    let result = runner.run(&(draft(), replies), |(draft, sequences)| {
        let Ok(profile) = Profile::parse("generated.toml", &draft.text()) else { return Ok(()) };
        accepted.set(accepted.get() + 1);
        for replies in &sequences {
            let posts = run(&draft, &profile, replies)?;
            posted.set(posted.get() + usize::from(posts > 0));
            reposted.set(reposted.get() + usize::from(posts > 1));
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    // It would hold as well if nothing were accepted, or nothing ever sent.
    let counts = (accepted.get(), posted.get(), reposted.get());
    assert!(counts.0 > 60 && counts.1 > 200 && counts.2 > 30, "{counts:?}");
}

/// A text that the loader reads is one that it can tell the faults of: it never panics.
#[test]
fn no_text_makes_the_loader_panic() {
    let mut runner = TestRunner::new(config(1_000));
    let at = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), ".{0,8}");
    let result = runner.run(&at, |(from, to, text)| {
        let base = super::IN_LIST;
        let ends: Vec<usize> = base.char_indices().map(|(at, _)| at).collect();
        let (from, to) = (ends[from.index(ends.len())], ends[to.index(ends.len())]);
        let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 12));
        let mangled = format!("{}{text}{}", &base[..from], &base[to..]);
        if let Err(error) = Profile::parse("mangled.toml", &mangled) {
            prop_assert!(error.to_string().starts_with("mangled.toml: "));
            prop_assert!(!error.faults.is_empty());
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
