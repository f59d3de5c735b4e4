// progress.js with an EventSource, a clock and a server of the test's own: node --test tests/web/*.test.mjs

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { beforeEach, test } from "node:test";

import * as progress from "../../celery_progress_ext/static/progress.js";

const { fetchJson, followJob, followMatter } = progress;

let sources, timers, listeners, answers, asked;

class FakeEventSource {
  static CLOSED = 2;

  constructor(url) {
    this.url = url;
    this.readyState = 0;
    this.listeners = {};
    sources.push(this);
  }

  addEventListener(name, listener) {
    this.listeners[name] = listener;
  }

  close() {
    this.readyState = FakeEventSource.CLOSED;
  }

  /** An event; a browser delivers none once the source is closed. */
  send(name, snapshot) {
    if (this.readyState !== FakeEventSource.CLOSED) this.listeners[name]({ data: JSON.stringify(snapshot) });
  }

  /** As a browser that gives up: any status but 200. */
  giveUp() {
    this.readyState = FakeEventSource.CLOSED;
    this.onerror();
  }

  /** As a browser that connects again by itself. */
  drop() {
    this.onerror();
  }
}

beforeEach(() => {
  [sources, timers, listeners, answers, asked] = [[], [], {}, [], []];
  globalThis.EventSource = FakeEventSource;
  globalThis.setTimeout = (run, ms) => timers.push({ run, ms });
  globalThis.clearTimeout = () => {};
  globalThis.setInterval = (run) => (globalThis.watchdog = run);
  globalThis.clearInterval = () => {};
  globalThis.addEventListener = (name, listener) => (listeners[name] = listener);
  globalThis.removeEventListener = (name) => delete listeners[name];
  globalThis.fetch = async (url) => {
    asked.push(url);
    const [status, body] = answers.shift();
    return { ok: status === 200, status, json: async () => body };
  };
});

const snapshot = (version, status = "PROCESSING", job_id = "job_1") => ({ job_id, version, status });

/** Follow, and keep what the callbacks were called with. */
function recorded(follow, url, options = {}) {
  const seen = { versions: [], ends: [], errors: [], states: [] };
  seen.connection = follow(url, {
    ...options,
    onSnapshot: (each) => seen.versions.push(each.version),
    onEnd: (each) => seen.ends.push(each.status),
    onError: (error) => seen.errors.push(error.status),
    onState: (state) => seen.states.push(state),
  });
  return seen;
}

