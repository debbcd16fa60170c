/* Runs a trained network on one image, in plain JavaScript.

Everything is a Float32Array: an image or a layer's output (C, H, W) is C planes of H rows of W numbers, a vector (F) is
F numbers. webpage.py writes `model`: its steps in order, each {op, inputs, shape, ...} with the numbers of its input
values (0 is the image, n the output of the nth step) and the shape of its output; and all weights in base64, of 16 or 32
bits, in the steps' order: conv2d (out, in, k, k) and (out), linear (out, in) and (out); last, if `distance` is given,
the mean (F) and the directions (k, F) of the features, which show whether an image is unlike the training images.
Batch normalisation is part of the convolutions' weights.
*/
"use strict";

const OPERATIONS = {conv2d, linear, relu, max_pool2d, global_max, global_mean, add, flatten};

class Network {
  constructor(model) {
    const weights = floats(model.weights, model.bits);
    let used = 0;
    const take = (count) => weights.subarray(used, used += count);
    this.model = model;
    this.shapes = [[model.channels, model.image_size, model.image_size], ...model.steps.map((step) => step.shape)];
    this.steps = model.steps.map((step) => {
      const count = step.op === "conv2d" ? step.kernel * step.kernel * this.shapes[step.inputs[0]][0] :
        step.op === "linear" ? this.shapes[step.inputs[0]][0] : 0;
      return count ? {...step, weight: take(step.shape[0] * count), bias: take(step.shape[0])} : step;
    });
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
    for (const step of this.steps) {
      const inputs = step.inputs.map((number) => values[number]);
      values.push(OPERATIONS[step.op](step, inputs, step.inputs.map((number) => this.shapes[number])));
    }
    const last = this.steps[this.steps.length - 1];  // linear: from the features to the logits
    const features = values[last.inputs[0]], logits = values[values.length - 1];
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
  const length = channels * kernel * kernel;
  const patches = new Float32Array(rows * columns * length);  // (H' * W', in * k * k)
  let at = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const top = row * stride - padding, left = column * stride - padding;
      for (let channel = 0; channel < channels; channel++) {
        for (let y = top; y < top + kernel; y++) {
          const first = (channel * height + y) * width;
          for (let x = left; x < left + kernel; x++, at++) {
            if (y >= 0 && y < height && x >= 0 && x < width) patches[at] = image[first + x];
          }
        }
      }
    }
  }
  return product(weight, bias, patches, out, rows * columns, length);
}

/* (in) -> (out) */
function linear({shape: [out], weight, bias}, [vector]) {
  return product(weight, bias, vector, out, 1, vector.length);
}

/* weight (M, K), bias (M), columns (P, K) -> (M, P); four rows at a time, so that each column is read a quarter as often */
function product(weight, bias, columns, M, P, K) {
  const result = new Float32Array(M * P);
  for (let m = 0; m < M; m += 4) {
    const [a, b, c, d] = [0, 1, 2, 3].map((more) => Math.min(m + more, M - 1));
    for (let p = 0; p < P; p++) {
      let first = 0, second = 0, third = 0, fourth = 0;
      for (let k = 0, column = p * K, i = a * K, j = b * K, n = c * K, o = d * K; k < K; k++, column++) {
        const value = columns[column];
        first += weight[i + k] * value;
        second += weight[j + k] * value;
        third += weight[n + k] * value;
        fourth += weight[o + k] * value;
      }
      result[a * P + p] = first + bias[a];
      result[b * P + p] = second + bias[b];
      result[c * P + p] = third + bias[c];
      result[d * P + p] = fourth + bias[d];
    }
  }
  return result;
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
  const size = bits / 8, read = bits === 16 ? (at) => float16(bytes.getUint16(at, true)) : (at) => bytes.getFloat32(at, true);
  return Float32Array.from({length: text.length / size}, (_, i) => read(i * size));
}

function float16(bits) {
  const exponent = bits >> 10 & 31, fraction = bits & 1023;
  const size = exponent === 31 ? (fraction ? NaN : Infinity) :
    exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}
