//! The cells of the section `pressure`: what ordinary life does to a database.

use std::str::FromStr;

/// What is there beside the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    Nothing,
    /// A transaction that has read and stays open, as that of a report or a dump.
    Snapshot,
    /// A session that has written and idles in its transaction: its transaction id holds vacuum
    /// back.
    IdleWriter,
    /// `pg_dump` of this database, one after another.
    Dump,
    /// Sessions that read whole tables without a pause.
    Readers,
    /// The slot of a standby with `hot_standby_feedback` that was stopped and forgotten: what it
    /// last reported holds vacuum back, in all databases. (A logical slot holds back the catalogs
    /// alone.)
    AbandonedSlot,
}

impl Cell {
    pub const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Snapshot,
        Self::IdleWriter,
        Self::Dump,
        Self::Readers,
        Self::AbandonedSlot,
    ];

    /// The letter that `--cells` takes.
    pub fn letter(self) -> char {
        match self {
            Self::Nothing => 'a',
            Self::Snapshot => 'b',
            Self::IdleWriter => 'c',
            Self::Dump => 'd',
            Self::Readers => 'e',
            Self::AbandonedSlot => 'f',
        }
    }

    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Snapshot => "a snapshot held",
            Self::IdleWriter => "an idle transaction that wrote",
            Self::Dump => "pg_dump in a loop",
            Self::Readers => "four sessions that read",
            Self::AbandonedSlot => "an abandoned standby's slot",
        }
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|cell| text.eq(&cell.letter().to_string()));
        known.ok_or_else(|| format!("there is no cell {text:?}: a to f"))
    }
}
