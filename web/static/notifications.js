// @ts-check
/** A notification at the end of a job, for who asks for it. It comes while the page is open, in the background too. */

import { isOver, nameOf, stageText } from "./job-text.js";

const KEY = "notify";

export class Notifications {
  /** @type {Set<string>} */
  #jobs = new Set(readKept());

  /** Whether this browser has them; only over https and on this machine. */
  possible = "Notification" in globalThis && isSecureContext;

  has(jobId) {
    return this.#jobs.has(jobId);
  }

  /** Notify of a job's end, or no more; false where the browser does not allow it. */
  async ask(jobId, wanted) {
    const allowed = !wanted || (await Notification.requestPermission()) === "granted";
    if (wanted && allowed) this.#jobs.add(jobId);
    else this.#jobs.delete(jobId);
    this.#keep();
    return allowed;
  }

  /** @param {import("./progress.js").Snapshot} job */
  take(job) {
    if (!isOver(job) || !this.#jobs.delete(job.job_id)) return;
    this.#keep();
    new Notification(nameOf(job), { body: stageText(job), tag: job.job_id });
  }

  #keep() {
    sessionStorage.setItem(KEY, JSON.stringify([...this.#jobs]));
  }
}

/** @returns {string[]} */
function readKept() {
  return JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
}
