/** Queries as text and as the terms and filters that the server understood; no DOM. */

/** The filters of the query language, each with the example that its editor shows. */
export const FILTERS = {
  after: { label: "Taken after", example: "2021, 2021-06 or 2021-06-30" },
  before: { label: "Taken before", example: "2023, 2023-06 or 2023-06-30" },
  camera: { label: "Camera", example: "fuji" },
  folder: { label: "Folder", example: "trips or trips/rome" },
  near: { label: "Near", example: "48.1,11.5,20km" },
  orientation: { label: "Orientation", choices: ["landscape", "portrait", "square"] },
  type: {
    label: "Type of file",
    choices: ["jpeg", "png", "heic", "webp", "avif", "gif", "tiff", "raw", "video"],
  },
};

/** Return the text of a filter; a value with spaces is quoted. */
export function formatFilter(key, value) {
  const text = value.trim().replaceAll('"', "");
  return /\s/.test(text) ? `${key}:"${text}"` : `${key}:${text}`;
}

/** Return the query that terms and filters stand for; uploaded pictures are not part of it. */
export function formatQuery(terms, filters) {
  const written = terms.filter((term) => !term.upload);
  const words = written.map((term, index) => formatTerm(term, index === 0, written.length === 1));
  return [...words, ...filters.map((filter) => filter.text)].join(" ").trim();
}

function formatTerm(term, isFirst, isOnly) {
  const weight = term.weight === 1 ? "" : `^${term.weight}`;
  const sign = term.negated ? "- " : isFirst ? "" : "+ ";
  if (term.picture) return `${sign}${term.picture}${weight}`;
  const isPlain = isOnly && !weight && !/[":^]|(^|\s)[+-]/.test(term.text);
  return isPlain ? sign + term.text : `${sign}"${term.text.replaceAll('"', "")}"${weight}`;
}

/** Return the description to show a heat map of: the first that is looked for. */
export function mainText(terms) {
  return terms.find((term) => term.text && !term.negated)?.text ?? "";
}

/** Return true if words are a question, which the library can be asked. */
export const isQuestion = (text) => /\w.*\?\s*$/.test(text);
