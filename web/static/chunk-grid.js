// @ts-check
/** The grid of chunks: one cell each, groups of them where there are very many. */

/** More cells than these are neither seen nor quickly drawn. */
const MOST_CELLS = 400;
/** What a cell of several chunks shows: the first of these that any of them is. */
const LOUDEST_FIRST = ["failed", "processing", "pending", "completed"];
const WORDS = { pending: "waiting", processing: "processing", completed: "completed", failed: "failed" };

/**
 * Draw `chunks` (rows of GET /api/jobs/{id}/chunks) into `element`, changing only the cells that differ.
 * Their ranges are named in the job's `unit` where it is `ranged`.
 */
export function drawChunks(element, chunks, { unit = "pages", ranged = true } = {}) {
  const perCell = Math.max(1, Math.ceil(chunks.length / MOST_CELLS));
  const cells = Math.ceil(chunks.length / perCell);
  while (element.children.length > cells) element.lastChild.remove();
  while (element.children.length < cells) element.append(document.createElement("span"));
  for (let place = 0; place < cells; place++) {
    drawCell(element.children[place], chunks.slice(place * perCell, (place + 1) * perCell), ranged ? unit : null);
  }
  element.classList.toggle("dense", cells > 120);
  element.setAttribute("aria-label", `${chunks.length} chunks: ${summary(chunks)}`);
}

function drawCell(cell, chunks, unit) {
  const status = LOUDEST_FIRST.find((name) => chunks.some((chunk) => chunk.status === name));
  const [first, last] = [chunks[0], chunks[chunks.length - 1]];
  const pages = chunks.reduce((sum, chunk) => sum + chunk.pages, 0);
  const done = chunks.reduce((sum, chunk) => sum + chunk.pages_done, 0);
  const which = first === last ? `Chunk ${first.chunk_index + 1}` : `Chunks ${first.chunk_index + 1}-${last.chunk_index + 1}`;
  const what = first === last ? WORDS[status] : summary(chunks);
  const range = unit === null ? "" : ` (${unit} ${first.page_start}-${last.page_end})`;
  const title = `${which}${range}: ${what}`;
  const share = status === "processing" ? `${Math.round((100 * done) / pages)}%` : "0%";
  if (cell.title === title && cell.dataset.share === share) return;
  cell.className = `cell ${status}`;
  cell.title = title;
  cell.dataset.share = share;
  cell.style.setProperty("--share", share);
}

function summary(chunks) {
  return ["completed", "processing", "pending", "failed"]
    .map((status) => [chunks.filter((chunk) => chunk.status === status).length, WORDS[status]])
    .filter(([count]) => count > 0)
    .map(([count, word]) => `${count} ${word}`)
    .join(", ");
}
