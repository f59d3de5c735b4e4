// @ts-check
/** Sending a file, with the progress of the sending. */

/**
 * @param {File} file
 * @param {{matterId: string, onProgress: (share: number) => void}} options the share goes from 0 to 1
 * @returns {Promise<{job_id: string, document_id: string, links: object}>} rejects with a sentence for a person
 */
export function upload(file, { matterId, onProgress }) {
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
      else reject(new Error(request.response?.detail ?? `The server answered ${request.status}.`));
    };
    request.onerror = () => reject(new Error("The connection was lost while sending the file. Please try again."));
    request.send(form);
  });
}
