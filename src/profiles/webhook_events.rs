//! What the events of a webhook mean for a transaction: their status word by the profile's
//! `[status]`, and whether they contradict what the client posted.

use super::{
    Profile,
    answer::ReadStatus,
    fields::is_same_id,
    values::{Inputs, RenderError, Value},
    webhook::{Claim, Report},
};
use crate::domain::third_party::other_provider_id;

/// The secret that verifies webhooks, and the one beside it while it is changed.
pub const WEBHOOK_SECRETS: [&str; 2] = ["webhook", "webhook_next"];

impl Profile {
    /// Whether webhooks are verified with [`WEBHOOK_SECRETS`], of which the first is required.
    pub fn needs_webhook_secret(&self) -> bool {
        self.webhook().is_some_and(|webhook| webhook.needs_key())
    }

    /// What an event's status word means; `None` where it has none.
    pub fn read_event(&self, report: &Report) -> Option<ReadStatus> {
        Some(self.definition.status.read(report.status.as_deref()?, true))
    }

    /// What decided the meaning of an event, for evidence:
    /// `paystack: webhook (/data/status is "success")`.
    pub fn event_rule(&self, status: Option<&ReadStatus>) -> String {
        let name = self.name();
        let Some(status) = status else { return format!("{name}: webhook (without a status)") };
        let places = self.webhook().map(|webhook| webhook.status.0.join(":")).unwrap_or_default();
        let unknown = if status.meaning.is_none() { ", which [status] does not have" } else { "" };
        format!("{name}: webhook ({places} is {:?}{unknown})", status.word)
    }

    /// Why an event, which may name the third party's id, is not about the transaction as the
    /// client posted it, and as the third party named it before; `None`: it may be.
    pub fn contradiction(
        &self,
        inputs: &Inputs<'_>,
        provider_id: Option<&str>,
        claims: &[Claim],
    ) -> Option<String> {
        if let (Some(known), Some(given)) = (inputs.provider_id, provider_id)
            && known != given
        {
            return Some(other_provider_id(known, given));
        }
        let renderer = self.renderer(inputs);
        claims.iter().find_map(|Claim { at, found, is }| {
            let own = match renderer.value(is) {
                Ok(Some(Value::Text(own) | Value::Number(own))) => own,
                // The client said nothing about it.
                Ok(_) | Err(RenderError::Missing(_)) => return None,
                Err(why) => return Some(format!("{at} cannot be compared: {why}")),
            };
            // References and the like are texts: "0012" is not "12".
            let is_amount = is.as_str().starts_with("{amount");
            let is_id = is.only_placeholder().is_some() && is.has_our_id();
            let is_same = *found == own
                || is_amount && is_same_number(found, &own)
                || is_id && is_same_id(found, inputs.id);
            let is = is.as_str();
            (!is_same).then(|| format!("{at} is {found:?}, but the transaction's {is} is {own:?}"))
        })
    }
}

/// Most digits by which an exponent moves the point.
const MAX_EXPONENT: isize = 30;

/// Whether two texts are the same decimal number, without a float: `12.5` and `1.250E+1`.
fn is_same_number(a: &str, b: &str) -> bool {
    matches!((decimal(a), decimal(b)), (Some(a), Some(b)) if a == b)
}

