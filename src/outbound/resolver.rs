//! Names in callback URLs: looked up, every address judged, and only then connected to.
//!
//! The HTTP client connects to exactly the addresses that it gets from here, so that a name cannot
//! be one thing when it is judged and another when it is called (DNS rebinding). Addresses in URLs
//! are not looked up: [`EgressGuard::check_url`] judges those.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::{cause_in, names::Names, own_addresses::OwnAddresses};
use crate::domain::{EgressDenied, EgressPolicy};

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

/// The policy, and what only the machine itself knows.
#[derive(Debug, Clone)]
pub(super) struct EgressGuard {
    policy: Arc<EgressPolicy>,
    own: OwnAddresses,
}

impl EgressGuard {
    pub(super) fn new(policy: EgressPolicy, own: OwnAddresses) -> Self {
        Self { policy: Arc::new(policy), own }
    }

    /// Judges what can be judged of a URL before its name is resolved.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), EgressDenied> {
        self.policy.check_url(url)?;
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_own(address.into()),
            Some(Host::Ipv6(address)) => self.check_own(address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    /// Judges an address that a name resolved to.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<(), EgressDenied> {
        self.policy.check_address(address)?;
        self.check_own(address)
    }

    fn check_own(&self, address: IpAddr) -> Result<(), EgressDenied> {
        self.policy.check_own(address, &self.own.current())
    }
}

/// Gives out addresses that may be connected to, or none.
pub(super) struct GuardedResolver {
    guard: EgressGuard,
    lookup: Lookup,
}

impl GuardedResolver {
    pub(super) fn new(guard: EgressGuard, lookup: Lookup) -> Self {
        Self { guard, lookup }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, found) = (self.guard.clone(), (self.lookup)(name.as_str().to_owned()));
        Box::pin(async move {
            let addresses = found.await?;
            // One inside is enough: a name that leads to both is a mistake or an attack.
            for address in &addresses {
                guard.check_address(address.ip())?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The refusal that a failed call is due to, if it is.
pub(super) fn refusal_in(error: &reqwest::Error) -> Option<EgressDenied> {
    cause_in(error).cloned()
}