/** Let promises that are settled go on. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

test("an older or repeated snapshot is not shown, a heartbeat of the same version is", () => {
  const seen = recorded(followJob, "/api/jobs/job_1/events");
  for (const version of [3, 2, 3, 4]) sources[0].send("progress", snapshot(version));
  sources[0].send("heartbeat", snapshot(4));
  assert.deepEqual(seen.versions, [3, 4, 4]);
});

test("a terminal snapshot ends a job's stream", () => {
  const seen = recorded(followJob, "/api/jobs/job_1/events");
  sources[0].send("completed", snapshot(5, "COMPLETED"));
  assert.deepEqual([seen.versions, seen.ends], [[5], ["COMPLETED"]]);
  assert.equal(sources[0].readyState, FakeEventSource.CLOSED);
  assert.equal(seen.states.at(-1), "closed");
  assert.deepEqual(Object.keys(listeners), []);
});

test("a dropped connection is left to EventSource, which reconnects by itself", () => {
  const seen = recorded(followJob, "/api/jobs/job_1/events");
  sources[0].onopen();
  sources[0].drop();
  assert.deepEqual(seen.states, ["connecting", "live", "reconnecting"]);
  assert.equal(timers.length, 0);
});

test("where EventSource gives up, the snapshot is fetched and the stream opened again", async () => {
  const seen = recorded(followJob, "/api/jobs/job_1/events?x=1");
  sources[0].giveUp();
  answers.push([200, snapshot(7)]);
  timers[0].run();
  await settled();
  assert.deepEqual([asked, seen.versions, sources.length], [["/api/jobs/job_1?x=1"], [7], 2]);
});

test("a job that ended meanwhile is shown as ended, and no stream is opened again", async () => {
  const seen = recorded(followJob, "/api/jobs/job_1/events");
  sources[0].giveUp();
  answers.push([200, snapshot(9, "PARTIAL")]);
  timers[0].run();
  await settled();
  assert.deepEqual([seen.ends, sources.length], [["PARTIAL"], 1]);
});

test("a server that is away is asked again after growing pauses", async () => {
  recorded(followJob, "/api/jobs/job_1/events");
  sources[0].giveUp();
  for (let turn = 0; turn < 8; turn++) {
    answers.push([503, null]);
    timers.at(-1).run();
    await settled();
  }
  // Each pause is spread over half to one and a half of its length, which doubles up to 30 s.
  const expected = [1, 2, 4, 8, 16, 30, 30, 30, 30].map((seconds) => seconds * 1000);
  assert.equal(timers.length, expected.length);
  timers.forEach(({ ms }, turn) => assert.ok(ms >= expected[turn] / 2 && ms <= expected[turn] * 1.5, `${turn}: ${ms}`));
});

for (const status of [400, 401, 403, 410]) {
  test(`${status} is final: the error is passed on and nothing is asked again`, async () => {
    const seen = recorded(followJob, "/api/jobs/job_1/events");
    sources[0].giveUp();
    answers.push([status, { detail: "No." }]);
    timers[0].run();
    await settled();
    assert.deepEqual([seen.errors, seen.states.at(-1), timers.length], [[status], "closed", 1]);
  });
}

test("a job that is not there yet is waited for, and not for longer than it may take to come", async () => {
  const now = Date.now;
  try {
    const seen = recorded(followJob, "/api/jobs/job_1/events");
    sources[0].giveUp();
    answers.push([404, { detail: "No such job." }], [200, snapshot(1)]);
    timers[0].run();
    await settled();
    assert.deepEqual([seen.errors, seen.states.at(-1)], [[], "connecting"]);
    timers[1].run();
    await settled();
    assert.deepEqual([seen.versions, sources.length], [[1], 2]);
    // It was there: a 404 is final now.
    sources[1].giveUp();
    answers.push([404, { detail: "It was removed." }]);
    timers[2].run();
    await settled();
    assert.deepEqual(seen.errors, [404]);

    const late = recorded(followJob, "/api/jobs/job_2/events");
    Date.now = () => now() + 61_000;
    sources[2].giveUp();
    answers.push([404, { detail: "No such job." }]);
    timers[3].run();
    await settled();
    assert.deepEqual(late.errors, [404]);
  } finally {
    Date.now = now;
  }
});

test("a bad gateway is waited out", async () => {
  const seen = recorded(followJob, "/api/jobs/job_1/events");
  sources[0].giveUp();
  answers.push([502, null], [200, snapshot(2)]);
  timers[0].run();
  await settled();
  timers[1].run();
  await settled();
  assert.deepEqual([seen.errors, seen.versions, sources.length], [[], [2], 2]);
});

test("a token is sent with every request, and a new one is asked for when it is refused", async () => {
  let made = 0;
  const refresh = async () => `new ${++made}`;
  const seen = recorded(followJob, "/api/jobs/job_1/events", { token: "old", refresh });
  assert.equal(sources[0].url, "/api/jobs/job_1/events?token=old");
  // The server ends the stream: with a hook, EventSource is not left to try the same token again.
  sources[0].onopen();
  sources[0].drop();
  assert.equal(sources[0].readyState, FakeEventSource.CLOSED);
  answers.push([401, { detail: "It has expired." }], [200, snapshot(3)]);
  timers[0].run();
  await settled();
  timers[1].run();
  await settled();
  assert.deepEqual(asked, ["/api/jobs/job_1?token=old", "/api/jobs/job_1?token=new%201"]);
  assert.equal(sources[1].url, "/api/jobs/job_1/events?token=new%201");
  assert.deepEqual([seen.versions, seen.errors], [[3], []]);
});

test("tokens that are refused again and again end in the error, and so does a refusal of new ones", async () => {
  const seen = recorded(followJob, "/api/jobs/job_1/events", { token: "old", refresh: () => "no better" });
  sources[0].giveUp();
  for (let turn = 0; turn < 5; turn++) {
    answers.push([401, { detail: "Not valid here." }]);
    timers.at(-1).run();
    await settled();
  }
  assert.deepEqual([seen.errors, seen.states.at(-1)], [[401], "closed"]);

  const refused = Object.assign(new Error("Signed out."), { status: 403 });
  const other = recorded(followJob, "/api/jobs/job_1/events", { token: "old", refresh: () => Promise.reject(refused) });
  sources.at(-1).giveUp();
  answers.push([401, null]);
  timers.at(-1).run();
  await settled();
  assert.deepEqual(other.errors, [403]);
});

test("a machine that is offline says so, asks nobody, and goes on when it is back", async () => {
  const seen = recorded(followJob, "/api/jobs/job_1/events");
  sources[0].onopen();
  listeners.offline();
  assert.deepEqual([seen.states.at(-1), sources[0].readyState], ["offline", FakeEventSource.CLOSED]);
  assert.equal(timers.length, 0);
  answers.push([200, snapshot(2)]);
  listeners.online();
  await settled();
  assert.deepEqual([sources.length, seen.versions], [2, [2]]);
});

test("a connection that has gone silent is found and opened again", async () => {
  const now = Date.now;
  try {
    recorded(followJob, "/api/jobs/job_1/events");
    Date.now = () => now() + 46_000;
    answers.push([200, snapshot(2)]);
    globalThis.watchdog();
    await settled();
    assert.deepEqual([asked.length, sources.length], [1, 2]);
  } finally {
    Date.now = now;
  }
});

test("a machine that comes back online asks at once", async () => {
  recorded(followJob, "/api/jobs/job_1/events");
  answers.push([200, snapshot(2)]);
  listeners.online();
  await settled();
  assert.equal(sources.length, 2);
});

test("a matter's stream goes on after a job's end, which is reported once", () => {
  const seen = recorded(followMatter, "/api/matters/m%201/events");
  sources[0].send("completed", snapshot(5, "COMPLETED"));
  sources[0].send("completed", snapshot(5, "COMPLETED"));
  sources[0].send("progress", snapshot(1, "PROCESSING", "job_2"));
  assert.deepEqual([seen.versions, seen.ends], [[5, 1], ["COMPLETED"]]);
});

test("a matter's list is read when its stream opens: what ended meanwhile is only there", async () => {
  const seen = recorded(followMatter, "/api/matters/m%201/events");
  answers.push([200, [snapshot(8, "FAILED")]]);
  sources[0].onopen();
  await settled();
  assert.deepEqual([asked, seen.versions, seen.ends], [["/api/matters/m%201/jobs"], [8], ["FAILED"]]);
});

test("an error of the server is its own sentence, with the status", async () => {
  answers.push([422, { detail: "The PDF has a password." }], [500, null]);
  await assert.rejects(fetchJson("/x"), { message: "The PDF has a password.", status: 422 });
  await assert.rejects(fetchJson("/x"), { message: "The server answered 500.", status: 500 });
});

test("the types name what the module exports", async () => {
  const types = await readFile(new URL("../../celery_progress_ext/static/progress.d.ts", import.meta.url), "utf8");
  const named = [...types.matchAll(/^export declare (?:const|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(named.sort(), Object.keys(progress).sort());
});
