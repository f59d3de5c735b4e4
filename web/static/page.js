// @ts-check
/** The page: uploads, and the list of the matter's jobs over one live stream. */

import { JobCard } from "./job-card.js";
import { TERMINAL, fetchJson, followMatter } from "./progress.js";
import { upload } from "./upload.js";
import { size } from "./wording.js";

/** @type {(id: string) => any} */
const byId = (id) => document.getElementById(id);
const { matter, maxUploadBytes } = document.body.dataset;
const STATE_WORDS = { connecting: "Connecting…", live: "Live", reconnecting: "Reconnecting…", offline: "Offline", closed: "Offline" };

const cards = new Map();
/** The server's clock less ours: what is left until a finish time must not depend on the reader's clock. */
let clockOffset = 0;

const page = {
  now: () => Date.now() + clockOffset,
  onProblem: showProblem,
  onSnapshot: take,
};

function take(snapshot) {
  const known = cards.get(snapshot.job_id);
  if (known && snapshot.version < known.snapshot.version) return;
  if (snapshot.heartbeat_at && !TERMINAL.has(snapshot.status)) clockOffset = offset(snapshot);
  if (known) {
    const stage = known.snapshot.stage_name;
    known.update(snapshot);
    if (snapshot.stage_name !== stage || TERMINAL.has(snapshot.status)) announce(known);
    return;
  }
  const card = new JobCard(snapshot, page);
  cards.set(snapshot.job_id, card);
  // Newest first.
  const list = byId("jobs");
  const older = [...list.children].find((element) => createdAt(element) < snapshot.created_at);
  list.insertBefore(card.element, older ?? null);
  byId("empty").hidden = true;
}

function createdAt(element) {
  return cards.get(element.dataset.jobId).snapshot.created_at;
}

/** Heartbeats are stamped when they are made; the least delay seen is the best guess of the offset. */
let bestDelay = Infinity;
function offset(snapshot) {
  const delay = Date.now() - Date.parse(snapshot.heartbeat_at);
  bestDelay = Math.min(bestDelay, delay);
  return -bestDelay;
}

let announced = "";
function announce(card) {
  const text = `${card.parts.name.textContent}: ${card.parts.stage.textContent}`;
  if (text === announced) return;
  announced = text;
  byId("announcements").textContent = text;
}

function showProblem(text) {
  byId("problem-text").textContent = text;
  byId("problem").hidden = false;
}

async function send(file) {
  const row = byId("upload-row").content.firstElementChild.cloneNode(true);
  const [name, note, bar] = ["name", "note", "bar"].map((part) => row.querySelector(`[data-part=${part}]`));
  const dismiss = row.querySelector("button");
  dismiss.addEventListener("click", () => row.remove());
  name.textContent = file.name;
  byId("uploads").append(row);
  try {
    if (file.size > Number(maxUploadBytes)) {
      throw new Error(`The file has ${size(file.size)}; at most ${size(Number(maxUploadBytes))} are accepted.`);
    }
    note.textContent = `Sending ${size(file.size)}…`;
    const answer = await upload(file, {
      matterId: matter,
      onProgress(share) {
        bar.value = share;
        if (share === 1) note.textContent = "Checking the document…";
      },
    });
    take(await fetchJson(answer.links.self));
    row.remove();
  } catch (error) {
    row.classList.add("refused");
    note.textContent = error.message;
    note.setAttribute("role", "alert");
    bar.hidden = true;
    dismiss.hidden = false;
  }
}

/** One after the other: the second file does not slow down the first. */
let queue = Promise.resolve();
function sendAll(files) {
  for (const file of files) queue = queue.then(() => send(file));
}

function acceptDrops() {
  const zone = byId("drop");
  const input = byId("file");
  input.addEventListener("change", () => {
    sendAll([...input.files]);
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
    sendAll([...event.dataTransfer.files]);
  });
}

function follow() {
  followMatter(`/api/matters/${encodeURIComponent(matter)}/events`, {
    onSnapshot: take,
    onState(state) {
      byId("live").dataset.state = state;
      byId("live-text").textContent = STATE_WORDS[state];
    },
    onError(error) {
      showProblem(error.status === 401 ? "Your session has ended. Reload the page to sign in again." : error.message);
    },
  });
}

async function start() {
  byId("problem-dismiss").addEventListener("click", () => (byId("problem").hidden = true));
  byId("matter").addEventListener("change", () => byId("matter-form").requestSubmit());
  acceptDrops();
  follow();
  setInterval(() => cards.forEach((card) => card.tick()), 1000);
  try {
    (await fetchJson(`/api/jobs?matter_id=${encodeURIComponent(matter)}`)).forEach(take);
    byId("empty").hidden = cards.size > 0;
  } catch (error) {
    showProblem(error.message);
  }
}

start();
