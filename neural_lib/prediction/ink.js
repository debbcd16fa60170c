/* Turns a picture into an image of the data set, as data/ink.py does for one character on plain ground.

A plane is {width, height, data}: height rows of width numbers, in a Float32Array; grey from 0, black, to 255, ink from 0,
ground, to 1. The constants are ink.py's, and so are the names of the functions; tests/prediction/test_webpage.py
compares the two.
*/
"use strict";

const MIN_CONTRAST = 25, MIN_OF_NOISE = 6, MAX_NOISE = 128, SHADED_FROM = 0.15, FRAMED_FROM = 0.9, MIN_SPECK = 0.01;
const SEEN_FROM = Math.fround(0.2);  // rounded as the numbers of a plane

/* A canvas's picture, RGBA (width, height) on white -> pixels (C, S, S), 0 to 255; null if it shows no ink.
   invert: "yes": ink is darker than its ground, "no": lighter, "auto": whichever stands out more. */
function prepare({width, height, data}, {placement, channels, image_size: size, fit}, invert) {
  const planes = [0, 1, 2].map((channel) => plane(width, height, (i) => data[4 * i + channel]));
  if (!placement) {
    const squares = planes.map((each) => makeSquare(each, size, fit));
    return join(channels === 1 ? [toGrey(squares)] : squares);
  }
  const ink = findInk(toGrey(planes), invert, placement.stroke > 0);
  return ink && join(Array(channels).fill(place(ink, placement, size)));
}

/* A network's answer to a picture, see prepare, with its input as `pixels`; null if the picture shows no ink. */
function answerTo(picture, network, invert) {
  const pixels = prepare(picture, network.model, invert);
  return pixels && {...network.answer(pixels), pixels: Uint8ClampedArray.from(pixels)};
}

/* The ink of a picture, cut out; null if nothing stands out. */
function findInk(grey, invert, onPaper) {
  const smoothGrey = smooth(grey), even = median(border(smoothGrey));
  const ground = onPaper ? litGround(grey, smoothGrey, even) : grey.data.map(() => even);
  let depth = plane(grey.width, grey.height, (i) => ground[i] - grey.data[i]);
  let smoothed = smooth(depth);
  const [lowest, highest] = extent(smoothed.data);
  if (invert === "no" || invert === "auto" && -lowest > highest) {
    [depth, smoothed] = [depth, smoothed].map(({width, height, data}) => plane(width, height, (i) => -data[i]));
  }
  const deepest = extent(smoothed.data)[1];
  const groundDepths = depth.data.filter((_, i) => smoothed.data[i] < 0.3 * deepest);
  if (deepest < MIN_CONTRAST || !groundDepths.length) return null;
  const noise = onPaper ? 1.4826 * median(groundDepths.map(Math.abs)) : 0;  // a robust standard deviation
  if (deepest < Math.min(MIN_OF_NOISE * noise, MAX_NOISE)) return null;
  const full = median(depth.data.filter((value) => value > 0.5 * deepest));
  const nothing = Math.min(3 * noise, 0.3 * deepest);
  let ink = plane(grey.width, grey.height, (i) => clip((depth.data[i] - nothing) / (full - nothing), 0, 1));
  if (onPaper) ink = withoutFrame(ink);
  return cut(ink, ...box(ink));
}

/* The ground's brightness at each pixel: a quadratic surface if it varies like that of a lit page, else constant. */
function litGround(grey, smoothGrey, even) {
  const scale = Math.min(1, 64 / Math.max(grey.width, grey.height));
  const [width, height] = [grey.width, grey.height].map((length) => Math.max(1, round(length * scale)));
  const small = resize(grey, width, height);
  const along = (i, count) => count > 1 ? 2 * i / (count - 1) - 1 : -1;
  const terms = Array.from(small.data, (_, i) => {
    const x = along(i % width, width), y = along(i / width | 0, height);
    return [1, x, y, x * x, x * y, y * y];
  });
  const contrast = extent(smoothGrey.data.map((value) => Math.abs(value - even)))[1];
  let surface = small.data.map(() => even);
  for (let times = 0; times < 2; times++) {  // the second time only with pixels near the first surface
    const near = terms.map((_, i) => i).filter((i) => Math.abs(small.data[i] - surface[i]) < 0.3 * contrast);
    if (near.length < 0.2 * terms.length) return grey.data.map(() => even);
    const fitted = leastSquares(near.map((i) => terms[i]), near.map((i) => small.data[i]));
    surface = surface.map((_, i) => dot(terms[i], fitted, 0));
  }
  const [low, high] = extent(surface);
  if (high - low < SHADED_FROM * contrast) return grey.data.map(() => even);
  return resize({width, height, data: surface}, grey.width, grey.height, linearTaps).data;
}

