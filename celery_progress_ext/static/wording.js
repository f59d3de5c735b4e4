// @ts-check
/** Times and sizes as people say them; celery_progress_ext/wording.py says the same. Pure: no page in here. */

const MINUTE = 60;
const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** What a time is rounded to, in seconds: the largest of which at least two fit into the interval. */
export const PRECISIONS = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400];
/** What is said once an interval is over and the job is not. */
const LATE = "later than expected";

/**
 * "about 14:30, 14:20-14:50 · 20 min left", in local time: the estimate inside its interval, both at one precision that
 * fits the interval's width, and neither in the past. `now` is the server's clock in ms.
 */
export function etaText(eta, now) {
  if (!eta) return "";
  const [finish, earliest, latest] = [eta.finish_at, eta.earliest, eta.latest].map((text) => Date.parse(text) / 1000);
  return finishText(finish, earliest, latest, now / 1000);
}

/** The same from seconds since the epoch. */
export function finishText(finishAt, earliestAt, latestAt, now) {
  if (latestAt <= now) return LATE;
  const step = precision(latestAt - earliestAt);
  let earliest = rounded(Math.max(earliestAt, now), step, Math.floor);
  if (earliest < now) earliest += step;
  const finish = Math.max(earliest, rounded(finishAt, step, Math.round));
  const latest = Math.max(finish, rounded(latestAt, step, Math.ceil));
  const seconds = step < MINUTE;
  let text = `about ${clockText(finish, now, seconds)}`;
  if (earliest !== latest) text += `, ${clockText(earliest, finish, seconds)}-${clockText(latest, finish, seconds)}`;
  const left = Math.round((Math.max(finishAt, now) - now) / step) * step;
  return left ? `${text} · ${duration(left)} left` : `${text} · less than ${duration(step)} left`;
}

/** What the times of an interval of this width are rounded to; seconds both. */
export function precision(width) {
  return Math.max(PRECISIONS[0], ...PRECISIONS.filter((each) => 2 * each <= width));
}

/** Why nothing moves; "" while something does. */
export function waitingText(waiting) {
  return waiting ? waiting.reason : "";
}

/** "14:32", with the day where it is not today's; with seconds for what is less than two minutes away. `now` in ms. */
export function clock(date, now) {
  return clockText(date / 1000, now / 1000, Math.abs(date - now) < 2 * MINUTE * 1000);
}

/** "40 s", "3 min", "1 h 20 min", "2 d 4 h"; seconds in. */
export function duration(seconds) {
  if (seconds < 1.5 * MINUTE) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / MINUTE);
  if (minutes < 60) return `${minutes} min`;
  return minutes < 24 * 60 ? parts(minutes, 60, "h", "min") : parts(Math.floor(minutes / 60), 24, "d", "h");
}

/** "3.4 MB" */
export function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function parts(number, per, large, small) {
  const rest = number % per;
  return rest ? `${Math.floor(number / per)} ${large} ${rest} ${small}` : `${number / per} ${large}`;
}

/** A moment on the local clock, rounded. */
function rounded(at, step, how) {
  const shift = -new Date(at * 1000).getTimezoneOffset() * MINUTE;
  return how((at + shift) / step) * step - shift;
}

/** "14:32", with seconds where they are known, and with the day where it is not the day of the other moment. */
function clockText(at, ofDay, seconds) {
  const moment = new Date(at * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const fields = [moment.getHours(), moment.getMinutes(), ...(seconds ? [moment.getSeconds()] : [])];
  const text = fields.map(two).join(":");
  if (moment.toDateString() === new Date(ofDay * 1000).toDateString()) return text;
  return `${WEEKDAYS[moment.getDay()]} ${moment.getDate()} ${MONTHS[moment.getMonth()]} ${text}`;
}
