/** Pictures that are dropped, pasted or chosen, to search by. */

import { request } from "./api.js";
import { h, icon } from "./dom.js";
import { open } from "./location.js";
import { toast } from "./messages.js";

const overlay = h(
  "div",
  { class: "drop-overlay", hidden: true, "aria-hidden": "true" },
  h("div", {}, icon("picture"), h("p", {}, "Drop a picture to find others like it")),
);
const file = h("input", {
  type: "file",
  accept: "image/*",
  hidden: true,
  "aria-label": "Picture to search by",
  onchange: () => file.files[0] && searchBy(file.files[0]),
});
document.body.append(overlay, file);

/** Let the user choose a picture to search by. */
export function choosePicture() {
  file.value = "";
  file.click();
}

/** Upload a picture and show those that look like it. */
async function searchBy(blob) {
  document.body.classList.add("uploading");
  try {
    const { upload } = await request("uploads", { method: "POST", body: blob });
    open({ upload });
  } catch (error) {
    toast(error.message);
  } finally {
    document.body.classList.remove("uploading");
  }
}

const pictureIn = (transfer) =>
  [...(transfer?.files ?? [])].find((candidate) => candidate.type.startsWith("image/"));
const bringsFiles = (event) => event.dataTransfer?.types.includes("Files");
let depth = 0; // dragenter and dragleave come in pairs for each element

addEventListener("dragenter", (event) => {
  if (!bringsFiles(event)) return;
  depth += 1;
  overlay.hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!bringsFiles(event)) return;
  depth -= 1;
  overlay.hidden = depth <= 0;
});
addEventListener("dragover", (event) => {
  if (bringsFiles(event)) event.preventDefault();
});
addEventListener("drop", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  depth = 0;
  overlay.hidden = true;
  const picture = pictureIn(event.dataTransfer);
  if (picture) searchBy(picture);
  else toast("Drop a picture: this is another kind of file.");
});
addEventListener("paste", (event) => {
  const picture = pictureIn(event.clipboardData);
  if (!picture) return;
  event.preventDefault();
  searchBy(picture);
});
