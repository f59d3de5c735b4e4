// @ts-check
/** Requests to the service's API, and what their errors mean to a person. */

/** @typedef {Error & {status?: number}} ApiError */

const SENTENCES = {
  401: "Your session has ended. Sign in again, then try this again.",
  403: "You may not do this: your key does not allow it.",
  404: "It is not there any more; it may have been deleted.",
};
export const OFFLINE = "You are offline. Try again when the connection is back.";
const UNREACHABLE = "The service does not answer. Try again in a moment.";

/** Called whenever an answer says that nobody is signed in any more. */
let onSessionEnded = () => {};
export function whenSessionEnds(callback) {
  onSessionEnded = callback;
}

/**
 * The JSON of an answer, and where the next page of a list is; null where there is none.
 * @param {string} url
 * @param {RequestInit} [options]
 * @returns {Promise<{body: any, next: string | null}>} rejects with an ApiError whose message is a sentence for a person
 */
export async function ask(url, options = {}) {
  let response;
  try {
    response = await fetch(url, { headers: { Accept: "application/json" }, cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(navigator.onLine ? UNREACHABLE : OFFLINE, { cause: error });
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw refusal(response.status, body);
  return { body, next: nextPage(response.headers.get("Link")) };
}

/**
 * The error of an answer that is none of success.
 * @returns {ApiError}
 */
export function refusal(status, body) {
  if (status === 401) onSessionEnded();
  const detail = status === 401 ? SENTENCES[401] : body?.detail ?? SENTENCES[status];
  /** @type {ApiError} */
  const error = new Error(detail ?? `The server answered ${status}. Try again in a moment.`);
  error.status = status;
  return error;
}

/** The address in a Link header with rel="next". */
export function nextPage(header) {
  return header?.match(/<([^>]+)>;\s*rel="next"/)?.[1] ?? null;
}