/* The x for which rows times x is nearest to the values, by the normal equations and Gaussian elimination; 0 for
   an x without effect. */
function leastSquares(rows, values) {
  const count = rows[0].length;
  const system = Array.from({length: count}, (_, i) => {
    const sums = Array(count + 1).fill(0);
    rows.forEach((row, n) => [...row, values[n]].forEach((value, j) => { sums[j] += row[i] * value; }));
    return sums;
  });
  for (let i = 0; i < count; i++) {
    const pivot = system[i][i];
    for (let j = 0; j < count; j++) {
      const factor = j === i || Math.abs(pivot) < 1e-9 ? 0 : system[j][i] / pivot;
      system[j] = system[j].map((value, k) => value - factor * system[i][k]);
    }
  }
  return system.map((row, i) => Math.abs(row[i]) < 1e-9 ? 0 : row[count] / row[i]);
}

/* A frame is rings of ink, from the outermost inwards: no character runs along all four edges. */
function withoutFrame(ink) {
  const {width, height, data} = ink;
  for (let ring = 0; ring < Math.floor(Math.min(width, height) / 8); ring++) {
    const values = [];
    for (let x = 0; x < width; x++) values.push(data[ring * width + x], data[(height - 1 - ring) * width + x]);
    for (let y = 0; y < height; y++) values.push(data[y * width + ring], data[y * width + width - 1 - ring]);
    if (values.filter((value) => value > SEEN_FROM).length < FRAMED_FROM * values.length) {
      const isInside = (i) => Math.min(i % width, width - 1 - i % width, i / width | 0, height - 1 - (i / width | 0)) >= ring;
      const inside = plane(width, height, (i) => isInside(i) ? data[i] : 0);
      return inside.data.some((value) => value > SEEN_FROM) ? inside : ink;
    }
  }
  return ink;
}

/* left, top, right, bottom of all connected strokes that are no specks of dust */
function box({width, height, data}) {
  const isLeft = data.map((value) => value > SEEN_FROM ? 1 : 0), parts = [];
  for (let start = 0; start < data.length; start++) {
    if (!isLeft[start]) continue;
    const part = {area: 0, left: width, top: height, right: 0, bottom: 0}, waiting = [start];
    isLeft[start] = 0;
    while (waiting.length) {
      const at = waiting.pop(), x = at % width, y = at / width | 0;
      part.area++;
      part.left = Math.min(part.left, x);
      part.right = Math.max(part.right, x + 1);
      part.top = Math.min(part.top, y);
      part.bottom = Math.max(part.bottom, y + 1);
      for (let ny = Math.max(y - 1, 0); ny <= Math.min(y + 1, height - 1); ny++) {
        for (let nx = Math.max(x - 1, 0); nx <= Math.min(x + 1, width - 1); nx++) {
          if (isLeft[ny * width + nx]) {
            isLeft[ny * width + nx] = 0;
            waiting.push(ny * width + nx);
          }
        }
      }
    }
    parts.push(part);
  }
  const largest = parts.reduce((area, part) => Math.max(area, part.area), 0);
  return parts.filter((part) => part.area >= MIN_SPECK * largest).reduce(([left, top, right, bottom], part) => [
    Math.min(left, part.left), Math.min(top, part.top), Math.max(right, part.right), Math.max(bottom, part.bottom),
  ], [width, height, 0, 0]);
}

/* Ink from findInk -> (S, S), 0 to 255, light on black, placed and scaled like the data set's. */
function place(ink, placement, size) {
  let scale = placement.box / Math.max(ink.width, ink.height);
  if (placement.stroke > 0) ink = thicken(ink, placement.stroke / scale - strokeWidth(ink));
  scale = placement.box / Math.max(ink.width, ink.height);
  const [width, height] = [ink.width, ink.height].map((length) => Math.max(1, round(length * scale)));
  const small = resize(ink, width, height);
  small.data = small.data.map((value) => clip(value, 0, 1));
  const highest = Math.max(extent(small.data)[1], 1e-3);

  let left = Math.floor((size - width) / 2), top = Math.floor((size - height) / 2);
  if (placement.centre === "mass") {  // the centre of mass is moved to the pixel below and right of the middle
    let total = 0, right = 0, down = 0;
    small.data.forEach((value, i) => {
      total += value;
      right += value * (i % width + 0.5);
      down += value * ((i / width | 0) + 0.5);
    });
    [left, top] = [Math.ceil(size / 2 - right / total), Math.ceil(size / 2 - down / total)];
  }
  [left, top] = [clip(left, 0, size - width), clip(top, 0, size - height)];
  const frame = plane(size, size, () => 0);
  small.data.forEach((value, i) => {
    frame.data[(top + (i / width | 0)) * size + left + i % width] = round(value / highest * 255);
  });
  return frame;
}

