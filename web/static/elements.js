// @ts-check
/** Small things that are done to elements everywhere. */

/** @type {(id: string) => any} */
export const byId = (id) => document.getElementById(id);

/**
 * A template's element, and the parts of it that are named by `data-part`.
 * @returns {{element: any, parts: any}}
 */
export function fromTemplate(id) {
  const element = byId(id).content.firstElementChild.cloneNode(true);
  return { element, parts: partsOf(element) };
}

/** @returns {any} */
export function partsOf(element) {
  return Object.fromEntries([...element.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
}

/** Show or hide; a focus inside does not fall to the page but goes to `instead`. */
export function show(element, visible, instead = null) {
  if (!visible && !element.hidden && element.contains(document.activeElement)) instead?.focus();
  element.hidden = !visible;
}

/** Set a text only where it differs: what is read aloud is not read again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Texts as list items. They come from documents and errors, so they are never markup. */
export function setList(element, texts) {
  const same = element.children.length === texts.length && texts.every((text, i) => element.children[i].textContent === text);
  if (same) return;
  element.replaceChildren(
    ...texts.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
}

/** Draw a bar of work. */
export function drawBar(bar, percent, text) {
  bar.setAttribute("aria-valuenow", percent);
  bar.setAttribute("aria-valuetext", text);
  bar.style.setProperty("--done", `${percent}%`);
}

/**
 * Ask a question that has to be answered.
 * @param {{title: string, text: string, yes: string, no: string}} question
 * @returns {Promise<boolean>}
 */
export function confirmed(question) {
  const dialog = byId("question");
  const parts = partsOf(dialog);
  for (const name of ["title", "text", "yes", "no"]) parts[name].textContent = question[name];
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
