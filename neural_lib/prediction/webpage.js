/* The page's behaviour: strokes and pictures in, answers out. */
"use strict";

const model = JSON.parse(document.getElementById("model").textContent);
const network = new Network(model);
const SIDE = 280;  // pixels of the sheet to write on, in height and width
const PEN = 15;  // pixels: 1.5 of 28; strokes thinner than the data set's are thickened anyway
const LONGEST_SIDE = 1024;  // pixels; a larger picture is reduced to it
const TOP = 5;  // classes in the chart
const PAUSE = 600;  // milliseconds without a move after which the pen is at rest
const BUSY = 100;  // milliseconds; a drawing that takes longer is read only when the pen rests
const MARGIN = 2;  // the pause before a drawing is read, as a multiple of the time that reading takes

const EMPTY = {strokes: [], picture: null};
const element = (id) => document.getElementById(id);
const sheet = element("sheet"), small = document.createElement("canvas");  // shown; read and saved
const context = small.getContext("2d", {willReadFrequently: true});
const canDraw = Boolean(model.placement);
let state = EMPTY, history = [];  // strokes or a picture {canvas, data, width, height}; the states before each change
let pointer = null;  // the id of the pen that is down
let reading = 0, settling = 0, took = 0, loads = 0;

/* Replace the sheet's content; undo brings the old one back. */
function replace(next) {
  history.push(state);
  state = next;
  changed();
}

// --- strokes ---

function position(event) {
  const {left, top, width} = sheet.getBoundingClientRect();
  return [(event.clientX - left) * SIDE / width, (event.clientY - top) * SIDE / width];
}

function down(event) {
  if (!canDraw || pointer !== null || event.button > 0) return;
  event.preventDefault();
  pointer = event.pointerId;
  sheet.setPointerCapture(pointer);
  replace({strokes: [...state.strokes, [position(event)]], picture: null});
}

function move(event) {
  if (event.pointerId !== pointer) return;
  const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  state.strokes[state.strokes.length - 1].push(...(events.length ? events : [event]).map(position));
  changed();
}

function up(event) {
  if (event.pointerId !== pointer) return;
  pointer = null;
  changed();
}

function undo() {
  pointer = null;
  state = history.pop() || EMPTY;
  changed();
}

function clear() {
  pointer = null;
  replace(EMPTY);
}

/* Draw the strokes or the picture on a canvas, `side` pixels wide and high. */
function paint(canvas, to, side) {
  [canvas.width, canvas.height] = [side, side];
  to.fillStyle = "#fff";
  to.fillRect(0, 0, side, side);
  if (state.picture) {
    const scale = side / Math.max(state.picture.width, state.picture.height);
    const [width, height] = [state.picture.width * scale, state.picture.height * scale];
    to.imageSmoothingEnabled = scale < 4;  // enlarged further, its pixels are shown as squares
    to.drawImage(state.picture.canvas, (side - width) / 2, (side - height) / 2, width, height);
    return;
  }
  to.scale(side / SIDE, side / SIDE);
  [to.lineWidth, to.lineCap, to.lineJoin] = [PEN, "round", "round"];
  for (const points of state.strokes) {
    const [x, y] = points[0];
    to.beginPath();
    to.arc(x, y, PEN / 2, 0, 2 * Math.PI);  // a dot: a line of no length leaves none
    to.fillStyle = "#000";
    to.fill();
    to.beginPath();
    to.moveTo(x, y);
    for (const point of points) to.lineTo(...point);
    to.stroke();
  }
}

function repaint() {
  paint(sheet, sheet.getContext("2d"), Math.max(1, Math.round(sheet.clientWidth * window.devicePixelRatio)));
}

// --- pictures ---

async function load(file) {
  const id = ++loads;
  element("message").textContent = `opening ${file.name}`;
  element("clear").disabled = false;  // clearing also stops the loading
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"});
  } catch {
    if (id === loads) element("message").textContent = `${file.name}: no picture that this browser can read; try PNG or JPEG`;
    return;
  }
  if (id !== loads) return;  // the sheet has changed meanwhile
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const target = canvas.getContext("2d", {willReadFrequently: true});
  target.fillStyle = "#fff";  // shows through a transparent picture
  target.fillRect(0, 0, canvas.width, canvas.height);
  target.imageSmoothingQuality = "high";
  target.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const {data, width, height} = target.getImageData(0, 0, canvas.width, canvas.height);
  pointer = null;
  replace({strokes: [], picture: {canvas, data, width, height}});
}

/* The first file of a drop or from the clipboard. */
function receive(event, {files}) {
  if (!files.length) {
    element("message").textContent = "that is no file; open or drop a picture";
    return;
  }
  event.preventDefault();
  load(files[0]).then(() => {
    if (files.length > 1) element("message").textContent = `only ${files[0].name} is read: one picture at a time`;
  });
}

// --- answers ---

/* The sheet has changed: it is read soon, and the answer is given once the pen rests. */
function changed() {
  const isEmpty = !state.strokes.length && !state.picture;
  paint(small, context, SIDE);
  repaint();
  loads++;
  element("message").textContent = "";
  document.body.classList.toggle("empty", isEmpty);
  element("undo").disabled = !history.length;
  element("clear").disabled = isEmpty;
  element("save").disabled = !state.strokes.length;
  clearTimeout(settling);
  element("answers").classList.add("unsettled");
  element("answer").textContent = "";
  if (isEmpty) {
    clearTimeout(reading);
    reading = 0;
    show(null);
    return;
  }
  const waits = pointer !== null && took > BUSY;
  if (waits || state.picture) clearTimeout(reading);
  if (waits || state.picture || !reading) reading = setTimeout(read, state.picture ? 0 : waits ? PAUSE : MARGIN * took);
}

function read() {
  reading = 0;
  const {picture} = state, start = performance.now();
  let answer = null;
  try {
    const pixels = prepare(picture || context.getImageData(0, 0, SIDE, SIDE), model, picture ? "auto" : "yes");
    answer = pixels && {...network.answer(pixels), pixels};
  } catch (error) {
    show(null);
    element("message").textContent = `this can't be read: ${error.message}`;
    return;
  }
  if (!picture) took = performance.now() - start;
  show(answer);
  clearTimeout(settling);
  settling = setTimeout(() => settle(answer), picture ? 0 : PAUSE);
}

/* Show the bars and the network's input; null: nothing was read. */
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

/* Show the answer in words, for screen readers too; null: no ink was found. */
function settle(answer) {
  if (pointer !== null) return;
  element("answers").classList.remove("unsettled");
  if (!answer) {
    element("answer").textContent = "no ink found; a darker pen, or a picture cut to the paper, helps";
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
  small.toBlob((blob) => {
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
  const key = event.key.toLowerCase(), hasModifier = event.ctrlKey || event.metaKey || event.altKey;
  const id = hasModifier ? (key === "z" && !event.altKey ? "undo" : "") : keys[key];
  if (!id || event.repeat || element(id).disabled || element(id).hidden) return;
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
  receive(event, event.dataTransfer);
});
window.addEventListener("paste", (event) => receive(event, event.clipboardData));
window.addEventListener("resize", repaint);
if (!canDraw) sheet.addEventListener("click", actions.choose);
sheet.addEventListener("pointerdown", down);
sheet.addEventListener("pointermove", move);
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) sheet.addEventListener(name, up);
element("choose").disabled = false;
changed();
// so that the first answer is not the slowest; a network for photos would only keep its page from being seen
if (canDraw) network.answer(new Uint8Array(model.channels * model.image_size ** 2));
