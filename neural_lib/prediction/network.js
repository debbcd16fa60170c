/* Runs a trained network on one image, in plain JavaScript.

Everything is a Float32Array: an image or a layer's output (C, H, W) is C planes of H rows of W numbers, a vector (F) is
F numbers. webpage.py writes `model`: its steps in order, each {op, inputs, shape, ...} with the numbers of its input
values (0 is the image, n the output of the nth step) and the shape of its output; and all weights in base64, of 16 or 32
bits, in the steps' order: conv2d (out, in, k, k) and (out), depthwise (C, k, k) and (C), linear (out, in) and (out);
last, if `distance` is given, the mean (F) and the directions (k, F) of the features, which show whether an image is unlike
the training images. Batch normalisation is part of the convolutions' weights.
*/
"use strict";

const OPERATIONS = {conv2d, depthwise, pad, linear, relu, clamp, max_pool2d, global_max, global_mean, add, flatten};

class Network {
  constructor(model) {
    const weights = floats(model.weights, model.bits);
    let used = 0;
    const take = (count) => weights.subarray(used, used += count);
    this.model = model;
    this.shapes = [[model.channels, model.image_size, model.image_size], ...model.steps.map((step) => step.shape)];
    this.steps = model.steps.map((step) => {
      const inputs = this.shapes[step.inputs[0]][0];  // channels or features
      const count = {conv2d: step.kernel ** 2 * inputs, depthwise: step.kernel ** 2, linear: inputs}[step.op];
      return count ? {...step, weight: take(step.shape[0] * count), bias: take(step.shape[0])} : step;
    });
    this.lastUse = [];  // of each value: the last step with this input
    for (const [n, step] of this.steps.entries()) for (const number of step.inputs) this.lastUse[number] = n;
    if (model.distance) {
      this.mean = take(model.distance.features);
      this.directions = take(model.distance.features * model.distance.directions);
    }
  }

  /* The calibrated probability of each class (classes), and whether the image is unlike every training image.
     pixels: (C, S, S), 0 to 255. */
  answer(pixels) {
    const {mean, std, temperature, distance} = this.model;
    const size = pixels.length / mean.length;
    const values = [Float32Array.from(pixels, (pixel, i) => (pixel / 255 - mean[i / size | 0]) / std[i / size | 0])];
    let features;
    for (const [n, step] of this.steps.entries()) {
      const inputs = step.inputs.map((number) => values[number]);
      values.push(OPERATIONS[step.op](step, inputs, step.inputs.map((number) => this.shapes[number])));
      for (const number of step.inputs) if (this.lastUse[number] === n) values[number] = null;  // frees its memory
      features = inputs[0];  // at the end those of the last step, linear: from the features to the logits
    }
    const logits = values[values.length - 1];
    const isUnlike = Boolean(distance) && this.distance(features, logits) > distance.threshold;
    return {probabilities: softmax(logits, temperature), isUnlike};
  }

  /* The distance of an image from the training images; see evaluation/calibration.py. features: (F), logits: (classes) */
  distance(features, logits) {
    const {outside, highest} = this.model.distance;
    const length = Math.max(Math.hypot(...features), 1e-12);
    const offset = features.map((value, i) => value / length - this.mean[i]);
    let rest = dot(offset, offset, 0);
    for (let first = 0; first < this.directions.length; first += offset.length) {
      rest -= dot(offset, this.directions, first) ** 2;
    }
    return (Math.sqrt(Math.max(rest, 0)) - outside[0]) / outside[1] - (Math.max(...logits) - highest[0]) / highest[1];
  }
}

/* (C, H, W) -> (out, H', W'): each output is the product of the filter and the pixels under it */
function conv2d({shape: [out, rows, columns], kernel, stride, padding, weight, bias}, [image], [[channels, height, width]]) {
  const length = channels * kernel * kernel, area = rows * columns;
  const patches = new Float32Array(area * length);  // (H' * W', in * k * k)
  for (let channel = 0; channel < channels; channel++) {
    const plane = padded(image.subarray(channel * height * width, (channel + 1) * height * width), height, width, padding);
    for (let row = 0, at = channel * kernel * kernel; row < rows; row++) {
      for (let column = 0; column < columns; column++, at += length) {
        for (let y = 0, to = at; y < kernel; y++) {
          const first = (row * stride + y) * (width + 2 * padding) + column * stride;
          for (let x = first; x < first + kernel; x++) patches[to++] = plane[x];
        }
      }
    }
  }
  return product(weight, bias, patches, out, area, length);
}

/* (C, H, W) -> (C, H', W'): as conv2d, but each channel has a filter, and an output channel of its own */
function depthwise({shape: [channels, rows, columns], kernel, stride, padding, weight, bias}, [image], [[, height, width]]) {
  const result = new Float32Array(channels * rows * columns), across = width + 2 * padding;
  for (let channel = 0; channel < channels; channel++) {
    const plane = padded(image.subarray(channel * height * width, (channel + 1) * height * width), height, width, padding);
    const filter = weight.subarray(channel * kernel * kernel, (channel + 1) * kernel * kernel);
    for (let row = 0, at = channel * rows * columns; row < rows; row++) {
      for (let column = 0; column < columns; column++, at++) {
        let sum = bias[channel];
        for (let y = 0, i = 0; y < kernel; y++) {
          const first = (row * stride + y) * across + column * stride;
          for (let x = first; x < first + kernel; x++) sum += plane[x] * filter[i++];
        }
        result[at] = sum;
      }
    }
  }
  return result;
}

