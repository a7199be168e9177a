//! The connections to a third party, with its client certificate where its profile names one.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::Identity;

use crate::{
    config::{self, ThirdPartyProfile},
    outbound::{
        SetupError, name_limit,
        names::Names,
        reuse::Trust,
        sender::{CREATE_IDLE_TIMEOUT, IDLE_TIMEOUT, Sender},
    },
    profiles::{SecretText, Values},
    telemetry::{Metrics, labels::CalledPeer},
};

/// What sends calls, with one client certificate.
#[derive(Debug)]
pub(super) struct Senders {
    /// Creates may fill the connections that they use, so that lookups have their own.
    pub creates: Sender,
    pub lookups: Sender,
    /// Tokens may come from another host.
    pub tokens: Sender,
    certificate: Option<[SecretText; 2]>,
}

/// The present senders. They are made again when the certificate changes.
pub(super) struct Connections {
    settings: config::ThirdParty,
    names: Names,
    profile: ThirdPartyProfile,
    metrics: Mutex<Option<Arc<Metrics>>>,
    present: Mutex<Present>,
}

#[derive(Debug)]
struct Present {
    senders: Arc<Senders>,
    /// The values that were looked at last.
    seen: Arc<Values>,
}

impl Connections {
    pub fn new(
        settings: &config::ThirdParty,
        dns: &config::Dns,
        profile: &ThirdPartyProfile,
    ) -> Result<Self, SetupError> {
        let names = Names::new(dns, name_limit(settings.timeout));
        let seen = profile.values.get();
        let senders = Arc::new(senders(settings, &names, profile, &seen, None)?);
        Ok(Self {
            settings: settings.clone(),
            names,
            profile: profile.clone(),
            metrics: Mutex::default(),
            present: Mutex::new(Present { senders, seen }),
        })
    }

    pub fn set_metrics(&self, metrics: Arc<Metrics>) {
        *self.metrics.lock().unwrap_or_else(PoisonError::into_inner) = Some(metrics);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = present.seen.clone();
        self.renew(&mut present, &seen);
    }

    /// What sends calls with these values.
    pub fn with(&self, values: &Arc<Values>) -> Arc<Senders> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&present.seen, values) {
            let certificate = self.profile.profile.client_certificate(values).ok().flatten();
            if certificate != present.senders.certificate && self.renew(&mut present, values) {
                tracing::info!("the third party's client certificate was renewed");
            }
            present.seen = values.clone();
        }
        present.senders.clone()
    }

    /// Makes the senders again; those that are there stay where that fails.
    fn renew(&self, present: &mut Present, values: &Arc<Values>) -> bool {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match senders(&self.settings, &self.names, &self.profile, values, metrics) {
            Ok(senders) => {
                present.senders = Arc::new(senders);
                true
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the new client certificate cannot be used; the old one stays"
                );
                false
            }
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("present", &self.present).finish_non_exhaustive()
    }
}

fn senders(
    settings: &config::ThirdParty,
    names: &Names,
    profile: &ThirdPartyProfile,
    values: &Values,
    metrics: Option<Arc<Metrics>>,
) -> Result<Senders, SetupError> {
    // Without its secrets the configuration would not have loaded.
    let certificate = profile.profile.client_certificate(values).ok().flatten();
    let identity = match &certificate {
        Some([certificate, key]) => {
            let pem = [certificate.expose(), "\n", key.expose()].concat();
            Some(Identity::from_pem(pem.as_bytes()).map_err(SetupError)?)
        }
        None => None,
    };
    // What lookups say about the third party's connections is true of its creates as well.
    let trust = Trust::default();
    let sender = |timeout, idle_timeout, trust: &Trust| {
        let configure = |http: reqwest::ClientBuilder| {
            let http = http.dns_resolver(names.clone());
            match &identity {
                Some(identity) => http.identity(identity.clone()),
                None => http,
            }
        };
        let sender =
            Sender::new(CalledPeer::ThirdParty, timeout, idle_timeout, trust.clone(), configure)?;
        Ok::<_, SetupError>(match &metrics {
            Some(metrics) => sender.with_metrics(metrics.clone()),
            None => sender,
        })
    };
    Ok(Senders {
        creates: sender(settings.timeout, CREATE_IDLE_TIMEOUT, &trust)?,
        lookups: sender(settings.lookup_timeout, IDLE_TIMEOUT, &trust)?,
        tokens: sender(settings.lookup_timeout, IDLE_TIMEOUT, &Trust::default())?,
        certificate,
    })
}
