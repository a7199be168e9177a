//! `quartet serve`: production.

use tokio_util::sync::CancellationToken;

use super::CliError;
use crate::{
    app::App,
    config::{Config, Role},
};

pub(super) async fn run(
    config: Config,
    role: Role,
    stop: CancellationToken,
) -> Result<(), CliError> {
    Ok(App::build(config, role).await?.run(stop).await?)
}
