/** Answers: of the library to a question in the search box, and of one picture. */

import { formatPercent, h, icon } from "./dom.js";

/** Return a card with the library's answer to a question; the pictures follow in the grid. */
export function answerCard({ answer, evidence }) {
  return h(
    "section",
    { class: "answer", "aria-label": "Answer" },
    icon("ask"),
    h(
      "div",
      { class: "answer-body" },
      h("p", { class: "answer-text", role: "status" }, answer),
      evidence && h("p", { class: "quiet" }, evidence),
    ),
  );
}

/** Return the elements of a picture's answer: the answer, what speaks for it, alternatives. */
export function pictureAnswer({ answer, answers, evidence, certain, probability }) {
  return [
    h(
      "p",
      { class: "answer-text" },
      certain ? answer : `Not sure: ${answer}`,
      probability != null && h("span", { class: "quiet" }, ` ${formatPercent(probability)}`),
    ),
    answers?.length > 1 && bars(answers),
    evidence && h("p", { class: "quiet" }, evidence),
  ].filter(Boolean);
}

function bars(answers) {
  return h(
    "ul",
    { class: "bars", role: "list" },
    answers.slice(0, 4).map(({ answer, probability }) => {
      const bar = h("span", { class: "bar" });
      bar.style.width = `${100 * (probability ?? 0)}%`;
      return h(
        "li",
        {},
        h("span", {}, answer),
        h("span", { class: "bar-track" }, bar),
        h("span", { class: "number" }, formatPercent(probability ?? 0)),
      );
    }),
  );
}
