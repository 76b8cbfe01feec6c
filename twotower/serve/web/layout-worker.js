/**
 * Fetches and lays out libraries of any size beside the main thread, which never waits for it.
 *
 * A message {id, url, box} loads a layout, {id, answer, box} takes one that came otherwise, and
 * {id, box} lays the present one out again; `box` is
 * {width, target, gap, monthHeader, nearHeader, noMatchHeader, byMonth}. The answer has the same id.
 */

import { justify, monthRuns, monthSections } from "./justify.js";
import { send } from "./api.js";

let columns = null;
let latest = 0;

onmessage = async ({ data: { id, url, answer, box } }) => {
  latest = id;
  try {
    const layout = url ? await (await send(url)).json() : answer;
    if (id !== latest) return; // a later message has overtaken it
    if (layout) columns = toColumns(layout);
    postMessage({ id, columns: layout ? withoutMonths(columns) : null, rows: arrange(box) });
  } catch (error) {
    const { status = 0, message, field = null } = error;
    if (id === latest) postMessage({ id, error: { status, message, field } });
  }
};

function toColumns({ ids, aspect, month, probability, matches }) {
  return {
    ids: Int32Array.from(ids),
    // an aspect that no screen can show would make rows of no height
    aspect: Float32Array.from(aspect, (value) => Math.min(Math.max(value || 1.5, 0.3), 5)),
    probability: Float32Array.from(probability, (value) => value ?? NaN),
    matches,
    month,
    runs: monthRuns(month, matches),
  };
}

function withoutMonths({ ids, aspect, probability, matches, runs }) {
  return { ids, aspect, probability, matches, runs };
}

function arrange({ byMonth, monthHeader, nearHeader, noMatchHeader, ...box }) {
  const { aspect, matches, runs } = columns;
  const isDated = byMonth && runs.some((run) => run.month !== "");
  const fill = (box.width / box.target) * 0.9;
  const sections = isDated
    ? monthSections(runs, aspect, fill).map((section) => ({ ...section, header: monthHeader }))
    : matches > 0
      ? [{ start: 0, header: 0 }]
      : [];
  if (matches < aspect.length) {
    const header = matches ? nearHeader : noMatchHeader;
    sections.push({ start: matches, header, isNear: true });
  }
  return justify(aspect, sections, box);
}
