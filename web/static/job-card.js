// @ts-check
/** One job on the page: drawn from its newest snapshot, and from its chunks where they are seen. */

import { drawChunks } from "./chunk-grid.js";
import { PageReader } from "./page-reader.js";
import { TERMINAL, fetchJson } from "./progress.js";
import { clock, duration, etaText, waitingText } from "./wording.js";

const LABELS = {
  PENDING: "Waiting",
  PROCESSING: "Running",
  COMPLETED: "Done",
  PARTIAL: "Done in part",
  FAILED: "Failed",
  CANCELLED: "Cancelled",
};
const RETRY_LABELS = { PARTIAL: "Retry failed", FAILED: "Retry failed", CANCELLED: "Run the rest" };
const NAMED_FAILURES = 5;
/** Chunks are fetched again at most this often, and less often where they are very many. */
const CHUNKS_EVERY_MS = 1000;
const MS_PER_CHUNK = 2;

export class JobCard {
  /**
   * @param {import("./progress.js").Snapshot} snapshot
   * @param {{onProblem: (text: string) => void, onSnapshot: (snapshot: any) => void, now: () => number}} page where
   *   problems and newer snapshots go; the server's clock
   */
  constructor(snapshot, page) {
    this.page = page;
    this.snapshot = snapshot;
    this.element = /** @type {any} */ (document.getElementById("job-card")).content.firstElementChild.cloneNode(true);
    this.element.dataset.jobId = snapshot.job_id;
    this.parts = Object.fromEntries(
      [...this.element.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]),
    );
    const url = `/api/jobs/${encodeURIComponent(snapshot.job_id)}`;
    this.url = url;
    for (const link of this.element.querySelectorAll("[data-result]")) link.href = `${url}/${link.dataset.result}`;
    this.parts.retry.addEventListener("click", () => this.#post("retry"));
    this.parts.cancel.addEventListener("click", () => this.#post("cancel"));
    this.parts.more.addEventListener("toggle", () => this.#chunksSoon());
    this.reader = new PageReader(this.parts, url);
    this.#draw();
  }

  /** Take a snapshot; the caller has seen to it that it is the newest. */
  update(snapshot) {
    const counts = (job) => JSON.stringify([job.chunks, job.pages, job.status, job.stage]);
    const changed = counts(snapshot) !== counts(this.snapshot);
    this.snapshot = snapshot;
    this.#draw();
    if (!changed) return;
    this.#chunksSoon();
    this.reader.refreshSoon();
  }

  /** What changes with the clock alone. */
  tick() {
    if (!TERMINAL.has(this.snapshot.status)) this.#drawEta();
  }

  #draw() {
    const { snapshot: job, parts } = this;
    const over = TERMINAL.has(job.status);
    const merging = !over && job.stage_name === "merge";
    this.element.dataset.status = job.status;
    this.element.dataset.version = job.version;
    this.element.classList.toggle("merging", merging);
    parts.name.textContent = job.metadata.filename ?? job.document_id ?? job.job_id;
    parts.status.textContent = LABELS[job.status] ?? job.status;
    parts.stage.textContent = this.#stageText();
    parts.percent.textContent = `${job.progress_pct}%`;
    parts.bar.setAttribute("aria-valuenow", job.progress_pct);
    parts.bar.setAttribute("aria-valuetext", `${job.progress_pct}%, ${parts.stage.textContent}`);
    parts.bar.style.setProperty("--done", `${job.progress_pct}%`);
    // Pages of chunks at work run ahead of the percent, which counts whole chunks.
    const pages = job.pages.total && !over ? (100 * job.pages.done) / job.pages.total : 0;
    parts.bar.style.setProperty("--ahead", `${Math.max(job.progress_pct, pages)}%`);
    parts.counts.textContent = countsText(job.chunks);
    parts.pages.textContent = `${job.pages.done} of ${job.pages.total} ${job.unit}`;
    this.#drawEta();
    this.#drawNotices();
    this.#drawFailures();
    show(parts.retry, job.status in RETRY_LABELS);
    parts.retry.textContent = RETRY_LABELS[job.status] ?? "";
    show(parts.cancel, !over);
    const ready = job.status === "COMPLETED" || job.status === "PARTIAL";
    show(parts.results, ready);
    show(parts.partial, !ready && job.pages.done > 0);
    // Who has opened or closed it has decided; until then, what runs is open.
    if (this.wasOver !== over) parts.more.open = !over || job.failures.length > 0;
    this.wasOver = over;
  }

  #stageText() {
    const { snapshot: job } = this;
    if (job.status === "COMPLETED") return "Searchable PDF is ready";
    if (job.status === "PARTIAL") {
      const lost = job.chunks.failed
        ? `${count(job.chunks.failed, "chunk")} could not be read`
        : `${count(job.failures_total, "page")} not wholly read`;
      return `Ready, but ${lost}`;
    }
    if (job.status === "FAILED") return "The document could not be read";
    if (job.status === "CANCELLED") return "Cancelled; what was finished is kept";
    return job.stage;
  }

