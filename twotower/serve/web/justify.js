/** Rows of pictures, all as wide as the page; no DOM, so that a worker can run it. */

/**
 * Return where each row begins, and its place.
 *
 * Args:
 *   aspect: width divided by height of each picture.
 *   sections: [{start, header}], in order; each begins a row, below a header of `header` pixels.
 *   width, target, gap: pixels; rows are about `target` high.
 *
 * Returns:
 *   {start, top, height, total, sections}: arrays with an entry for each row, the height of all,
 *   and the sections with the `top` of their header.
 */
export function justify(aspect, sections, { width, target, gap }) {
  const rows = { start: [], top: [], height: [] };
  const placed = [];
  let y = 0;
  sections.forEach((section, index) => {
    const end = sections[index + 1]?.start ?? aspect.length;
    placed.push({ ...section, top: y });
    y += section.header;
    for (let start = section.start; start < end;) {
      const row = fillRow(aspect, start, end, { width, target, gap });
      rows.start.push(start);
      rows.top.push(y);
      rows.height.push(row.height);
      y += row.height + gap;
      start = row.end;
    }
  });
  return {
    start: Uint32Array.from(rows.start),
    top: Float64Array.from(rows.top),
    height: Float32Array.from(rows.height),
    total: Math.max(0, y - gap),
    sections: placed,
  };
}

/** Return the end of the row that begins at `start`, and its height. */
function fillRow(aspect, start, end, { width, target, gap }) {
  let sum = 0;
  let height = Infinity;
  let index = start;
  while (index < end) {
    const wider = sum + aspect[index];
    const lower = (width - gap * (index - start)) / wider;
    if (lower < target && index > start) {
      // the row is full: with this picture it is too low by less, or without it too high by less
      if (target / lower < height / target) return { end: index + 1, height: lower };
      return { end: index, height };
    }
    sum = wider;
    height = lower;
    index += 1;
    if (height <= target) return { end: index, height };
  }
  // the last row of a section is not stretched, unless it is nearly full
  return { end: index, height: height < target * 1.15 ? height : target };
}

/** Return the runs of equal months: [{month, start, count}]. */
export function monthRuns(month, end) {
  const runs = [];
  for (let index = 0; index < end; index++) {
    if (index === 0 || month[index] !== month[index - 1]) {
      runs.push({ month: month[index], start: index, count: 0 });
    }
    runs[runs.length - 1].count += 1;
  }
  return runs;
}

/**
 * Return sections of whole months. Months with little to show are joined, so that a library with
 * few pictures a month is no column of headers.
 *
 * Args:
 *   fill: the sum of aspects that fills a row.
 */
export function monthSections(runs, aspect, fill) {
  const sections = [];
  let sum = fill; // the first month begins a section
  for (const { month, start, count } of runs) {
    if (sum >= fill || (month === "") !== (sections.at(-1).newest === "")) {
      sections.push({ start, newest: month, oldest: month });
      sum = 0;
    }
    sections.at(-1).oldest = month;
    for (let index = start; index < start + count && sum < fill; index++) sum += aspect[index];
  }
  return sections;
}