/* The mean width of the strokes in pixels: twice their area over the length of their outline. The outline runs through
   the centres of the outermost pixels; each four neighbouring pixels determine the piece of it between them. */
function strokeWidth({width, height, data}) {
  const isInk = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] > 0.5 ? 1 : 0;
  let length = 0;
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const a = isInk(x, y), b = isInk(x + 1, y), c = isInk(x, y + 1), d = isInk(x + 1, y + 1);
      const count = a + b + c + d;
      length += count === 3 ? Math.SQRT2 : count !== 2 ? 0 : a === d ? 2 * Math.SQRT2 : 1;
    }
  }
  return 2 * data.reduce((area, value) => area + (value > 0.5 ? 1 : 0), 0) / Math.max(length, 1);
}

/* The ink with strokes `by` pixels wider: each pixel becomes the greatest within an ellipse around it. */
function thicken(ink, by) {
  const reach = round(by / 2);
  if (reach < 1) return ink;
  const width = ink.width + 2 * reach, height = ink.height + 2 * reach;
  const result = plane(width, height, () => 0);
  const rows = new Map();  // by half width: the greatest of each pixel's neighbours in its row
  for (let dy = -reach; dy <= reach; dy++) {
    const half = round(Math.sqrt(reach * reach - dy * dy));
    if (!rows.has(half)) rows.set(half, widenRows(ink, half, reach));
    const wide = rows.get(half);
    for (let y = 0; y < ink.height; y++) {
      const from = y * width, to = (y + reach + dy) * width;
      for (let x = 0; x < width; x++) result.data[to + x] = Math.max(result.data[to + x], wide[from + x]);
    }
  }
  return result;
}

/* (h, w) -> (h, w + 2 reach): the greatest from `half` pixels left to `half` pixels right, with `reach` more at each end.
   By van Herk's algorithm: in blocks of the window's length, the greatest so far from either end. */
function widenRows({width, height, data}, half, reach) {
  const wide = width + 2 * reach, span = 2 * half + 1, padded = new Float32Array(wide + 2 * half);
  const result = new Float32Array(height * wide), forward = padded.slice(), backward = padded.slice();
  for (let y = 0; y < height; y++) {
    padded.set(data.subarray(y * width, (y + 1) * width), half + reach);
    for (let i = 0; i < padded.length; i++) {
      forward[i] = i % span ? Math.max(forward[i - 1], padded[i]) : padded[i];
    }
    for (let i = padded.length - 1; i >= 0; i--) {
      backward[i] = (i + 1) % span && i + 1 < padded.length ? Math.max(backward[i + 1], padded[i]) : padded[i];
    }
    for (let x = 0; x < wide; x++) result[y * wide + x] = Math.max(backward[x], forward[x + span - 1]);
  }
  return result;
}

/* A photo's plane as (S, S): its middle cut out, bars added, or stretched. */
function makeSquare(picture, size, fit) {
  const {width, height} = picture, side = (fit === "crop" ? Math.min : Math.max)(width, height);
  if (fit === "crop") {
    const left = Math.floor((width - side) / 2), top = Math.floor((height - side) / 2);
    picture = cut(picture, left, top, left + side, top + side);
  } else if (fit === "pad") {
    const left = Math.floor((side - width) / 2), top = Math.floor((side - height) / 2);
    const square = plane(side, side, () => 0);
    picture.data.forEach((value, i) => { square.data[(top + (i / width | 0)) * side + left + i % width] = value; });
    picture = square;
  }
  const square = resize(picture, size, size);
  square.data = square.data.map((value) => clip(round(value), 0, 255));
  return square;
}

// --- planes ---

function plane(width, height, value) {
  const data = new Float32Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = value(i);
  return {width, height, data};
}

function cut({width, data}, left, top, right, bottom) {
  const columns = right - left;
  return plane(columns, bottom - top, (i) => data[(top + (i / columns | 0)) * width + left + i % columns]);
}

/* Planes of one size -> (C, H, W) */
function join(planes) {
  const area = planes[0].data.length, result = new Float32Array(planes.length * area);
  planes.forEach(({data}, channel) => result.set(data, channel * area));
  return result;
}

