//! What runs by the clock.
//!
//! [`scheduler`] runs the periodic tasks of a worker process, each in one process at a time:
//! [`reconcile`] looks up what is open, [`retention`] removes what has ended. The command line runs
//! the first one on demand, under the same lease. A crash leaves a lease, which ends by itself, and
//! whatever was committed: each step is one SQL transaction, and may be done again.
//! [`minute_figures`] writes what every process counted in a minute.

pub mod minute_figures;
pub mod reconcile;
pub mod retention;
pub mod run;
pub mod scheduler;
