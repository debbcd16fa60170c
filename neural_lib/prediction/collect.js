/* The page asks for one character after the other; the drawings are saved as a zip that train.py --writing reads. */
"use strict";

const MOST = 1000;  // drawings of each character
const SPACE = "\u00a0";  // stands for the spaces in a class name among characters that spaces separate

const drawings = new Map();  // label -> round, from 0 -> sheet {state, history}; none is empty
const readSheet = {state, history};  // what was on the sheet to read, while characters are collected
let characters = [], rounds = 0;  // what is asked for: [{label, character}], and how often each
let current = 0;  // the place of the character that is asked for; those of a round follow each other
let unsaved = false;

// --- what is asked for ---

const joined = (text) => text.replace(/\s/g, SPACE);
const known = model.classes.map((label, index) => ({label, character: glyph(index) || label}));
const byName = new Map(["label", "character"].flatMap((name) => known.map((each) => [joined(each[name]), each])));

/* The characters that a text lists, each once: classes of the network, by character or name, and others. */
function charactersIn(text) {
  const found = new Map();
  for (let word of text.split(/[^\S\u00a0]+/)) {
    if (!byName.has(word)) word = word.replace(/^(.+)[,;、，]$/u, "$1");  // not only spaces between characters
    const label = word.replaceAll(SPACE, " ").trim();
    const each = byName.get(word) || {label, character: label};
    if (each.label) found.set(each.label, each);
  }
  return [...found.values()];
}

/* Take the settings from their fields. */
function plan() {
  const [text, number] = [element("characters"), element("rounds")];
  characters = charactersIn(text.value);
  if (!characters.length) {
    characters = known;
    text.value = known.map(({character}) => joined(character)).join(" ");
  }
  rounds = Math.min(Math.max(Math.round(number.value), 1), MOST) || 1;
  number.value = rounds;
  let first = 0;
  while (first < total() && drawingAt(first)) first++;
  goTo(first);
}

function total() {
  return characters.length * rounds;
}

/* Label, character and round at a place. */
function asked(at) {
  return {...characters[at % characters.length], round: Math.floor(at / characters.length)};
}

function drawingAt(at) {
  const {label, round} = asked(at);
  return drawings.get(label)?.get(round);
}

/* Ask for the character at a place, with its drawing if there is one. */
function goTo(at) {
  current = at;
  const isOver = at === total(), {label, character} = asked(at);
  const folder = folders().get(label);
  const words = isOver ? [["word", "That was the last one. Save the drawings."]] : [
    ["soft", "Write"],
    [character.length > 3 ? "word" : "character", character],
    ["name", character === label ? "" : label],
    ["soft", `${at + 1} of ${total()}`],
    ["soft", folder === label ? "" : `saved in the folder ${folder}`],
  ];
  element("prompt").replaceChildren(...words.filter(([, text]) => text).flatMap(([name, text]) => {
    const part = document.createElement("bdi");
    [part.className, part.textContent] = [name, text];
    return [part, " "];
  }));
  [element("progress").max, element("progress").value] = [total(), at];
  document.body.classList.toggle("over", isOver);
  turnTo(!isOver && drawingAt(at) || {state: EMPTY, history: []});
}

/* Keep the sheet, which has changed, as the drawing at this place; an empty one is none. */
function keep(isEmpty) {
  const isOver = current === total(), before = isOver ? null : drawingAt(current);
  if (!isOver && (before ? before.state !== state : !isEmpty)) {
    const {label, round} = asked(current);
    if (!drawings.has(label)) drawings.set(label, new Map());
    if (isEmpty) drawings.get(label).delete(round);
    else drawings.get(label).set(round, {state, history});
    unsaved = true;
  }
  const number = count();
  element("next").disabled = isEmpty;
  element("skip").disabled = !isEmpty || isOver;
  element("back").disabled = current === 0;
  element("zip").disabled = element("restart").disabled = number === 0;
  element("number").textContent = `(${number} drawing${number === 1 ? "" : "s"})`;
}

function count() {
  return [...drawings.values()].reduce((sum, each) => sum + each.size, 0);
}

// --- what is saved ---

/* Label -> name of its folder. */
function folders() {
  const labels = [...new Set([...drawings.keys(), ...characters.map(({label}) => label)])];
  const names = classFolders(labels);
  return new Map(labels.map((label, index) => [label, names[index]]));
}

/* Save all drawings as <folder of the label>/<writer>-<number>.png in a zip. */
function saveZip() {
  const name = element("writer").value.trim(), writer = name && portable(name), places = folders();
  const files = [...drawings].flatMap(([label, sheets]) => Array.from(sheets, ([round, sheet]) => ({
    name: `${places.get(label)}/${writer && `${writer}-`}${round + 1}.png`, content: png(sheet.state),
  })));
  const file = writer ? `drawings-${writer}.zip` : "drawings.zip";
  offer(zip(files), "application/zip", file);
  unsaved = false;
  element("message").textContent = `saved ${files.length} drawing${files.length === 1 ? "" : "s"} as ${file}`;
}

/* Delete all drawings, for another writer. */
function startOver() {
  if (unsaved && count() && !confirm("The drawings are not saved. Delete them?")) return;
  drawings.clear();
  unsaved = false;
  element("writer").value = "";
  goTo(0);
}

// --- the two modes ---

/* Ask for characters, or read what is written, on the same sheet. */
function setMode(mode) {
  if (document.body.dataset.mode === mode) return;
  document.body.dataset.mode = mode;
  for (const each of ["read", "collect"]) element(each).setAttribute("aria-pressed", each === mode);
  for (const part of document.querySelectorAll("body [data-mode]")) part.hidden = part.dataset.mode !== mode;
  if (mode === "collect") {
    Object.assign(readSheet, {state, history});
    readSoon(true);  // so that no answer is under way
    collecting = keep;
    if (characters.length) goTo(current);
    else plan();
  } else {
    collecting = null;
    document.body.classList.remove("over");
    turnTo(readSheet);
  }
}

press(
  {
    read: () => setMode("read"), collect: () => setMode("collect"), next: () => goTo(current + 1),
    skip: () => goTo(current + 1), back: () => goTo(current - 1), zip: saveZip, restart: startOver,
  },
  {enter: "next", n: "next", k: "skip", b: "back", s: "zip"},
);
window.addEventListener("beforeunload", (event) => {
  if (!unsaved || !count()) return;
  event.preventDefault();
  event.returnValue = true;  // for older browsers
});
for (const id of ["characters", "rounds"]) element(id).addEventListener("change", plan);
element("modes").hidden = false;
setMode("read");
