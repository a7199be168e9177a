//! The checks that create one transaction, and find out whether it can be doubled.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{
    ProbeArgs,
    report::{Report, Verdict, described, seconds},
    subject,
    webhook::Listener,
};
use crate::{
    config::Config,
    domain::Content,
    outbound::profile::{
        PreparedCreate,
        probe::{Probe, Replied, Wrong},
    },
    profiles::{CreateMeans, LookupBy, LookupMeans, Repeat},
};

/// The first wait between two lookups, or two repeats of a create that got no answer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// `CREATE_BACKOFF` is suggested in steps of this.
const STEP: Duration = Duration::from_secs(10);

type Created = Result<Replied<CreateMeans>, String>;

/// The transaction that is created.
pub(super) struct Live<'a> {
    probe: &'a Probe,
    content: Content,
    id: Uuid,
    wait: Duration,
    timeout: Duration,
    listener: Listener,
}

impl<'a> Live<'a> {
    pub fn new(
        probe: &'a Probe,
        content: Content,
        args: &ProbeArgs,
        config: &Config,
        listener: Listener,
    ) -> Self {
        let (wait, timeout) = (args.wait, config.third_party.timeout);
        // Some third parties take no other version.
        Self { probe, content, id: Uuid::new_v4(), wait, timeout, listener }
    }

    pub async fn check(self, report: &mut Report) {
        let repeat = expected_of_repeat(self.probe.profile().repeat());
        let prepared = |content: Content| self.probe.prepare(self.id, &subject(content, None));
        let (first, other) = match (prepared(self.content.clone()), prepared(self.other_content()))
        {
            (Ok(first), Ok(other)) => (first, other),
            (Err(why), _) | (_, Err(why)) => {
                let why = format!("cannot be made: {why}");
                report.add("create", "created", why, Verdict::Differs, None);
                return;
            }
        };
        let began = Instant::now();
        let created = self.probe.create(self.id, &first).await;
        let Some(mut provider_id) = add_create(&created, report) else { return };
        let by_id = self.probe.profile().lookup_by() == LookupBy::Id;
        let can_repeat = self.probe.profile().repeat() != Repeat::NewTransaction;
        if !by_id && provider_id.is_none() && can_repeat {
            // As a job does: nothing else says what became of it.
            provider_id = self.answered(&first).await.ok().and_then(|it| it.reading.provider_id);
        }
        self.look_up_until_found(began, provider_id.as_deref(), report).await;

        let same = "same again";
        match can_repeat {
            true => {
                let again = self.answered(&first).await;
                self.judge_repeat(same, repeat, &again, provider_id.as_deref(), report);
                let changed = self.answered(&other).await;
                self.judge_other_amount(&changed, provider_id.as_deref(), report);
            }
            false => report.not_tried(same, repeat, "the profile says that it would double"),
        }
        self.still_one(provider_id.as_deref(), report).await;
        self.webhook(provider_id.as_deref(), report).await;
    }

    /// The same with one more unit.
    fn other_content(&self) -> Content {
        let amount = self.content.amount.map(|amount| amount.saturating_add(1));
        Content { amount, ..self.content.clone() }
    }

