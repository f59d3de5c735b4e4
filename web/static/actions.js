// @ts-check
/** What a person can do to a document: fetch its results, stop it, run it again, delete it. */

import { ask } from "./api.js";
import { confirmed, show } from "./elements.js";
import { cancelQuestion, deleteQuestion, isOver, nameOf, RETRY_LABELS } from "./job-text.js";

const RESULTS = {
  "result.pdf": "Searchable PDF",
  "result.txt": "Text",
  "result.hocr": "hOCR",
  "result.json": "Words as JSON",
};

/**
 * The buttons and links of one document, in a row of the list or on its own page.
 */
export class Actions {
  /**
   * @param {Record<string, any>} parts `results`, `partial`, `retry`, `cancel`, and perhaps `remove`
   * @param {HTMLElement} instead where the focus goes when its button goes
   * @param {{onProblem: (text: string) => void, onSnapshot: (snapshot: any) => void, onDeleted: (job: any) => void}} page
   */
  constructor(parts, instead, page) {
    this.parts = parts;
    this.instead = instead;
    this.page = page;
    parts.retry.addEventListener("click", () => this.#post("retry"));
    parts.cancel.addEventListener("click", () => this.#cancel());
    parts.remove?.addEventListener("click", () => this.#delete());
  }

  /** @param {import("./progress.js").Snapshot} job */
  draw(job) {
    const { parts, instead } = this;
    this.job = job;
    const name = nameOf(job);
    const ready = job.status === "COMPLETED" || job.status === "PARTIAL";
    show(parts.results, ready, instead);
    show(parts.partial, !ready && job.pages.done > 0, instead);
    show(parts.retry, job.status in RETRY_LABELS, instead);
    show(parts.cancel, !isOver(job), instead);
    if (parts.remove) show(parts.remove, isOver(job), instead);
    parts.retry.textContent = RETRY_LABELS[job.status] ?? "";
    const url = urlOf(job);
    for (const link of [...parts.results.children, parts.partial]) {
      link.href = `${url}/${link.dataset.result}`;
      link.setAttribute("aria-label", `${RESULTS[link.dataset.result] ?? link.textContent} of ${name}`);
    }
    parts.retry.setAttribute("aria-label", `${parts.retry.textContent}: ${name}`);
    parts.cancel.setAttribute("aria-label", `Cancel ${name}`);
    parts.remove?.setAttribute("aria-label", `Delete ${name}`);
  }

  async #cancel() {
    if (!(await confirmed(cancelQuestion(this.job)))) return;
    // It may have ended while the question was open.
    if (!isOver(this.job)) await this.#post("cancel");
    if (document.activeElement === document.body) this.instead.focus();
  }

  async #delete() {
    const { job } = this;
    if (!(await confirmed(deleteQuestion(job)))) return;
    await this.#busy(async () => {
      await ask(`/api/documents/${encodeURIComponent(job.document_id)}`, { method: "DELETE" });
      this.page.onDeleted(job);
    });
  }

  async #post(action) {
    await this.#busy(async () => {
      const { body } = await ask(`${urlOf(this.job)}/${action}`, { method: "POST" });
      this.page.onSnapshot(body);
    });
  }

  /** One at a time; a button that is pressed twice does its work once. */
  async #busy(work) {
    if (this.busy) return;
    this.busy = true;
    try {
      await work();
    } catch (error) {
      this.page.onProblem(`${nameOf(this.job)}: ${error.message}`);
      // Somebody else has deleted it.
      if (error.status === 404) this.page.onDeleted(this.job);
    } finally {
      this.busy = false;
    }
  }
}

export function urlOf(job) {
  return `/api/jobs/${encodeURIComponent(job.job_id)}`;
}

/** The address of a document's own page. */
export function pageOf(job) {
  return `/documents/${encodeURIComponent(job.document_id)}`;
}
