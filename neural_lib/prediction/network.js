/* Runs a trained network on one image, in plain JavaScript.

Everything is a Float32Array: an image or a layer's output (C, H, W) is C planes of H rows of W numbers, a vector (F) is
F numbers. webpage.py writes `model`: its steps in order, each {op, inputs, shape, ...} with the numbers of its input
values (0 is the image, n the output of the nth step) and the shape of its output; and in base64, in the steps' order,
`weights`: conv2d (out, in, k, k), depthwise (C, k, k), linear (out, in); and `vectors`, each step's bias (out).
Last, if `distance` is given, the directions (k, F) and the mean (F) of the features, which show whether an image is unlike
the training images. Batch normalisation is part of the convolutions' weights. With 16 bits a weight is an integer times
the scale of its row: of the numbers for one output. `vectors` has the scales (out) before the bias.
*/
"use strict";

const OPERATIONS = {conv2d, depthwise, pad, linear, relu, clamp, max_pool2d, global_max, global_mean, add, flatten};

class Network {
  constructor(model) {
    const weights = numbers(model.weights, model.bits === 16 ? Int16Array : Float32Array);
    const vectors = numbers(model.vectors, Float32Array);
    let weightsUsed = 0, vectorsUsed = 0;
    const vector = (count) => vectors.subarray(vectorsUsed, vectorsUsed += count);
    const matrix = (rows, columns) => {
      const values = weights.subarray(weightsUsed, weightsUsed += rows * columns);
      return model.bits === 16 ? scaled(values, vector(rows), columns) : values;
    };
    this.model = model;
    this.shapes = [[model.channels, model.image_size, model.image_size], ...model.steps.map((step) => step.shape)];
    this.steps = model.steps.map((step) => {
      const inputs = this.shapes[step.inputs[0]][0];  // channels or features
      const count = {conv2d: step.kernel ** 2 * inputs, depthwise: step.kernel ** 2, linear: inputs}[step.op];
      return count ? {...step, weight: matrix(step.shape[0], count), bias: vector(step.shape[0])} : step;
    });
    this.lastUse = [];  // of each value: the last step with this input
    for (const [n, step] of this.steps.entries()) for (const number of step.inputs) this.lastUse[number] = n;
    if (model.distance) {
      this.directions = matrix(model.distance.directions, model.distance.features);
      this.mean = vector(model.distance.features);
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
function conv2d(step, [image], [shape]) {
  const {shape: [out, rows, columns], kernel, stride, padding, weight, bias} = step;
  const isPointwise = kernel === 1 && stride === 1 && !padding;  // then the pixels under a filter are the image itself
  return product(weight, bias, isPointwise ? image : patches(step, image, shape), out, rows * columns);
}

/* (C, H, W) -> (C * k * k, H' * W'): for each number of a filter, the pixels that it is multiplied with */
function patches({shape: [, rows, columns], kernel, stride, padding}, image, [channels, height, width]) {
  const result = new Float32Array(channels * kernel * kernel * rows * columns), across = width + 2 * padding;
  for (let channel = 0, at = 0; channel < channels; channel++) {
    const plane = padded(image, channel, height, width, padding);
    for (let y = 0; y < kernel; y++) {
      for (let x = 0; x < kernel; x++) {
        for (let row = 0; row < rows; row++) {
          for (let column = 0, from = (row * stride + y) * across + x; column < columns; column++, from += stride) {
            result[at++] = plane[from];
          }
        }
      }
    }
  }
  return result;
}

/* (C, H, W) -> (C, H', W'): as conv2d, but each channel has a filter, and an output channel of its own */
function depthwise({shape: [channels, rows, columns], kernel, stride, padding, weight, bias}, [image], [[, height, width]]) {
  const result = new Float32Array(channels * rows * columns), across = width + 2 * padding;
  for (let channel = 0; channel < channels; channel++) {
    const plane = padded(image, channel, height, width, padding);
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

/* (C, H, W) -> (H + 2 * padding, W + 2 * padding): one channel, with zeros around it */
function padded(image, channel, height, width, padding) {
  const plane = image.subarray(channel * height * width, (channel + 1) * height * width);
  const shape = [1, height + 2 * padding, width + 2 * padding];
  return padding ? pad({shape, left: padding, top: padding}, [plane], [[1, height, width]]) : plane;
}

/* (in) -> (out) */
function linear({weight, bias}, [vector]) {
  return bias.map((value, i) => value + dot(vector, weight, i * vector.length));
}

/* weight (M, K), bias (M), values (K, P) -> (M, P): four rows of the result and four of the values at once, so that each
   number is read and written less often. `au` is the weight of row u of the values for row a of the result. */
function product(weight, bias, values, M, P) {
  const K = weight.length / M, result = new Float32Array(Math.ceil(M / 4) * 4 * P);  // what exceeds M is ignored
  for (let m = 0; m < M; m++) result.fill(bias[m], m * P, (m + 1) * P);
  const weightAt = (m, k) => m < M && k < K ? weight[m * K + k] : 0;
  for (let m = 0; m < M; m += 4) {
    for (let k = 0; k < K; k += 4) {
      const au = weightAt(m, k), av = weightAt(m, k + 1), aw = weightAt(m, k + 2), ax = weightAt(m, k + 3);
      const bu = weightAt(m + 1, k), bv = weightAt(m + 1, k + 1), bw = weightAt(m + 1, k + 2), bx = weightAt(m + 1, k + 3);
      const cu = weightAt(m + 2, k), cv = weightAt(m + 2, k + 1), cw = weightAt(m + 2, k + 2), cx = weightAt(m + 2, k + 3);
      const du = weightAt(m + 3, k), dv = weightAt(m + 3, k + 1), dw = weightAt(m + 3, k + 2), dx = weightAt(m + 3, k + 3);
      const u = k * P, v = Math.min(k + 1, K - 1) * P, w = Math.min(k + 2, K - 1) * P, x = Math.min(k + 3, K - 1) * P;
      for (let p = 0, a = m * P, b = a + P, c = b + P, d = c + P; p < P; p++) {
        const first = values[u + p], second = values[v + p], third = values[w + p], fourth = values[x + p];
        result[a + p] += au * first + av * second + aw * third + ax * fourth;
        result[b + p] += bu * first + bv * second + bw * third + bx * fourth;
        result[c + p] += cu * first + cv * second + cw * third + cx * fourth;
        result[d + p] += du * first + dv * second + dw * third + dx * fourth;
      }
    }
  }
  return result.subarray(0, M * P);
}

/* any shape -> the same */
function clamp({min, max}, [values]) {
  const result = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = Math.min(Math.max(values[i], min), max);
  return result;
}

/* any shape -> the same */
function relu(step, values) {
  return clamp({min: 0, max: Infinity}, values);
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

/* base64 -> an array of the type, such as Int16Array; little-endian, as all browsers' machines are */
function numbers(base64, Type) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Type(bytes.buffer);
}

/* integers (rows, columns) times the scale of each row (rows) -> the same shape */
function scaled(integers, scales, columns) {
  const result = new Float32Array(integers.length);
  for (let i = 0; i < result.length; i++) result[i] = integers[i] * scales[i / columns | 0];
  return result;
}