    /// Sends a create until it is answered clearly.
    async fn answered(&self, prepared: &PreparedCreate) -> Created {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let sent = self.probe.create(self.id, prepared).await;
            let is_clear = sent.as_ref().is_ok_and(|replied| {
                !matches!(replied.reading.means, CreateMeans::Ambiguous | CreateMeans::Later)
            });
            if is_clear || began.elapsed() > self.wait {
                return sent;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn look_up_until_found(
        &self,
        began: Instant,
        provider_id: Option<&str>,
        report: &mut Report,
    ) {
        let (check, expected) = ("shows", "found, with a word of [status]");
        let mut subject = subject(self.content.clone(), provider_id.map(str::to_owned));
        let (mut pause, mut absences) = (FIRST_PAUSE, 0);
        loop {
            subject.since_create = Some(began.elapsed());
            let last = match self.probe.look_up(self.id, &subject, Wrong::Nothing).await {
                Ok(replied) if replied.reading.means == LookupMeans::Found => {
                    let took = began.elapsed();
                    let reading = &replied.reading;
                    let observed = described("found", reading);
                    let verdict = match reading.known_status() {
                        Some(_) => Verdict::Ok,
                        None => Verdict::Differs,
                    };
                    let before = match absences {
                        0 => String::new(),
                        _ => format!(" ({absences} lookups before read as absent)"),
                    };
                    report.add(check, expected, observed + &before, verdict, took);
                    report.suggest_create_backoff(in_steps(self.timeout + took * 2));
                    return;
                }
                Ok(replied) => {
                    let means = replied.reading.means;
                    absences += u32::from(means == LookupMeans::Absent);
                    described(means.as_str(), &replied.reading)
                }
                Err(why) => why,
            };
            if began.elapsed() > self.wait {
                let observed = format!("not within {}; last: {last}", seconds(self.wait));
                report.add(check, expected, observed, Verdict::Differs, None);
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn judge_repeat(
        &self,
        check: &'static str,
        expected: &str,
        again: &Created,
        provider_id: Option<&str>,
        report: &mut Report,
    ) {
        let replied = match again {
            Ok(replied) => replied,
            Err(why) => return report.add(check, expected, why, Verdict::Inconclusive, None),
        };
        let reading = &replied.reading;
        let is_another = is_another(reading.provider_id.as_deref(), provider_id);
        let repeat = self.probe.profile().repeat();
        let verdict = match reading.means {
            _ if is_another => Verdict::Dangerous,
            CreateMeans::Exists => Verdict::Ok,
            CreateMeans::Created if repeat == Repeat::SameAnswer => Verdict::Ok,
            // Nothing says that this is the first one.
            CreateMeans::Created => Verdict::Dangerous,
            CreateMeans::Ambiguous | CreateMeans::Later => Verdict::Inconclusive,
            // A job would call the transaction failed.
            CreateMeans::Refused => Verdict::Dangerous,
            CreateMeans::Unclear | CreateMeans::Blocked => Verdict::Differs,
        };
        let doubled = match (verdict, reading.means) {
            (Verdict::Dangerous, CreateMeans::Refused) => "reads as if it did not exist: ",
            (Verdict::Dangerous, _) => "a second one, as far as the answer says: ",
            _ => "",
        };
        let observed = described(reading.means.as_str(), reading);
        report.add(check, expected, format!("{doubled}{observed}"), verdict, replied.took);
    }

    fn judge_other_amount(
        &self,
        changed: &Created,
        provider_id: Option<&str>,
        report: &mut Report,
    ) {
        let (check, expected) = ("other amount", "no second one, and not refused");
        let replied = match changed {
            Ok(replied) => replied,
            Err(why) => return report.add(check, expected, why, Verdict::Inconclusive, None),
        };
        let reading = &replied.reading;
        let is_same = provider_id.is_some() && reading.provider_id.as_deref() == provider_id;
        let (what, verdict) = match reading.means {
            CreateMeans::Created | CreateMeans::Exists
                if is_another(reading.provider_id.as_deref(), provider_id) =>
            {
                ("a second one: ", Verdict::Dangerous)
            }
            CreateMeans::Created if !is_same => ("accepted as a second one: ", Verdict::Dangerous),
            CreateMeans::Created | CreateMeans::Exists | CreateMeans::Unclear => ("", Verdict::Ok),
            CreateMeans::Refused => ("reads as if it did not exist: ", Verdict::Dangerous),
            CreateMeans::Ambiguous | CreateMeans::Later => ("", Verdict::Inconclusive),
            CreateMeans::Blocked => ("", Verdict::Differs),
        };
        let observed = format!("{what}{}", described(reading.means.as_str(), reading));
        report.add(check, expected, observed, verdict, replied.took);
    }

    /// Two hits in a filtered list are unclear.
    async fn still_one(&self, provider_id: Option<&str>, report: &mut Report) {
        let (check, expected) = ("still one", "found");
        let subject = subject(self.content.clone(), provider_id.map(str::to_owned));
        match self.probe.look_up(self.id, &subject, Wrong::Nothing).await {
            Ok(replied) => {
                let means = replied.reading.means;
                let verdict = match means {
                    LookupMeans::Found => Verdict::Ok,
                    LookupMeans::Unclear => Verdict::Dangerous,
                    LookupMeans::NoAnswer => Verdict::Inconclusive,
                    LookupMeans::Absent | LookupMeans::NotOurs => Verdict::Differs,
                };
                let observed = described(means.as_str(), &replied.reading);
                report.add(check, expected, observed, verdict, replied.took);
            }
            Err(why) => report.add(check, expected, why, Verdict::Inconclusive, None),
        }
    }

    async fn webhook(self, provider_id: Option<&str>, report: &mut Report) {
        let Self { probe, content, id, wait, mut listener, .. } = self;
        let subject = subject(content, provider_id.map(str::to_owned));
        listener.check(probe, id, &subject, wait, report).await;
    }
}

/// Adds the first create. `None`: nothing was created. Otherwise the third party's id, if it is
/// known.
fn add_create(created: &Created, report: &mut Report) -> Option<Option<String>> {
    let (check, expected) = ("create", "created");
    let replied = match created {
        Ok(replied) => replied,
        Err(why) => {
            report.add(check, expected, why, Verdict::Inconclusive, None);
            return Some(None);
        }
    };
    let reading = &replied.reading;
    let verdict = match reading.means {
        CreateMeans::Created => Verdict::Ok,
        CreateMeans::Ambiguous | CreateMeans::Later => Verdict::Inconclusive,
        _ => Verdict::Differs,
    };
    let observed = described(reading.means.as_str(), reading);
    report.add(check, expected, observed, verdict, replied.took);
    (verdict != Verdict::Differs).then(|| reading.provider_id.clone())
}

fn expected_of_repeat(repeat: Repeat) -> &'static str {
    match repeat {
        Repeat::Refused => "exists (repeat = refused)",
        Repeat::SameAnswer => "the first answer (repeat = same-answer)",
        Repeat::NewTransaction => "a second one (repeat = new-transaction)",
    }
}

/// Whether two ids of the third party are known, and differ.
fn is_another(given: Option<&str>, known: Option<&str>) -> bool {
    given.zip(known).is_some_and(|(given, known)| given != known)
}

fn in_steps(duration: Duration) -> Duration {
    STEP * u32::try_from(duration.as_millis().div_ceil(STEP.as_millis())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_is_rounded_up() {
        for (given, expected) in [(0, 0), (1, 10), (10_000, 10), (10_001, 20), (36_200, 40)] {
            assert_eq!(in_steps(Duration::from_millis(given)).as_secs(), expected, "{given}");
        }
    }
}
