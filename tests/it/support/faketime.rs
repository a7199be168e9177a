//! A wrong clock for one process, by the library of `faketime`, which is loaded into it.

use std::{fs, path::PathBuf};

/// Folders that hold the library, or a folder for each machine type that does.
const FOLDERS: [&str; 5] =
    ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib", "/usr/local/opt"];
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The library, where it is installed.
pub fn library() -> Option<PathBuf> {
    FOLDERS.iter().find_map(|folder| {
        let folder = PathBuf::from(folder);
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        let below = below.map(|entry| entry.path().join(LIBRARY));
        std::iter::once(folder.join(LIBRARY)).chain(below).find(|library| library.exists())
    })
}

/// The environment of a process whose wall clock is this far off, such as `+20m`. Its other clocks
/// are right.
pub fn environment(library: PathBuf, offset: &str) -> [(&'static str, String); 3] {
    [
        ("LD_PRELOAD", library.to_str().unwrap().to_owned()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}
