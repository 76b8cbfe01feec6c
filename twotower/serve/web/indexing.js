/** The progress of indexing, by server-sent events. */

import { formatNumber, h, iconButton } from "./dom.js";
import { announce } from "./messages.js";

/**
 * Follow the index and show its progress.
 *
 * Args:
 *   onProgress: called with each state of the index, and true when it has just finished.
 */
export function followIndexing(onProgress) {
  const host = document.getElementById("indexing");
  let before = null;
  const source = new EventSource("/api/index/events");
  source.addEventListener("index", (event) => {
    const index = JSON.parse(event.data);
    const isFinished = before?.state === "running" && index.state !== "running";
    if (index.state === "running") showProgress(host, index);
    else if (index.state === "failed") showFailure(host, index, isFinished);
    else host.replaceChildren();
    if (before?.state !== "running" && index.state === "running") announce("Indexing has started");
    if (isFinished) announce("Indexing has finished");
    before = index;
    onProgress(index, isFinished);
  });
  return source;
}

function showProgress(host, { stage, done, total, failed }) {
  if (!host.querySelector("progress")) {
    host.replaceChildren(
      h(
        "section",
        { class: "indexing", "aria-label": "Indexing" },
        h("p", {}),
        h("progress", { "aria-label": "Indexed pictures" }),
      ),
    );
  }
  const bar = host.querySelector("progress");
  if (total) {
    bar.max = total;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
  const numbers = total ? `${formatNumber(done)} of ${formatNumber(total)}` : "";
  const failures = failed ? ` · ${formatNumber(failed)} failed` : "";
  host.querySelector("p").textContent =
    `Indexing ${numbers} ${stage ? `· ${stage}` : ""}${failures}`;
}

function showFailure(host, { message }, isNew) {
  if (!isNew && host.dataset.seen === message) return;
  const close = () => {
    host.dataset.seen = message;
    host.replaceChildren();
  };
  host.replaceChildren(
    h(
      "section",
      { class: "indexing failed", role: "alert" },
      h("p", {}, `Indexing failed: ${message ?? "see the log of the server"}`),
      iconButton("close", "Close", close),
    ),
  );
}
