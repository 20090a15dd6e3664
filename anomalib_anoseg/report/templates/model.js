"use strict";
const byId = (id) => document.getElementById(id);
const body = byId("images").tBodies[0];
const rows = [...body.rows];
const levels = new Map(); // row -> grey levels of its map, as soon as they are decoded

const ON_CPU = { willReadFrequently: true }; // where the pixels are made

// A map's value v is stored as the whole part of 256 v.
const level = () => Math.round(Number(byId("threshold").value) * 256);

function paint(canvas, width, height, colourOf, values) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", ON_CPU);
  const picture = context.createImageData(width, height);
  for (let i = 0; i < values.length; i += 1) {
    picture.data.set([...colourOf(values[i]), 255], 4 * i);
  }
  context.putImageData(picture, 0, 0);
}

function drawMask(row) {
  const map = levels.get(row);
  if (!map) return;
  const threshold = level();
  const colour = (v) => (v >= threshold ? [255, 255, 255] : [0, 0, 0]);
  paint(row.querySelector(".mask"), map.width, map.height, colour, map.values);
  const marked = map.values.reduce((count, v) => count + (v >= threshold), 0);
  const area = marked / map.values.length;
  row.dataset.area = area;
  row.cells[4].textContent = `${(100 * area).toFixed(1)} %`;
}

async function decode(row) {
  const canvas = row.querySelector(".map");
  const image = new Image();
  image.src = canvas.dataset.map;
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", ON_CPU);
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  const values = Uint8Array.from({ length: width * height }, (_, i) => pixels[4 * i]);
  levels.set(row, { width, height, values });
  paint(canvas, width, height, (v) => COLOURS[v], values);
  drawMask(row);
}

function filter() {
  const kind = byId("kind").value;
  const outcome = byId("outcome").value;
  for (const row of rows) {
    const { dataset } = row;
    row.hidden = (kind && dataset.kind !== kind) || (outcome && dataset.outcome !== outcome);
  }
  const shown = rows.filter((row) => !row.hidden).length;
  byId("status").textContent = `${shown} of ${rows.length} images`;
}

function sort(button) {
  const head = button.closest("th");
  const { key } = button.dataset;
  const numeric = ["score", "error", "area"].includes(key);
  // The first press shows the largest numbers, or the first letters.
  const before = head.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : numeric;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const sign = descending ? -1 : 1;
  rows.sort((a, b) => {
    const [x, y] = [a.dataset[key], b.dataset[key]];
    return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y));
  });
  body.append(...rows);
}

byId("threshold").addEventListener("input", () => {
  byId("value").textContent = Number(byId("threshold").value).toFixed(3);
  rows.forEach(drawMask);
});
byId("kind").addEventListener("change", filter);
byId("outcome").addEventListener("change", filter);
document.querySelectorAll("th button").forEach((button) => {
  button.addEventListener("click", () => sort(button));
});
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
filter();
Promise.all(rows.map(decode)).then(() => document.body.classList.add("ready"));
