// @ts-check
/** A document's own page: its phases, who does what, what went wrong and what happens next, its pages, its history. */

import { Actions, urlOf } from "./actions.js";
import { ask } from "./api.js";
import { drawChunks } from "./chunk-grid.js";
import { drawBar, fromTemplate, setList, setText, show } from "./elements.js";
import { attemptTexts, eventText } from "./history.js";
import * as text from "./job-text.js";
import { PageReader } from "./page-reader.js";
import { Refresher } from "./refresher.js";
import { drawTimeline } from "./timeline.js";
import { clock, duration } from "./wording.js";

const NAMED = 5;
const EVERY_MS = 1000;
/** Chunks are fetched less often where they are very many. */
const MS_PER_CHUNK = 2;
/** So many versions back the history is read, and so many events are shown. */
const VERSIONS = 2000;
const EVENTS_SHOWN = 200;
const EVENTS_AT_ONCE = 1000;

export class DocumentView {
  /** @type {import("./history.js").Event[]} */
  #events = [];

  /**
   * @param {import("./progress.js").Snapshot} job
   * @param {any} page
   */
  constructor(job, page) {
    this.page = page;
    this.job = job;
    this.url = urlOf(job);
    const { element, parts } = fromTemplate("document-view");
    this.element = element;
    this.parts = parts;
    this.element.dataset.jobId = job.job_id;
    this.actions = new Actions(parts, parts.name, page);
    this.reader = new PageReader(parts, this.url);
    this.chunks = new Refresher(() => this.#fetchChunks(), () => Math.max(EVERY_MS, MS_PER_CHUNK * this.job.chunks.total));
    this.history = new Refresher(() => this.#fetchHistory(), () => EVERY_MS);
    parts.notify.addEventListener("change", () => this.#askToNotify());
    parts.story.addEventListener("toggle", () => this.#drawHistory());
    // Where it ends while it is looked at, its place stays: nothing jumps.
    parts.closingRow.hidden = text.isOver(job);
    drawChunks(parts.grid, blankChunks(job), job);
    this.#draw();
    this.chunks.soon();
    this.history.soon();
  }

  /**
   * A snapshot that is as new as the one that is shown, or newer.
   * @param {import("./progress.js").Snapshot} job
   */
  take(job) {
    if (job.version < this.job.version) return;
    const changed = job.version > this.job.version;
    this.job = job;
    this.#draw();
    if (!changed) return;
    this.chunks.soon();
    this.history.soon();
    this.reader.refreshSoon();
  }

  /** What changes with the clock alone. */
  tick() {
    if (text.isOver(this.job)) return;
    this.#drawTimes();
    if (this.#events.length) this.#drawTimeline();
  }

  close() {
    this.chunks.stop();
    this.history.stop();
    this.reader.stop();
    this.element.remove();
  }

  #draw() {
    const { job, parts, element } = this;
    const over = text.isOver(job);
    const percent = text.percentOf(job);
    const name = text.nameOf(job);
    element.dataset.status = job.status;
    element.dataset.version = String(job.version);
    element.classList.toggle("merging", !over && job.stage_name === "merge");
    setText(parts.name, name);
    setText(parts.badge, text.LABELS[job.status] ?? job.status);
    setText(parts.stage, text.stageText(job));
    setText(parts.percent, `${percent} %`);
    setText(parts.pages, text.pagesText(job));
    setText(parts.counts, countsText(job.chunks));
    parts.bar.setAttribute("aria-label", `Progress of ${name}`);
    drawBar(parts.bar, percent, `${percent} %, ${text.pagesText(job)}, ${text.stageText(job)}`);
    this.#drawTimes();
    this.#drawTroubles();
    this.actions.draw(job);
    this.drawClosing();
  }

  /** Whether the page may be closed, and whether somebody wants to be notified. */
  drawClosing() {
    const { job, parts, page } = this;
    const over = text.isOver(job);
    const asked = page.notifications.has(job.job_id);
    if (!over) parts.closingRow.hidden = false;
    parts.notify.checked = asked;
    show(parts.notifyLabel, !over && page.notifications.possible, parts.name);
    const open = page.uploads.needed
      ? "Keep this page open until your files are sent."
      : asked
        ? "Keep this page open, in the background too: it notifies you at the end."
        : "You may close this page: the work goes on, and this address shows how far it is.";
    setText(parts.closing, over ? "" : open);
  }

  #drawTimes() {
    const { job, parts, page } = this;
    const now = page.now();
    setText(parts.when, text.whenText(job, now));
    text.phasesOf(job, now).forEach((phase, place) => {
      const item = parts.phases.children[place];
      item.className = `phase ${phase.state}`;
      if (phase.state === "now") item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
      setText(item.children[0], phase.name);
      setText(item.children[1], phaseText(phase, now));
    });
  }

  #drawTroubles() {
    const { job, parts } = this;
    const stalled = text.stalledTexts(job);
    show(parts.stalled, stalled.length > 0);
    setList(parts.stalledList, stalled.length > NAMED ? [...stalled.slice(0, NAMED), `And ${stalled.length - NAMED} more.`] : stalled);
    show(parts.error, Boolean(job.error) && job.status === "FAILED");
    setText(parts.error, job.error ?? "");
    const messages = job.failures.map((failure) => failure.message);
    show(parts.failures, messages.length > 0);
    setList(parts.failuresList, messages.slice(0, NAMED));
    show(parts.failuresMore, messages.length > NAMED, parts.name);
    setText(parts.failuresCount, `${job.failures_total - NAMED} more`);
    setList(parts.failuresRest, messages.slice(NAMED));
    setText(parts.failuresAdvice, text.failuresAdvice(job));
  }

  async #fetchChunks() {
    const { body } = await ask(`${this.url}/chunks`);
    drawChunks(this.parts.grid, body, this.job);
  }

  /** What is new; a job of very many versions is read from its end. */
  async #fetchHistory() {
    for (;;) {
      const after = this.#events.at(-1)?.version ?? Math.max(0, this.job.version - VERSIONS);
      const { body } = await ask(`${this.url}/history?after=${after}&limit=${EVENTS_AT_ONCE}`);
      this.#events = [...this.#events, ...body].slice(-VERSIONS);
      if (body.length < EVENTS_AT_ONCE) break;
    }
    this.#drawTimeline();
    this.#drawHistory();
    const again = attemptTexts(this.#events);
    show(this.parts.attempts, again.length > 0);
    setList(this.parts.attemptsList, again.slice(-NAMED));
  }

  #drawTimeline() {
    drawTimeline(this.parts, this.#events, this.page.now());
  }

  #drawHistory() {
    const { parts, page } = this;
    if (!parts.story.open) return;
    const now = page.now();
    const newest = this.#events.slice(-EVENTS_SHOWN).reverse();
    setList(parts.events, newest.map((event) => `${clock(new Date(event.at), now)} ${eventText(event)}`));
    const left = this.job.version - newest.length;
    setText(parts.earlier, left > 0 && newest.length === EVENTS_SHOWN ? "Earlier events are in the API’s history." : "");
  }

