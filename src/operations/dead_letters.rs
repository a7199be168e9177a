//! Replaying, resolving and discarding one dead letter.

use uuid::Uuid;

use super::Operations;
use crate::{
    domain::Status,
    store::{
        audit::Actor,
        dead_letter_actions::{self, DeadLetterError},
        dead_letters::DeadLetter,
    },
};

impl Operations {
    /// Replays an open dead letter ([`dead_letter_actions::replay`]).
    pub async fn replay_dead_letter(
        &self,
        id: Uuid,
        actor: Actor<'_>,
    ) -> Result<DeadLetter, DeadLetterError> {
        let letter = dead_letter_actions::replay(&self.pool, id, &self.plan, actor).await?;
        self.wake_workers();
        Ok(letter)
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
