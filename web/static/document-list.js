// @ts-check
/** The list of a matter's documents: searched, filtered, read page by page, and live. */

import { ask } from "./api.js";
import { DocumentRow } from "./document-row.js";
import { byId, show } from "./elements.js";
import { isOver, nameOf } from "./job-text.js";

const TYPING_MS = 250;

export class DocumentList {
  /** @type {Map<string, DocumentRow>} */
  rows = new Map();
  /** @type {string | null} */
  #next = null;
  /** @type {AbortController} */
  #loading = new AbortController();
  #loaded = false;

  /**
   * @param {string} matter
   * @param {any} page
   */
  constructor(matter, page) {
    this.matter = matter;
    this.page = page;
    this.list = byId("documents");
    this.form = byId("filter");
    const asked = new URLSearchParams(location.search);
    this.form.q.value = asked.get("q") ?? "";
    this.form.status.value = asked.get("status") ?? "";
    // A status that the menu does not know.
    if (this.form.status.selectedIndex < 0) this.form.status.value = "";
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#asked();
    });
    this.form.status.addEventListener("change", () => this.#asked());
    this.form.q.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.#asked(), TYPING_MS);
    });
    byId("more").addEventListener("click", () => this.#more());
  }

  /** The address of the list as it is searched and filtered now. */
  get address() {
    const query = new URLSearchParams({ matter: this.matter });
    for (const field of ["q", "status"]) if (this.form[field].value) query.set(field, this.form[field].value);
    return `/?${query}`;
  }

  /** How many of the documents that are shown are not over. */
  get running() {
    return [...this.rows.values()].filter((row) => !isOver(row.job)).length;
  }

  /**
   * Read the first page, again after a time without a connection. What is shown of further pages stays.
   * @returns {Promise<import("./progress.js").Snapshot[]>}
   */
  async load() {
    this.#loading.abort();
    this.#loading = new AbortController();
    const { signal } = this.#loading;
    const { q, status } = this.form;
    const query = new URLSearchParams({ matter_id: this.matter });
    if (q.value.trim()) query.set("q", q.value.trim());
    if (status.value) query.set("status", status.value);
    const { body, next } = await ask(`/api/jobs?${query}`, { signal });
    const oldest = body.at(-1);
    const listed = new Set(body.map((job) => job.job_id));
    for (const [id, row] of this.rows) {
      const onFirst = !next || (oldest && row.job.created_at >= oldest.created_at);
      // Deleted meanwhile, by somebody else.
      if (onFirst && !listed.has(id)) this.#drop(id);
    }
    if (!this.#loaded || this.rows.size <= body.length) this.#next = next;
    this.#loaded = true;
    body.forEach((job) => this.#put(job));
    this.tidy();
    return body;
  }

  /**
   * A newer snapshot of a job: shown where it is listed, or new and asked for.
   * @param {import("./progress.js").Snapshot} job
   */
  take(job) {
    const row = this.rows.get(job.job_id);
    if (row) {
      // One that no longer fits the filter stays until somebody looks again: nothing goes away under the pointer.
      if (job.version >= row.job.version) row.update(job);
    } else if (this.#loaded && this.#fits(job) && !this.page.uploads.holds(nameOf(job))) {
      this.#put(job);
      this.tidy();
    }
  }

  /** @param {import("./progress.js").Snapshot} job */
  remove(job) {
    const row = this.rows.get(job.job_id);
    const neighbour = row && (row.element.nextElementSibling ?? row.element.previousElementSibling);
    this.#drop(job.job_id);
    this.tidy();
    (neighbour?.querySelector("[data-part=name]") ?? this.form.q).focus();
  }

  tick() {
    for (const row of this.rows.values()) if (!isOver(row.job)) row.tick();
  }

  async #asked() {
    clearTimeout(this.typing);
    history.replaceState(history.state, "", this.address);
    for (const id of [...this.rows.keys()]) this.#drop(id);
    this.#loaded = false;
    this.list.setAttribute("aria-busy", "true");
    try {
      const found = await this.load();
      const many = this.#next ? `More than ${found.length}` : `${found.length}`;
      this.page.announce(`${many} document${found.length === 1 && !this.#next ? "" : "s"} found`);
    } catch (error) {
      if (error.name !== "AbortError") this.page.onProblem(error.message);
    } finally {
      this.list.removeAttribute("aria-busy");
    }
  }

  async #more() {
    const { signal } = this.#loading;
    const button = byId("more");
    if (!this.#next || button.disabled) return;
    button.disabled = true;
    try {
      const { body, next } = await ask(this.#next, { signal });
      this.#next = next;
      body.forEach((job) => this.#put(job));
      // Who works with the keyboard goes on where the new ones begin.
      this.rows.get(body[0]?.job_id)?.parts.name.focus();
    } catch (error) {
      if (error.name !== "AbortError") this.page.onProblem(error.message);
    }
    button.disabled = false;
    this.tidy();
  }

  /** Whether a job that comes with the stream belongs to what is shown. */
  #fits(job) {
    const { q, status } = this.form;
    if (status.value && !status.value.split(",").includes(job.status)) return false;
    // The server knows how names are compared.
    if (q.value.trim()) return false;
    const last = this.list.lastElementChild;
    return !this.#next || !last || job.created_at >= this.rows.get(last.dataset.jobId).job.created_at;
  }

  #put(job) {
    const known = this.rows.get(job.job_id);
    if (known) {
      if (job.version >= known.job.version) known.update(job);
      return;
    }
    const newest = this.page.newest(job);
    const row = new DocumentRow(newest, this.page);
    this.rows.set(job.job_id, row);
    const older = [...this.list.children].find((each) => this.rows.get(each.dataset.jobId).job.created_at < job.created_at);
    this.list.insertBefore(row.element, older ?? null);
  }

  #drop(id) {
    this.rows.get(id)?.element.remove();
    this.rows.delete(id);
  }

  /** What is said below the list, and whether there is more of it. */
  tidy() {
    const { q, status } = this.form;
    const empty = this.#loaded && this.rows.size === 0;
    const asked = Boolean(q.value.trim() || status.value);
    show(byId("empty"), empty && !asked && !this.page.uploads.needed);
    show(byId("nothing-found"), empty && asked);
    show(byId("more"), Boolean(this.#next));
  }
}
