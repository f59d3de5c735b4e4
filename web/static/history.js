// @ts-check
/** A job's history as people read it: who did what when, in lanes and in sentences. Pure: no page in here. */

import { counted } from "./job-text.js";
import { duration } from "./wording.js";

/**
 * An event of GET /api/jobs/{id}/history.
 * @typedef {{version: number, type: string, at: string, chunk_index: number | null, attempt: number | null,
 *            message: string | null, worker: string | null}} Event
 * One attempt at a chunk, or at the merge (chunk is null): from and to in ms, `to` null while it is at work.
 * @typedef {{chunk: number | null, attempt: number, from: number, to: number | null, end: string}} Bar
 * @typedef {{worker: string, label: string, title: string, bars: Bar[]}} Lane
 */

const UNKNOWN = "";
/** Event of a chunk → how its attempt ended. */
const ENDS = {
  chunk_completed: "completed",
  chunk_failed: "failed",
  chunk_retrying: "lost",
  chunk_redispatched: "lost",
};
/** Event of a job → how what was at work then ended. */
const JOB_ENDS = { job_completed: "completed", job_partial: "completed", job_failed: "lost", job_cancelled: "lost" };

/**
 * The lanes of the newest run: one for each process that worked, in the order in which they began.
 * @param {Event[]} events in the order of their versions
 * @returns {Lane[]}
 */
export function lanesOf(events) {
  const begin = beginOf(events);
  /** @type {Map<string, Bar[]>} */
  const lanes = new Map();
  /** @type {Map<number | null, Bar>} */
  const open = new Map();
  const close = (key, at, end) => {
    const bar = open.get(key);
    if (!bar) return;
    bar.to = at;
    bar.end = end;
    open.delete(key);
  };
  for (const event of events.slice(begin)) {
    const at = Date.parse(event.at);
    if (event.type === "chunk_started" || event.type === "merge_started") {
      // A lost attempt whose loss is seen only when the next one begins.
      close(event.chunk_index, at, "lost");
      const bar = { chunk: event.chunk_index, attempt: event.attempt ?? 1, from: at, to: null, end: "working" };
      open.set(event.chunk_index, bar);
      laneOf(lanes, event.worker ?? UNKNOWN, at).push(bar);
    } else if (event.type in ENDS) {
      close(event.chunk_index, at, ENDS[event.type]);
    } else if (event.type in JOB_ENDS) {
      for (const key of [...open.keys()]) close(key, at, JOB_ENDS[event.type]);
    }
  }
  return [...lanes].map(([key, bars], place) => ({ ...named(key, place), bars }));
}

/** Where the newest run begins. */
function beginOf(events) {
  return events.map((event) => event.type).lastIndexOf("job_retried") + 1;
}

/** The lane of a worker in which nothing is at work at this time; processes that are not known share a name. */
function laneOf(lanes, worker, at) {
  for (let copy = 0; ; copy++) {
    const key = copy ? `${worker}\n${copy}` : worker;
    if (!lanes.has(key)) lanes.set(key, []);
    const bars = lanes.get(key);
    const last = bars.at(-1);
    if (!last || (last.to !== null && last.to <= at)) return bars;
  }
}

/** "host:4711:place.start" is a process of a machine. */
function named(key, place) {
  const worker = key.split("\n")[0];
  const [host, pid] = worker.split(":");
  const title = pid ? `process ${pid} on ${host}` : worker || "a worker that did not say its name";
  return { worker, label: `Worker ${place + 1}`, title };
}

/** What a lane shows, in words. */
export function laneText(lane) {
  const doing = lane.bars.filter((bar) => bar.to === null).map(barName);
  const done = lane.bars.filter((bar) => bar.end === "completed").length;
  const lost = lane.bars.filter((bar) => bar.end === "lost" || bar.end === "failed").length;
  return [
    `${lane.label}, ${lane.title}: ${done} done`,
    lost ? `${lost} lost or failed` : "",
    doing.length ? `at work on ${doing.join(", ")}` : "",
  ]
    .filter(Boolean)
    .join(", ");
}

