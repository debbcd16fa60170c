/* The page of a network for drawn images: strokes, or one picture, in; the answer out while the pen moves. */
"use strict";

const network = new Network(model);
const SIDE = 280;  // pixels of the sheet to write on, in height and width
const PEN = 15;  // pixels: 1.5 of 28; strokes thinner than the data set's are thickened anyway
const PAUSE = 600;  // milliseconds without a move after which the pen is at rest
const BUSY = 100;  // milliseconds; a drawing that takes longer is read only when the pen rests
const MARGIN = 2;  // the pause before a drawing is read, as a multiple of the time that reading takes

const EMPTY = {strokes: [], picture: null};
const small = document.createElement("canvas");  // the sheet as it is read and saved
const context = small.getContext("2d", {willReadFrequently: true});
let state = EMPTY, history = [];  // strokes or a picture {canvas, data, width, height}; the states before each change
let pointer = null;  // the id of the pen that is down
let reading = 0, settling = 0, took = 0, loads = 0;
let collecting = null;  // collect.js's function, called after each change while it asks for characters; else null

/* Replace the sheet's content; undo brings the old one back. */
function replace(next) {
  history.push(state);
  state = next;
  changed();
}

/* Put a sheet {state, history} in this one's place. */
function turnTo(other) {
  pointer = null;
  ({state, history} = other);
  changed();
}

// --- strokes ---

function position(event) {
  const {left, top, width} = sheet.getBoundingClientRect();
  return [(event.clientX - left) * SIDE / width, (event.clientY - top) * SIDE / width];
}

function down(event) {
  if (pointer !== null || event.button > 0) return;
  event.preventDefault();
  document.activeElement.blur();  // keys are for the sheet now, and a phone takes its keyboard away
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

/* Draw strokes or a picture on a canvas, `side` pixels wide and high. */
function paint({strokes, picture}, canvas, to, side) {
  [canvas.width, canvas.height] = [side, side];
  to.fillStyle = "#fff";
  to.fillRect(0, 0, side, side);
  if (picture) paintPicture(to, side, picture);
  to.scale(side / SIDE, side / SIDE);
  [to.lineWidth, to.lineCap, to.lineJoin] = [PEN, "round", "round"];
  for (const points of strokes) {
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
  paint(state, sheet, sheet.getContext("2d"), sideOf(sheet));
}

// --- pictures ---

/* Show and read the first of the files. */
async function load(files) {
  if (collecting) {
    element("message").textContent = "pictures are not collected; choose Read to have one read";
    return;
  }
  const id = ++loads, [file] = files;
  element("message").textContent = `opening ${file.name}`;
  element("clear").disabled = false;  // clearing also stops the loading
  let picture;
  try {
    picture = await decode(file);
  } catch (error) {
    if (id === loads) element("message").textContent = `${file.name}: ${error.message}`;
    return;
  }
  if (id !== loads) return;  // the sheet has changed meanwhile
  pointer = null;
  replace({strokes: [], picture});
  if (files.length > 1) element("message").textContent = `only ${file.name} is read: one picture at a time`;
}

// --- answers ---

/* Show the sheet, which has changed, and what can be done with it. */
function changed() {
  const isEmpty = !state.strokes.length && !state.picture;
  paint(state, small, context, SIDE);
  repaint();
  loads++;
  element("message").textContent = "";
  document.body.classList.toggle("empty", isEmpty);
  element("undo").disabled = !history.length;
  element("clear").disabled = isEmpty;
  element("save").disabled = !state.strokes.length;
  (collecting || readSoon)(isEmpty);
}

/* The sheet is read soon, and the answer is given once the pen rests. */
function readSoon(isEmpty) {
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
    answer = answerTo(picture || context.getImageData(0, 0, SIDE, SIDE), network, picture ? "auto" : "yes");
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

/* Show the answer in words, for screen readers too; null: no ink was found. */
function settle(answer) {
  if (pointer !== null) return;
  element("answers").classList.remove("unsettled");
  element("answer").textContent = answer ? words(answer) :
    "no ink found; a darker pen, or a picture cut to the paper, helps";
}

function save() {
  offer([png(state)], "image/png", "drawing.png");
}

/* The bytes of a PNG file of strokes. toBlob could take a second for each: it waits until the browser is idle. */
function png(content) {
  paint(content, small, context, SIDE);
  const [, base64] = small.toDataURL().split(",");
  paint(state, small, context, SIDE);
  return numbers(base64, Uint8Array);
}

/* Let the browser save parts of bytes as a file of this name. */
function offer(parts, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(parts, {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

listen({undo, clear, save}, {u: "undo", c: "clear", s: "save"}, load);
window.addEventListener("resize", repaint);
sheet.addEventListener("pointerdown", down);
sheet.addEventListener("pointermove", move);
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) sheet.addEventListener(name, up);
changed();
network.answer(new Uint8Array(model.channels * model.image_size ** 2));  // so that the first answer is not the slowest
