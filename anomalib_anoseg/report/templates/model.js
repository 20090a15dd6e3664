"use strict";
const byId = (id) => document.getElementById(id);
const table = byId("images");
const body = table.tBodies[0];
const rows = [...body.rows]; // in the order in which they are shown
const maps = new Map(); // row -> grey levels of its map, as soon as they are decoded
const detail = byId("detail");
const ON_CPU = { willReadFrequently: true }; // where the pixels are made
let imageThreshold = MODEL.image; // exact, where the slider has steps
let current = null; // the row that is shown large

// A pixel as one number has red in its lowest byte.
const pixel = (red, green, blue, opacity) =>
  ((opacity << 24) | (blue << 16) | (green << 8) | red) >>> 0;
// Where a map is low, the image below shows through.
const INFERNO = COLOURS.map((colour, v) => pixel(...colour, Math.min(255, 2 * v)));
const BLACK = pixel(0, 0, 0, 255);
const WHITE = pixel(255, 255, 255, 255);

// A map's value v is stored as the whole part of 256 v.
const level = () => Math.round(Number(byId("threshold").value) * 256);
const START = Math.round(Number(byId("threshold").defaultValue) * 256); // browsers restore the value

function paint(canvas, map, palette) {
  canvas.width = map.width;
  canvas.height = map.height;
  const picture = new ImageData(map.width, map.height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let i = 0; i < pixels.length; i += 1) pixels[i] = palette[map.values[i]];
  canvas.getContext("2d", ON_CPU).putImageData(picture, 0, 0);
}

function drawMask(row) {
  const map = maps.get(row);
  if (!map) return;
  const threshold = level();
  const palette = INFERNO.map((_, v) => (v >= threshold ? WHITE : BLACK));
  paint(row.querySelector(".mask"), map, palette);
  if (row === current) paint(byId("detail-mask"), map, palette);
  // Large maps are reduced to their highest values, which cover a little more than the defect.
  const marked = map.counts.slice(threshold).reduce((sum, count) => sum + count, 0);
  row.dataset.area = threshold === START ? row.dataset.exact : marked / map.values.length;
  row.querySelector(".area").textContent = `${(100 * row.dataset.area).toFixed(1)} %`;
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
  const values = new Uint8Array(width * height);
  const counts = new Array(256).fill(0);
  for (let i = 0; i < values.length; i += 1) {
    values[i] = pixels[4 * i];
    counts[values[i]] += 1;
  }
  maps.set(row, { width, height, values, counts });
  paint(canvas, maps.get(row), INFERNO);
  canvas.parentNode.style.backgroundImage = `url("${row.querySelector(".seen img").src}")`;
  drawMask(row);
}

function judge() {
  const falseAlarms = SCORES.good.filter((score) => score > imageThreshold).length;
  const misses = SCORES.defective.filter((score) => !(score > imageThreshold)).length;
  const counts = [
    SCORES.good.length ? `False alarms: ${falseAlarms} of ${SCORES.good.length} good` : "No good images",
    SCORES.defective.length ? `misses: ${misses} of ${SCORES.defective.length} defective` : "no defective images",
  ].join("; ");
  announce("counts", counts);
  for (const row of rows) {
    const defective = row.dataset.defective === "true";
    const called = Number(row.dataset.score) > imageThreshold;
    const outcome = called === defective ? "correct" : called ? "false alarm" : "miss";
    row.dataset.outcome = outcome;
    row.querySelector(".outcome").textContent = outcome;
  }
  moveLine();
  filter();
}