const END_WORDS = { completed: "done", failed: "failed", lost: "lost, or given up", working: "at work" };

/** "Chunk 3, attempt 2: lost, or given up, after 12 s" */
export function barText(bar, now) {
  const took = duration(((bar.to ?? now) - bar.from) / 1000);
  const attempt = bar.attempt > 1 ? `, attempt ${bar.attempt}` : "";
  return `${capital(barName(bar))}${attempt}: ${END_WORDS[bar.end]}, ${bar.to === null ? "for" : "after"} ${took}`;
}

function barName(bar) {
  return bar.chunk === null ? "the merge" : `chunk ${bar.chunk + 1}`;
}

/** What stands for a chunk in a sentence of the history. */
const chunk = (event) => `Chunk ${event.chunk_index + 1}`;
const because = (event) => (event.message ? `: ${event.message}` : "");
const byWhom = (event) => {
  const [host, pid] = (event.worker ?? "").split(":");
  return pid ? ` by process ${pid} on ${host}` : "";
};
/** @type {Record<string, (event: Event) => string>} */
const SENTENCES = {
  job_created: () => "Uploaded, and put into the queue.",
  chunk_started: (event) => `${chunk(event)} was begun${byWhom(event)}${nth(event)}.`,
  chunk_completed: (event) => `${chunk(event)} is read.`,
  chunk_failed: (event) => `${chunk(event)} failed${because(event)}.`,
  chunk_retrying: (event) => `${chunk(event)} is tried again${because(event)}.`,
  chunk_redispatched: (event) => `${chunk(event)} was sent again${because(event)}.`,
  chunk_reopened: (event) => `${chunk(event)} is read again, since some of its pages were not wholly read.`,
  body_dispatched: () => "The merge was sent to a worker.",
  merge_started: (event) => `The merge was begun${byWhom(event)}${nth(event)}.`,
  job_completed: () => "The searchable PDF is ready.",
  job_partial: () => "The searchable PDF is ready, without what could not be read.",
  job_failed: (event) => `Failed${because(event)}.`,
  job_cancelled: () => "Cancelled.",
  job_retried: () => "Run again: what did not finish.",
  status_updated: (event) => `Set by hand${because(event)}.`,
};

function nth(event) {
  return event.attempt > 1 ? `, attempt ${event.attempt}` : "";
}

/** An event as a sentence. */
export function eventText(event) {
  const sentence = SENTENCES[event.type]?.(event) ?? `${capital(event.type.replaceAll("_", " "))}${because(event)}.`;
  // What is quoted may have its own full stop.
  return sentence.replace(/([.!?…])\.$/, "$1");
}

/**
 * Chunks of the newest run that did not go through at once, a sentence each: what happened, and what happens next.
 * @param {Event[]} events
 * @returns {string[]}
 */
export function attemptTexts(events) {
  const begin = beginOf(events);
  /** @type {Map<number, {again: Event[], last: Event}>} */
  const chunks = new Map();
  for (const event of events.slice(begin)) {
    if (event.chunk_index === null) continue;
    const known = chunks.get(event.chunk_index) ?? { again: [], last: event };
    known.last = event;
    if (ENDS[event.type] === "lost") known.again.push(event);
    chunks.set(event.chunk_index, known);
  }
  return [...chunks.values()].filter(({ again }) => again.length > 0).map(attemptText);
}

const NEXT = {
  chunk_started: (event) => `Attempt ${event.attempt} is at work.`,
  chunk_completed: () => "It went through then.",
  chunk_failed: () => "It failed in the end.",
  chunk_retrying: () => "It waits to be tried again.",
  chunk_redispatched: () => "It waits for a worker again.",
};

function attemptText({ again, last }) {
  const times = again.length > 1 ? `${counted(again.length, "time")}, the last time` : "once";
  const reason = again.at(-1).message ?? "it was lost";
  const next = NEXT[last.type]?.(last) ?? "";
  return `${chunk(last)} was sent again ${times}: ${reason.replace(/[.\s]+$/, "")}. ${next}`.trim();
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
