//! Signing an operator out of the console.

use chrono::{DateTime, Utc};

use super::Operations;
use crate::store::{StoreError, console_sessions};

impl Operations {
    /// Ends a session of the console for every process and every copy of its cookie. Signing in and
    /// out changes no money and no setting, and is not in the audit.
    pub async fn end_console_session(
        &self,
        session: &[u8; 32],
        expires_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        console_sessions::sign_out(&self.pool, session, expires_at).await
    }
}