/* (C, H, W) -> (C, H', W') with zeros around each channel */
function pad({shape: [channels, rows, columns], left, top}, [image], [[, height, width]]) {
  const result = new Float32Array(channels * rows * columns);
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < height; y++) {
      const first = (channel * height + y) * width;
      result.set(image.subarray(first, first + width), (channel * rows + top + y) * columns + left);
    }
  }
  return result;
}

/* (H, W) -> (H + 2 * padding, W + 2 * padding) with zeros around it */
function padded(plane, height, width, padding) {
  const shape = [1, height + 2 * padding, width + 2 * padding];
  return padding ? pad({shape, left: padding, top: padding}, [plane], [[1, height, width]]) : plane;
}

/* (in) -> (out) */
function linear({shape: [out], weight, bias}, [vector]) {
  return product(weight, bias, vector, out, 1, vector.length);
}

/* weight (M, K), bias (M), columns (P, K) -> (M, P): four rows times two columns at once, so that each number is read less
   often; `ap` is row a times column p */
function product(weight, bias, columns, M, P, K) {
  const result = new Float32Array(M * P);
  for (let m = 0; m < M; m += 4) {
    const [a, b, c, d] = [0, 1, 2, 3].map((more) => Math.min(m + more, M - 1));
    for (let p = 0; p < P; p += 2) {
      const q = Math.min(p + 1, P - 1);
      let ap = 0, bp = 0, cp = 0, dp = 0, aq = 0, bq = 0, cq = 0, dq = 0;
      for (let k = 0, i = a * K, j = b * K, n = c * K, o = d * K, x = p * K, y = q * K; k < K; k++) {
        const left = columns[x + k], right = columns[y + k];
        const first = weight[i + k], second = weight[j + k], third = weight[n + k], fourth = weight[o + k];
        ap += first * left;
        bp += second * left;
        cp += third * left;
        dp += fourth * left;
        aq += first * right;
        bq += second * right;
        cq += third * right;
        dq += fourth * right;
      }
      for (const [row, left, right] of [[a, ap, aq], [b, bp, bq], [c, cp, cq], [d, dp, dq]]) {
        result[row * P + p] = left + bias[row];
        result[row * P + q] = right + bias[row];
      }
    }
  }
  return result;
}

/* any shape -> the same */
function clamp({min, max}, [values]) {
  return values.map((value) => value < min ? min : value > max ? max : value);
}

/* any shape -> the same */
function relu(step, [values]) {
  return values.map((value) => value < 0 ? 0 : value);
}

/* (C, H, W) -> (C, H', W') */
function max_pool2d({shape: [channels, rows, columns], kernel, stride}, [image], [[, height, width]]) {
  const result = new Float32Array(channels * rows * columns).fill(-Infinity);
  let at = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, at++) {
        for (let y = row * stride; y < row * stride + kernel; y++) {
          const first = (channel * height + y) * width + column * stride;
          for (let x = first; x < first + kernel; x++) result[at] = Math.max(result[at], image[x]);
        }
      }
    }
  }
  return result;
}

/* (C, H, W) -> (C) */
function global_max(step, [image], [[channels, height, width]]) {
  return Float32Array.from({length: channels}, (_, channel) =>
    image.subarray(channel * height * width, (channel + 1) * height * width).reduce((a, b) => Math.max(a, b)));
}

/* (C, H, W) -> (C) */
function global_mean(step, [image], [[channels, height, width]]) {
  return Float32Array.from({length: channels}, (_, channel) =>
    image.subarray(channel * height * width, (channel + 1) * height * width).reduce((a, b) => a + b) / (height * width));
}

/* two of any shape -> the same */
function add(step, [values, others]) {
  return values.map((value, i) => value + others[i]);
}

/* (C, H, W) -> (C * H * W), the same numbers in the same order */
function flatten(step, [values]) {
  return values;
}

/* (classes) -> (classes) */
function softmax(logits, temperature) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp((logit - highest) / temperature));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

/* a (F) times the F numbers of b from `first` on */
function dot(a, b, first) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[first + i];
  return sum;
}

/* IEEE 754 numbers of 16 or 32 bits, little-endian, in base64 -> Float32Array */
function floats(base64, bits) {
  const text = atob(base64), bytes = new DataView(new ArrayBuffer(text.length));
  for (let i = 0; i < text.length; i++) bytes.setUint8(i, text.charCodeAt(i));
  const count = text.length * 8 / bits, result = new Float32Array(count);
  const values = bits === 16 ? Float32Array.from({length: 65536}, (_, i) => float16(i)) : null;  // of all patterns
  for (let i = 0; i < count; i++) result[i] = values ? values[bytes.getUint16(2 * i, true)] : bytes.getFloat32(4 * i, true);
  return result;
}

function float16(bits) {
  const exponent = bits >> 10 & 31, fraction = bits & 1023;
  const size = exponent === 31 ? (fraction ? NaN : Infinity) :
    exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}