/// The digits without zeros at either end, and the power of ten of the last one. `None`: it is
/// written in another way, is negative, or its exponent is beyond [`MAX_EXPONENT`].
fn decimal(text: &str) -> Option<(String, isize)> {
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_bounded = (-MAX_EXPONENT..=MAX_EXPONENT).contains(&exponent);
    if !is_digits(whole) || !is_digits(fraction) || !is_bounded {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let zeros = digits.len() - significant.len();
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        // Zero, whose sign and exponent say nothing.
        return Some((String::new(), 0));
    }
    let exponent = exponent.checked_sub_unsigned(fraction.len())?.checked_add_unsigned(zeros)?;
    (!is_negative).then(|| (significant.to_owned(), exponent))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::Content,
        profiles::{Shipped, Template, Values},
    };

    #[test]
    fn decimals_are_compared_as_numbers() {
        for (a, b) in [
            ("12.5", "12.50"),
            ("012.5", "12.500"),
            ("12", "12.00"),
            ("0", "0.0"),
            ("1e1", "10"),
            ("1E+3", "1000.00"),
            ("1.0E+3", "1000.00"),
            ("1250e-2", "12.5"),
            ("+12.5", "12.50"),
            ("5e-3", "0.005"),
            ("1e30", "1000000000000000000000000000000"),
            ("0E-8", "0.00"),
            ("-0.0", "0.00"),
        ] {
            assert!(is_same_number(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("12.5", "12.05"),
            ("1250", "12.50"),
            ("1e2", "10"),
            ("1e-1", "1"),
            ("-1", "1"),
            ("-1e1", "-10"),
            ("", "0"),
            ("e1", "10"),
            ("1e", "1"),
            ("1e1.0", "10"),
            ("+-1", "1"),
            ("1e31", "10000000000000000000000000000000"),
            ("0e99", "0"),
        ] {
            assert!(!is_same_number(a, b), "{a} {b}");
        }
    }

    #[test]
    fn an_event_of_another_amount_or_currency_contradicts() {
        let profile = Shipped::named("paystack").unwrap().profile().unwrap();
        let content = Content {
            amount: Some(1250),
            currency: Some("EUR".to_owned()),
            reference: None,
            metadata: None,
        };
        let contradiction = |content: &Content, found: &str, is: &str| {
            let (found, is) = (found.to_owned(), Template::parse(is).unwrap());
            let claim = Claim { at: "/at".to_owned(), found, is };
            let inputs = Inputs {
                id: Uuid::nil(),
                content,
                provider_id: None,
                created_at: DateTime::UNIX_EPOCH,
                now: DateTime::UNIX_EPOCH,
                webhook_url: "",
                values: &Values::default(),
            };
            // As it is compared later, too.
            let claims = Claim::read_all(&Claim::write_all(&[claim])).unwrap();
            profile.contradiction(&inputs, None, &claims)
        };
        for (found, is) in [
            ("1250", "{amount:minor}"),
            ("12.5", "{amount:decimal}"),
            ("1.25E+3", "{amount:minor}"),
            ("1.25E+1", "{amount:decimal}"),
            ("EUR", "{currency}"),
            ("eur", "{currency:lower}"),
            ("anything", "{reference}"),
        ] {
            assert_eq!(contradiction(&content, found, is), None, "{found} {is}");
        }
        for (found, is) in
            [("1251", "{amount:minor}"), ("1250", "{amount:decimal}"), ("USD", "{currency}")]
        {
            let why = contradiction(&content, found, is).unwrap();
            assert!(why.contains(found) && why.contains(is), "{why}");
        }
        let nothing = Content { amount: None, currency: None, ..content };
        assert_eq!(contradiction(&nothing, "7", "{amount:minor}"), None);
    }

    #[test]
    fn our_id_is_compared_as_a_uuid() {
        let profile = Shipped::named("paystack").unwrap().profile().unwrap();
        let id = Uuid::from_u128(0xabcd);
        let content = Content { reference: Some(id.to_string()), ..Content::default() };
        let contradiction = |found: &str, is: &str| {
            let (found, is) = (found.to_owned(), Template::parse(is).unwrap());
            let claim = Claim { at: "/at".to_owned(), found, is };
            let inputs = Inputs {
                id,
                content: &content,
                provider_id: None,
                created_at: DateTime::UNIX_EPOCH,
                now: DateTime::UNIX_EPOCH,
                webhook_url: "",
                values: &Values::default(),
            };
            profile.contradiction(&inputs, None, &[claim])
        };
        let (text, hex) = (id.to_string(), id.simple().to_string());
        let upper = text.to_uppercase();
        for found in [&text, &upper, &hex, &hex.to_uppercase()] {
            for is in ["{id}", "{id:hex}"] {
                assert_eq!(contradiction(found, is), None, "{found} {is}");
            }
        }
        let other = Uuid::from_u128(0xabce).to_string();
        for (found, is) in
            [(&other, "{id}"), (&other, "{id:hex}"), (&upper, "{reference}"), (&upper, "x-{id}")]
        {
            assert!(contradiction(found, is).is_some(), "{found} {is}");
        }
    }
}
