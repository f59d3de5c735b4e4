// @ts-check
/** A document's pages, as each is read: a list of them, and the text of the one that was chosen. */

import { ask } from "./api.js";
import { Refresher } from "./refresher.js";

/** So many are shown at first, and with each "More pages". */
const STEP = 200;
/** So many the server lists in one answer. */
const AT_ONCE = 1000;
const EVERY_MS = 1000;

const WORDS = {
  read: "read",
  kept: "has text already",
  blank: "blank",
  damaged: "damaged",
  unreadable: "unreadable",
  missing: "missing",
};

export class PageReader {
  /**
   * @param {{reader: HTMLDetailsElement, pageList: HTMLElement, pageMore: HTMLElement, pageNote: HTMLElement,
   *          pageText: HTMLElement}} parts
   * @param {string} url the job's
   */
  constructor(parts, url) {
    this.parts = parts;
    this.url = url;
    this.shown = STEP;
    this.rows = new Map();
    this.refresher = new Refresher(() => this.#refresh(), () => EVERY_MS);
    parts.reader.addEventListener("toggle", () => this.refreshSoon());
    parts.pageMore.addEventListener("click", () => {
      this.shown += STEP;
      this.refreshSoon();
    });
  }

  /** Ask again what there is, where somebody looks, and not too often. */
  refreshSoon() {
    if (this.parts.reader.open) this.refresher.soon();
  }

  stop() {
    this.refresher.stop();
  }

  async #refresh() {
    // One more than is shown says whether there are more.
    const pages = await this.#fetch(this.shown + 1);
    pages.slice(0, this.shown).forEach((page) => this.#draw(page));
    this.parts.pageMore.hidden = pages.length <= this.shown;
  }

  async #fetch(number) {
    const pages = [];
    while (pages.length < number) {
      const limit = Math.min(AT_ONCE, number - pages.length);
      const { body: part } = await ask(`${this.url}/pages?after=${pages.at(-1)?.page ?? 0}&limit=${limit}`);
      pages.push(...part);
      if (part.length < limit) break;
    }
    return pages;
  }

  /** Texts come from documents, so they are never markup. What is there is changed in place: the focus stays. */
  #draw(page) {
    const status = page.status === null ? "not read yet" : WORDS[page.status] ?? page.status;
    const label = `Page ${page.page}: ${status}${page.doubtful ? ", doubtful" : ""}`;
    let button = this.rows.get(page.page);
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.textContent = page.page;
      button.addEventListener("click", () => this.#show(button));
      const item = document.createElement("li");
      item.append(button);
      this.parts.pageList.append(item);
      this.rows.set(page.page, button);
    }
    button.page = page;
    button.disabled = page.text === null;
    button.title = page.message ?? label;
    button.className = `page ${page.status ?? "unread"}${page.doubtful ? " doubtful" : ""}`;
    button.setAttribute("aria-label", label);
  }

  async #show(button) {
    const { pageNote, pageText } = this.parts;
    const { page } = button;
    this.chosen?.removeAttribute("aria-current");
    this.chosen = button;
    button.setAttribute("aria-current", "true");
    const confidence = page.confidence === null ? "" : ` · confidence ${Math.round(page.confidence)} of 100`;
    pageNote.textContent = page.message ?? `${button.getAttribute("aria-label")}${confidence}`;
    pageText.hidden = true;
    try {
      const answer = await fetch(page.text);
      const text = await answer.text();
      // Somebody may have chosen another page meanwhile.
      if (this.chosen !== button) return;
      if (!answer.ok) throw new Error();
      pageText.textContent = text || "There is no text on this page.";
    } catch {
      if (this.chosen !== button) return;
      pageText.textContent = "The text could not be fetched. Try again.";
    }
    pageText.hidden = false;
  }
}
