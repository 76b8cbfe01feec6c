/** Answers: of the library to a question in the search box, and of one picture. */

import { request } from "./api.js";
import { formatPercent, h, icon, thumbnailUrl } from "./dom.js";
import { addressOf, change } from "./location.js";

const ASK_AFTER_MS = 350; // a question is asked once its typing pauses
const SHOWN_HITS = 8;

/** Return a card that asks the library a question and shows the answer. */
export function answerCard(question) {
  const body = h("div", { class: "answer-body", "aria-live": "polite" }, h("p", { class: "quiet" }, "Asking…"));
  const card = h("section", { class: "answer", "aria-label": "Answer" }, icon("ask"), body);
  setTimeout(async () => {
    if (!card.isConnected) return;
    try {
      showLibraryAnswer(body, await request("ask", { method: "POST", body: { question } }));
    } catch (error) {
      body.replaceChildren(h("p", {}, error.message));
    }
  }, ASK_AFTER_MS);
  return card;
}

function showLibraryAnswer(body, { answer, evidence, hits }) {
  const links = hits.slice(0, SHOWN_HITS).map((picture) =>
    h("a", {
      href: addressOf({ picture: picture.id }),
      "aria-label": picture.name,
      onclick: (event) => {
        event.preventDefault();
        change({ picture: picture.id });
      },
    }, h("img", { src: thumbnailUrl(picture.id), alt: "" })));
  body.replaceChildren(
    h("p", { class: "answer-text" }, answer),
    evidence && h("p", { class: "quiet" }, evidence),
    links.length ? h("div", { class: "answer-hits" }, links) : "",
  );
}

/** Return the elements of a picture's answer: the answer, what speaks for it, alternatives. */
export function pictureAnswer({ answer, answers, evidence, certain, probability }) {
  return [
    h("p", { class: "answer-text" }, certain ? answer : `Not sure: ${answer}`,
      probability != null && h("span", { class: "quiet" }, ` ${formatPercent(probability)}`)),
    answers?.length > 1 && bars(answers),
    evidence && h("p", { class: "quiet" }, evidence),
  ].filter(Boolean);
}

function bars(answers) {
  return h("ul", { class: "bars", role: "list" }, answers.slice(0, 4).map(({ answer, probability }) => {
    const bar = h("span", { class: "bar" });
    bar.style.width = `${100 * (probability ?? 0)}%`;
    return h("li", {}, h("span", {}, answer), h("span", { class: "bar-track" }, bar),
      h("span", { class: "number" }, formatPercent(probability ?? 0)));
  }));
}
