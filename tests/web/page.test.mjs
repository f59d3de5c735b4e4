// The page's pure modules, and the one that asks again: node --test tests/web/*.test.mjs

import assert from "node:assert/strict";
import { test } from "node:test";

import { register } from "node:module";

// What the library ships is served beside the page's own modules.
const shipped = new URL("../../celery_progress_ext/static/", import.meta.url);
const hooks = `export const resolve = (name, context, next) =>
  next(/^\\.\\/(wording|progress)\\.js$/.test(name) ? new URL(name, "${shipped}").href : name, context);`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);

const { nextPage } = await import("../../web/static/api.js");
const { attemptTexts, eventText, lanesOf, laneText } = await import("../../web/static/history.js");
const { cancelQuestion, percentOf, phasesOf, stageText } = await import("../../web/static/job-text.js");
const { Refresher } = await import("../../web/static/refresher.js");

const at = (seconds) => new Date(1_700_000_000_000 + 1000 * seconds).toISOString();
const event = (type, seconds, chunk_index = null, more = {}) => ({
  version: seconds,
  type,
  at: at(seconds),
  chunk_index,
  attempt: 1,
  message: null,
  worker: null,
  ...more,
});
const [ONE, TWO] = ["host:41:place.1", "host:42:place.1"];
const STORY = [
  event("job_created", 0),
  event("chunk_started", 1, 0, { worker: ONE }),
  event("chunk_started", 2, 1, { worker: TWO }),
  event("chunk_completed", 5, 0),
  event("chunk_redispatched", 9, 1, { message: "its worker process was lost" }),
  event("chunk_started", 10, 1, { worker: ONE, attempt: 2 }),
];
const JOB = {
  title: "a.pdf",
  status: "PROCESSING",
  stage: "Processing chunk 1/2",
  stage_name: "chunk_processing",
  work_pct: 41.9,
  unit: "pages",
  pages: { total: 10, done: 4 },
  chunks: { total: 2, pending: 0, processing: 1, completed: 1, failed: 0 },
  stalled: [],
  failures_total: 0,
  created_at: at(0),
  started_at: at(3),
  merge_started_at: null,
  finished_at: null,
};

test("a lane for each process, a bar for each attempt, and one at work has no end", () => {
  const lanes = lanesOf(STORY);
  assert.deepEqual(
    lanes.map(({ title, bars }) => [title, bars.map(({ chunk, attempt, end }) => [chunk, attempt, end])]),
    [
      ["process 41 on host", [[0, 1, "completed"], [1, 2, "working"]]],
      ["process 42 on host", [[1, 1, "lost"]]],
    ],
  );
  assert.equal(lanes[0].bars[1].to, null);
  assert.equal(laneText(lanes[0]), "Worker 1, process 41 on host: 1 done, at work on chunk 2");
});

test("what was at work when the job ended is at work no more, and a retry begins anew", () => {
  const cancelled = [...STORY, event("job_cancelled", 12)];
  assert.deepEqual(lanesOf(cancelled).flatMap(({ bars }) => bars.map((bar) => bar.to === null)), [false, false, false]);
  assert.deepEqual(lanesOf([...cancelled, event("job_retried", 20)]), []);
});

test("bars of workers that did not say their names never lie on one another", () => {
  const events = [0, 1, 2].map((chunk) => event("chunk_started", 1, chunk));
  assert.deepEqual(lanesOf(events).map(({ bars }) => bars.length), [1, 1, 1]);
});

test("attempts are told with their reason and with what happens next", () => {
  assert.deepEqual(attemptTexts(STORY), ["Chunk 2 was sent again once: its worker process was lost. Attempt 2 is at work."]);
  assert.equal(eventText(STORY[4]), "Chunk 2 was sent again: its worker process was lost.");
  assert.equal(eventText(event("of_a_newer_version", 1)), "Of a newer version.");
});

test("phases are named before they come, and what was never reached says so", () => {
  const states = (job) => phasesOf({ ...JOB, ...job }, Date.parse(at(10))).map(({ name, state }) => `${name} ${state}`);
  assert.deepEqual(states({ started_at: null }), ["Uploaded done", "Waiting now", "Reading next", "Merging next", "Ready next"]);
  assert.deepEqual(states({}), ["Uploaded done", "Waiting done", "Reading now", "Merging next", "Ready next"]);
  assert.deepEqual(states({ merge_started_at: at(8) }).at(-2), "Merging now");
  assert.deepEqual(states({ status: "CANCELLED", finished_at: at(9) }), [
    "Uploaded done",
    "Waiting done",
    "Reading done",
    "Merging never",
    "Cancelled done",
  ]);
  assert.equal(phasesOf(JOB, Date.parse(at(10)))[2].seconds, 7);
});

test("nothing says 100 % while it merges", () => {
  assert.equal(percentOf({ ...JOB, work_pct: 99.9 }), 99);
  assert.equal(percentOf(JOB), 41);
});

test("the question before a cancel says what is kept", () => {
  assert.match(cancelQuestion(JOB).text, /4 of 10 pages are read\. They are kept/);
  assert.match(cancelQuestion({ ...JOB, pages: { total: 10, done: 0 } }).text, /nothing to keep/);
  assert.equal(stageText({ ...JOB, status: "CANCELLED" }), "Cancelled; 4 of 10 pages are kept");
});

test("the next page of a list is in its Link header", () => {
  assert.equal(nextPage('</api/jobs?cursor=x>; rel="next"'), "/api/jobs?cursor=x");
  assert.equal(nextPage(null), null);
});

test("a change that comes during a fetch is fetched, too", async () => {
  const answers = [];
  const refresher = new Refresher(() => new Promise((resolve) => answers.push(resolve)), () => 0);
  const later = () => new Promise((resolve) => setTimeout(resolve, 5));
  refresher.soon();
  await later();
  assert.equal(answers.length, 1);
  refresher.soon();
  refresher.soon();
  await later();
  assert.equal(answers.length, 1, "one at a time");
  answers[0]();
  await later();
  assert.equal(answers.length, 2);
  answers[1]();
  await later();
  assert.equal(answers.length, 2, "and no more than needed");
});
