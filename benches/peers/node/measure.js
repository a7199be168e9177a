// The same measurement for every queue: a drain of jobs that do nothing, and how soon an idle
// worker picks a job up. The queue itself is given as an adapter:
//
//   name, version
//   prepare()          creates the schema
//   insert(count)      inserts due jobs in bulk
//   start(onJob)       starts the worker; onJob(number) is called where a job's handler begins
//   add(number)        enqueues one job
//   unfinished()       how many jobs are not finished, by the database
//   tables             what to analyse before the drain
//   stop()

import pg from "pg";

const count = (name, otherwise) => Number(process.env[name] ?? otherwise);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const BOUND_MS = 60_000;

export const databaseUrl = process.env.DATABASE_URL;

async function until(what, condition) {
  const began = performance.now();
  while (!(await condition())) {
    if (performance.now() - began > BOUND_MS) throw new Error(`${what} took too long`);
    await sleep(1);
  }
}

function quantile(sorted, share) {
  const index = Math.max(Math.ceil(share * sorted.length) - 1, 0);
  return Number(sorted[index].toFixed(3));
}

function quantiles(prefix, waits) {
  const sorted = waits.toSorted((one, other) => one - other);
  const shares = [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]];
  return Object.fromEntries(
    shares.map(([name, share]) => [`${prefix}_${name}_ms`, quantile(sorted, share)]),
  );
}

async function drain(queue, database) {
  const jobs = count("DRAIN_JOBS", 20_000);
  await queue.insert(jobs);
  for (const table of queue.tables) await database.query(`VACUUM ANALYZE ${table}`);
  await database.query("CHECKPOINT");
  let ran = 0;
  const began = performance.now();
  await queue.start(() => (ran += 1));
  await until("the drain", async () => ran >= jobs && (await queue.unfinished(database)) === 0);
  const took = performance.now() - began;
  await queue.stop();
  return Math.round((jobs / took) * 1000);
}

async function pickUp(queue) {
  const jobs = count("PICK_UP_JOBS", 500);
  const period = 1000 / count("PICK_UP_RATE", 100);
  const started = new Map();
  await queue.start((number) => started.set(number, performance.now()));
  // One job to see that it is up.
  await queue.add(-1);
  await until("the first job", async () => started.has(-1));
  const enqueued = [];
  const began = performance.now();
  for (let number = 0; number < jobs; number += 1) {
    const wait = began + number * period - performance.now();
    if (wait > 0) await sleep(wait);
    const before = performance.now();
    await queue.add(number);
    enqueued.push([number, before, performance.now()]);
  }
  await until("picking up", async () => started.size === jobs + 1);
  await queue.stop();
  const since = (choose) =>
    enqueued.map((times) => Math.max(started.get(times[0]) - choose(times), 0));
  return {
    ...quantiles("pickup", since(([, , after]) => after)),
    ...quantiles("pickup_from_call", since(([, before]) => before)),
  };
}

export async function measure(queue) {
  const database = new pg.Client({ connectionString: databaseUrl });
  await database.connect();
  await queue.prepare();
  const rate = await drain(queue, database);
  const waits = await pickUp(queue);
  await database.end();
  const { name, version } = queue;
  console.log(JSON.stringify({ name, version, drain_jobs_per_s: rate, ...waits }));
  process.exit(0);
}
