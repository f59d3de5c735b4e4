// @ts-check
/** A document in the list: what it is called, how far it is, what can be done. */

import { Actions, pageOf } from "./actions.js";
import { drawBar, fromTemplate, setText } from "./elements.js";
import { isOver, LABELS, nameOf, pagesText, percentOf, stageText, whenText } from "./job-text.js";

export class DocumentRow {
  /**
   * @param {import("./progress.js").Snapshot} job
   * @param {any} page
   */
  constructor(job, page) {
    this.page = page;
    const { element, parts } = fromTemplate("document-row");
    this.element = element;
    this.parts = parts;
    this.element.dataset.jobId = job.job_id;
    this.parts.name.href = pageOf(job);
    this.actions = new Actions(this.parts, this.parts.name, page);
    this.update(job);
  }

  /** @param {import("./progress.js").Snapshot} job */
  update(job) {
    const { parts, element } = this;
    this.job = job;
    element.dataset.status = job.status;
    element.dataset.version = String(job.version);
    element.classList.toggle("merging", !isOver(job) && job.stage_name === "merge");
    const percent = percentOf(job);
    setText(parts.name, nameOf(job));
    setText(parts.badge, LABELS[job.status] ?? job.status);
    setText(parts.stage, stageText(job));
    setText(parts.pages, pagesText(job));
    setText(parts.percent, `${percent} %`);
    parts.bar.setAttribute("aria-label", `Progress of ${nameOf(job)}`);
    drawBar(parts.bar, percent, `${percent} %, ${stageText(job)}`);
    this.actions.draw(job);
    this.tick();
  }

  /** What changes with the clock alone. */
  tick() {
    setText(this.parts.when, whenText(this.job, this.page.now()));
  }
}
