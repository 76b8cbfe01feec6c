/** The layouts of the worker, for the main thread. */

import { ApiError } from "./api.js";

const worker = new Worker(new URL("./layout-worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let identifier = 0;

worker.onmessage = ({ data }) => {
  const promise = waiting.get(data.id);
  for (const id of waiting.keys()) if (id <= data.id) waiting.delete(id); // earlier are stale
  if (!promise) return;
  if (data.error) {
    promise.reject(new ApiError(data.error.status, data.error.message, data.error.field));
  } else {
    promise.resolve(data);
  }
};

/** Return {columns, rows} of an address; a promise that a later call overtakes never settles. */
export const loadLayout = (url, box) => post({ url, box });

/** Return {rows} of the loaded layout in another box. */
export const arrangeLayout = (box) => post({ box });

/** Return {columns, rows} of pictures that came with an answer; the first `matches` match. */
export function layoutOf(pictures, matches, box) {
  const answer = {
    ids: pictures.map((picture) => picture.id),
    aspect: pictures.map(({ width, height }) => (width && height ? width / height : 1.5)),
    month: pictures.map(({ taken }) => taken?.slice(0, 7) ?? ""),
    probability: pictures.map((picture) => picture.probability),
    matches,
  };
  return post({ answer, box });
}

function post(message) {
  const id = ++identifier;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...message });
  });
}
