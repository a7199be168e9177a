//! Connections are open files, whose number is limited for a process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of files that the process may open, as far as it may and needs to, and returns
/// how many connections it can then have: `most`, or half of the files. The other half is for the
/// database, the third party and the clients.
pub(super) fn connections(most: usize) -> usize {
    let needed = 2 * most as u64;
    // Where there is no limit to be read, none is known of.
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return most };
    let wanted = needed.min(hard);
    let files = match soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() {
        true => wanted,
        false => soft,
    };
    if files >= needed {
        return most;
    }
    let connections = usize::try_from(files / 2).unwrap_or(most).max(1);
    tracing::warn!(
        files,
        connections,
        configured = most,
        "fewer connections are taken than configured: the process may not open enough files"
    );
    connections
}
