// pg-boss with batches, woken by NOTIFY; the numbers are the best of some that were tried on two
// cores.

import { createRequire } from "node:module";
import { PgBoss } from "pg-boss";
import { databaseUrl, measure } from "./measure.js";

const { version } = createRequire(import.meta.url)("./node_modules/pg-boss/package.json");
const QUEUE = "nothing";
const boss = new PgBoss({
  connectionString: databaseUrl,
  useListenNotify: true,
  supervise: false,
  schedule: false,
  max: 10,
});
boss.on("error", (error) => console.error(error));

await measure({
  name: "pg-boss",
  version,
  tables: ["pgboss.job"],
  async prepare() {
    await boss.start();
    await boss.createQueue(QUEUE, { notify: true });
  },
  async insert(jobs) {
    for (let from = 0; from < jobs; from += 5000) {
      const length = Math.min(5000, jobs - from);
      await boss.insert(
        QUEUE,
        Array.from({ length }, (_, index) => ({ data: { number: from + index } })),
      );
    }
  },
  async start(onJob) {
    const options = {
      batchSize: 500,
      localConcurrency: 4,
      burstWhenBatchFull: true,
      pollingIntervalSeconds: 0.5,
    };
    await boss.work(QUEUE, options, async (jobs) => {
      for (const job of jobs) onJob(job.data.number);
    });
  },
  add: (number) => boss.send(QUEUE, { number }),
  async unfinished(database) {
    const { rows } = await database.query(
      "SELECT count(*)::int AS count FROM pgboss.job WHERE name = $1 AND state < 'completed'",
      [QUEUE],
    );
    return rows[0].count;
  },
  stop: () => boss.offWork(QUEUE, { wait: true }),
});
