//! Replaying, resolving and discarding one dead letter.
//!
//! A webhook for a transaction that was not here is compared with the transaction when it is
//! replayed, as one that arrives is.

use serde_json::json;
use uuid::Uuid;

use super::Operations;
use crate::{
    domain::{Status, ThirdPartyName},
    store::{
        audit::Actor,
        dead_letter_actions::{self, DeadLetterError},
        dead_letters::DeadLetter,
        transactions::Transaction,
    },
};

impl Operations {
    /// Replays an open dead letter ([`dead_letter_actions::replay`]).
    pub async fn replay_dead_letter(
        &self,
        id: Uuid,
        actor: Actor<'_>,
    ) -> Result<DeadLetter, DeadLetterError> {
        let contradiction = |letter: &DeadLetter, transaction: &Transaction| {
            self.contradiction(letter, transaction)
        };
        let letter =
            dead_letter_actions::replay(&self.pool, id, &self.plan, contradiction, actor).await?;
        self.wake_workers();
        Ok(letter)
    }

    /// Why the webhook of an `unknown_transaction` is not about this transaction as the client
    /// posted it; `None`: it may be. Only the profile that read the webhook can tell.
    pub(super) fn contradiction(
        &self,
        letter: &DeadLetter,
        transaction: &Transaction,
    ) -> Result<Option<String>, DeadLetterError> {
        let detail = &letter.detail;
        let claims = detail.get("claims");
        let says_nothing_else = claims.is_some_and(|claims| *claims == json!([]));
        if says_nothing_else && !detail["provider_id"].is_string() {
            return Ok(None);
        }
        let third_party: ThirdPartyName =
            dead_letter_actions::third_party_of(letter).to_owned().into();
        let not_comparable = || DeadLetterError::NotComparable(third_party.clone());
        let client = self.third_parties.get(&third_party).ok_or_else(not_comparable)?;
        let (profile, claims) = match (client.profile(), claims) {
            (None, None) => return Ok(None),
            (Some(profile), Some(claims)) if detail["profile"] == profile.profile().name() => {
                (profile, claims)
            }
            // Written by a version that did not keep it.
            (Some(_), None) => {
                let why = "what it says besides its status was not kept when it was received";
                return Ok(Some(why.to_owned()));
            }
            _ => return Err(not_comparable()),
        };
        let (id, provider_id) = (transaction.id, detail["provider_id"].as_str());
        Ok(client.contradiction(profile, id, &transaction.subject(), provider_id, claims))
    }

    /// Resolves an open dead letter, and with a final `status` gives that to the transaction
    /// ([`dead_letter_actions::resolve`]).
    pub async fn resolve_dead_letter(
        &self,
        id: Uuid,
        status: Option<Status>,
        actor: Actor<'_>,
    ) -> Result<DeadLetter, DeadLetterError> {
        let letter =
            dead_letter_actions::resolve(&self.pool, id, status, &self.plan, actor).await?;
        if status.is_some() {
            // The client is to be notified.
            self.wake_workers();
        }
        Ok(letter)
    }

    /// Closes an open dead letter without doing anything about it
    /// ([`dead_letter_actions::discard`]).
    pub async fn discard_dead_letter(
        &self,
        id: Uuid,
        actor: Actor<'_>,
    ) -> Result<DeadLetter, DeadLetterError> {
        dead_letter_actions::discard(&self.pool, id, actor).await
    }
}