function announce(id, text) { // a screen reader says it again whenever it is written
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function moveLine() {
  const line = byId("threshold-line"); // of the plot of scores, whose axis is from 0 to 1
  if (!line) return;
  const { width } = byId("score-axes").getBBox();
  line.setAttribute("transform", `translate(${(imageThreshold - MODEL.image) * width} 0)`);
}

function filter() {
  const kind = byId("kind").value;
  const outcome = byId("outcome").value;
  for (const row of rows) {
    const { dataset } = row;
    row.hidden = (kind && dataset.kind !== kind) || (outcome && dataset.outcome !== outcome);
  }
  announce("status", `${shown().length} of ${rows.length} images`);
}

const shown = () => rows.filter((row) => !row.hidden);

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

function show(row) {
  current = row;
  const { dataset } = row;
  const among = shown();
  byId("detail-name").textContent = dataset.name;
  byId("detail-says").textContent = `image ${among.indexOf(row) + 1} of ${among.length}: `
    + `${dataset.defective === "true" ? "defective" : "good"}, ${dataset.outcome}, `
    + `score ${Number(dataset.score).toFixed(3)}`;
  detail.style.setProperty("--ratio", row.style.getPropertyValue("--ratio"));
  const seen = row.querySelector(".seen img").src;
  byId("detail-seen").src = seen;
  byId("detail-map").parentNode.style.backgroundImage = `url("${seen}")`;
  const truth = row.querySelector(".truth img");
  const shownTruth = byId("detail-truth");
  if (shownTruth) {
    shownTruth.closest("figure").hidden = !truth;
    shownTruth.src = truth ? truth.src : "data:,";
  }
  const pairs = [...row.querySelectorAll(".pair")];
  byId("marks").replaceChildren(...pairs.map((pair) => {
    const mark = document.createElement("span");
    mark.style.left = `${100 * pair.dataset.x}%`;
    mark.style.top = `${100 * pair.dataset.y}%`;
    return mark;
  }));
  byId("detail-nearest")?.replaceChildren(...pairs.map((pair) => pair.cloneNode(true)));
  const map = maps.get(row);
  if (map) paint(byId("detail-map"), map, INFERNO);
  drawMask(row);
}

function open(row) {
  detail.querySelector("header").after(byId("pictures")); // what is behind cannot be reached
  show(row);
  detail.showModal();
}

function walk(step) {
  const among = shown();
  const next = among[among.indexOf(current) + step];
  if (next) show(next);
}

function view(name) {
  document.querySelector(`[name=view][value=${name}]`).checked = true;
  table.classList.toggle("grid", name === "grid");
}

function say(slider, text) {
  byId(`${slider.id}-value`).textContent = text;
}

const sliders = {
  "image-threshold": (value) => {
    imageThreshold = value;
    judge();
    return value.toFixed(3);
  },
  threshold: (value) => {
    rows.forEach(drawMask);
    return value.toFixed(3);
  },
  opacity: (value) => {
    document.documentElement.style.setProperty("--opacity", value / 100);
    return `${value} %`;
  },
};
for (const [id, changed] of Object.entries(sliders)) {
  byId(id).addEventListener("input", ({ target }) => say(target, changed(Number(target.value))));
}
byId("reset").addEventListener("click", () => {
  for (const [id, value] of [["image-threshold", MODEL.image], ["threshold", MODEL.pixel]]) {
    byId(id).value = value;
    say(byId(id), sliders[id](value));
  }
});
byId("kind").addEventListener("change", filter);
byId("outcome").addEventListener("change", filter);
document.querySelectorAll("[name=view]").forEach((radio) => {
  radio.addEventListener("change", () => view(radio.value));
});
document.querySelectorAll("thead button").forEach((button) => {
  button.addEventListener("click", () => sort(button));
});
body.addEventListener("click", ({ target }) => {
  if (target.closest("button, img, canvas")) open(target.closest("tr"));
});
byId("previous").addEventListener("click", () => walk(-1));
byId("next").addEventListener("click", () => walk(1));
byId("close").addEventListener("click", () => detail.close());
detail.addEventListener("keydown", ({ key, target }) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (step && target.tagName !== "INPUT") walk(step);
});
detail.addEventListener("close", () => {
  document.querySelector(".controls").append(byId("pictures"));
  current.querySelector("button").focus();
});
document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
if (matchMedia("(max-width: 45rem)").matches) view("grid");
judge();
Promise.allSettled(rows.map(decode)).then(() => document.body.classList.add("ready"));
