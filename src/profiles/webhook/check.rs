//! The rules for a `[webhook]` section: from what is written to a [`Receiver`], with an error for
//! each key that is wrong.

use super::{
    Receiver, Verifier,
    adyen_items::{self, AdyenItems},
    answers::{Answers, OkAnswer},
    built::{Built, Proved},
    extract::{Condition, Extraction, Place},
    faults::{Fault, Faults, Vars},
    interpreter::Interpreter,
    profile::{
        Adapter, ConditionSection, Content, Method, SameSection, Scheme, Trust, WebhookProfile,
    },
    rfc9421::Rfc9421,
    scheme,
    source::Source,
};
use crate::profiles::{Template, pointer::Pointer, template};

/// Most characters of the body of an answer.
const MAX_OK_BODY_CHARS: usize = 1_024;

impl WebhookProfile {
    /// Checks the section without the values of its variables.
    pub fn check(&self) -> Result<(), Vec<Fault>> {
        self.build(None).map(|_| ())
    }

    /// Makes a receiver of the section.
    pub fn receiver(&self, vars: &Vars) -> Result<Receiver, Vec<Fault>> {
        self.build(Some(vars))
    }

    fn build(&self, vars: Option<&Vars>) -> Result<Receiver, Vec<Fault>> {
        let mut faults = Faults::default();
        self.check_methods(&mut faults);
        let answers = self.answers(&mut faults);
        let built = scheme::build(self, vars, &mut faults);
        let extraction = self.extraction(&mut faults);
        if let Some(built) = &built {
            self.check_trust(built, &extraction, &mut faults);
        }
        let Some(Built { proof, key_kind, .. }) = built.filter(|_| faults.is_empty()) else {
            return Err(faults.into_found());
        };
        let verifier: Box<dyn Verifier> = match proof {
            Proved::Interpreted(proof) => Box::new(Interpreter { proof, extraction }),
            Proved::AdyenItems => Box::new(AdyenItems { extraction }),
            Proved::MessageSignature { cover, algorithms, tolerance } => {
                Box::new(Rfc9421 { cover, algorithms, tolerance, extraction })
            }
        };
        let methods = self.methods.iter().copied().filter(|method| *method != Method::Head);
        Ok(Receiver { methods: methods.collect(), trust: self.trust, answers, key_kind, verifier })
    }

    fn check_methods(&self, faults: &mut Faults) {
        let reading: Vec<_> =
            self.methods.iter().filter(|method| **method != Method::Head).collect();
        let is_query = self.content == Content::Query;
        if reading.is_empty() {
            faults.add("methods", "must name `POST`, `PUT` or `GET`; `HEAD` may stand beside it");
        } else if is_query != reading.contains(&&Method::Get) || (is_query && reading.len() > 1) {
            faults.add("methods", "must be `GET` where `content = \"query\"`, and only there");
        }
    }

    fn answers(&self, faults: &mut Faults) -> Answers {
        let code = self.ok_code.unwrap_or(200);
        if !(200..=299).contains(&code) {
            faults.add("ok_code", "must be from 200 to 299");
        }
        let refused_code = self.refused_code.unwrap_or(401);
        if !(400..=499).contains(&refused_code) {
            faults.add("refused_code", "must be from 400 to 499");
        }
        if let Some(body) = &self.ok_body {
            if code == 204 {
                faults.add("ok_body", "must not be there where `ok_code = 204`");
            }
            if body.chars().count() > MAX_OK_BODY_CHARS {
                faults.add("ok_body", format!("must be at most {MAX_OK_BODY_CHARS} characters"));
            }
        }
        let ok = OkAnswer { code, body: self.ok_body.clone() };
        Answers { ok, refused_code, head: self.methods.contains(&Method::Head) }
    }

    fn extraction(&self, faults: &mut Faults) -> Extraction {
        let is_adyen = self.signature.adapter == Some(Adapter::AdyenItems);
        let items = self.items.as_ref().and_then(|items| {
            if is_adyen {
                faults.add("items", "must not be there: `adyen-items` knows where the items are");
            }
            if self.content != Content::Json {
                faults.add("items", "must not be there unless `content = \"json\"`");
            }
            let pointer = faults.value("items", Pointer::parse(items))?;
            Some((items.clone(), pointer))
        });
        let mut conditions = |key: &str, sections: &[ConditionSection]| {
            let conditions = sections.iter().filter_map(|section| {
                let at = faults.place(&format!("{key}.at"), &section.at)?;
                let is: Vec<_> = section.is.0.iter().map(|value| value.0.clone()).collect();
                if is.is_empty() {
                    faults.add(&format!("{key}.is"), "must have at least one value");
                }
                Some(Condition { at, is })
            });
            conditions.collect::<Vec<_>>()
        };
        let only = conditions("only", &self.only.0);
        let ignore = conditions("ignore", &self.ignore.0);
        let adyen = |own: &[String], default: &[&str]| match own {
            [] if is_adyen => default.iter().map(|text| (*text).to_owned()).collect(),
            own => own.to_vec(),
        };
        let is_unnamed = self.id.is_none() && self.provider_id.is_none();
        let id = match &self.id {
            None if is_adyen && is_unnamed => Some("/merchantReference".to_owned()),
            id => id.clone(),
        };
        let provider_id = match &self.provider_id {
            None if is_adyen && is_unnamed => Some("/pspReference".to_owned()),
            provider_id => provider_id.clone(),
        };
        let status = adyen(&self.status.0, &["/eventCode", "/success"]);
        let event_id = adyen(&self.event_id.0, &["/pspReference", "/eventCode", "/success"]);
        let extraction = Extraction {
            content: self.content,
            trust: self.trust,
            binds_body: self.binds_body(),
            items,
            only,
            ignore,
            id: id.and_then(|text| faults.place("id", &text)),
            provider_id: provider_id.and_then(|text| faults.place("provider_id", &text)),
            status: faults.places("status", &status),
            event_id: faults.places("event_id", &event_id),
            order: self.order.as_ref().and_then(|text| faults.place("order", text)),
            same: self.same.0.iter().filter_map(|section| same(section, faults)).collect(),
        };
        self.check_places(&extraction, faults);
        extraction
    }

