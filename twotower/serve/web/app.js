/** The page: opens the library, then shows the view that the address names. */

import { request, setVersion } from "./api.js";
import { h, isTyping } from "./dom.js";
import "./drop.js";
import { Duplicates } from "./duplicates.js";
import { focusSearch, showHeader } from "./header.js";
import { showHelp } from "./help.js";
import { followIndexing } from "./indexing.js";
import { Lightbox } from "./lightbox.js";
import { onChange, state } from "./location.js";
import { errorMessage, stateMessage } from "./messages.js";
import { Photos } from "./photos.js";
import { Review } from "./review.js";

const RECONNECT_MS = 3000;
const REFRESH_MS = 4000; // between reloads of an unfinished library that nobody scrolled
const VIEWS = { "": Photos, tags: Review, duplicates: Duplicates };

const main = document.getElementById("main");
let library = null;
let view = null;
let viewName = null;
let lightbox = null;
let events = null;
let refreshed = 0;

function show(next, previous = null, scroll = null) {
  if (!library) return;
  const name = next.view in VIEWS ? next.view : "";
  if (name !== viewName) {
    view?.remove();
    viewName = name;
    view = new VIEWS[name](library);
    main.replaceChildren(view.element);
    if (previous) scrollTo({ top: 0, behavior: "instant" });
  }
  view.update(next, scroll);
  showLightbox(next.picture);
  showTitle(next);
}

function showLightbox(picture) {
  if (!picture) {
    lightbox?.remove();
    lightbox = null;
    return;
  }
  lightbox ??= new Lightbox(library, {
    get ids() {
      return view.ids;
    },
    get text() {
      return view.text;
    },
    get grid() {
      return view.grid;
    },
  });
  lightbox.show(picture);
}

function showTitle({ q, view: name }) {
  const titles = { tags: "Tags", duplicates: "Duplicates" };
  const subject = titles[name] ?? q;
  document.title = subject ? `${subject} – ${library.name}` : library.name;
}

async function start() {
  try {
    library = await request("library");
    setVersion(library.version);
  } catch (error) {
    showStartError(error);
    return;
  }
  view?.remove();
  view = viewName = null;
  show(state());
  events?.close();
  events = followIndexing(onIndexProgress);
}

/** Reload the library's facts and, if nobody has begun to look at them, its pictures. */
async function onIndexProgress(index, isFinished) {
  library.indexing = index;
  const isDue = index.state === "running" && performance.now() - refreshed > REFRESH_MS;
  if (!isFinished && !(isDue && scrollY < 50 && !lightbox)) return;
  refreshed = performance.now();
  Object.assign(library, await request("library").catch(() => ({})));
  setVersion(library.version);
  if (viewName === "" && (isFinished || !state().q)) view.load(scrollY);
}

function showStartError(error) {
  if (error.status === 401) return; // the event "needs-key" has led to the form
  if (error.status === 404) {
    main.replaceChildren(
      stateMessage({
        icon: "photos",
        title: "This server has no library",
        text: "It serves models alone. Start it with a folder of pictures: twotower serve FOLDER",
      }),
    );
  } else {
    main.replaceChildren(errorMessage(error, start));
    reconnect();
  }
}

function askForKey(problem = "") {
  library = null;
  lightbox?.remove();
  lightbox = null;
  events?.close();
  const key = h("input", {
    type: "password",
    name: "key",
    required: true,
    autocomplete: "current-password",
  });
  const submit = async (event) => {
    event.preventDefault();
    try {
      await request("session", { method: "POST", body: { key: key.value } });
      start();
    } catch (error) {
      askForKey(error.message);
    }
  };
  main.replaceChildren(
    stateMessage({
      icon: "info",
      title: "This library needs a key",
      text: "The person who started the server has it.",
      actions: [
        h(
          "form",
          { class: "key-form", onsubmit: submit },
          h("label", {}, "Key", key),
          problem && h("p", { class: "problem", role: "alert" }, problem),
          h("button", { class: "button primary" }, "Open"),
        ),
      ],
    }),
  );
  key.focus();
}

let reconnecting = 0;

/** Try the server again until it answers. */
function reconnect() {
  clearTimeout(reconnecting);
  reconnecting = setTimeout(async () => {
    const isBack = await fetch("/healthz").then(
      (response) => response.ok,
      () => false,
    );
    if (isBack) start();
    else reconnect();
  }, RECONNECT_MS);
}

function keydown(event) {
  if (isTyping(event) || document.querySelector("dialog[open]")) return;
  if (event.key === "/") {
    event.preventDefault();
    focusSearch();
  } else if (event.key === "?") {
    showHelp();
  }
}

showHeader();
onChange(show);
addEventListener("keydown", keydown);
addEventListener("needs-key", () => askForKey());
addEventListener("disconnected", reconnect);
start();
