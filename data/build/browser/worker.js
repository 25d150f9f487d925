"use strict";
// One of several workers: each holds the model and embeds copies of the photo; the first also
// traces photos and reads prompts. A message {id, act, ...} is answered by {id, answer} or {id, error}.

let model, trunk, head, ask, photo = null;

async function backend(wasm, graphics) {
  tf.enableProdMode();
  if (graphics) {
    try {
      if (await tf.setBackend("webgpu")) return "webgpu";
    } catch { /* none that works here */ }
  }
  const url = URL.createObjectURL(new Blob([wasm], { type: "application/wasm" }));
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);  // many workers instead: they need no headers
  const names = ["", "-simd", "-threaded-simd"];  // it asks for all, and takes the second
  tf.wasm.setWasmPaths(Object.fromEntries(names.map(n => [`tfjs-backend-wasm${n}.wasm`, url])));
  await tf.setBackend("wasm");
  return "wasm";
}
async function embed(pixels, count) {
  const { shape: [h, w, C], data } = await trunk(pixels, count), found = [];
  for (let i = 0; i < count; i++)
    found.push(unit(head.embed(data.subarray(i * h * w * C, (i + 1) * h * w * C), h * w, C)));
  return { found, data, shape: [h, w, C] };
}
async function probe() {  // 1 where a pattern gives the library's embedding
  const pixels = Float32Array.from({ length: 3 * model.size ** 2 }, (_, i) => i * 7919 % 255 / 127.5 - 1);
  return dot((await embed(pixels, 1)).found[0], model.get("probe"));
}

const acts = {
  async load({ file, wasm, graphics }) {
    let on = await backend(wasm, graphics);
    model = unpack(file);
    head = makeHead(model);
    trunk = makeTrunk(model);
    let cosine = await probe();
    if (on === "webgpu" && !(cosine > 1 - 1e-5)) {  // this card computes something else
      on = await backend(wasm, false);
      trunk = makeTrunk(model);
      cosine = await probe();
    }
    return { on, cosine };
  },
  read() {  // what depends on no photo, asked of the first worker alone
    ask = makeText(model);
    const { name, size, mean, std, interpolation, logit_scale, default_k, channels } = model;
    return { name, size, mean, std, interpolation, logit_scale, default_k, channels };
  },
  text: ({ prompt }) => ask(prompt),
  async trace({ rgba, width, height }) {
    const input = toInput(new Uint8ClampedArray(rgba), width, height, model);
    const { found: [embedding], data, shape } = await embed(input, 1);
    return { input, activations: data, shape, embedding };
  },
  show({ given }) { photo = given; },
  rank({ vector }) {  // the mean gradient of the logit by each channel
    const { activations: A, shape: [h, w, C] } = photo;
    const e = head.embed(A, h * w, C), size = length(e), cosine = dot(e, vector) / size;
    const d = Float32Array.from(e, (v, i) => model.logit_scale * (vector[i] - cosine * v / size) / size);
    return head.gradient(A, h * w, C, d);
  },
  async copies({ channels }) {
    const { input, activations: A, shape } = photo, one = input.length;
    const pixels = new Float32Array(channels.length * one);
    channels.forEach((c, i) => mask(A, shape, c, model.size, input, pixels, i * one));
    return (await embed(pixels, channels.length)).found;
  },
};

self.onmessage = async ({ data: { id, act, ...given } }) => {
  try {
    self.postMessage({ id, answer: await acts[act](given) });
  } catch (error) {
    self.postMessage({ id, error: error.words ? error : { text: `${error.message || error}` } });
  }
};