/* Grey from red, green and blue, by ITU-R BT.601-7, section 2.5.1 */
function toGrey([red, green, blue]) {
  return plane(red.width, red.height, (i) => round(0.299 * red.data[i] + 0.587 * green.data[i] + 0.114 * blue.data[i]));
}

/* The pixels along the edges; those of the corners twice. */
function border({width, height, data}) {
  const wide = Math.max(1, round(0.05 * Math.min(width, height))), values = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = data[y * width + x];
      if (y < wide) values.push(value);
      if (y >= height - wide) values.push(value);
      if (x < wide) values.push(value);
      if (x >= width - wide) values.push(value);
    }
  }
  return Float32Array.from(values);
}

/* A blurred plane, so that single pixels of noise don't count; in a picture of 28x28 they do, so it stays as it is. */
function smooth(grey) {
  const sigma = Math.min(grey.width, grey.height) / 400;
  if (sigma < 0.5) return grey;
  const reach = Math.floor(round(8 * sigma + 1) / 2);
  const weights = Array.from({length: 2 * reach + 1}, (_, i) => Math.exp(-((i - reach) ** 2) / (2 * sigma * sigma)));
  const sum = weights.reduce((a, b) => a + b);
  const taps = (length) => Array.from({length}, (_, at) => weights.map((weight, i) => {
    const place = Math.abs(at + i - reach);  // mirrored at the first and the last pixel
    return [place < length ? place : 2 * (length - 1) - place, weight / sum];
  }));
  return resize(grey, grey.width, grey.height, taps);
}

/* A plane in another size, first its rows, then its columns. taps(from, to): for each pixel of the result, the source
   pixels and their weights. The default is OpenCV's: averages in smaller planes, cubic interpolation in larger ones, and
   a mixture if one side shrinks and the other grows. */
function resize(picture, width, height, taps = null) {
  const shrinks = width < picture.width || height < picture.height;
  const grows = width > picture.width || height > picture.height;
  taps = taps || (!shrinks ? cubicTaps : grows ? mixedTaps : areaTaps);
  const lines = taps(picture.width, width), between = new Float32Array(picture.height * width);
  const from = Int32Array.from(lines.flat(), ([pixel]) => pixel);  // flat: this loop is the page's longest
  const weights = Float32Array.from(lines.flat(), ([, weight]) => weight);
  for (let y = 0; y < picture.height; y++) {
    for (let x = 0, tap = 0; x < width; x++) {
      let sum = 0;
      for (const end = tap + lines[x].length; tap < end; tap++) sum += weights[tap] * picture.data[y * picture.width + from[tap]];
      between[y * width + x] = sum;
    }
  }
  const result = new Float32Array(height * width);
  taps(picture.height, height).forEach((line, y) => line.forEach(([row, weight]) => {
    for (let x = 0; x < width; x++) result[y * width + x] += weight * between[row * width + x];
  }));
  return {width, height, data: result};
}

function areaTaps(from, to) {
  const step = from / to;
  return Array.from({length: to}, (_, at) => {
    const start = at * step, end = Math.min(start + step, from), taps = [];
    for (let i = Math.floor(start); i < end - 1e-6; i++) {
      taps.push([i, (Math.min(i + 1, end) - Math.max(i, start)) / (end - start)]);
    }
    return taps;
  });
}

function mixedTaps(from, to) {
  return Array.from({length: to}, (_, at) => {
    const first = Math.floor(at * from / to), excess = at + 1 - (first + 1) * to / from;
    const share = excess <= 0 ? 0 : excess - Math.floor(excess);
    return [[first, 1 - share], [Math.min(first + 1, from - 1), share]];
  });
}

function linearTaps(from, to) {
  return around(from, to, [0, 1], (distance) => 1 - distance);
}

/* Keys' kernel (1981) with OpenCV's -0.75. */
function cubicTaps(from, to) {
  const a = -0.75;
  return around(from, to, [-1, 0, 1, 2], (x) =>
    x < 1 ? (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1 : a * (x ** 3 - 5 * x ** 2 + 8 * x - 4));
}

function around(from, to, offsets, kernel) {
  return Array.from({length: to}, (_, at) => {
    const place = (at + 0.5) * from / to - 0.5, first = Math.floor(place);
    return offsets.map((offset) => [clip(first + offset, 0, from - 1), kernel(Math.abs(place - first - offset))]);
  });
}

// --- numbers ---

function median(values) {
  const sorted = values.slice().sort(), middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function clip(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/* To the nearest whole number; halves to the even one, as Python and OpenCV do. */
function round(value) {
  const nearest = Math.round(value);
  return nearest - value === 0.5 && nearest % 2 ? nearest - 1 : nearest;
}
