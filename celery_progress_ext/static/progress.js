// @ts-check
/**
 * Follow jobs live, from any page.
 *
 *   import { followJob, followMatter } from "/api/assets/progress.js";
 *
 *   const follower = followJob("/api/jobs/job_1/events", {
 *     onSnapshot(snapshot) { bar.value = snapshot.progress_pct; },   // newest version only, never an older one
 *     onEnd(snapshot) { label.textContent = snapshot.status; },      // the job is over; the stream is closed
 *     onError(error) { label.textContent = error.message; },         // given up: no access, or no such job
 *     onState(state) { dot.className = state; },      // "connecting" | "live" | "reconnecting" | "offline" | "closed"
 *   });
 *   follower.close();
 *
 * From another site, with a token: { token, refresh: async () => newToken }. `refresh` is asked whenever the server
 * takes the token no more.
 *
 * Every event is a whole snapshot with a version, so a lost, late or repeated event does no harm. EventSource
 * reconnects by itself after a dropped connection; when it gives up for good (any status but 200), the current
 * snapshot is fetched, with growing pauses, until the stream can be opened again or the answer is final.
 */

/**
 * A job's whole truth at one version: the data of every event.
 * @typedef {{job_id: string, version: number, status: string, stage: string, progress_pct: number, [key: string]: any}} Snapshot
 * @typedef {"connecting" | "live" | "reconnecting" | "offline" | "closed"} State
 * @typedef {Error & {status?: number}} AnswerError
 * @typedef {object} Callbacks
 * @property {(snapshot: Snapshot, event: string) => void} [onSnapshot] newest version only, never an older one
 * @property {(snapshot: Snapshot) => void} [onEnd] a job is over
 * @property {(error: AnswerError) => void} [onError] given up: no access, or no such job
 * @property {(state: State) => void} [onState]
 * @property {string} [token] opens the job or the matter where the page has no session
 * @property {() => Promise<string> | string} [refresh] a new token in place of one that has expired
 * @property {number} [notFoundSeconds] for so long a job may not be there yet (60): whoever starts it may be slower
 */

export const EVENTS = ["progress", "heartbeat", "completed", "partial", "failed", "cancelled"];
export const TERMINAL = new Set(["COMPLETED", "PARTIAL", "FAILED", "CANCELLED"]);

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30000;
/** A connection that died without a word (a laptop that slept) is found by its silence. */
const SILENCE_MS = 45000;
/** A stream that lasted for so long was a good one: the next is opened soon. */
const GOOD_MS = 10000;
/** A fetch that takes longer will not be answered. */
const PATIENCE_MS = 20000;
/** No answer but these changes by asking again; 401 does with a new token, 404 while a job may still come. */
const FINAL_STATUSES = new Set([400, 401, 403, 404, 410]);
const NOT_FOUND_SECONDS = 60;
/** So many new tokens are asked for before the error is passed on. */
const MOST_REFUSALS = 5;

/**
 * Follow one job to its end.
 * @param {string} url the events URL; the snapshot's URL is the same without "/events"
 * @param {Callbacks} callbacks
 */
export function followJob(url, callbacks = {}) {
  const newest = new Newest(callbacks.onSnapshot);
  const connection = new Connection(url, {
    notFoundSeconds: NOT_FOUND_SECONDS,
    ...callbacks,
    take(snapshot, event) {
      newest.take(snapshot, event);
      if (TERMINAL.has(snapshot.status)) {
        connection.close();
        callbacks.onEnd?.(snapshot);
      }
    },
    refetch: (withToken) => fetchJson(withToken(changePath(url, /\/events$/, ""))).then((snapshot) => [snapshot]),
  });
  connection.open();
  return connection;
}

/**
 * Follow all jobs of a matter over one connection (browsers allow six per host). Does not end by itself:
 * new jobs appear in it. `onEnd` is called for each job that ends.
 * @param {string} url such as "/api/matters/m1/events"
 * @param {Callbacks & {listUrl?: string, refetch?: () => Promise<Snapshot[]>}} callbacks and where the matter's
 *   snapshots are listed, if not beside it, or what reads them: it is called whenever the stream was opened
 */
export function followMatter(url, callbacks = {}) {
  const listUrl = callbacks.listUrl ?? changePath(url, /\/events$/, "/jobs");
  const newest = new Newest(callbacks.onSnapshot);
  const connection = new Connection(url, {
    ...callbacks,
    take(snapshot, event) {
      if (newest.take(snapshot, event) && TERMINAL.has(snapshot.status)) callbacks.onEnd?.(snapshot);
    },
    refetch: callbacks.refetch ?? ((withToken) => fetchJson(withToken(listUrl))),
    // The stream begins with the open jobs; one that ended while nobody listened is only in the list.
    refetchOnOpen: true,
  });
  connection.open();
  return connection;
}

/** The JSON at `url`; rejects with an Error that has `status`, and the problem's detail as message. */
export async function fetchJson(url, options = {}) {
  const response = await fetch(url, {
    headers: { Accept: "application/json" },
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE_MS),
    ...options,
  });
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    /** @type {AnswerError} */
    const error = new Error(body?.detail ?? `The server answered ${response.status}.`);
    error.status = response.status;
    throw error;
  }
  return body;
}

