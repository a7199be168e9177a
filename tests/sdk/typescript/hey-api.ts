// Uses the client that @hey-api/openapi-ts makes: URL and API key are the arguments.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { client } from "./generated/hey-api/client.gen.js";
import * as quartet from "./generated/hey-api/index.js";

const [url, key] = process.argv.slice(2);
client.setConfig({ baseUrl: url, auth: () => key });

const body: quartet.NewTransaction = {
  id: randomUUID(),
  amount: 1250,
  currency: "EUR",
  reference: "hey-api",
  metadata: { order: "A-117" },
};

const posted = await quartet.createTransaction({ body });
assert.equal(posted.response?.status, 202);
assert.equal(posted.data?.status, "pending");

const replayed = await quartet.createTransaction({ body });
assert.equal(replayed.response?.status, 200);
assert.equal(replayed.response?.headers.get("Idempotent-Replayed"), "true");

const conflict = await quartet.createTransaction({ body: { ...body, amount: 1251 } });
assert.equal(conflict.response?.status, 409);
assert.equal(conflict.error?.type, "/docs/errors#id-conflict");

const path = { id: body.id };
const ended = await quartet.getTransaction({ path, query: { wait_seconds: 30 } });
assert(ended.data && ended.data.status !== "pending");

const page = await quartet.listTransactions({ query: { status: ended.data.status, limit: 200 } });
assert(page.data?.items.some((transaction) => transaction.id === body.id));

const lonely = await quartet.createTransaction({ body: { id: randomUUID(), amount: 1250 } });
assert.equal(lonely.response?.status, 422);
assert.deepEqual(lonely.error?.errors?.map((error) => error.pointer), ["/currency"]);

const missing = await quartet.getTransaction({ path: { id: randomUUID() } });
assert.equal(missing.error?.status, 404);

console.log(`posted, replayed, conflict, ${ended.data.status}, listed, 422, 404`);
