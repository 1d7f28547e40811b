// The vendor's client against the stand-in: every endpoint that usage-sync uses passes the client's schema. A schema
// error is a rejected promise, so that each call is a test by itself; what is asserted besides is what the program reads.
import assert from "node:assert/strict";
import test from "node:test";
import { OpenRouter } from "@openrouter/sdk";

const account = JSON.parse(process.env.STANDIN);
const once = { retries: { strategy: "none" } };
const as = (apiKey) => new OpenRouter({ apiKey, serverURL: account.url });
const manager = as(account.managementKey);
const own = as(account.key);

// raw asks without the client, for what its schema drops.
const raw = async (path, key = account.managementKey, body) => {
  const response = await fetch(account.url + path, {
    method: body ? "POST" : "GET", headers: { authorization: `Bearer ${key}` }, body: body && JSON.stringify(body),
  });
  return { status: response.status, body: await response.json() };
};
const pages = async (iterator) => {
  const all = [];
  for await (const page of await iterator) all.push(...page.result.data);
  return all;
};
const refused = (status) => (error) => error.statusCode === status;

test("apiKeys.getCurrentKeyMetadata", async () => {
  const { data } = await own.apiKeys.getCurrentKeyMetadata({}, once);
  assert.equal(data.label, "sk-or-v1-5d5...d02");
  assert.equal(data.isManagementKey, false);
  assert.ok(data.usage > 0 && data.byokUsage > 0);
  assert.equal((await manager.apiKeys.getCurrentKeyMetadata({}, once)).data.isManagementKey, true);
});

test("apiKeys.list: a workspace at a time, the default one where none is named", async () => {
  const names = async (request) => (await manager.apiKeys.list(request, once)).data.map((key) => key.name);
  assert.deepEqual(await names({ includeDisabled: true }), ["Acme production"]);
  assert.deepEqual(await names({ workspaceId: account.workspace }), []);
  assert.deepEqual(await names({ workspaceId: account.workspace, includeDisabled: true }), ["Globex"]);
});

test("apiKeys.list: the client wants external_user, which the recordings of 31 July 2026 do not have", async () => {
  const { body } = await raw("/keys");
  assert.equal(Object.keys(body.data[0]).length, 21 + 1);
  assert.equal(body.data[0].external_user, null);
});

test("apiKeys.get", async () => {
  const { data } = await manager.apiKeys.get({ hash: account.hash }, once);
  assert.equal(data.hash, account.hash);
  assert.match(data.label, /^sk-or-v1-.{3}\.\.\..{3}$/);
  assert.ok(data.expiresAt instanceof Date);
  await assert.rejects(manager.apiKeys.get({ hash: "0".repeat(64) }, once), refused(404));
});

test("workspaces.list", async () => {
  const all = await pages(manager.workspaces.list({}, once));
  assert.deepEqual(all.map((workspace) => workspace.name), ["Default Workspace", "Resale"]);
  assert.deepEqual(await pages(manager.workspaces.list({ limit: 1 }, once)), all);
});

test("observability.list", async () => {
  const all = await pages(manager.observability.list({}, once));
  assert.deepEqual(all.map((destination) => destination.type), ["webhook", "webhook"]);
  assert.deepEqual(all.map((destination) => destination.apiKeyHashes), [[account.hash], null]);
  assert.deepEqual(all.map((destination) => destination.broadcastGenerationCost), [true, false]);
});

test("credits.getCredits", async () => {
  assert.ok((await manager.credits.getCredits({}, once)).data.totalUsage > 0);
});

for (const [kind, id] of Object.entries(account.ids)) {
  test(`generations.getGeneration of a ${kind}`, async () => {
    for (const client of [own, manager]) {
      const { data } = await client.generations.getGeneration({ id }, once);
      assert.equal(data.id, id);
      assert.equal(data.isByok, kind === "byok");
      assert.equal(Math.floor(Date.parse(data.createdAt) / 1000), Number(id.split("-")[1]));
    }
  });
}

