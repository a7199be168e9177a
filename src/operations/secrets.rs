//! Clients' signing secrets and the master keys: carrying over what an earlier release stored in
//! plain, sealing again after the master key was rotated, rotating a client's secret.
//!
//! A secret is replaced only where it is still what was read: any number of processes may do this
//! at once, and one that is cut off is simply run again. At the start each is a statement of its
//! own; what an operator has sealed again is one SQL transaction, with its audit.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{
    secrets::{MasterKeys, OpenError, SealState},
    signature::Secret,
    store::{
        Database, StoreError,
        audit::Actor,
        client_secrets::{self, StoredSecret},
    },
};

/// Why secrets could not be sealed or rotated.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not one of them: these keys belong to another database, or were mistyped.
    #[error(
        "the database holds {0} sealed signing secrets, and QUARTET_SECRETS__MASTER_KEY opens none \
         of them: it must hold the key that they were sealed with, beside a new one if need be"
    )]
    WrongKeys(usize),
    /// A secret that would be sealed now could not be read by the processes that run.
    #[error(
        "the first key of QUARTET_SECRETS__MASTER_KEY sealed none of the signing secrets that are \
         there: run `quartet secrets reseal` after it was added to all processes"
    )]
    NewKey,
    /// A secret that retires is kept sealed alone.
    #[error("an overlap needs QUARTET_SECRETS__MASTER_KEY, which seals the old signing secret")]
    OverlapWithoutKey,
}

/// How the stored secrets stand to the master keys.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seals {
    /// In plain, as an earlier release stored them.
    pub plain: usize,
    /// Sealed with the first key.
    pub current: usize,
    /// Sealed with a further key.
    pub older: usize,
    /// The clients of those that do not open, and why.
    pub unreadable: Vec<(String, OpenError)>,
}

impl Seals {
    fn count(keys: &MasterKeys, stored: &[StoredSecret]) -> Self {
        let mut seals = Self::default();
        for StoredSecret { client, signing_secret, .. } in stored {
            match keys.open(client, signing_secret) {
                Err(error) => seals.unreadable.push((client.clone(), error)),
                Ok(_) => match keys.state(signing_secret) {
                    SealState::Plain => seals.plain += 1,
                    SealState::Current => seals.current += 1,
                    // An unknown one does not open.
                    SealState::Older | SealState::Unknown => seals.older += 1,
                },
            }
        }
        seals
    }

    /// Fails where all that is sealed needs other keys.
    fn check(&self) -> Result<(), SecretsError> {
        let needs_other = |(_, error): &&(_, _)| matches!(error, OpenError::UnknownKey(_));
        let foreign = self.unreadable.iter().filter(needs_other).count();
        if foreign == 0 || self.current + self.older > 0 {
            return Ok(());
        }
        Err(SecretsError::WrongKeys(foreign))
    }
}

/// How the stored secrets stand; changes nothing.
pub async fn seals(pool: &Database, keys: &MasterKeys) -> Result<Seals, StoreError> {
    Ok(Seals::count(keys, &client_secrets::stored_secrets(pool).await?))
}

/// For the start of a process: seals what is stored in plain, and looks whether the rest opens, but
/// for the client `configured`, whose secret the configuration brings. What is sealed with a
/// further key is left: other processes may not have the first one yet.
pub async fn carry_over(
    pool: &Database,
    keys: &MasterKeys,
    configured: Option<&str>,
) -> Result<Seals, SecretsError> {
    client_secrets::remove_ended(pool).await?;
    let mut stored = client_secrets::stored_secrets(pool).await?;
    stored.retain(|stored| configured != Some(stored.client.as_str()));
    let seals = Seals::count(keys, &stored);
    // First, so that nothing is sealed with a key that does not belong here.
    seals.check()?;
    if !keys.is_empty() {
        seal_plain(pool, keys, &stored).await?;
    }
    Ok(seals)
}

/// Seals with the first key whatever is not sealed with it. Returns how many those were, and how
/// all of them stand now.
pub async fn reseal(
    pool: &Database,
    keys: &MasterKeys,
    actor: Actor<'_>,
) -> Result<(usize, Seals), SecretsError> {
    client_secrets::remove_ended(pool).await?;
    let stored = client_secrets::stored_secrets(pool).await?;
    Seals::count(keys, &stored).check()?;
    let again = sealed_again(keys, &stored, |state| state != SealState::Current);
    let sealed = client_secrets::reseal(pool, &again, actor).await?;
    Ok((sealed, seals(pool, keys).await?))
}

/// What was read, with the same secret sealed with the first key; without what does not open, which
/// the callers count and report.
fn sealed_again<'a>(
    keys: &MasterKeys,
    stored: &'a [StoredSecret],
    takes: impl Fn(SealState) -> bool,
) -> Vec<(&'a StoredSecret, String)> {
    let taken = stored.iter().filter(|read| takes(keys.state(&read.signing_secret)));
    let again = taken.filter_map(|read| {
        let secret = keys.open(&read.client, &read.signing_secret).ok()?;
        Some((read, keys.seal(&read.client, &secret)))
    });
    again.collect()
}

/// Seals what is stored in plain.
async fn seal_plain(
    pool: &Database,
    keys: &MasterKeys,
    stored: &[StoredSecret],
) -> Result<(), StoreError> {
    for (read, again) in sealed_again(keys, stored, |state| state == SealState::Plain) {
        client_secrets::replace(pool, read, &again).await?;
    }
    Ok(())
}

/// Whether a secret that is sealed now will be read by the processes that run: the first key must
/// be the one in use, as far as the database shows.
pub async fn check_sealing_key(pool: &Database, keys: &MasterKeys) -> Result<(), SecretsError> {
    let seals = seals(pool, keys).await?;
    seals.check()?;
    if seals.current == 0 && seals.older > 0 { Err(SecretsError::NewKey) } else { Ok(()) }
}

/// Gives the client of this name another signing secret; the old one signs as well for `overlap`.
/// `None` where there is no such client, else until when it does.
pub async fn rotate_secret(
    pool: &Database,
    keys: &MasterKeys,
    client: &str,
    secret: &Secret,
    overlap: Duration,
    actor: Actor<'_>,
) -> Result<Option<DateTime<Utc>>, SecretsError> {
    if keys.is_empty() && !overlap.is_zero() {
        return Err(SecretsError::OverlapWithoutKey);
    }
    check_sealing_key(pool, keys).await?;
    // A plain one would retire as it is.
    let mut stored = client_secrets::stored_secrets(pool).await?;
    stored.retain(|stored| stored.client == client);
    if !keys.is_empty() {
        seal_plain(pool, keys, &stored).await?;
    }
    let sealed = keys.seal(client, secret);
    Ok(client_secrets::rotate_secret(pool, client, &sealed, overlap, actor).await?)
}
