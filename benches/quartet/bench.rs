//! What every section stands on: the options, the database server, and [`Run`].

use std::{cell::Cell, path::PathBuf, time::Duration};

use tokio::time::Instant;

use crate::{
    cell::Cell as PressureCell,
    database::{Database, Server, Work},
    error::BenchError,
    invariants,
    load::Load,
    section::{Section, Unit},
    serve::Serve,
    stubs::{Script, Stubs},
    usage::{self, Cpu},
    wait::wait_until,
};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Correctness alone, in short: no figure means anything.
    pub quick: bool,
    /// Also what takes long.
    pub full: bool,
    /// Also peers that take minutes to build.
    pub peers: bool,
    /// How often each figure is measured.
    pub repeats: usize,
}

/// Shared by all sections.
pub struct Bench {
    pub extent: Extent,
    pub server: Server,
    /// What is most, once measured.
    pub maximum: Cell<Option<Maximum>>,
    /// The cells of the section `pressure` that were asked for; none stands for all.
    pub pressure: Vec<PressureCell>,
    /// How long the load lasts in each; `None` where only correctness is looked at.
    pub pressure_lasts: Option<Duration>,
    /// How long the section `soak` lasts.
    pub soak_lasts: Duration,
}

/// Whole transactions, as fast as it goes, where the third party answers at once.
#[derive(Debug, Clone, Copy)]
pub struct Maximum {
    /// Transactions per second.
    pub rate: f64,
    /// CPU of Postgres, in microseconds per transaction.
    pub postgres_micros: f64,
}

impl Bench {
    /// `measured`, or `quick` where only correctness is looked at.
    pub fn pick<T>(&self, measured: T, quick: T) -> T {
        if self.extent.quick { quick } else { measured }
    }

    /// A new migrated database, stubs that follow `script`, and one `quartet serve` of this role.
    pub async fn run(
        &self,
        name: &str,
        script: impl Into<Script>,
        role: &str,
    ) -> Result<Run, BenchError> {
        let database = self.server.database(name).await?;
        self.run_on(database, script, role, &[]).await
    }

    /// The same on this database, with `settings` over the defaults.
    pub async fn run_on(
        &self,
        database: Database,
        script: impl Into<Script>,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Result<Run, BenchError> {
        let stubs = Stubs::start(script.into()).await?;
        let serve = Serve::start(&database, &stubs, role, settings).await?;
        Ok(Run { postmaster: self.server.postmaster, database, stubs, serves: vec![serve] })
    }
}

/// A database, the stubs, and the processes of Quartet on them. Figures go through the first.
pub struct Run {
    pub postmaster: u32,
    pub database: Database,
    pub stubs: Stubs,
    pub serves: Vec<Serve>,
}

/// The readings at the begin of a measurement.
pub struct Began {
    at: Instant,
    cpu: Cpu,
    work: Work,
    /// How many ends the client had heard.
    told: usize,
    refusals: usize,
}

/// What a measurement of whole transactions found.
pub struct Measured {
    pub elapsed: Duration,
    pub told: usize,
    /// Posts that were answered 503.
    pub refusals: usize,
    pub cpu: Cpu,
    pub work: Work,
    pub peak_memory_mb: f64,
}

impl Run {
    /// Starts another process of Quartet.
    pub async fn add(&mut self, role: &str) -> Result<(), BenchError> {
        let serve = Serve::start(&self.database, &self.stubs, role, &[]).await?;
        self.stubs.webhooks_to(self.serves[0].address());
        self.serves.push(serve);
        Ok(())
    }

    /// Load on the first process.
    pub fn load(&self) -> Load {
        Load {
            address: self.serves[0].address(),
            ledger: self.stubs.ledger.clone(),
            third_party: None,
        }
    }

    fn cpu(&self) -> Result<Cpu, BenchError> {
        let mut quartet = 0.0;
        for serve in &self.serves {
            quartet += serve.cpu()?;
        }
        let postgres = usage::of_postgres(self.postmaster)?;
        Ok(Cpu { quartet, postgres, bench: usage::of_self()? })
    }

    /// Begins a measurement.
    pub async fn begin(&mut self) -> Result<Began, BenchError> {
        self.database.checkpoint().await?;
        self.reset_peak_memory()?;
        let (_, told) = self.stubs.ledger.counts();
        let refusals = self.stubs.ledger.refusals();
        let (work, cpu) = (self.database.work().await?, self.cpu()?);
        Ok(Began { at: Instant::now(), cpu, work, told, refusals })
    }

    /// Ends a measurement now.
    pub async fn end(&mut self, began: &Began) -> Result<Measured, BenchError> {
        let elapsed = began.at.elapsed();
        let cpu = self.cpu()?.since(began.cpu);
        let work = self.database.work().await?.since(began.work);
        let peak_memory_mb = self.peak_memory_mb()?;
        let (_, told) = self.stubs.ledger.counts();
        let refusals = self.stubs.ledger.refusals() - began.refusals;
        let told = told - began.told;
        Ok(Measured { elapsed, told, refusals, cpu, work, peak_memory_mb })
    }

    /// Peak resident memory of Quartet since this was last asked, or the measurement began.
    pub fn take_peak_memory_mb(&self) -> Result<f64, BenchError> {
        let peak = self.peak_memory_mb()?;
        self.reset_peak_memory()?;
        Ok(peak)
    }

    fn peak_memory_mb(&self) -> Result<f64, BenchError> {
        self.serves.iter().map(Serve::peak_memory_mb).sum()
    }

    fn reset_peak_memory(&self) -> Result<(), BenchError> {
        self.serves.iter().try_for_each(Serve::reset_peak_memory)
    }

    /// Waits until the client has heard the end of everything that was accepted.
    pub async fn wait_told(&self, bound: Duration) -> Result<(), BenchError> {
        let ledger = &self.stubs.ledger;
        wait_until("the client hears the end of every transaction", bound, async || {
            let (accepted, told) = ledger.counts();
            Ok(told >= accepted)
        })
        .await
    }

    /// The directory of the database server's programs.
    pub fn server_programs(&self) -> Result<PathBuf, BenchError> {
        usage::program_directory(self.postmaster)
    }

    /// Waits until no job runs or waits, and checks every invariant on what is left.
    pub async fn check(&mut self, section: &mut Section) -> Result<(), BenchError> {
        invariants::wait_at_rest(&self.database).await?;
        let violations = invariants::check_ended(&self.database, &self.stubs.ledger).await?;
        section.violations.extend(violations);
        Ok(())
    }

    /// Ends everything in good order.
    pub async fn stop(self) -> Result<(), BenchError> {
        for serve in self.serves {
            serve.stop().await?;
        }
        self.database.discard().await
    }
}

impl Measured {
    /// Ended transactions per second.
    pub fn rate(&self) -> f64 {
        self.told as f64 / self.elapsed.as_secs_f64()
    }

    /// Samples of CPU, memory, and the database's work per transaction.
    pub fn sample_cost(&self, section: &mut Section, name: &str) {
        self.cpu.sample_each(section, name, self.told);
        let memory = format!("{name}: peak memory of Quartet");
        section.sample(&memory, Unit::Megabytes, self.peak_memory_mb);
        self.work.sample_each(section, name, self.told);
    }
}
