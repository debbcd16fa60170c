/* The page of a network for photos: pictures in, and a list of answers out, one after the other. */
"use strict";

const THUMBNAIL = 112;  // pixels, in height and width

/* In the order in which they were given: {file, item, picture, answer, problem}. item: its part of the list; picture: a
   promise, see decode, kept only while it is needed; answer: see answerTo; problem: why there is none. */
let photos = [];
let shown = null;  // the photo that is seen large
let isLooking = false;

/* Put files on the list, show the first of them, and look at all. */
function addPhotos(files) {
  const added = files.map((file) => ({file, item: null, picture: null, answer: null, problem: ""}));
  for (const photo of added) photo.item = itemOf(photo);
  photos.push(...added);
  element("list").append(...added.map(({item}) => item));
  if (photos.length > 1) element("status").textContent = `looking at ${added.length > 1 ? `${added.length} photos` : "a photo"}`;
  select(added[0]);
  look();
}

function clear() {
  photos = [];
  element("list").replaceChildren();
  element("status").textContent = "";
  select(null);
}

/* Answer all photos that have no answer yet, that which is seen first. */
async function look() {
  if (isLooking) return;
  isLooking = true;
  const isOpen = (photo) => photo && !photo.answer && !photo.problem;
  for (let photo; photo = isOpen(shown) ? shown : photos.find(isOpen);) {
    try {
      const picture = await pictureOf(photo), thumbnail = photo.item.querySelector("canvas");
      paintPicture(thumbnail.getContext("2d"), THUMBNAIL, picture);
      photo.answer = await answer(picture);
    } catch (error) {
      photo.problem = error.message || "it can't be read";
    }
    if (photo !== shown) photo.picture = null;
    label(photo);
    update();
  }
  isLooking = false;
  const unread = photos.filter(({problem}) => problem).length;
  if (photos.length > 1) element("status").textContent = `${photos.length - unread} of ${photos.length} photos read`;
}

function pictureOf(photo) {
  return photo.picture ||= decode(photo.file);
}

// --- the worker ---

/* What the worker does: its first message is the model; each further one is a picture, and is answered. */
function work() {
  let network = null;
  self.onmessage = ({data}) => {
    if (!network) {
      network = new Network(data);
      return;
    }
    try {
      self.postMessage({answer: answerTo(data, network, "auto")});
    } catch (error) {
      self.postMessage({problem: error.message});
    }
  };
}

let worker = null, networkHere = null;
try {
  const source = new Blob([element("engine").textContent, `(${work})();`], {type: "text/javascript"});
  worker = new Worker(URL.createObjectURL(source));
  worker.onerror = () => { worker = null; };
  worker.postMessage(model);
} catch {
  worker = null;  // this browser allows none
}

/* The answer to a picture, for one picture at a time: from the worker, so that the page stays alive, else computed here. */
async function answer(picture) {
  const {data, width, height} = picture;
  if (!worker) {
    await new Promise((resolve) => setTimeout(resolve, 50));  // the page first shows that it is busy
    networkHere ||= new Network(model);
    return answerTo({data, width, height}, networkHere, "auto");
  }
  return new Promise((resolve, reject) => {
    worker.onmessage = ({data: reply}) => reply.answer ? resolve(reply.answer) : reject(new Error(reply.problem));
    worker.onerror = () => {
      worker = null;
      resolve(answer(picture));
    };
    worker.postMessage({data, width, height});
  });
}

// --- what is seen ---

/* Show a photo large, with its bars; null: nothing. */
function select(photo) {
  if (shown && shown !== photo && (shown.answer || shown.problem)) shown.picture = null;
  shown = photo;
  for (const each of photos) each.item.firstChild.setAttribute("aria-current", each === photo);
  show(photo && photo.answer);
  update();
  repaint();
}

/* Show how far things are. */
function update() {
  const {answer = null, problem = "", file = null} = shown || {};
  const isWaiting = Boolean(shown) && !answer && !problem;
  document.body.classList.toggle("empty", !shown);
  element("clear").disabled = !shown;
  element("answers").classList.toggle("busy", isWaiting);
  say("answer", answer ? words(answer) : isWaiting ? "looking …" : "");
  say("message", problem && `${file.name}: ${problem}`);
  if (answer && !element("bars").childElementCount) show(answer);
  element("photos").hidden = photos.length < 2;
  element("done").max = photos.length;
  element("done").value = photos.filter((photo) => photo.answer || photo.problem).length;
  element("done").hidden = element("done").value === photos.length;
}

/* Change a text that screen readers read out, unless it is there already. */
function say(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

async function repaint() {
  const photo = shown, side = sideOf(sheet);
  let picture = null;
  try {
    picture = photo && await pictureOf(photo);
  } catch {
    // update says so
  }
  if (photo !== shown) return;
  [sheet.width, sheet.height] = [side, side];
  if (picture) paintPicture(sheet.getContext("2d"), side, picture);
}

/* A photo's part of the list: a button with thumbnail, file name, and its answer later. */
function itemOf(photo) {
  const item = document.createElement("li"), button = document.createElement("button"), image = document.createElement("canvas");
  [image.width, image.height] = [THUMBNAIL, THUMBNAIL];
  image.setAttribute("aria-hidden", "true");
  const parts = [["file", photo.file.name], ["label", "…"]].map(([name, text]) => {
    const part = document.createElement("span");
    [part.className, part.textContent] = [name, text];
    return part;
  });
  button.type = "button";
  button.append(image, ...parts);
  button.addEventListener("click", () => {
    select(photo);
    sheet.scrollIntoView({block: "nearest"});
  });
  item.append(button);
  return item;
}

function label(photo) {
  const part = photo.item.querySelector(".label");
  part.textContent = photo.answer ? words(photo.answer) : photo.problem;
  part.classList.toggle("problem", Boolean(photo.problem));
}

listen({clear, take: () => element("camera").click()}, {c: "clear"}, addPhotos);
window.addEventListener("resize", repaint);
sheet.addEventListener("click", () => element("file").click());
select(null);
