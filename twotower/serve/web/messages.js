/** Short messages, announcements, and the states in which there is nothing else to show. */

import { h, icon } from "./dom.js";

const SECONDS = 6;

const status = h("div", { class: "visually-hidden", role: "status", "aria-live": "polite" });
const toasts = h("div", { class: "toasts", role: "status", "aria-live": "polite" });
document.body.append(status, toasts);

/** Tell assistive technology about a change that is visible elsewhere. */
export function announce(text) {
  status.textContent = text;
}

/** Show a message for some seconds, with an optional button {label, run}. */
export function toast(text, action = null) {
  const open = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  open.append(toasts); // an open dialog covers everything that is not in it
  const message = h("div", { class: "toast" }, h("span", {}, text));
  if (action) {
    const run = () => {
      message.remove();
      action.run();
    };
    message.append(
      h("button", { type: "button", class: "text-button", onclick: run }, action.label),
    );
  }
  toasts.replaceChildren(message);
  setTimeout(() => message.remove(), SECONDS * 1000);
}

/** Return a page-sized message: what is the case, and what can be done. */
export function stateMessage({ icon: name, title, text = "", actions = [] }) {
  return h(
    "section",
    { class: "state" },
    name && h("div", { class: "state-icon" }, icon(name)),
    h("h1", {}, title),
    text && h("p", {}, text),
    ...actions,
  );
}

/** Return a message about a request that failed, with a button that tries again. */
export function errorMessage(error, retry) {
  const isOffline = error.status === 0;
  return stateMessage({
    icon: "info",
    title: isOffline ? "No connection to the server" : "That did not work",
    text: isOffline ? "Is it running? The page tries again by itself." : error.message,
    actions: [h("button", { type: "button", class: "button", onclick: retry }, "Try again")],
  });
}

/** Return grey shapes of `height` pixels, in the place of pictures that are being loaded. */
export function placeholders(height) {
  const shapes = [1.5, 0.75, 1.33, 1.78, 1, 1.5, 0.67, 1.5, 1.33, 1.5, 0.8, 1.6].map((aspect) => {
    const shape = h("div", { class: "placeholder" });
    shape.style.width = `${aspect * height}px`;
    shape.style.height = `${height}px`;
    return shape;
  });
  return h("div", { class: "placeholders", "aria-hidden": "true" }, shapes);
}
