// @ts-check
/**
 * <job-progress job="job_1"></job-progress>: a job's progress, live, in any page. No dependency, and no style of the page
 * gets in or out but through the custom properties and parts below.
 *
 *   <script type="module" src="/api/assets/job-progress.js"></script>
 *   <job-progress job="job_1" src="https://ocr.example/api" token="prog_…" label="Nightly import"></job-progress>
 *
 * Attributes: `job`; `src`, where the routes of jobs are (beside this file, else /api); `token`; `token-url`, from where
 * the page's own server gives a token as JSON, {"token": …}, at the start and whenever one has expired; `matter`, for
 * pages with many jobs: the elements of one matter share one connection; `label`, the job's name.
 * The property `refresh` is a function that gives a new token, in place of `token-url`.
 *
 * Events, which bubble: `job-snapshot` and `job-end` (detail: the snapshot), `job-state` (detail: the state),
 * `job-error` (detail: an Error, perhaps with `status`). The attribute `state` is one of connecting, waiting, running,
 * stalled, reconnecting, offline, completed, partial, failed, cancelled, error.
 *
 * Style: --job-progress-color, -done-color, -warn-color, -bad-color, -track, -height, -radius; the parts are name,
 * percent, bar, ahead, fill, stage, finish, notice, connection.
 */

import { TERMINAL, fetchJson, followJob, followMatter } from "./progress.js";
import { clock, duration, etaText, waitingText } from "./wording.js";

const STYLE = `
:host { display: block; font: inherit; --_fill: var(--job-progress-color, #1a6dd4); }
:host([hidden]) { display: none; }
:host([state=completed]) { --_fill: var(--job-progress-done-color, #1f8a4c); }
:host(:is([state=stalled], [state=partial])) { --_fill: var(--job-progress-warn-color, #b26a00); }
:host(:is([state=failed], [state=error])) { --_fill: var(--job-progress-bad-color, #d03535); }
:host(:is([state=offline], [state=cancelled])) { --_fill: #767b84; }
.row { display: flex; justify-content: space-between; gap: 1em; flex-wrap: wrap; }
[part=name] { font-weight: 600; overflow-wrap: anywhere; }
[part=percent], [part=finish] { font-variant-numeric: tabular-nums; }
[part=bar] {
  position: relative; box-sizing: border-box; overflow: hidden; margin-block: 0.25em;
  block-size: var(--job-progress-height, 0.75em); border-radius: var(--job-progress-radius, 0.4em);
  border: 1px solid color-mix(in srgb, currentColor 60%, transparent); background: var(--job-progress-track, transparent);
}
[part=fill], [part=ahead] { position: absolute; inset-block: 0; inset-inline-start: 0; background: var(--_fill); }
[part=ahead] { opacity: 0.35; }
[part=notice] { margin: 0.25em 0 0; padding: 0; list-style: none; overflow-wrap: anywhere; }
[hidden] { display: none !important; }
.announced { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (prefers-reduced-motion: no-preference) { [part=fill], [part=ahead] { transition: inline-size 0.3s; } }
@media (forced-colors: active) {
  [part=bar] { border-color: CanvasText; }
  [part=fill] { background: Highlight; forced-color-adjust: none; }
  [part=ahead] { display: none; }
}`;

const MARKUP = `
<div class="row"><span part="name" id="name"></span><span part="percent"></span></div>
<div part="bar" role="progressbar" aria-labelledby="name" aria-valuemin="0" aria-valuemax="100">
  <div part="ahead"></div><div part="fill"></div>
</div>
<div class="row"><span part="stage"></span><span part="finish"></span></div>
<ul part="notice" hidden></ul>
<div part="connection" hidden></div>
<div class="announced" role="status"></div>`;

/** What a job that is over is called. */
const ENDS = { COMPLETED: "Done", PARTIAL: "Done in part", FAILED: "Failed", CANCELLED: "Cancelled" };
const CONNECTIONS = { reconnecting: "Reconnecting…", offline: "Offline" };
/** Failures and stalls that are named. */
const MOST_NAMED = 3;

