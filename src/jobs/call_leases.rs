//! Leases of calls for the budgets of third parties: what `outbound` asks for and `store` has.

use std::sync::Arc;

use crate::{
    domain::{BootInstant, ThirdPartyName, with_causes},
    outbound::{CallsLeased, CallsWanted, LeaseCalls},
    store::{
        Database, StoreError,
        call_budgets::{self, LeaseTerms, LeasedTimes},
    },
};

/// Leases the calls of this third party in this database.
pub fn call_leases(pool: &Database, name: &ThirdPartyName) -> LeaseCalls {
    let (pool, name) = (pool.clone(), name.clone());
    Arc::new(move |wanted| {
        let (pool, name) = (pool.clone(), name.clone());
        Box::pin(
            async move { lease(&pool, &name, wanted).await.map_err(|error| with_causes(&error)) },
        )
    })
}

async fn lease(
    pool: &Database,
    name: &ThirdPartyName,
    wanted: CallsWanted,
) -> Result<CallsLeased, StoreError> {
    let CallsWanted { rate, all, near, next, far } = wanted;
    let terms = LeaseTerms { rate, all, near, next, far };
    loop {
        let asked = BootInstant::now();
        let leased = call_budgets::lease(pool, name, &terms).await?;
        let answered = BootInstant::now();
        match leased {
            Some(LeasedTimes { now, start, count }) => {
                return Ok(CallsLeased { asked, answered, database_now: now, start, count });
            }
            // The caller bounds this: it ends when the row is there.
            None => call_budgets::add(pool, name).await?,
        }
    }
}
