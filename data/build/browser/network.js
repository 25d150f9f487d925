"use strict";
// A model out of its file: tensors, the trunk's steps, the pooling with its gradient. TensorFlow.js
// computes the trunk; what is small is written out here.

// IEEE 754 halves, and bytes of four exponent and three mantissa bits.
function small(bits, exponents, mantissas) {
  const bias = 2 ** (exponents - 1) - 1, steps = 2 ** mantissas;
  return Float32Array.from({ length: 2 ** bits }, (_, code) => {
    const sign = code >> (bits - 1) ? -1 : 1, f = code & (steps - 1);
    const e = (code >> mantissas) & (2 ** exponents - 1);
    return sign * (e ? (1 + f / steps) * 2 ** (e - bias) : f / steps * 2 ** (1 - bias));
  });
}
let halves, quarters;

function unpack(buffer) {
  halves ||= small(16, 5, 10);
  quarters ||= small(8, 4, 3);
  const length = new DataView(buffer).getUint32(0, true), begin = 4 + length;
  const model = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  model.get = name => {
    const [form, at, shape] = model.tensors[name];
    const count = shape.reduce((a, b) => a * b, 1), from = begin + at;
    if (form === "float32") return new Float32Array(buffer, from, count);
    if (form === "uint16") return new Uint16Array(buffer, from, count);
    if (form === "float16") return Float32Array.from(new Uint16Array(buffer, from, count), u => halves[u]);
    return Float32Array.from(new Uint8Array(buffer, from, count), u => quarters[u]);
  };
  model.shape = name => model.tensors[name][2];
  return model;
}

// ---------------------------------------------------------------- vectors

const dot = (a, b, from = 0) => {
  let sum = 0;
  for (let i = 0; i < b.length; i++) sum += a[from + i] * b[i];
  return sum;
};
const length = v => Math.sqrt(dot(v, v));
const unit = v => { const n = length(v); return v.map(x => x / n); };
// Rows of W (rows × x.length) times x, plus the bias; `first` is the first of the rows.
function times(W, x, bias, rows = W.length / x.length, first = 0) {
  const y = new Float32Array(rows);
  for (let r = 0; r < rows; r++) y[r] = dot(W, x, (first + r) * x.length) + (bias ? bias[first + r] : 0);
  return y;
}
// x times rows of W, each `wide`: what a gradient does.
function back(W, x, wide, first = 0) {
  const y = new Float32Array(wide);
  for (let r = 0; r < x.length; r++) {
    const v = x[r], at = (first + r) * wide;
    for (let c = 0; c < wide; c++) y[c] += v * W[at + c];
  }
  return y;
}
function softmax(scores) {
  const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const all = Float64Array.from(scores, s => Math.exp(s - top));
  const sum = all.reduce((a, b) => a + b, 0);
  return all.map(v => v / sum);
}

// ---------------------------------------------------------------- the trunk

function makeTrunk(model) {  // pixels (n, S, S, 3) -> activations (n, h, w, C)
  const steps = model.steps.map(step => {
    if (!step.weight) return step;
    const shape = model.shape(step.weight), weight = model.get(step.weight);
    const factor = model.get(step.factor), wide = factor.length;
    for (let i = 0; i < weight.length; i++) weight[i] *= factor[i % wide];
    const [top, bottom, left, right] = step.pad;
    return { ...step, filter: tf.tensor4d(weight, shape), bias: tf.tensor1d(model.get(step.bias)),
      pad: top + bottom + left + right ? [[0, 0], [top, bottom], [left, right], [0, 0]] : "valid" };
  });
  const last = new Map();  // step -> the last that needs it
  steps.forEach((step, i) => { last.set(step.x, i); if ("y" in step) last.set(step.y, i); });
  const act = (x, kind) => kind === "relu" ? tf.relu(x) : kind === "relu6" ? tf.relu6(x) : x;
  function run(step, x, y) {
    const { filter, bias, pad, act: activation, stride: strides } = step;
    if (step.op === "conv") return tf.fused.conv2d({ x, filter, strides, pad, bias, activation });
    if (step.op === "depthwise")
      return tf.fused.depthwiseConv2d({ x, filter, strides, pad, bias, activation });
    if (step.op === "pool") return act(tf.avgPool(x, step.size, step.size, "valid"), activation);
    return tf.tidy(() => act(tf.add(x, y), activation));
  }
  return async (pixels, count) => {
    const values = [], size = model.size;
    values[-1] = tf.tensor4d(pixels, [count, size, size, 3]);
    steps.forEach((step, i) => {
      values[i] = run(step, values[step.x], values[step.y]);
      for (const j of new Set([step.x, step.y]))
        if (j !== undefined && last.get(j) === i) values[j].dispose();
    });
    const output = values.at(-1), data = await output.data();
    output.dispose();
    return { shape: output.shape.slice(1), data };
  };
}

// ---------------------------------------------------------------- pooling, forward and back

