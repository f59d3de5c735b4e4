// @ts-check
/**
 * Follow jobs live. Any page can import this module; it knows nothing of ours.
 *
 *   import { followJob, followMatter } from "/static/progress.js";
 *
 *   const follower = followJob("/api/jobs/job_1/events", {
 *     onSnapshot(snapshot) { bar.value = snapshot.progress_pct; },   // newest version only, never an older one
 *     onEnd(snapshot) { label.textContent = snapshot.status; },      // the job is over; the stream is closed
 *     onError(error) { label.textContent = error.message; },         // given up: no access, or no such job
 *     onState(state) { dot.className = state; },                     // "connecting" | "live" | "reconnecting" | "closed"
 *   });
 *   follower.close();
 *
 * Every event is a whole snapshot with a version, so a lost, late or repeated event does no harm. EventSource
 * reconnects by itself after a dropped connection; when it gives up for good (any status but 200), the current
 * snapshot is fetched, with growing pauses, until the stream can be opened again or the answer is final.
 */

/**
 * A job's whole truth at one version: the data of every event.
 * @typedef {{job_id: string, version: number, status: string, stage: string, progress_pct: number, [key: string]: any}} Snapshot
 * @typedef {"connecting" | "live" | "reconnecting" | "closed"} State
 * @typedef {object} Callbacks
 * @property {(snapshot: Snapshot, event: string) => void} [onSnapshot] newest version only, never an older one
 * @property {(snapshot: Snapshot) => void} [onEnd] a job is over
 * @property {(error: Error & {status?: number}) => void} [onError] given up: no access, or no such job
 * @property {(state: State) => void} [onState]
 */

export const EVENTS = ["progress", "heartbeat", "completed", "partial", "failed", "cancelled"];
export const TERMINAL = new Set(["COMPLETED", "PARTIAL", "FAILED", "CANCELLED"]);

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30000;
/** A connection that died without a word (a laptop that slept) is found by its silence. */
const SILENCE_MS = 45000;
/** No answer but these changes by asking again. */
const FINAL_STATUSES = new Set([400, 401, 403, 404, 410]);

/**
 * Follow one job to its end.
 * @param {string} url the events URL; the snapshot's URL is the same without "/events"
 * @param {Callbacks} callbacks
 */
export function followJob(url, callbacks = {}) {
  const newest = new Newest(callbacks.onSnapshot);
  const connection = new Connection(url, {
    ...callbacks,
    take(snapshot, event) {
      newest.take(snapshot, event);
      if (TERMINAL.has(snapshot.status)) {
        connection.close();
        callbacks.onEnd?.(snapshot);
      }
    },
    refetch: () => fetchJson(url.replace(/\/events(\?.*)?$/, "")).then((snapshot) => [snapshot]),
  });
  connection.open();
  return connection;
}

/**
 * Follow all jobs of a matter over one connection (browsers allow six per host). Does not end by itself:
 * new jobs appear in it. `onEnd` is called for each job that ends.
 * @param {string} url such as "/api/matters/m1/events"
 * @param {Callbacks & {listUrl?: string}} callbacks and where the matter's snapshots are listed
 */
export function followMatter(url, callbacks = {}) {
  const matter = decodeURIComponent(url.match(/\/matters\/([^/]+)\/events/)?.[1] ?? "");
  const listUrl = callbacks.listUrl ?? `/api/jobs?matter_id=${encodeURIComponent(matter)}`;
  const newest = new Newest(callbacks.onSnapshot);
  const connection = new Connection(url, {
    ...callbacks,
    take(snapshot, event) {
      if (newest.take(snapshot, event) && TERMINAL.has(snapshot.status)) callbacks.onEnd?.(snapshot);
    },
    refetch: () => fetchJson(listUrl),
    // The stream begins with the open jobs; one that ended while nobody listened is only in the list.
    refetchOnOpen: true,
  });
  connection.open();
  return connection;
}

/** The JSON at `url`; rejects with an Error that has `status`, and the problem's detail as message. */
export async function fetchJson(url, options = {}) {
  const response = await fetch(url, { headers: { Accept: "application/json" }, cache: "no-store", ...options });
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    /** @type {Error & {status?: number}} */
    const error = new Error(body?.detail ?? `The server answered ${response.status}.`);
    error.status = response.status;
    throw error;
  }
  return body;
}