/** The URL with its path changed, and its query as it was. */
function changePath(url, pattern, replacement) {
  const [path, ...query] = url.split("?");
  return [path.replace(pattern, replacement), ...query].join("?");
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
  #token;
  /** @type {EventSource} */
  #source = null;
  /** @type {ReturnType<typeof setTimeout>} */
  #timer = null;
  /** @type {ReturnType<typeof setInterval>} */
  #watchdog = null;
  #begunAt = 0;
  #openedAt = 0;
  #heardAt = 0;
  #pause = FIRST_PAUSE_MS;
  #closed = false;
  /** How many tokens were refused one after another. */
  #refusals = 0;
  /** Whether the job, or the matter, was ever there. */
  #found = false;
  /** @type {State} */
  #state = null;
  #wake = () => this.#recheckSoon();
  /** Back from the browser's cache of pages; each page is also shown once at its start. */
  #shown = (event) => event.persisted && this.#recheckSoon();
  #sleep = () => this.#goOffline();

  /**
   * @param {string} url
   * @param {Callbacks & {
   *   take: (snapshot: Snapshot, event: string) => void,
   *   refetch: (withToken: (url: string) => string) => Promise<Snapshot[]>,
   *   refetchOnOpen?: boolean,
   * }} callbacks
   */
  constructor(url, callbacks) {
    this.#url = url;
    this.#callbacks = callbacks;
    this.#token = callbacks.token;
  }

  open() {
    this.#say("connecting");
    this.#begunAt = this.#heardAt = Date.now();
    this.#listen();
    this.#watchdog = setInterval(() => {
      if (this.#state !== "offline" && Date.now() - this.#heardAt > SILENCE_MS) this.#recheckSoon();
    }, SILENCE_MS / 3);
    addEventListener("online", this.#wake);
    addEventListener("pageshow", this.#shown);
    addEventListener("offline", this.#sleep);
  }

  close() {
    this.#closed = true;
    this.#source?.close();
    clearTimeout(this.#timer);
    clearInterval(this.#watchdog);
    removeEventListener("online", this.#wake);
    removeEventListener("pageshow", this.#shown);
    removeEventListener("offline", this.#sleep);
    this.#say("closed");
  }

  get #resting() {
    return this.#closed || this.#state === "offline";
  }

  #listen() {
    this.#source?.close();
    const source = new EventSource(this.#withToken(this.#url));
    this.#source = source;
    source.onopen = () => {
      this.#found = true;
      this.#openedAt = this.#heardAt = Date.now();
      this.#say("live");
      if (this.#callbacks.refetchOnOpen) this.#refetch().catch(() => {});
    };
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        this.#heardAt = Date.now();
        this.#pause = FIRST_PAUSE_MS;
        this.#say("live");
        this.#take(JSON.parse(event.data), name);
      });
    }
    source.onerror = () => {
      if (this.#closed || source !== this.#source) return;
      this.#say("reconnecting");
      if (this.#openedAt && Date.now() - this.#openedAt > GOOD_MS) this.#pause = FIRST_PAUSE_MS;
      // CONNECTING: EventSource tries again by itself, with the token that it has. CLOSED: it never will.
      if (source.readyState === EventSource.CLOSED || this.#callbacks.refresh) this.#recheckLater();
    };
  }

  #withToken(url) {
    if (!this.#token) return url;
    return `${url}${url.includes("?") ? "&" : "?"}token=${encodeURIComponent(this.#token)}`;
  }

  #take(snapshot, event) {
    if (!this.#closed) this.#callbacks.take(snapshot, event);
  }

  async #refetch() {
    for (const snapshot of await this.#callbacks.refetch((url) => this.#withToken(url))) {
      this.#take(snapshot, "refetch");
    }
    this.#found = true;
    this.#refusals = 0;
  }

  #recheckLater(pause = this.#pause) {
    this.#source?.close();
    clearTimeout(this.#timer);
    // Spread out, so that a thousand pages do not come back in the same moment.
    this.#timer = setTimeout(() => this.#recheck(), pause * (0.5 + Math.random()));
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
  }

  #recheckSoon() {
    this.#heardAt = Date.now();
    clearTimeout(this.#timer);
    this.#recheck();
  }

  #goOffline() {
    this.#source?.close();
    clearTimeout(this.#timer);
    this.#say("offline");
  }

  async #recheck() {
    if (this.#closed) return;
    if (this.#state === "offline") this.#say("reconnecting");
    try {
      await this.#refetch();
    } catch (error) {
      await this.#missed(error);
      return;
    }
    // A job that has ended meanwhile has closed us.
    if (!this.#resting) this.#listen();
  }

  /** @param {AnswerError} error */
  async #missed(error) {
    if (this.#resting) return;
    const { refresh, notFoundSeconds = 0 } = this.#callbacks;
    if (error.status === 401 && refresh && ++this.#refusals < MOST_REFUSALS) {
      try {
        this.#token = await refresh();
        if (!this.#resting) this.#recheckLater(this.#refusals === 1 ? 0 : undefined);
        return;
      } catch (failure) {
        error = failure;
      }
      if (this.#resting) return;
    }
    const mayCome = error.status === 404 && !this.#found && Date.now() - this.#begunAt < notFoundSeconds * 1000;
    if (FINAL_STATUSES.has(error.status) && !mayCome) {
      this.close();
      this.#callbacks.onError?.(error);
      return;
    }
    this.#say(mayCome ? "connecting" : "reconnecting");
    this.#recheckLater();
  }

  /** @param {State} state */
  #say(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#callbacks.onState?.(state);
  }
}