// An embedding is a function of places × channels; `gradient` gives the mean over places of the
// derivative of a sum Σ d·embedding by the activations, which is what ranks channels.
function makeHead(model) {
  if (model.head.kind === "mean") return {
    embed(A, places, channels) {
      const mean = new Float32Array(channels);
      for (let j = 0; j < places; j++)
        for (let c = 0; c < channels; c++) mean[c] += A[j * channels + c];
      return mean.map(v => v / places);
    },
    gradient: (A, places, channels, d) => d.map(v => v / places),
  };
  return attentionPooling(model);
}
// CLIP's: one query, the mean of all places, in several heads. With one query its product with a
// key is that of Wkᵀq with the token, and values are mixed before Wv.
function attentionPooling(model) {
  const [q, k, v, c] = ["q", "k", "v", "c"].map(name =>
    ({ W: model.get(`head.${name}.weight`), b: model.get(`head.${name}.bias`) }));
  const positions = model.get("head.positions"), heads = model.head.heads;
  function forward(A, places, channels) {
    const tokens = new Float32Array((places + 1) * channels);
    for (let j = 0; j < places; j++)
      for (let i = 0; i < channels; i++) {
        const value = A[j * channels + i];
        tokens[i] += value / places;
        tokens[(j + 1) * channels + i] = value;
      }
    for (let i = 0; i < tokens.length; i++) tokens[i] += positions[i];
    const query = times(q.W, tokens.subarray(0, channels), q.b), deep = query.length / heads;
    const scale = deep ** -0.5, values = new Float32Array(query.length), seen = [];
    for (let head = 0; head < heads; head++) {
      const first = head * deep, asked = back(k.W, query.subarray(first, first + deep), channels, first);
      const scores = times(tokens, asked).map(s => s * scale), attention = softmax(scores);
      const mixed = new Float32Array(channels);
      for (let j = 0; j <= places; j++)
        for (let i = 0; i < channels; i++) mixed[i] += attention[j] * tokens[j * channels + i];
      values.set(times(v.W, mixed, v.b, deep, first), first);
      seen.push({ attention, mixed });
    }
    return { tokens, query, deep, scale, seen, embedding: times(c.W, values, c.b) };
  }
  function gradient(A, places, channels, d) {
    const { tokens, query, deep, scale, seen } = forward(A, places, channels);
    const byValues = back(c.W, d, c.W.length / d.length), byQuery = new Float32Array(query.length);
    const sum = new Float32Array(channels), byMean = new Float32Array(channels);
    for (let head = 0; head < heads; head++) {
      const first = head * deep, { attention, mixed } = seen[head];
      const part = byValues.subarray(first, first + deep), own = query.subarray(first, first + deep);
      const wanted = back(v.W, part, channels, first);  // of a token, as a value
      const along = times(tokens, wanted), mean = dot(mixed, wanted);
      const byScore = attention.map((a, j) => a * (along[j] - mean) * scale);
      const together = new Float32Array(channels);
      for (let j = 0; j <= places; j++)
        for (let i = 0; i < channels; i++) together[i] += byScore[j] * tokens[j * channels + i];
      byQuery.set(times(k.W, together, null, deep, first), first);
      const asked = back(k.W, own, channels, first);
      const others = byScore.reduce((a, b) => a + b, 0) - byScore[0];  // tokens but the mean
      for (let i = 0; i < channels; i++) {
        sum[i] += (1 - attention[0]) * wanted[i] + others * asked[i];
        byMean[i] += attention[0] * wanted[i] + byScore[0] * asked[i];
      }
    }
    const more = back(q.W, byQuery, channels);
    return sum.map((s, i) => (s + byMean[i] + more[i]) / places);
  }
  return { embed: (...given) => forward(...given).embedding, gradient };
}

// ---------------------------------------------------------------- photos

// The photo multiplied by a channel's activation, upsampled with aligned corners, min-maxed.
function mask(A, [h, w, C], channel, size, input, out, at) {
  const rows = [], step = (n, i) => {
    const x = n > 1 ? i * (n - 1) / (size - 1) : 0, low = Math.min(Math.trunc(x), Math.max(n - 2, 0));
    return [low, Math.min(low + 1, n - 1), x - low];
  };
  const across = Array.from({ length: size }, (_, x) => step(w, x));
  for (let y = 0; y < h; y++)
    rows.push(Float32Array.from(across, ([a, b, t]) =>
      (1 - t) * A[(y * w + a) * C + channel] + t * A[(y * w + b) * C + channel]));
  const large = new Float32Array(size * size);
  let low = Infinity, high = -Infinity;
  for (let y = 0; y < size; y++) {
    const [a, b, t] = step(h, y), first = rows[a], second = rows[b];
    for (let x = 0; x < size; x++) {
      const value = large[y * size + x] = (1 - t) * first[x] + t * second[x];
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  for (let i = 0; i < large.length; i++) {
    const m = (large[i] - low) / (high - low + 1e-6);
    for (let c = 0; c < 3; c++) out[at + 3 * i + c] = input[3 * i + c] * m;
  }
}