  #drawEta() {
    const { snapshot: job, parts, page } = this;
    if (TERMINAL.has(job.status)) {
      const ended = new Date(job.finished_at ?? job.heartbeat_at);
      const took = (ended.getTime() - Date.parse(job.created_at)) / 1000;
      parts.eta.textContent = job.finished_at ? `${clock(ended, page.now())} · took ${duration(took)}` : "";
    } else {
      parts.eta.textContent = waitingText(job.waiting) || etaText(job.eta, page.now()) || "estimating…";
    }
  }

  #drawNotices() {
    const { snapshot: job, parts } = this;
    show(parts.stalled, job.stalled.length > 0);
    const lines = job.stalled.slice(0, NAMED_FAILURES).map((chunk) => {
      const range = job.ranged ? ` (${job.unit} ${chunk.page_start}-${chunk.page_end})` : "";
      const which = `Chunk ${chunk.chunk_index + 1}${range}`;
      return `${which} has made no progress for ${duration(chunk.seconds)}: ${chunk.reason}.`;
    });
    if (job.stalled.length > NAMED_FAILURES) lines.push(`And ${job.stalled.length - NAMED_FAILURES} more.`);
    list(parts.stalledList, lines);
    show(parts.error, Boolean(job.error) && job.status === "FAILED");
    parts.error.textContent = job.error ?? "";
  }

  #drawFailures() {
    const { snapshot: job, parts } = this;
    show(parts.failures, job.chunks.failed > 0);
    const messages = job.failures.map((failure) => failure.message);
    list(parts.failuresList, messages.slice(0, NAMED_FAILURES));
    show(parts.failuresMore, job.chunks.failed > NAMED_FAILURES);
    parts.failuresCount.textContent = `${job.chunks.failed - NAMED_FAILURES} more`;
    list(parts.failuresRest, messages.slice(NAMED_FAILURES));
  }

  async #post(action) {
    const buttons = [this.parts.retry, this.parts.cancel];
    for (const button of buttons) button.disabled = true;
    try {
      this.page.onSnapshot(await fetchJson(`${this.url}/${action}`, { method: "POST" }));
    } catch (error) {
      this.page.onProblem(error.message);
    } finally {
      for (const button of buttons) button.disabled = false;
    }
  }

  #chunksSoon() {
    if (this.timer || !this.parts.more.open) return;
    const pause = Math.max(CHUNKS_EVERY_MS, MS_PER_CHUNK * this.snapshot.chunks.total);
    const due = Math.max(0, (this.fetchedAt ?? 0) + pause - Date.now());
    this.timer = setTimeout(() => this.#fetchChunks(), due);
  }

  async #fetchChunks() {
    try {
      drawChunks(this.parts.grid, await fetchJson(`${this.url}/chunks`), this.snapshot);
    } catch {
      // The next change of the counts asks again; whether the server answers is shown by the live sign.
    } finally {
      this.fetchedAt = Date.now();
      this.timer = null;
    }
  }
}

function show(element, visible) {
  element.hidden = !visible;
}

/** Texts as list items. They come from documents and errors, so they are never markup. */
function list(element, texts) {
  const same = element.children.length === texts.length && texts.every((text, i) => element.children[i].textContent === text);
  if (same) return;
  element.replaceChildren(
    ...texts.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
}

function countsText(chunks) {
  const parts = [
    [chunks.completed, "completed"],
    [chunks.processing, "processing"],
    [chunks.pending, "waiting"],
    [chunks.failed, "failed"],
  ];
  const words = parts.filter(([number]) => number > 0).map(([number, word]) => `${number} ${word}`);
  return `${count(chunks.total, "chunk")}: ${words.join(", ")}`;
}

function count(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}