    /// Whether the signature proves every byte of the body.
    fn binds_body(&self) -> bool {
        match (self.signature.scheme, self.signature.adapter) {
            (Some(Scheme::Token | Scheme::Basic | Scheme::None), _) => false,
            (_, Some(Adapter::Paypal)) => false,
            (scheme, adapter) => scheme.is_some() || adapter.is_some(),
        }
    }

    fn check_places(&self, extraction: &Extraction, faults: &mut Faults) {
        if self.signature.adapter == Some(Adapter::AdyenItems) {
            if self.content != Content::Json {
                faults.add("content", "must be `json` for `adyen-items`");
            }
            let allowed = format!("must be one of {}", adyen_items::SIGNED.join(", "));
            for (key, place) in places(extraction) {
                if !adyen_items::SIGNED.contains(&place.text.as_str()) {
                    faults.add(key, format!("{allowed}: nothing else is signed"));
                }
            }
        }
        if self.content != Content::Json {
            for (key, place) in places(extraction) {
                if let Source::Event(pointer) | Source::Body(pointer) = &place.source
                    && pointer.tokens().len() != 1
                {
                    faults.add(key, "must be `/name`: a form has no deeper fields");
                }
            }
        }
        if self.id.is_none() && self.provider_id.is_none() && extraction.id.is_none() {
            faults.add("id", "or `webhook.provider_id` must say where the transaction's id stands");
        }
    }

    /// The rules for webhooks that settle transactions.
    fn check_trust(&self, built: &Built, extraction: &Extraction, faults: &mut Faults) {
        if self.trust != Trust::Settle {
            return;
        }
        if !self.binds_body() {
            let name = match (self.signature.scheme, self.signature.adapter) {
                (Some(scheme), _) => format!("scheme = \"{}\"", scheme.as_str()),
                (None, Some(adapter)) => format!("adapter = \"{}\"", adapter.as_str()),
                (None, None) => return,
            };
            faults.add("trust", format!("must be `hint`: with `{name}` nothing proves the body"));
        }
        if extraction.status.is_empty() {
            faults.add("status", "must be there where `trust = \"settle\"`");
        }
        for (key, place) in places(extraction) {
            // The event's id and its order settle nothing, and an id that is not signed is no
            // dedupe key by itself.
            let is_free = ["event_id", "order"].contains(&key);
            if let Source::Header(name) = &place.source
                && !is_free
                && !built.names_headers
                && !built.signed_headers.contains(name)
            {
                let problem = "must be a header that is signed where `trust = \"settle\"`";
                faults.add(key, problem);
            }
        }
    }
}

/// What an event must not contradict.
fn same(section: &SameSection, faults: &mut Faults) -> Option<(Place, Template)> {
    let place = faults.place("same.at", &section.at);
    let is = faults.value("same.is", Template::parse(&section.is))?;
    let is_not_posted = |source: &template::Source| {
        !matches!(
            source,
            template::Source::Id
                | template::Source::IdHex
                | template::Source::AmountMinor
                | template::Source::AmountDecimal
                | template::Source::AmountNumber
                | template::Source::Currency
                | template::Source::CurrencyLower
                | template::Source::Reference
                | template::Source::MetadataEntry(_)
        )
    };
    if is.uses(is_not_posted) || is.literal().is_some() {
        let problem = "must be what the client posted: `{amount:minor}`, `{amount:decimal}`, \
                       `{currency}`, `{currency:lower}`, `{reference}`, `{metadata.name}`, `{id}` \
                       or `{id:hex}`";
        faults.add("same.is", problem);
    }
    Some((place?, is))
}

/// Every place that is read, under its key.
fn places(extraction: &Extraction) -> Vec<(&'static str, &Place)> {
    let Extraction { only, ignore, id, provider_id, status, event_id, order, same, .. } =
        extraction;
    let only = only.iter().map(|condition| ("only.at", &condition.at));
    let ignore = ignore.iter().map(|condition| ("ignore.at", &condition.at));
    let status = status.iter().map(|place| ("status", place));
    let event_id = event_id.iter().map(|place| ("event_id", place));
    let named = [("id", id), ("provider_id", provider_id), ("order", order)];
    let named = named.into_iter().filter_map(|(key, place)| Some((key, place.as_ref()?)));
    let same = same.iter().map(|(place, _)| ("same.at", place));
    only.chain(ignore).chain(status).chain(event_id).chain(named).chain(same).collect()
}
