// @ts-check
/** Files on their way: each is a row from the first moment, with its percent, and can be stopped and sent again. */

import { fromTemplate } from "./elements.js";
import { upload } from "./upload.js";
import { size } from "./wording.js";

/** Answers that another try with the same file does not change. */
const FINAL = new Set([400, 403, 413, 415, 422]);

/** @typedef {{file: File, state: "waiting" | "sending" | "failed" | "gone", stop: AbortController, parts: any, row: HTMLElement}} Upload */

export class Uploads {
  /** @type {Upload[]} */
  #all = [];
  #busy = false;

  /**
   * @param {HTMLElement} list where the rows go
   * @param {{matter: string, maxBytes: number, onAccepted: (answer: any, done: () => void) => Promise<void>, onChange: () => void,
   *          announce: (text: string) => void, focusElsewhere: () => void}} options
   */
  constructor(list, options) {
    this.list = list;
    this.options = options;
    addEventListener("beforeunload", (event) => {
      if (this.needed) event.preventDefault();
    });
  }

  /** Whether leaving the page would lose a file that somebody has given it. */
  get needed() {
    return this.#all.length > 0;
  }

  /** Whether a document that is new to the list is the one that is being sent: it takes the place of its row then. */
  holds(name) {
    return this.#all.some((each) => each.state === "sending" && each.file.name === name);
  }

  /** @param {Iterable<File>} files */
  add(files) {
    for (const file of files) this.#add(file);
    this.options.onChange();
    this.#next();
  }

  /** @param {File} file */
  #add(file) {
    const { element: row, parts } = fromTemplate("upload-row");
    /** @type {Upload} */
    const each = { file, state: "waiting", stop: new AbortController(), parts, row };
    parts.name.textContent = file.name;
    parts.bar.setAttribute("aria-label", `Sending ${file.name}`);
    parts.stop.setAttribute("aria-label", `Cancel sending ${file.name}`);
    parts.again.setAttribute("aria-label", `Send ${file.name} again`);
    parts.remove.setAttribute("aria-label", `Remove ${file.name}`);
    parts.stop.addEventListener("click", () => this.#stop(each));
    parts.remove.addEventListener("click", () => this.#remove(each));
    parts.again.addEventListener("click", () => {
      each.stop = new AbortController();
      this.#show(each, "waiting", "Waiting for its turn");
      parts.stop.focus();
      this.#next();
    });
    // The first to be sent stands lowest, where its document appears: nothing jumps.
    this.list.prepend(row);
    this.#all.push(each);
    this.#show(each, "waiting", "Waiting for its turn");
    const most = this.options.maxBytes;
    if (file.size > most) this.#refuse(each, `The file has ${size(file.size)}; at most ${size(most)} are accepted.`, true);
  }

  /** One after the other: the second file does not slow down the first. */
  async #next() {
    if (this.#busy) return;
    this.#busy = true;
    for (let each; (each = this.#all.find(({ state }) => state === "waiting")); ) await this.#send(each);
    this.#busy = false;
  }

  /** @param {Upload} each */
  async #send(each) {
    const all = size(each.file.size);
    this.#show(each, "sending", `Sending ${all}`);
    try {
      const answer = await upload(each.file, {
        matterId: this.options.matter,
        signal: each.stop.signal,
        onProgress: (share) => {
          this.#percent(each, share);
          if (share === 1) each.parts.note.textContent = "Sent; the document is being checked";
        },
      });
      await this.options.onAccepted(answer, () => this.#remove(each, false));
    } catch (error) {
      if (each.state === "gone") return;
      this.#refuse(each, error.message, FINAL.has(error.status));
    }
  }

  /** @param {Upload} each */
  #refuse(each, sentence, final) {
    this.#show(each, "failed", sentence);
    each.parts.again.hidden = final;
    this.options.announce(`${each.file.name}: ${sentence}`);
  }

  /** @param {Upload} each */
  #stop(each) {
    each.stop.abort();
    this.#remove(each);
  }

  /** @param {Upload} each */
  #remove(each, byHand = true) {
    if (each.state === "gone") return;
    each.state = "gone";
    this.#all = this.#all.filter((other) => other !== each);
    const hadFocus = each.row.contains(document.activeElement);
    each.row.remove();
    if (hadFocus || byHand) this.options.focusElsewhere();
    this.options.onChange();
  }

  /** @param {Upload} each */
  #show(each, state, note) {
    const { parts, row } = each;
    each.state = state;
    const failed = state === "failed";
    const hadFocus = row.contains(document.activeElement);
    row.classList.toggle("refused", failed);
    parts.note.textContent = note;
    parts.badge.textContent = { waiting: "To be sent", sending: "Sending", failed: "Not sent" }[state];
    parts.stop.hidden = failed;
    parts.again.hidden = parts.remove.hidden = !failed;
    if (state === "waiting") this.#percent(each, 0);
    if (hadFocus && failed) parts.remove.focus();
    this.options.onChange();
  }

  /** @param {Upload} each */
  #percent(each, share) {
    const percent = Math.floor(100 * share);
    each.parts.percent.textContent = `${percent} %`;
    each.parts.bar.setAttribute("aria-valuenow", percent);
    each.parts.bar.style.setProperty("--done", `${percent}%`);
  }
}
