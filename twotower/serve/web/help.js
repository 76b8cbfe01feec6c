/** The help: keys, and the language of queries. */

import { h, iconButton } from "./dom.js";

const KEYS = [
  [
    "Everywhere",
    [
      ["/", "search"],
      ["?", "this help"],
      ["← → ↑ ↓", "move among the pictures"],
      ["Enter", "open a picture"],
    ],
  ],
  [
    "A picture",
    [
      ["← →", "previous, next"],
      ["Esc", "close"],
      ["i", "facts"],
      ["t", "tags"],
      ["h", "heat map"],
      ["a", "ask"],
      ["s", "similar pictures"],
      ["z", "full size"],
    ],
  ],
  [
    "Tag review",
    [
      ["a", "accept"],
      ["r", "reject"],
      ["u", "undo"],
      ["n", "next tag"],
    ],
  ],
];

const QUERIES = [
  ["a dog on the beach", "words together are a description"],
  ['"a dog" + "the sea"', "both apply"],
  ["beach -people", "the first applies, the second does not"],
  ['"a dog"^2 + "the sea"', "the first counts twice"],
  ["dog.jpg", "looks like this picture of the library"],
  ["after:2021 before:2023-06", "taken between"],
  ["camera:fuji  folder:trips", "by this camera, in this folder"],
  ["type:video  orientation:portrait", "of this kind"],
  ["near:48.1,11.5,20km", "near a place"],
  ["how many dogs are there?", "a question about all pictures"],
];

/** Show the help. */
export function showHelp() {
  const dialog = h(
    "dialog",
    { class: "help", "aria-label": "Help", onclose: () => dialog.remove() },
    h(
      "header",
      {},
      h("h1", {}, "Help"),
      iconButton("close", "Close", () => dialog.close(), { key: "Esc" }),
    ),
    h(
      "div",
      { class: "help-columns" },
      h("section", {}, h("h2", {}, "Searches"), definitions(QUERIES, "code")),
      h(
        "section",
        {},
        KEYS.map(([title, keys]) => [h("h2", {}, title), definitions(keys, "kbd")]).flat(),
      ),
    ),
    h(
      "p",
      { class: "quiet" },
      "Each description is judged by itself: the percentage is the probability that a person would ",
      "call the picture a match. Pictures below the cut-off follow under a line, dimmed. ",
      "Drop or paste a picture to find others like it.",
    ),
  );
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  document.body.append(dialog);
  dialog.showModal();
}

function definitions(entries, tag) {
  return h(
    "dl",
    {},
    entries.map(([term, meaning]) => [h("dt", {}, h(tag, {}, term)), h("dd", {}, meaning)]).flat(),
  );
}
