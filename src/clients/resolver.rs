//! Names in callback URLs: looked up, every address judged, and only then connected to.
//!
//! The HTTP client connects to exactly the addresses that it gets from here, so that a name cannot
//! be one thing when it is judged and another when it is called (DNS rebinding). Addresses in URLs
//! are not looked up: [`EgressPolicy::check_url`] judges those.

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{cause_in, names::Names};
use crate::domain::{EgressPolicy, EgressRefusal};

/// Looks a name up.
pub(super) type Lookup =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Looks names up as `names` does.
pub(super) fn lookup_in(names: Names) -> Lookup {
    Arc::new(move |name| {
        let names = names.clone();
        Box::pin(async move { Ok(names.look_up(name).await?) })
    })
}

/// Gives out addresses that may be connected to, or none.
pub(super) struct GuardedResolver {
    policy: Arc<EgressPolicy>,
    lookup: Lookup,
}

impl GuardedResolver {
    pub(super) fn new(policy: Arc<EgressPolicy>, lookup: Lookup) -> Self {
        Self { policy, lookup }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, found) = (self.policy.clone(), (self.lookup)(name.as_str().to_owned()));
        Box::pin(async move {
            let addresses = found.await?;
            // One inside is enough: a name that leads to both is a mistake or an attack.
            for address in &addresses {
                policy.check_address(address.ip())?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The refusal that a failed call is due to, if it is.
pub(super) fn refusal_in(error: &reqwest::Error) -> Option<EgressRefusal> {
    cause_in(error).cloned()
}
