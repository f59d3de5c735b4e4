// @ts-check
/** The timeline: a lane for each worker process, a bar for each attempt at a chunk. */

import { barText, lanesOf, laneText } from "./history.js";
import { clock } from "./wording.js";

/** More lanes than these are counted. */
const MOST_LANES = 32;

/**
 * Draw events into the parts of the section, changing what is there.
 * @param {{lanes: HTMLElement, from: HTMLElement, to: HTMLElement, more: HTMLElement}} parts
 * @param {import("./history.js").Event[]} events
 * @param {number} now the server's clock in ms
 */
export function drawTimeline(parts, events, now) {
  const all = lanesOf(events);
  const lanes = all.slice(0, MOST_LANES);
  const bars = all.flatMap((lane) => lane.bars);
  const from = Math.min(...bars.map((bar) => bar.from));
  const to = Math.max(from + 1000, ...bars.map((bar) => bar.to ?? now));
  parts.from.textContent = bars.length ? clock(new Date(from), to) : "";
  parts.to.textContent = bars.length ? (bars.some((bar) => bar.to === null) ? "now" : clock(new Date(to), from)) : "Nobody has begun yet.";
  parts.more.hidden = all.length <= MOST_LANES;
  parts.more.textContent = `And ${all.length - MOST_LANES} more.`;
  resize(parts.lanes, lanes.length, makeLane);
  lanes.forEach((lane, place) => drawLane(parts.lanes.children[place], lane, from, to, now));
}

function makeLane() {
  const [lane, name, track] = [document.createElement("li"), document.createElement("span"), document.createElement("span")];
  lane.className = "lane";
  name.className = "lane-name";
  name.setAttribute("aria-hidden", "true");
  track.className = "track";
  track.setAttribute("role", "img");
  lane.append(name, track);
  return lane;
}

function drawLane(element, lane, from, to, now) {
  const [name, track] = element.children;
  name.textContent = lane.label;
  name.title = lane.title;
  track.setAttribute("aria-label", laneText(lane));
  resize(track, lane.bars.length, () => document.createElement("span"));
  const share = (ms) => `${((100 * ms) / (to - from)).toFixed(2)}%`;
  lane.bars.forEach((bar, place) => {
    const piece = track.children[place];
    piece.className = `bar ${bar.end}${bar.chunk === null ? " merge" : ""}`;
    piece.title = barText(bar, now);
    piece.style.left = share(bar.from - from);
    piece.style.width = share((bar.to ?? now) - bar.from);
  });
}

function resize(element, count, make) {
  while (element.children.length > count) element.lastChild.remove();
  while (element.children.length < count) element.append(make());
}
