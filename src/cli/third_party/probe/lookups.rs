//! The checks that change nothing: lookups of what is not there, as they should be and wrong.

use uuid::Uuid;

use super::{
    ProbeArgs,
    report::{Report, Verdict, described},
    subject,
};
use crate::{
    domain::Content,
    outbound::{
        probe::is_this_machine,
        profile::probe::{Probe, Wrong},
    },
    profiles::{LookupBy, LookupMeans},
};

/// Returns whether the third party can be reached, and takes our credentials.
pub(super) async fn check(
    probe: &Probe,
    base_url: &str,
    args: &ProbeArgs,
    report: &mut Report,
) -> bool {
    if !check_token(probe, report).await {
        return false;
    }
    let by_id = probe.profile().lookup_by() == LookupBy::Id;
    // New at each call: nobody can have created it.
    let unknown = || {
        let provider_id = (!by_id).then(|| Uuid::new_v4().simple().to_string());
        (Uuid::new_v4(), subject(Content::default(), provider_id))
    };
    let (id, subject_of) = unknown();
    let first = match probe.look_up(id, &subject_of, Wrong::Nothing).await {
        Ok(first) => first,
        Err(why) => {
            report.add("reachable", "it answers", why, Verdict::Differs, None);
            return false;
        }
    };
    let is_secret = base_url.starts_with("https://") || is_this_machine(base_url);
    let (how, verdict) = match (base_url.starts_with("https://"), is_secret) {
        (true, _) => ("it answers; TLS with a certificate that is trusted", Verdict::Ok),
        (false, true) => ("it answers; without TLS, on this machine", Verdict::Ok),
        (false, false) => ("it answers; without TLS: anybody can read the key", Verdict::Differs),
    };
    report.add("reachable", "it answers", how, verdict, first.took);

    let means = first.reading.means;
    let observed = described(means.as_str(), &first.reading);
    let (expected, is_good) = match by_id {
        true => ("absent", means == LookupMeans::Absent),
        // Their id of nothing: whatever it is answered creates nothing.
        false => {
            ("anything but found", means != LookupMeans::Found && !refuses_key(&first.reading))
        }
    };
    let verdict = match means {
        _ if is_good => Verdict::Ok,
        LookupMeans::Found => Verdict::Dangerous,
        _ => Verdict::Differs,
    };
    report.add("unknown id", expected, observed, verdict, None);
    let takes_key = !refuses_key(&first.reading);

    for (check, wrong) in
        [("wrong path", Wrong::Start), ("misspelt path", Wrong::Middle), ("wrong key", Wrong::Key)]
    {
        let expected = "neither absent nor found";
        if wrong == Wrong::Key && !probe.has_key() {
            report.not_tried(check, expected, "it asks for none");
            continue;
        }
        let (id, subject) = unknown();
        match probe.look_up(id, &subject, wrong).await {
            Ok(replied) => {
                let means = replied.reading.means;
                let is_bad = matches!(means, LookupMeans::Absent | LookupMeans::Found);
                let verdict = if is_bad { Verdict::Dangerous } else { Verdict::Ok };
                report.add(
                    check,
                    expected,
                    described(means.as_str(), &replied.reading),
                    verdict,
                    None,
                );
            }
            Err(why) => report.add(check, expected, why, Verdict::Ok, None),
        }
    }
    check_known(probe, args, report).await;
    takes_key
}

fn refuses_key(reading: &crate::profiles::LookupAnswer) -> bool {
    reading.is_unauthorized()
}

async fn check_token(probe: &Probe, report: &mut Report) -> bool {
    let (check, expected) = ("token", "one is issued");
    match probe.token().await {
        None => true,
        Some(Ok(())) => {
            report.add(check, expected, "one was issued", Verdict::Ok, None);
            true
        }
        Some(Err(why)) => {
            report.add(check, expected, why, Verdict::Differs, None);
            false
        }
    }
}

async fn check_known(probe: &Probe, args: &ProbeArgs, report: &mut Report) {
    let Some(known) = args.known else { return };
    let (check, expected) = ("known id", "found, with a word of [status]");
    let subject = subject(Content::default(), args.known_provider_id.clone());
    if probe.profile().lookup_by() == LookupBy::ProviderId && subject.provider_id.is_none() {
        report.not_tried(check, expected, "add --known-provider-id");
        return;
    }
    match probe.look_up(known, &subject, Wrong::Nothing).await {
        Ok(replied) => {
            let reading = &replied.reading;
            let is_good = reading.means == LookupMeans::Found && reading.known_status().is_some();
            let verdict = if is_good { Verdict::Ok } else { Verdict::Differs };
            let observed = described(reading.means.as_str(), reading);
            report.add(check, expected, observed, verdict, replied.took);
        }
        Err(why) => report.add(check, expected, why, Verdict::Differs, None),
    }
}
