// @ts-check
/** Sending a file, with the progress of the sending. */

import { ask, OFFLINE, refusal } from "./api.js";

/**
 * @param {File} file
 * @param {{matterId: string, onProgress: (share: number) => void, signal: AbortSignal}} options the share goes from 0 to 1
 * @returns {Promise<{job_id: string, document_id: string, links: any}>} rejects with a sentence for a person, whose
 *   `status` is the answer's, where there was one
 */
export function upload(file, { matterId, onProgress, signal }) {
  const form = new FormData();
  // First, so that it is known before the file has come.
  form.append("matter_id", matterId);
  form.append("file", file);
  return new Promise((resolve, reject) => {
    // fetch() cannot tell how much has been sent.
    const request = new XMLHttpRequest();
    request.open("POST", "/api/documents");
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 202) resolve(request.response);
      else reject(refusal(request.status, request.response));
    };
    request.onerror = () => whyLost().then(reject);
    request.onabort = () => reject(new DOMException("The sending was stopped.", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

/** A refusal that comes before the body has gone looks like a lost connection: ask what it was. */
async function whyLost() {
  if (!navigator.onLine) return new Error(OFFLINE);
  try {
    await ask("/api/jobs?limit=1");
  } catch (error) {
    return error;
  }
  return new Error("The connection was lost while the file was sent. Send it again.");
}
