// graphile-worker with its local queue and batched completion; the numbers are the best of some
// that were tried on two cores.

import { createRequire } from "node:module";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { databaseUrl, measure } from "./measure.js";

const { version } = createRequire(import.meta.url)("./node_modules/graphile-worker/package.json");
const TASK = "nothing";
const logger = new Logger(() => () => {});
const preset = {
  worker: {
    connectionString: databaseUrl,
    concurrentJobs: 100,
    maxPoolSize: 10,
    pollInterval: 2000,
    localQueue: { size: 2000 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};
let utils, runner;

await measure({
  name: "graphile-worker",
  version,
  tables: ["graphile_worker._private_jobs"],
  async prepare() {
    utils = await makeWorkerUtils({ connectionString: databaseUrl, logger });
    await utils.migrate();
  },
  async insert(jobs) {
    for (let from = 0; from < jobs; from += 5000) {
      const length = Math.min(5000, jobs - from);
      const specs = Array.from({ length }, (_, index) => ({
        identifier: TASK,
        payload: { number: from + index },
      }));
      await utils.addJobs(specs);
    }
  },
  async start(onJob) {
    const taskList = { [TASK]: ({ number }) => void onJob(number) };
    runner = await run({ preset, logger, taskList, noHandleSignals: true });
  },
  add: (number) => utils.addJob(TASK, { number }),
  async unfinished(database) {
    const { rows } = await database.query(
      "SELECT count(*)::int AS count FROM graphile_worker._private_jobs",
    );
    return rows[0].count;
  },
  stop: () => runner.stop(),
});
