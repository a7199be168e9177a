// Uses openapi-fetch with the types that openapi-typescript makes: URL and API key are the arguments.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/schema.js";

const [url, key] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${key}` };
const client = createClient<paths>({ baseUrl: url, headers });

type NewTransaction = components["schemas"]["NewTransaction"];
const body: NewTransaction = {
  id: randomUUID(),
  amount: 1250,
  currency: "EUR",
  reference: "openapi-fetch",
  metadata: { order: "A-117" },
};

const posted = await client.POST("/v1/transactions", { body });
assert.equal(posted.response.status, 202);
assert.equal(posted.data?.status, "pending");

const replayed = await client.POST("/v1/transactions", { body });
assert.equal(replayed.response.status, 200);
assert.equal(replayed.data?.id, body.id);
assert.equal(replayed.response.headers.get("Idempotent-Replayed"), "true");

const conflict = await client.POST("/v1/transactions", { body: { ...body, amount: 1251 } });
assert.equal(conflict.response.status, 409);
assert.equal(conflict.error?.type, "/docs/errors#id-conflict");

const path = { id: body.id };
const ended = await client.GET("/v1/transactions/{id}", {
  params: { path, query: { wait_seconds: 30 } },
});
assert(ended.data && ended.data.status !== "pending");
assert.equal(ended.data.metadata?.order, "A-117");

const page = await client.GET("/v1/transactions", {
  params: { query: { status: ended.data.status, limit: 200 } },
});
assert(page.data?.items.some((transaction) => transaction.id === body.id));
const cursor: string | null | undefined = page.data?.next_cursor;
assert.notEqual(cursor, undefined);

const lonely = await client.POST("/v1/transactions", { body: { id: randomUUID(), amount: 1250 } });
assert.equal(lonely.response.status, 422);
assert.deepEqual(lonely.error?.errors?.map((error) => error.pointer), ["/currency"]);

const missing = await client.GET("/v1/transactions/{id}", { params: { path: { id: randomUUID() } } });
assert.equal(missing.error?.status, 404);

console.log(`posted, replayed, conflict, ${ended.data.status}, listed, 422, 404`);
