//! Looking whether a peer can be reached, without asking it for anything: one lookup of an id that
//! cannot exist, and a connection that is closed again.

use std::{io, net::SocketAddr, time::Duration};

use reqwest::header::LOCATION;
use tokio::net::TcpStream;
use url::{Host, Url};
use uuid::Uuid;

use super::{
    SetupError, answer, describe_failure, http_client, own_addresses::OwnAddresses,
    resolver::EgressGuard,
};
use crate::{
    config,
    domain::{EgressDenied, EgressPolicy},
};

/// What the third party answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// `answered 401: …`
    pub description: String,
}

/// Whether a base URL is one of this machine, so that what is there is a simulation.
pub fn is_this_machine(base_url: &str) -> bool {
    match Url::parse(base_url).ok().as_ref().and_then(Url::host) {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Looks up an id that was never used. `Err` is why there was no answer.
pub async fn look_up_nothing(
    third_party: &config::ThirdParty,
) -> Result<Result<Answer, String>, SetupError> {
    let http = http_client(third_party.lookup_timeout).build().map_err(SetupError)?;
    // New at each call: nobody can have created it.
    let url = third_party.lookup_url(&Uuid::new_v4().to_string()).unwrap_or_default();
    Ok(match http.get(url).send().await {
        Ok(response) => {
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
            let status = response.status().as_u16();
            Ok(Answer { status, location, description: answer::describe(response).await })
        }
        Err(error) => Err(describe_failure(&error)),
    })
}

/// Why a callback URL cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum CallbackProblem {
    #[error(transparent)]
    Denied(#[from] EgressDenied),
    #[error("has a name that is not resolved: {0}")]
    Name(io::Error),
    #[error("has a name without an address")]
    NoAddress,
    #[error("cannot be connected to: {0}")]
    Connect(io::Error),
    #[error("gives no answer within {} s", .0.as_secs())]
    Silent(Duration),
}

/// Judges a callback URL and the addresses of its name as a notification would, and connects.
pub async fn connect_to_callback(
    url: &Url,
    policy: &EgressPolicy,
    limit: Duration,
) -> Result<(), CallbackProblem> {
    let guard = EgressGuard::new(policy.clone(), OwnAddresses::default());
    guard.check_url(url)?;
    let port = url.port_or_known_default().ok_or(EgressDenied::Url)?;
    let connected = async {
        let addresses: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
            Some(Host::Domain(name)) => tokio::net::lookup_host((name, port))
                .await
                .map_err(CallbackProblem::Name)?
                .collect(),
            None => return Err(CallbackProblem::Denied(EgressDenied::Url)),
        };
        for address in &addresses {
            guard.check_address(address.ip())?;
        }
        if addresses.is_empty() {
            return Err(CallbackProblem::NoAddress);
        }
        TcpStream::connect(&addresses[..]).await.map_err(CallbackProblem::Connect)?;
        Ok::<_, CallbackProblem>(())
    };
    tokio::time::timeout(limit, connected).await.unwrap_or(Err(CallbackProblem::Silent(limit)))
}