test("generations.getGeneration of an unknown id, and with a disabled key", async () => {
  await assert.rejects(own.generations.getGeneration({ id: "gen-0" }, once), refused(404));
  await assert.rejects(as(account.otherKey).generations.getGeneration({ id: account.ids.plain }, once), refused(401));
});

test("analytics.getAnalyticsMeta", async () => {
  const { data } = await manager.analytics.getAnalyticsMeta({}, once);
  const has = (list, ...names) => names.forEach((name) => assert.ok(list.some((entry) => entry.name === name), name));
  has(data.metrics, "request_count", "tokens_total", "total_usage");
  has(data.dimensions, "generation_id", "external_user", "model", "api_key_id");
  has(data.granularities, "minute", "hour", "day");
  has(data.operators, "eq", "in");
});

test("analytics.getUserActivity", async () => {
  const { data } = await manager.analytics.getUserActivity({}, once);
  assert.ok(data.length > 0);
  assert.ok(data.some((row) => row.model !== row.modelPermaslug));
  const one = await manager.analytics.getUserActivity({ date: data[0].date.slice(0, 10), apiKeyHash: account.hash }, once);
  assert.ok(one.data.length > 0);
});

test("analytics.queryAnalytics", async () => {
  const { data } = await manager.analytics.queryAnalytics({
    requestBody: {
      metrics: ["request_count", "tokens_total", "total_usage"], dimensions: ["generation_id", "model"], granularity: "hour",
      filters: [{ field: "api_key_id", operator: "eq", value: account.hash }], limit: 10_000,
    },
  }, once);
  assert.equal(data.data.length, data.metadata.rowCount);
  assert.equal(data.metadata.truncated, false);
  assert.ok(data.data.length >= 5);
});

test("analytics.queryAnalytics: the client sends fractions of seconds, which one live client says are refused", async () => {
  const request = { requestBody: { metrics: ["total_usage"], timeRange: { start: new Date(Date.now() - 3_600_000), end: new Date() } } };
  await assert.rejects(manager.analytics.queryAnalytics(request, once), refused(400));
  const start = new Date(Date.now() - 3_600_000).toISOString().replace(/\.\d+/, "");
  const end = new Date().toISOString().replace(/\.\d+/, "");
  const { status } = await raw("/analytics/query", account.managementKey, { metrics: ["total_usage"], time_range: { start, end } });
  assert.equal(status, 200);
});

test("analytics.queryAnalytics: what rows hold is checked by nobody, and was seen", async () => {
  const { body } = await raw("/analytics/query", account.managementKey, {
    metrics: ["request_count", "tokens_total", "total_usage"], dimensions: ["generation_id", "model"], granularity: "hour" });
  const row = (kind) => body.data.data.find((row) => row.generation_id === account.ids[kind]);
  assert.match(row("plain").created_at__hour, /^\d{4}-\d\d-\d\d \d\d:00:00$/);
  assert.equal(row("plain").request_count, "1");
  assert.equal(row("plain").tokens_total, "1631");
  assert.equal(row("plain").total_usage, 0.06859);
  assert.equal(row("plain").model, "google/gemini-3.1-flash-image-preview-20260226");
  assert.equal(row("byok").total_usage, 0.0714);
  assert.equal(row("video").tokens_total, null);
  assert.equal(row("tool").request_count, "0");
});

test("analytics.queryAnalytics: an ordinary key is refused", async () => {
  await assert.rejects(own.analytics.queryAnalytics({ requestBody: { metrics: ["total_usage"] } }, once), refused(403));
});

test("analytics.queryAnalytics: of an unresolved hash there are warnings and no rows", async () => {
  const { data } = await manager.analytics.queryAnalytics({
    requestBody: { metrics: ["total_usage"], dimensions: ["generation_id"],
      filters: [{ field: "api_key_id", operator: "eq", value: "0".repeat(64) }] },
  }, once);
  assert.deepEqual(data.data, []);
  assert.equal(data.warnings.length, 1);
});

test("an unknown path is a page for people", async () => {
  const response = await fetch(account.url + "/generations", { headers: { authorization: `Bearer ${account.key}` } });
  assert.equal(response.status, 404);
  assert.match(response.headers.get("content-type"), /^text\/html/);
});
