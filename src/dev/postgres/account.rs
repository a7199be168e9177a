//! The user that PostgreSQL runs as.
//!
//! `initdb` and `postgres` refuse root. A root process drops to `postgres`, else `nobody`; both
//! exist in `/etc/passwd`, which `initdb` insists on. Any other user runs them as itself.
//! The chosen user must be able to enter each folder on the way to the binaries and the data,
//! which is not so under `/root`: [`Account::can_enter`] finds that out
//! before PostgreSQL fails obscurely.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User};

use super::Error;

/// The unprivileged user that a root process runs PostgreSQL as.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// `None` when this process is not root and so runs PostgreSQL as itself.
    pub(super) fn for_server() -> Result<Option<Self>, Error> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).map_err(Error::Account)? {
                return Ok(Some(Self {
                    name: user.name,
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                }));
            }
        }
        Err(Error::NoAccount)
    }

    /// Whether the user may enter `dir`, going by the permission bits of it and its parents.
    pub fn can_enter(&self, dir: &Path) -> bool {
        dir.ancestors().all(|ancestor| {
            std::fs::metadata(ancestor).is_ok_and(|metadata| {
                let execute = if metadata.uid() == self.uid {
                    0o100
                } else if metadata.gid() == self.gid {
                    0o010
                } else {
                    0o001
                };
                metadata.mode() & execute != 0
            })
        })
    }
}
