//! A disk that is soon full: a small file system in memory.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{Uid, User};
use tempfile::TempDir;

/// Names an empty directory on a small file system that this user may write in, where the tests
/// may not mount one.
const VARIABLE: &str = "QUARTET_TEST_SMALL_DISK";
const SIZE: &str = "size=48m,mode=0700";

/// Unmounted when dropped; the server that uses it must be stopped before.
pub struct SmallDisk {
    path: PathBuf,
    mounted: Option<TempDir>,
}

impl SmallDisk {
    /// Mounts one, which takes root.
    pub fn mount() -> Self {
        if let Some(path) = std::env::var_os(VARIABLE) {
            return Self { path: path.into(), mounted: None };
        }
        assert!(
            Uid::effective().is_root(),
            "this test fills a disk: run it as root, which may mount a small one, or mount one \
             (`sudo mount -t tmpfs -o {SIZE},uid=$UID tmpfs DIRECTORY`) and name it in {VARIABLE}"
        );
        let directory = tempfile::Builder::new().prefix("quartet-small-disk").tempdir().unwrap();
        let path = directory.path().to_owned();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&path);
        assert!(mount.status().unwrap().success(), "a tmpfs cannot be mounted");
        // Postgres does not run as root.
        let user = |name| User::from_name(name).unwrap();
        let user = user("postgres").or_else(|| user("nobody")).expect("a user that is not root");
        chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        Self { path, mounted: Some(directory) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        for size in [1024 * 1024, 4096, 1] {
            let block = vec![1; size];
            loop {
                match file.write(&block) {
                    Ok(1..) => {}
                    Ok(0) => break,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("the disk cannot be filled: {error}"),
                }
            }
        }
    }

    /// Somebody makes room.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.mounted.is_some() {
            let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                eprintln!("{} is still mounted", self.path.display());
            }
        }
    }
}
