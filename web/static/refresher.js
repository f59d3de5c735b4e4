// @ts-check
/** Asks the server again what has changed: not too often, and once more where something changed while it was asking. */

export class Refresher {
  #work;
  #pause;
  #wanted = false;
  #running = false;
  #endedAt = -Infinity;
  /** @type {ReturnType<typeof setTimeout>} */
  #timer = null;

  /**
   * @param {() => Promise<void>} work
   * @param {() => number} pause the least time between the end of one run and the next, in ms
   */
  constructor(work, pause) {
    this.#work = work;
    this.#pause = pause;
  }

  /** Something has changed. */
  soon() {
    this.#wanted = true;
    if (this.#running || this.#timer !== null) return;
    const due = Math.max(0, this.#endedAt + this.#pause() - Date.now());
    this.#timer = setTimeout(() => this.#run(), due);
  }

  /** Ask no more. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#wanted = false;
  }

  async #run() {
    this.#timer = null;
    this.#running = true;
    this.#wanted = false;
    try {
      await this.#work();
    } catch {
      // The next change asks again; whether the server answers is shown by the live sign.
    }
    this.#running = false;
    this.#endedAt = Date.now();
    // What changed while the answer was on its way may not be in it.
    if (this.#wanted) this.soon();
  }
}
