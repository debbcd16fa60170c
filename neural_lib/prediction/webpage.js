/* What happens on the page: strokes and pictures in, answers out. */
"use strict";

const model = JSON.parse(document.getElementById("model").textContent);
const network = new Network(model);
const SIDE = 280;  // pixels of the sheet to write on, in height and width
const PEN = 15;  // pixels: 1.5 of 28; thinner strokes than the data set has are thickened anyway
const LONGEST_SIDE = 1024;  // pixels; a larger picture is reduced to it
const TOP = 5;  // classes in the chart
const PAUSE = 600;  // milliseconds after which the pen is taken to rest
const BUSY = 100;  // milliseconds; what takes longer is read only when the pen rests
const MARGIN = 2;  // times as long as reading takes, there is time for the pen

const element = (id) => document.getElementById(id);
const sheet = element("sheet"), context = sheet.getContext("2d", {willReadFrequently: true});
const canDraw = Boolean(model.placement);
let strokes = [], picture = null;  // one of them is what is on the sheet; a picture is {data, width, height}
let pointer = null;  // of the pen that is down
let reading = 0, settling = 0, took = 0, loads = 0;

// --- strokes ---

function position(event) {
  const {left, top, width} = sheet.getBoundingClientRect();
  return [(event.clientX - left) * SIDE / width, (event.clientY - top) * SIDE / width];
}

function down(event) {
  if (!canDraw || pointer !== null || event.button > 0) return;
  event.preventDefault();
  if (picture) clear();
  pointer = event.pointerId;
  sheet.setPointerCapture(pointer);
  strokes.push([position(event)]);
  changed();
}

function move(event) {
  if (event.pointerId !== pointer) return;
  const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  strokes[strokes.length - 1].push(...(events.length ? events : [event]).map(position));
  changed();
}

function up(event) {
  if (event.pointerId !== pointer) return;
  pointer = null;
  changed();
}

function undo() {
  if (picture) picture = null;
  else strokes.pop();
  pointer = null;
  changed();
}

function clear() {
  [strokes, picture, pointer] = [[], null, null];
  changed();
}

function redraw() {
  const side = picture ? 2 * SIDE : SIDE;
  [sheet.width, sheet.height] = [side, side];
  context.fillStyle = "#fff";
  context.fillRect(0, 0, side, side);
  if (picture) {
    const scale = side / Math.max(picture.width, picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    context.imageSmoothingEnabled = scale < 4;  // enlarged further, its pixels are to be seen
    context.drawImage(picture.canvas, (side - width) / 2, (side - height) / 2, width, height);
    return;
  }
  [context.lineWidth, context.lineCap, context.lineJoin] = [PEN, "round", "round"];
  for (const [first, ...others] of strokes) {
    context.beginPath();
    context.moveTo(...first);
    for (const point of others.length ? others : [first]) context.lineTo(...point);
    context.stroke();
  }
}

// --- pictures ---

async function load(file) {
  const mine = ++loads;
  element("message").textContent = "";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"});
  } catch {
    if (mine === loads) element("message").textContent = `${file.name}: this browser can't read it as a picture`;
    return;
  }
  if (mine !== loads) return;  // another one was chosen meanwhile
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const own = canvas.getContext("2d", {willReadFrequently: true});
  own.fillStyle = "#fff";  // seen where the picture is transparent
  own.fillRect(0, 0, canvas.width, canvas.height);
  own.imageSmoothingQuality = "high";
  own.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const {data, width, height} = own.getImageData(0, 0, canvas.width, canvas.height);
  [strokes, picture, pointer] = [[], {canvas, data, width, height}, null];
  changed();
}

// --- answers ---

/* Something else is on the sheet: it is read soon, and the answer given once the pen rests. */
function changed() {
  redraw();
  loads++;
  element("message").textContent = "";
  document.body.classList.toggle("empty", !strokes.length && !picture);
  for (const id of ["undo", "clear"]) element(id).disabled = !strokes.length && !picture;
  element("save").disabled = !strokes.length;
  clearTimeout(settling);
  element("answers").classList.add("unsettled");
  element("answer").textContent = "";
  if (!strokes.length && !picture) {
    clearTimeout(reading);
    reading = 0;
    show(null);
    return;
  }
  const waits = pointer !== null && took > BUSY;
  if (waits) clearTimeout(reading);
  if (waits || !reading) reading = setTimeout(read, waits ? PAUSE : MARGIN * took);
}

