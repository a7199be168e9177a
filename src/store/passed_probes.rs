//! The profiles with which a probe has passed, `passed_probes`.

use sqlx::PgExecutor;

use super::StoreError;

/// Records that the profile with this hash and name passed; `is_live`: with a transaction that was
/// created.
pub async fn record(
    executor: impl PgExecutor<'_>,
    profile_hash: &[u8; 32],
    profile: &str,
    is_live: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        INSERT INTO passed_probes (profile_hash, profile, is_live)
        VALUES ($1, $2, $3)
        ON CONFLICT (profile_hash) DO UPDATE
        SET passed_at = now(), is_live = passed_probes.is_live OR EXCLUDED.is_live
        "#,
        profile_hash,
        profile,
        is_live,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// The hashes, of these, of profiles that passed.
pub async fn passed(
    executor: impl PgExecutor<'_>,
    profile_hashes: &[[u8; 32]],
) -> Result<Vec<Vec<u8>>, StoreError> {
    let hashes: Vec<&[u8]> = profile_hashes.iter().map(|hash| &hash[..]).collect();
    let passed = sqlx::query_scalar!(
        "SELECT profile_hash FROM passed_probes WHERE profile_hash = ANY ($1)",
        &hashes as &[&[u8]],
    )
    .fetch_all(executor)
    .await?;
    Ok(passed)
}