/** Where the routes are, when this file is one of them. */
const BESIDE = /\/assets\/[^/]*$/.test(new URL(import.meta.url).pathname) ? new URL("..", import.meta.url).href : "/api";

/** @type {CSSStyleSheet} */
let sheet;

export class JobProgressElement extends HTMLElement {
  static observedAttributes = ["job", "src", "token", "token-url", "matter", "label"];

  /** @type {import("./progress.js").Snapshot | null} */
  #snapshot = null;
  /** @type {(() => Promise<string> | string) | null} */
  #refresh = null;
  #state = "connecting";
  #connection = "connecting";
  /** @type {(Error & {status?: number}) | null} */
  #error = null;
  /** @type {{close: () => void} | null} */
  #follower = null;
  #starting = 0;
  /** @type {ReturnType<typeof setInterval>} */
  #clock = null;
  /** The server's clock less ours, as the quickest snapshot showed it: what is left must not depend on our clock. */
  #offset = -Infinity;
  #said = "";
  /** @type {Record<string, HTMLElement>} */
  #parts = {};

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    // Not a <style>: a page's content security policy may forbid those.
    if (!sheet) {
      sheet = new CSSStyleSheet();
      sheet.replaceSync(STYLE);
    }
    root.adoptedStyleSheets = [sheet];
    root.innerHTML = MARKUP;
    for (const part of root.querySelectorAll("[part]")) {
      this.#parts[part.getAttribute("part")] = /** @type {HTMLElement} */ (part);
    }
    this.#parts.announced = root.querySelector(".announced");
    if (Object.hasOwn(this, "refresh")) {
      // Set before this class was there, it would hide the accessor.
      const given = Object.getOwnPropertyDescriptor(this, "refresh").value;
      delete this.refresh;
      this.#refresh = given;
    }
  }

  /** The newest snapshot; null before the first. */
  get snapshot() {
    return this.#snapshot;
  }

  /** Gives a new token, in place of `token-url`. */
  get refresh() {
    return this.#refresh;
  }

  set refresh(value) {
    this.#refresh = value;
  }

  /** As the attribute `state`. */
  get state() {
    return this.#state;
  }

  /** Follow the job again, such as after a retry: at its end it is left. */
  follow() {
    if (this.isConnected) this.#restart();
  }

  connectedCallback() {
    this.follow();
  }

  disconnectedCallback() {
    this.#stop();
  }

  attributeChangedCallback(name, before, now) {
    if (before === now) return;
    if (name === "label") this.#draw();
    else this.follow();
  }

  #stop() {
    this.#starting++;
    this.#follower?.close();
    this.#follower = null;
    clearInterval(this.#clock);
  }

  /** Attributes change one by one: follow when all have. */
  #restart() {
    this.#stop();
    const turn = this.#starting;
    queueMicrotask(() => {
      if (turn === this.#starting && this.isConnected) this.#start(turn);
    });
  }

  async #start(turn) {
    const job = this.getAttribute("job");
    if (this.#snapshot?.job_id !== job) this.#snapshot = null;
    this.#error = null;
    this.#connection = "connecting";
    this.#draw();
    if (!job) return;
    const refresh = this.#refresher();
    let token = this.getAttribute("token") ?? undefined;
    if (!token && refresh) {
      try {
        token = await refresh();
      } catch (error) {
        if (turn !== this.#starting) return;
        if (error.status) return this.#fail(error);
          // The page's own server does not answer: it is asked again once ours refuses us.
      }
      if (turn !== this.#starting) return;
    }
    const src = (this.getAttribute("src") ?? BESIDE).replace(/\/$/, "");
    const url = `${src}/jobs/${encodeURIComponent(job)}/events`;
    const callbacks = {
      token,
      refresh,
      onSnapshot: (snapshot) => this.#take(snapshot),
      onEnd: (snapshot) => this.#emit("job-end", snapshot),
      onError: (error) => this.#fail(error),
      onState: (state) => this.#connect(state),
    };
    const matter = this.getAttribute("matter");
    this.#follower =
      matter === null
        ? followJob(url, callbacks)
        : followTogether(`${src}/matters/${encodeURIComponent(matter)}/events`, url, job, callbacks);
    // Only what the clock changes: a finish time that comes nearer.
    this.#clock = setInterval(() => {
      if (this.#state === "running") this.#drawFinish();
    }, 1000);
  }

  /** @returns {(() => Promise<string> | string) | undefined} */
  #refresher() {
    if (this.#refresh) return this.#refresh;
    const url = this.getAttribute("token-url");
    return url === null ? undefined : async () => (await fetchJson(url)).token;
  }

  #take(snapshot) {
    this.#snapshot = snapshot;
    this.#error = null;
    if (snapshot.heartbeat_at) this.#offset = Math.max(this.#offset, Date.parse(snapshot.heartbeat_at) - Date.now());
    this.#draw();
    this.#emit("job-snapshot", snapshot);
  }

  #connect(state) {
    this.#connection = state;
    this.#draw();
  }

  #fail(error) {
    this.#error = error;
    this.#draw();
    this.#emit("job-error", error);
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  #newState() {
    const job = this.#snapshot;
    if (job && TERMINAL.has(job.status)) return job.status.toLowerCase();
    if (this.#error) return "error";
    if (this.#connection in CONNECTIONS) return this.#connection;
    if (!job) return "connecting";
    if (job.stalled?.length) return "stalled";
    return job.waiting || job.status === "PENDING" ? "waiting" : "running";
  }

  #draw() {
    const parts = this.#parts;
    const job = this.#snapshot;
    const state = this.#newState();
    const changed = state !== this.#state;
    this.#state = state;
    if (this.getAttribute("state") !== state) this.setAttribute("state", state);
    parts.name.textContent = this.getAttribute("label") || job?.title || String(job?.metadata?.filename || job?.document_id || "Job");
    parts.stage.textContent = this.#stageText();
    parts.percent.textContent = job ? `${job.progress_pct}%` : "";
    parts.fill.style.inlineSize = `${job?.progress_pct ?? 0}%`;
    // Chunks at work run ahead of the percent, which counts whole ones.
    parts.ahead.style.inlineSize = job && !TERMINAL.has(job.status) ? `${Math.max(job.progress_pct, job.work_pct)}%` : "0";
    if (job) {
      parts.bar.setAttribute("aria-valuenow", String(job.progress_pct));
      parts.bar.setAttribute("aria-valuetext", `${job.progress_pct}%, ${parts.stage.textContent}`);
    } else {
      // Nothing is known: a progress bar without a value.
      parts.bar.removeAttribute("aria-valuenow");
      parts.bar.setAttribute("aria-valuetext", parts.stage.textContent);
    }
    this.#drawFinish();
    const notices = this.#notices();
    parts.notice.replaceChildren(...notices.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    parts.notice.hidden = notices.length === 0;
    parts.connection.hidden = !(state in CONNECTIONS);
    parts.connection.textContent = this.#connectionText(state);
    this.#announce();
    if (changed) this.#emit("job-state", state);
  }

  #stageText() {
    const job = this.#snapshot;
    if (!job) return this.#error ? "Cannot be shown" : "Waiting for the job…";
    return ENDS[job.status] ?? job.stage;
  }

  #drawFinish() {
    const job = this.#snapshot;
    let text = "";
    if (job && TERMINAL.has(job.status)) {
      const took = (Date.parse(job.finished_at) - Date.parse(job.created_at)) / 1000;
      if (took >= 0) text = `took ${duration(took)}`;
    } else if (job && !(this.#state in CONNECTIONS)) {
      text = waitingText(job.waiting) || etaText(job.eta, this.#now());
    }
    if (this.#parts.finish.textContent !== text) this.#parts.finish.textContent = text;
  }

  #now() {
    return Date.now() + (Number.isFinite(this.#offset) ? this.#offset : 0);
  }

  #notices() {
    if (this.#error && this.#state === "error") return [this.#error.message];
    const job = this.#snapshot;
    if (!job) return [];
    if (this.#state === "stalled") {
      return named(
        job.stalled.map((chunk) => {
          const which = `Chunk ${chunk.chunk_index + 1} (${job.unit} ${chunk.page_start}-${chunk.page_end})`;
          return `${which} has made no progress for ${duration(chunk.seconds)}: ${chunk.reason}.`;
        }),
        job.stalled.length,
      );
    }
    if (job.failures?.length) return named(job.failures.map((failure) => failure.message), job.failures_total);
    return job.error ? [job.error] : [];
  }

  #connectionText(state) {
    const words = CONNECTIONS[state];
    if (!words || !this.#snapshot?.heartbeat_at) return words ?? "";
    const at = new Date(this.#snapshot.heartbeat_at);
    return `${words} This is what was known at ${clock(at, this.#now())}.`.replace("Offline ", "Offline. ");
  }

  /** For screen readers: what happens, not every percent. */
  #announce() {
    const text = [this.#parts.stage.textContent.replace(/\d+\/\d+/, ""), this.#state in CONNECTIONS ? this.#state : "", ...this.#notices()]
      .filter(Boolean)
      .join(". ");
    const stalled = this.#state === "stalled" ? "stalled" : text;
    if (stalled === this.#said) return;
    this.#said = stalled;
    this.#parts.announced.textContent = `${this.#parts.name.textContent}: ${text}`;
  }
}

/** The first few, and how many more there are. */
function named(texts, total = texts.length) {
  const first = texts.slice(0, MOST_NAMED);
  return total > first.length ? [...first, `And ${total - first.length} more.`] : first;
}

/** Events URL of a matter → the one connection to it, and who follows it. */
const together = new Map();

/** As followJob, over the connection of a whole matter, which all its followers share. */
function followTogether(matterUrl, jobUrl, job, callbacks) {
  const stream = together.get(matterUrl) ?? openTogether(matterUrl, callbacks);
  const member = {
    ...callbacks,
    version: -1,
    take(snapshot) {
      if (snapshot.job_id !== job || snapshot.version < this.version || !stream.members.has(this)) return;
      const ended = snapshot.version > this.version && TERMINAL.has(snapshot.status);
      this.version = snapshot.version;
      callbacks.onSnapshot(snapshot);
      if (ended) callbacks.onEnd(snapshot);
    },
  };
  stream.members.add(member);
  callbacks.onState(stream.state);
  // The stream may be open for long, and a job that ended before is not in it.
  const query = callbacks.token ? `?token=${encodeURIComponent(callbacks.token)}` : "";
  fetchJson(jobUrl.replace(/\/events$/, "") + query).then(
    (snapshot) => member.take(snapshot),
    () => {}, // not there yet: it will come; not readable: the stream says so
  );
  return {
    close() {
      stream.members.delete(member);
      if (stream.members.size > 0 || together.get(matterUrl) !== stream) return;
      together.delete(matterUrl);
      stream.connection.close();
    },
  };
}

function openTogether(matterUrl, { token, refresh }) {
  const stream = { members: new Set(), state: "connecting", connection: null };
  together.set(matterUrl, stream);
  stream.connection = followMatter(matterUrl, {
    token,
    refresh,
    onSnapshot: (snapshot) => stream.members.forEach((member) => member.take(snapshot)),
    onState(state) {
      stream.state = state;
      stream.members.forEach((member) => member.onState(state));
    },
    onError(error) {
      // Whoever comes later tries again.
      together.delete(matterUrl);
      stream.members.forEach((member) => member.onError(error));
    },
  });
  return stream;
}

if (!customElements.get("job-progress")) customElements.define("job-progress", JobProgressElement);