/** Lets through what is newer than what was seen of a job. A heartbeat of the same version is a sign of life. */
class Newest {
  #versions = new Map();
  #onSnapshot;

  constructor(onSnapshot) {
    this.#onSnapshot = onSnapshot;
  }

  take(snapshot, event) {
    const seen = this.#versions.get(snapshot.job_id) ?? -1;
    if (snapshot.version < seen || (snapshot.version === seen && event !== "heartbeat")) return false;
    this.#versions.set(snapshot.job_id, snapshot.version);
    this.#onSnapshot?.(snapshot, event);
    return snapshot.version > seen;
  }
}

class Connection {
  #url;
  #callbacks;
  /** @type {EventSource} */
  #source = null;
  /** @type {ReturnType<typeof setTimeout>} */
  #timer = null;
  /** @type {ReturnType<typeof setInterval>} */
  #watchdog = null;
  #heardAt = 0;
  #pause = FIRST_PAUSE_MS;
  #closed = false;
  /** @type {State} */
  #state = null;
  #wake = () => this.#recheckSoon();

  /**
   * @param {string} url
   * @param {Callbacks & {
   *   take: (snapshot: Snapshot, event: string) => void,
   *   refetch: () => Promise<Snapshot[]>,
   *   refetchOnOpen?: boolean,
   * }} callbacks
   */
  constructor(url, callbacks) {
    this.#url = url;
    this.#callbacks = callbacks;
  }

  open() {
    this.#say("connecting");
    this.#listen();
    this.#heardAt = Date.now();
    this.#watchdog = setInterval(() => {
      if (Date.now() - this.#heardAt > SILENCE_MS) this.#recheckSoon();
    }, SILENCE_MS / 3);
    addEventListener("online", this.#wake);
    addEventListener("pageshow", this.#wake);
  }

  close() {
    this.#closed = true;
    this.#source?.close();
    clearTimeout(this.#timer);
    clearInterval(this.#watchdog);
    removeEventListener("online", this.#wake);
    removeEventListener("pageshow", this.#wake);
    this.#say("closed");
  }

  #listen() {
    this.#source?.close();
    const source = new EventSource(this.#url);
    this.#source = source;
    source.onopen = () => {
      this.#heard();
      if (this.#callbacks.refetchOnOpen) this.#refetch().catch(() => {});
    };
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        this.#heard();
        this.#take(JSON.parse(event.data), name);
      });
    }
    source.onerror = () => {
      if (this.#closed || source !== this.#source) return;
      this.#say("reconnecting");
      // CONNECTING: EventSource tries again by itself. CLOSED: it never will.
      if (source.readyState === EventSource.CLOSED) this.#recheckLater();
    };
  }

  #heard() {
    this.#heardAt = Date.now();
    this.#pause = FIRST_PAUSE_MS;
    this.#say("live");
  }

  #take(snapshot, event) {
    if (!this.#closed) this.#callbacks.take(snapshot, event);
  }

  async #refetch() {
    for (const snapshot of await this.#callbacks.refetch()) this.#take(snapshot, "refetch");
  }

  #recheckLater() {
    clearTimeout(this.#timer);
    // Spread out, so that a thousand pages do not come back in the same moment.
    this.#timer = setTimeout(() => this.#recheck(), this.#pause * (0.5 + Math.random()));
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
  }

  #recheckSoon() {
    this.#heardAt = Date.now();
    clearTimeout(this.#timer);
    this.#recheck();
  }

  async #recheck() {
    if (this.#closed) return;
    try {
      await this.#refetch();
    } catch (error) {
      if (this.#closed) return;
      if (FINAL_STATUSES.has(error.status)) {
        this.close();
        this.#callbacks.onError?.(error);
      } else {
        this.#say("reconnecting");
        this.#recheckLater();
      }
      return;
    }
    // A job that has ended meanwhile has closed us.
    if (!this.#closed) this.#listen();
  }

  /** @param {State} state */
  #say(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#callbacks.onState?.(state);
  }
}
