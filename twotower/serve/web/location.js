/** The state of the page, which lives in its address: links can be shared, and Back works. */

const EMPTY = {
  view: "", // "" for the pictures, "tags", "duplicates"
  q: "", // the query as typed
  sort: "", // "relevance" or "date"; "" for the one that suits the query
  all: "", // "1": list every picture below the cut-off
  upload: "", // token of a dropped picture
  similar: "", // id of the picture that others resemble
  picture: "", // id of the picture in the lightbox
  tag: "", // the tag under review
};

const listeners = [];
let current = read();

function read() {
  const search = new URLSearchParams(location.search);
  return Object.fromEntries(Object.keys(EMPTY).map((name) => [name, search.get(name) ?? ""]));
}

export const state = () => current;

/** Return the address of a state that differs from the present one by `changes`. */
export function addressOf(changes, { from = current } = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...from, ...changes })) {
    if (value !== "") search.set(name, value);
  }
  const text = search.toString();
  return text ? `/?${text}` : "/";
}

/** Go to the address of a view, leaving the rest of the state behind. */
export function open(changes) {
  change({ ...EMPTY, ...changes });
}

/** Change the state; `replace` keeps the number of steps that Back has. */
export function change(changes, { replace = false } = {}) {
  const previous = current;
  const next = Object.fromEntries(
    Object.entries({ ...current, ...changes }).map(([name, value]) => [name, String(value ?? "")]),
  );
  if (Object.keys(next).every((name) => next[name] === previous[name])) return;
  if (replace) {
    history.replaceState(history.state, "", addressOf({}, { from: next }));
  } else {
    history.replaceState({ ...history.state, scroll: scrollY }, "");
    const steps = (history.state?.steps ?? 0) + 1;
    history.pushState({ steps }, "", addressOf({}, { from: next }));
  }
  current = next;
  notify(previous);
}

/** Go a step back if it stays on this page; else replace the state by `changes`. */
export function back(changes) {
  if (history.state?.steps > 0) history.back();
  else change(changes, { replace: true });
}

/** Call `listener(state, previous, scroll)` after each change; `scroll` is set by Back. */
export function onChange(listener) {
  listeners.push(listener);
}

function notify(previous, scroll = null) {
  for (const listener of listeners) listener(current, previous, scroll);
}

history.scrollRestoration = "manual";
addEventListener("popstate", (event) => {
  const previous = current;
  current = read();
  notify(previous, event.state?.scroll ?? 0);
});
