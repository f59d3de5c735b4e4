// @ts-check
/** Times and sizes as people say them. Pure: no page in here. */

const MINUTE = 60;

/** "about 14:32, between 14:30 and 14:36 · 3 min left"; `now` is the server's clock in ms. */
export function etaText(eta, now) {
  if (!eta) return "";
  const [finish, earliest, latest] = [eta.finish_at, eta.earliest, eta.latest].map((text) => new Date(text));
  const left = (finish.getTime() - now) / 1000;
  if (left < 1) return latest.getTime() - now > 5000 ? `any moment, by ${clock(latest, now)} at the latest` : "any moment now";
  const [from, to] = [clock(earliest, now), clock(latest, now)];
  const between = from === to ? "" : `, between ${from} and ${to}`;
  return `about ${clock(finish, now)}${between} · ${duration(left)} left`;
}

/** Why nothing moves, and how many documents are before this one; "" while something does. */
export function waitingText(waiting) {
  if (!waiting) return "";
  const before = waiting.jobs_before;
  return before ? `${waiting.reason} ${before === 1 ? "1 document is" : `${before} documents are`} before it.` : waiting.reason;
}

/** "14:32", with the day where it is not today's; with seconds for what is less than two minutes away. */
export function clock(date, now) {
  /** @type {Intl.DateTimeFormatOptions} */
  const options = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (Math.abs(date - now) < 2 * MINUTE * 1000) options.second = "2-digit";
  const time = date.toLocaleTimeString(undefined, options);
  if (date.toDateString() === new Date(now).toDateString()) return time;
  return `${date.toLocaleDateString(undefined, { weekday: "short", day: "numeric", month: "short" })} ${time}`;
}

/** "40 s", "3 min", "1 h 20 min", "2 d 4 h"; seconds in. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / MINUTE);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${hours / 24} d`;
}

/** "3.4 MB" */
export function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
