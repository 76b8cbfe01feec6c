/** Requests to the server, and the ways in which they fail. */

/** An answer with an error: `status` is 0 if there was no answer. */
export class ApiError extends Error {
  constructor(status, message, field = null) {
    super(message);
    this.status = status;
    this.field = field;
  }
}

/**
 * Return the JSON of a path below /api, or null if the answer is empty.
 *
 * Throws an ApiError, or an AbortError once `signal` is aborted.
 */
export async function request(path, { method = "GET", body, signal } = {}) {
  const isJson = body !== undefined && !(body instanceof Blob);
  const response = await send(`/api/${path}`, {
    method,
    signal,
    body: isJson ? JSON.stringify(body) : body,
    headers: isJson ? { "Content-Type": "application/json" } : {},
  });
  if (response.status === 204) return null;
  return response.json();
}

/**
 * Return the response of a URL if it is a success; throw an ApiError otherwise.
 *
 * The event "needs-key" tells the page that the server has not seen the API key.
 */
export async function send(url, options = {}) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer.");
  }
  if (response.status === 401 && url !== "/api/session") dispatchEvent(new Event("needs-key"));
  if (!response.ok) throw await readError(response);
  return response;
}

async function readError(response) {
  try {
    const { error } = await response.json();
    return new ApiError(response.status, sentence(error.message), error.field);
  } catch {
    return new ApiError(response.status, `The server answered with status ${response.status}.`);
  }
}

function sentence(text) {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

/** Return a query string of the parameters that have a value. */
export function parameters(values) {
  const entries = Object.entries(values).filter(([, value]) => value !== "" && value != null);
  return new URLSearchParams(entries).toString();
}

// --- pictures ------------------------------------------------------------------------------------

let version = "";

/** Set the version of the library, under which browsers may keep its thumbnails. */
export function setVersion(value) {
  version = value;
}

export const thumbnailUrl = (id, height = 240) =>
  `/api/pictures/${id}/thumbnail?${parameters({ height, v: version })}`;
