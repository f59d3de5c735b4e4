// @ts-check
/** What the page says of a job. Pure: no page in here. */

import { clock, duration, etaText, waitingText } from "./wording.js";

/** @typedef {import("./progress.js").Snapshot} Snapshot */

export const OVER = new Set(["COMPLETED", "PARTIAL", "FAILED", "CANCELLED"]);
export const LABELS = {
  PENDING: "Waiting",
  PROCESSING: "Running",
  COMPLETED: "Done",
  PARTIAL: "Done in part",
  FAILED: "Failed",
  CANCELLED: "Cancelled",
};
export const RETRY_LABELS = { PARTIAL: "Retry failed", FAILED: "Retry failed", CANCELLED: "Run the rest" };

/**
 * @param {any} job
 * @returns {string}
 */
export function nameOf(job) {
  return job.title ?? job.metadata?.filename ?? job.document_id ?? job.job_id;
}

/** @param {Snapshot} job */
export function isOver(job) {
  return OVER.has(job.status);
}

/** Whole percent of the work, never 100 before the end: the merge is a part of it. */
export function percentOf(job) {
  return Math.floor(job.work_pct);
}

/** "139 of 425 pages" */
export function pagesText(job) {
  return `${job.pages.done} of ${job.pages.total} ${job.unit}`;
}

/** What is going on, in a few words. */
export function stageText(job) {
  if (job.status === "COMPLETED") return "Searchable PDF is ready";
  if (job.status === "PARTIAL") {
    const lost = job.chunks.failed
      ? `${counted(job.chunks.failed, "chunk")} could not be read`
      : `${counted(job.failures_total, "page")} not wholly read`;
    return `Ready, but ${lost}`;
  }
  if (job.status === "FAILED") return `Failed; ${keptText(job)}`;
  if (job.status === "CANCELLED") return `Cancelled; ${keptText(job)}`;
  if (job.stalled.length > 0) return `${job.stage}, ${counted(job.stalled.length, "chunk")} stalled`;
  return job.stage;
}

/** What is left of a run that did not come to its end. */
export function keptText(job) {
  return job.pages.done ? `${pagesText(job)} are kept` : "nothing was read yet";
}

/** When it will be done, why it is not, or when it was. `now` is the server's clock in ms. */
export function whenText(job, now) {
  if (!isOver(job)) return waitingText(job.waiting) || etaText(job.eta, now) || "estimating…";
  if (!job.finished_at) return "";
  const ended = Date.parse(job.finished_at);
  return `${clock(new Date(ended), now)} · took ${duration((ended - Date.parse(job.created_at)) / 1000)}`;
}

/** The question before a run is stopped: what is lost, and what is not. */
export function cancelQuestion(job) {
  const name = nameOf(job);
  const kept = job.pages.done
    ? `${pagesText(job)} are read. They are kept: you can read them here, download them as a PDF, and run the rest later.`
    : `Nothing is read yet, so there is nothing to keep. You can run it later.`;
  const lost = "A page that is being read right now is read again then. Until it is run to its end, there is no result of the whole document.";
  return { title: `Stop reading ${name}?`, text: `${kept} ${lost}`, yes: "Stop reading", no: "Go on reading" };
}

export function deleteQuestion(job) {
  return {
    title: `Delete ${nameOf(job)} for good?`,
    text: "The file that was handed in, its pages, its results and its history are removed. This cannot be undone.",
    yes: "Delete",
    no: "Keep it",
  };
}

/** "Chunk 5 (pages 101-125)" */
export function chunkName(chunk, job) {
  const range = job.ranged === false ? "" : ` (${job.unit} ${chunk.page_start}-${chunk.page_end})`;
  return `Chunk ${chunk.chunk_index + 1}${range}`;
}

/** What is stalled, and what happens next, a sentence each. */
export function stalledTexts(job) {
  return job.stalled.map(
    (chunk) => `${chunkName(chunk, job)} has made no progress for ${duration(chunk.seconds)}: ${chunk.reason}.`,
  );
}

/** What can be done about what failed. */
export function failuresAdvice(job) {
  if (!job.failures_total) return "";
  if (!isOver(job)) return "The others go on. What failed can be run again once they are done.";
  const what = job.chunks.failed ? "“Retry failed” runs only these again." : "“Retry failed” reads only these again.";
  return job.status === "PARTIAL" ? `The result has everything else. ${what}` : what;
}

/**
 * The phases of a job, each named before it comes: uploaded, waiting, reading, merging, ready. Times in ms.
 * @param {Snapshot} job
 * @param {number} now the server's clock
 * @returns {{name: string, state: string, at: number | null, seconds: number | null}[]} a state is one of done, now,
 *   next, never
 */
export function phasesOf(job, now) {
  const time = (text) => (text ? Date.parse(text) : null);
  const [created, started, merging, finished] = ["created_at", "started_at", "merge_started_at", "finished_at"].map((key) =>
    time(job[key]),
  );
  const over = isOver(job);
  const well = job.status === "COMPLETED" || job.status === "PARTIAL";
  const starts = [created, created, started, merging];
  const ends = [created, started ?? finished, merging ?? (started && finished), merging && finished];
  const phases = ["Uploaded", "Waiting", "Reading", "Merging"].map((name, place) => {
    const [at, end] = [starts[place], ends[place]];
    if (at === null) return { name, state: over ? "never" : "next", at: null, seconds: null };
    return { name, state: end === null ? "now" : "done", at, seconds: place ? Math.max(0, ((end ?? now) - at) / 1000) : null };
  });
  const last = over && !well ? LABELS[job.status] : "Ready";
  return [...phases, { name: last, state: over ? "done" : "next", at: over ? finished : null, seconds: null }];
}

/** "1 chunk", "2 chunks" */
export function counted(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}
