//! Events of webhooks that were received before, compared with their transaction: nothing is asked.

use uuid::Uuid;

use super::ProfileClient;
use crate::{
    domain::{DatabaseClock, Subject},
    profiles::{Values, webhook::Claim},
};

impl ProfileClient {
    /// Why an event is not about this transaction; `None`: it may be.
    pub(in crate::outbound) fn contradiction(
        &self,
        id: Uuid,
        subject: &Subject,
        provider_id: Option<&str>,
        claims: &[Claim],
        clock: &DatabaseClock,
    ) -> Option<String> {
        // Nothing that is compared has a secret or a variable in it.
        let values = Values::default();
        let inputs = self.inputs(id, subject, &values, clock);
        self.profile.contradiction(&inputs, provider_id, claims)
    }
}
