/* What the pages of drawn networks and of networks for photos share: pictures in, answers out. */
"use strict";

const model = JSON.parse(document.getElementById("model").textContent);
const LONGEST_SIDE = 1024;  // pixels; a larger picture is reduced to it
const TOP = 5;  // classes in the chart
const element = (id) => document.getElementById(id);
const sheet = element("sheet");

// --- pictures ---

/* A picture file -> {canvas, data, width, height}; data is RGBA. Throws an Error with the reason if it can't be read. */
async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none"});
  } catch {
    throw new Error("no picture that this browser can read; try PNG or JPEG");
  }
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
  return {canvas, data, width, height};
}

/* Draw a picture in the middle of a canvas that is `side` pixels wide and high. */
function paintPicture(to, side, picture) {
  const scale = side / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  to.imageSmoothingEnabled = scale < 4;  // enlarged further, its pixels are shown as squares
  to.drawImage(picture.canvas, (side - width) / 2, (side - height) / 2, width, height);
}

/* Pixels of the screen that the canvas is wide. */
function sideOf(canvas) {
  return Math.max(1, Math.round(canvas.clientWidth * window.devicePixelRatio));
}

// --- answers ---

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

/* The answer in words: label, probability, and a question mark if it is unsure. */
function words(answer) {
  const probability = Math.max(...answer.probabilities), index = answer.probabilities.indexOf(probability);
  const isSure = probability >= model.min_probability && !answer.isUnlike;
  const why = answer.isUnlike ? "unlike all training images" : "not sure";
  const name = [glyph(index), model.classes[index]].filter(Boolean).join(" ");
  return `${name}, ${percent(probability)}${isSure ? "" : ` ? (${why})`}`;
}

function glyph(index) {
  return model.glyphs.length ? model.glyphs[index] : "";
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

// --- buttons, keys, files ---

/* Make buttons and keys work. actions: a function for each button's id; keys: an id for each key. */
function press(actions, keys) {
  for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", action);
  window.addEventListener("keydown", (event) => {
    if (isTyping(event)) return;
    const key = event.key.toLowerCase(), hasModifier = event.ctrlKey || event.metaKey || event.altKey;
    const id = hasModifier ? (key === "z" && !event.altKey ? "undo" : "") : keys[key];
    if (!id || !actions[id] || event.repeat) return;
    if (key === "enter" && event.target.closest("button, summary")) return;  // which Enter presses itself
    if (element(id).disabled || element(id).closest("[hidden]")) return;
    event.preventDefault();
    actions[id]();
  });
}

/* True if an event of the keyboard or the clipboard is for a text field. */
function isTyping(event) {
  return event.target instanceof Element && event.target.closest("input, textarea") !== null;
}

/* Make buttons, keys and given files work; see press. open: is called with the files. */
function listen(actions, keys, open) {
  const choose = () => element("file").click();
  press({...actions, choose}, {...keys, o: "choose"});
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      if (input.files.length) open([...input.files]);
      input.value = "";  // so that the same file can be chosen again
    });
  }
  const receive = (event, {files}) => {
    if (!files.length) {
      element("message").textContent = "that is no file; open or drop a picture";
      return;
    }
    event.preventDefault();
    open([...files]);
  };
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    receive(event, event.dataTransfer);
  });
  window.addEventListener("paste", (event) => isTyping(event) || receive(event, event.clipboardData));
  element("choose").disabled = false;
}
