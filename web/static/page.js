// @ts-check
/** The page: the list of a matter's documents, or one of them; uploads; one live stream for all of it. */

import { pageOf } from "./actions.js";
import { ask, whenSessionEnds } from "./api.js";
import { DocumentList } from "./document-list.js";
import { byId, fromTemplate, show } from "./elements.js";
import { isOver, nameOf, percentOf, stageText } from "./job-text.js";
import { Notifications } from "./notifications.js";
import { followMatter } from "./progress.js";
import { Uploads } from "./uploads.js";

const { matter, maxUploadBytes } = document.body.dataset;
const STATE_WORDS = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  offline: "Offline",
  closed: "Not connected",
};

/** The newest snapshot of each job that was heard of. */
const jobs = new Map();
/** @type {import("./document-view.js").DocumentView | null} */
let view = null;
/** The server's clock less ours: what is left until a finish time must not depend on the reader's clock. */
let clockOffset = 0;
let bestDelay = Infinity;

const page = {
  now: () => Date.now() + clockOffset,
  onProblem: showProblem,
  onSnapshot: take,
  onDeleted: forget,
  newest: (job) => {
    take(job, { toList: false });
    return jobs.get(job.job_id);
  },
  announce,
  notifications: new Notifications(),
  /** @type {Uploads} */
  uploads: null,
};
const list = new DocumentList(matter, page);
page.uploads = new Uploads(byId("uploads"), {
  matter,
  maxBytes: Number(maxUploadBytes),
  async onAccepted(answer, done) {
    const { body } = await ask(answer.links.self);
    done();
    take(body);
    list.take(jobs.get(body.job_id));
  },
  onChange() {
    show(byId("keep-open"), page.uploads?.needed ?? false);
    view?.drawClosing();
    if (page.uploads) list.tidy();
  },
  announce,
  focusElsewhere: () => byId("file").focus(),
});

function take(job, { toList = true } = {}) {
  const known = jobs.get(job.job_id);
  if (known && job.version < known.version) return;
  jobs.set(job.job_id, job);
  if (job.heartbeat_at && !isOver(job)) {
    // Heartbeats are stamped when they are made; the least delay seen is the best guess of the offset.
    bestDelay = Math.min(bestDelay, Date.now() - Date.parse(job.heartbeat_at));
    clockOffset = -bestDelay;
  }
  if (toList) list.take(job);
  if (view?.job.job_id === job.job_id) view.take(job);
  page.notifications.take(job);
  if (known && (job.stage_name !== known.stage_name || job.status !== known.status)) {
    announce(`${nameOf(job)}: ${stageText(job)}`);
  }
  drawTitle();
}

function forget(job) {
  announce(`${nameOf(job)} is deleted`);
  jobs.delete(job.job_id);
  if (view?.job.job_id === job.job_id) navigate(list.address);
  list.remove(job);
}

let announced = "";
function announce(text) {
  if (text === announced) return;
  announced = text;
  byId("announcements").textContent = text;
}

function showProblem(text) {
  byId("problem-text").textContent = text;
  show(byId("problem"), true);
}

function drawTitle() {
  const { running } = list;
  const what = view
    ? `${isOver(view.job) ? "" : `${percentOf(view.job)} % · `}${nameOf(view.job)}`
    : `${running ? `${running} running · ` : ""}Documents of ${matter}`;
  document.title = `${what} · Document OCR`;
}

/** Go to an address of this page without loading it anew: uploads go on. */
function navigate(address) {
  if (address !== location.pathname + location.search) history.pushState(null, "", address);
  return route();
}

async function route() {
  const id = location.pathname.match(/^\/documents\/([^/]+)$/)?.[1];
  view?.close();
  view = null;
  byId("document").replaceChildren();
  show(byId("list"), id === undefined);
  show(byId("document"), id !== undefined);
  if (id !== undefined) await openDocument(decodeURIComponent(id));
  drawTitle();
}

async function openDocument(documentId) {
  try {
    // The list does without it.
    const { DocumentView } = await import("./document-view.js");
    const known = [...jobs.values()].find((job) => job.document_id === documentId);
    const job = known ?? (await ask(`/api/documents/${encodeURIComponent(documentId)}`)).body;
    if (location.pathname !== pageOf(job)) return;
    take(job);
    view = new DocumentView(jobs.get(job.job_id), page);
    byId("document").replaceChildren(view.element);
    view.parts.name.focus({ preventScroll: true });
    scrollTo(0, 0);
  } catch (error) {
    const { element, parts } = fromTemplate("document-missing");
    parts.sentence.textContent = error.message;
    byId("document").replaceChildren(element);
  }
}

function followLinks() {
  addEventListener("popstate", route);
  document.addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    const link = /** @type {HTMLAnchorElement} */ (target.closest?.("a[data-link]"));
    const plain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
    if (!link || !plain) return;
    event.preventDefault();
    const opened = view?.job;
    const address = link.dataset.link === "list" ? list.address : link.pathname + link.search;
    // Back in the list, the focus is where it was.
    navigate(address).then(() => opened && !view && list.rows.get(opened.job_id)?.parts.name.focus());
  });
}

function acceptDrops() {
  const zone = byId("drop");
  const input = byId("file");
  const send = (files) => {
    if (view) navigate(list.address);
    page.uploads.add(files);
  };
  input.addEventListener("change", () => {
    send([...input.files]);
    input.value = "";
  });
  let depth = 0;
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) zone.classList.toggle("over", ++depth > 0);
  });
  addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) zone.classList.toggle("over", --depth > 0);
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) send([...event.dataTransfer.files]);
  });
}

let streamState = "connecting";
function drawLive() {
  const state = navigator.onLine ? streamState : "offline";
  byId("live").dataset.state = state;
  byId("live-text").textContent = STATE_WORDS[state];
}

/** @type {{close: () => void}} */
let follower = null;
function follow() {
  follower?.close();
  follower = followMatter(`/api/matters/${encodeURIComponent(matter)}/events`, {
    onSnapshot: (job) => take(job),
    // When the stream is open, so that nothing falls between the list and what comes after it.
    refetch: () =>
      list.load().catch((error) => {
        if (error.name !== "AbortError" && error.status !== 401) showProblem(error.message);
        throw error;
      }),
    onState(state) {
      streamState = state;
      drawLive();
    },
    onError(error) {
      if (error.status !== 401) showProblem(error.message);
    },
  });
}

let sessionEnded = false;
function followSession() {
  whenSessionEnds(() => {
    sessionEnded = true;
    follower?.close();
    show(byId("session"), true);
  });
  const look = async () => {
    if (!sessionEnded || document.visibilityState !== "visible") return;
    try {
      await ask("/api/jobs?limit=1");
    } catch {
      return;
    }
    sessionEnded = false;
    show(byId("session"), false, byId("file"));
    announce("You are signed in again.");
    follow();
  };
  addEventListener("focus", look);
  document.addEventListener("visibilitychange", look);
  byId("session-look").addEventListener("click", look);
}

function start() {
  byId("problem-dismiss").addEventListener("click", () => show(byId("problem"), false, byId("file")));
  byId("matter").addEventListener("change", () => byId("matter-form").requestSubmit());
  addEventListener("online", drawLive);
  addEventListener("offline", drawLive);
  acceptDrops();
  followLinks();
  followSession();
  route();
  follow();
  setInterval(() => {
    if (view) view.tick();
    else list.tick();
  }, 1000);
}

start();