function read() {
  reading = 0;
  const start = performance.now();
  const pixels = picture ? prepare(picture, model, "auto") : prepare(context.getImageData(0, 0, SIDE, SIDE), model, "yes");
  const answer = pixels && {...network.answer(pixels), pixels};
  took = performance.now() - start;
  show(answer);
  clearTimeout(settling);
  settling = setTimeout(() => settle(answer), picture ? 0 : PAUSE);
}

/* The bars and the network's input; null: nothing is read. */
function show(answer) {
  const probabilities = answer ? answer.probabilities : [];
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  element("bars").replaceChildren(...order.slice(0, TOP).map((index) => {
    const item = document.createElement("li");
    for (const [name, text] of [["glyph", glyph(index)], ["name", model.classes[index]], ["bar", ""],
                                ["percent", percent(probabilities[index])]]) {
      const part = document.createElement("span");
      [part.className, part.textContent] = [name, text];
      if (name === "bar") part.style.setProperty("--share", probabilities[index]);
      item.append(part);
    }
    return item;
  }));
  element("seen").hidden = !answer;
  if (answer) showPixels(answer.pixels);
}

function showPixels(pixels) {
  const size = model.image_size, area = size * size, channels = pixels.length / area;
  const canvas = element("pixels"), image = new ImageData(size, size);
  for (let i = 0; i < area; i++) {
    for (let channel = 0; channel < 3; channel++) image.data[4 * i + channel] = pixels[(channel % channels) * area + i];
    image.data[4 * i + 3] = 255;
  }
  [canvas.width, canvas.height] = [size, size];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/* The answer in words, which screen readers say; null: no ink was found. */
function settle(answer) {
  if (pointer !== null) return;
  element("answers").classList.remove("unsettled");
  if (!answer) {
    element("answer").textContent = "no ink found";
    return;
  }
  const probability = Math.max(...answer.probabilities), index = answer.probabilities.indexOf(probability);
  const isSure = probability >= model.min_probability && !answer.isUnlike;
  const why = answer.isUnlike ? "unlike all training images" : "not sure";
  const name = [glyph(index), model.classes[index]].filter(Boolean).join(" ");
  element("answer").textContent = `${name}, ${percent(probability)}${isSure ? "" : ` ? (${why})`}`;
}

function glyph(index) {
  return model.glyphs.length ? model.glyphs[index] : "";
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

// --- buttons, keys, files ---

function save() {
  const link = document.createElement("a");
  sheet.toBlob((blob) => {
    link.href = URL.createObjectURL(blob);
    link.download = "drawing.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

const actions = {undo, clear, save, choose: () => element("file").click()};
const keys = {u: "undo", c: "clear", s: "save", o: "choose"};
for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", action);
window.addEventListener("keydown", (event) => {
  const id = (event.ctrlKey || event.metaKey) && event.key === "z" ? "undo" :
    event.ctrlKey || event.metaKey || event.altKey ? "" : keys[event.key.toLowerCase()];
  if (!id || element(id).disabled || element(id).hidden) return;
  event.preventDefault();
  actions[id]();
});
element("file").addEventListener("change", ({target}) => {
  if (target.files.length) load(target.files[0]);
  target.value = "";  // so that the same file can be chosen again
});
window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) load(event.dataTransfer.files[0]);
});
if (!canDraw) sheet.addEventListener("click", actions.choose);
sheet.addEventListener("pointerdown", down);
sheet.addEventListener("pointermove", move);
for (const name of ["pointerup", "pointercancel"]) sheet.addEventListener(name, up);
changed();
network.answer(new Uint8Array(model.channels * model.image_size ** 2));  // so that the first answer is not the slowest