  async #askToNotify() {
    const { parts, page, job } = this;
    const allowed = await page.notifications.ask(job.job_id, parts.notify.checked);
    if (!allowed) page.onProblem("The browser does not allow notifications of this page. Allow them in its settings, then ask again.");
    this.drawClosing();
  }
}

function phaseText(phase, now) {
  if (phase.at === null) return phase.state === "never" ? "not reached" : "";
  const at = clock(new Date(phase.at), now);
  if (phase.seconds === null) return at;
  return phase.seconds < 1 ? at : `${at} · ${duration(phase.seconds)}`;
}

function countsText(chunks) {
  const words = [
    [chunks.completed, "completed"],
    [chunks.processing, "processing"],
    [chunks.pending, "waiting"],
    [chunks.failed, "failed"],
  ]
    .filter(([number]) => number > 0)
    .map(([number, word]) => `${number} ${word}`);
  return `${text.counted(chunks.total, "chunk")}: ${words.join(", ")}`;
}

/** As many cells as there are chunks, before it is known which is which: the page does not jump. */
function blankChunks(job) {
  return Array.from({ length: job.chunks.total }, (_, index) => ({
    chunk_index: index,
    page_start: 1,
    page_end: 1,
    pages: 1,
    pages_done: 0,
    status: "pending",
  }));
}
