
// Models in workers, one for each core: what is asked of them, and what is kept of their answers.

const BATCH = { wasm: 4, webgpu: 32 };  // copies in one pass, which cannot be stopped
const KEPT = 6;  // traces; a warm one holds some 7 MB

let passes = 0;  // of photos and their copies through a model

class Stale extends Error {}
const wrong = (words, values = {}) => Object.assign(new Error(words), { words, values });

function startWorker(source) {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url), waiting = new Map();
  let count = 0;
  worker.onmessage = ({ data: { id, answer, error } }) => {
    const [done, failed] = waiting.get(id);
    waiting.delete(id);
    if (error) failed(error.words ? wrong(error.words, error.values) : new Error(error.text));
    else done(answer);
  };
  worker.onerror = event => {
    for (const [, failed] of waiting.values()) failed(wrong("too_old", { reason: event.message }));
    waiting.clear();
  };
  const call = (act, given = {}) => new Promise((done, failed) => {
    waiting.set(++count, [done, failed]);
    worker.postMessage({ id: count, act, ...given });
  });
  return { call, shown: null, end: () => { worker.terminate(); URL.revokeObjectURL(url); } };
}
function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64.trim());
  const text = atob(base64.trim()), out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out;
}
async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}
async function graphicsCard() {  // true where there is a real one
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return !!adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

// sources: { worker, wasm, file }, text and base64; graphics: true, false, or "try".
async function openModel(sources, graphics = "try") {
  const file = await unzip(bytesOf(await sources.file)), wasm = bytesOf(sources.wasm).buffer;
  const wanted = graphics === "try" ? await graphicsCard() : graphics;
  const begin = () => startWorker(sources.worker);
  const workers = [begin()], { on } = await workers[0].call("load", { file, wasm, graphics: wanted });
  if (on === "wasm") {  // memory of its own for each: fewer where there is little
    const most = (navigator.deviceMemory ?? 8) > 4 ? 4 : 2;
    const more = Math.min(navigator.hardwareConcurrency || 2, most) - 1;
    for (let i = 0; i < more; i++) workers.push(begin());
    await Promise.all(workers.slice(1).map(w => w.call("load", { file, wasm, graphics: false })));
  }
  const [first] = workers, about = await first.call("read"), texts = new Map(), traces = new Map();

  async function text(prompt) {  // its unit vector, and what is not known of it
    if (!texts.has(prompt)) texts.set(prompt, await first.call("text", { prompt }));
    return texts.get(prompt);
  }
  function trace(key, pixels) {  // pixels: gives ImageData
    const kept = traces.get(key) ?? traceAnew(key, pixels);
    kept.catch(() => traces.delete(key));
    traces.delete(key);
    traces.set(key, kept);  // the last used at the end
    if (traces.size > KEPT) traces.delete(traces.keys().next().value);
    return kept;
  }
  async function traceAnew(key, pixels) {
    const { data, width, height } = await pixels();
    passes++;
    const { activations, shape: [h, w, C], ...given } =
      await first.call("trace", { rgba: data.buffer, width, height });
    const A = new Float32Array(activations.length), dead = new Set();
    for (let c = 0; c < C; c++) {
      let same = true;
      for (let j = 0; j < h * w; j++) {
        A[c * h * w + j] = activations[j * C + c];
        same &&= activations[j * C + c] === activations[c];
      }
      if (same) dead.add(c);  // it masks all, as every constant one does
    }
    return { key, A, h, w, C, dead, width, height, masked: new Map(), ranks: new Map(),
      given: { ...given, activations, shape: [h, w, C] }, embedding: given.embedding };
  }
  async function show(worker, traced) {
    if (worker.shown === traced.key) return;
    worker.shown = traced.key;
    await worker.call("show", { given: traced.given });
  }
  async function rank(traced, prompt) {  // channels by mean gradient, highest first
    if (!traced.ranks.has(prompt)) {
      const { vector } = await text(prompt);
      await show(first, traced);
      const mean = await first.call("rank", { vector });
      const order = Array.from(mean.keys()).sort((a, b) => mean[b] - mean[a] || a - b);
      traced.ranks.set(prompt, { mean, order });
    }
    return traced.ranks.get(prompt);
  }
  // Embeds copies of the photo masked by channels, the first of them first; `report` hears how many
  // of the leading ones are there. What has been embedded is kept when it turns stale.
  async function score(traced, channels, stale, report) {
    const [blank] = traced.dead;
    const todo = [...new Set(channels.map(c => traced.dead.has(c) ? blank : c))]
      .filter(c => !traced.masked.has(c));
    let next = 0, leading = 0;
    const has = c => traced.masked.has(traced.dead.has(c) ? blank : c);
    const work = async worker => {
      while (next < todo.length) {
        if (stale()) throw new Stale();
        const batch = todo.slice(next, next += BATCH[on]);
        await show(worker, traced);
        const found = await worker.call("copies", { channels: batch });
        passes += batch.length;
        batch.forEach((c, i) => traced.masked.set(c, found[i]));
        while (leading < channels.length && has(channels[leading])) leading++;
        await report(leading);
      }
    };
    if (!todo.length) return;
    const ends = await Promise.allSettled(workers.map(work));
    const failed = ends.find(end => end.status === "rejected");
    if (failed) throw failed.reason;
  }
  function logit(embedding, vector) {
    let sum = 0;
    for (let i = 0; i < vector.length; i++) sum += embedding[i] * vector[i];
    return about.logit_scale * sum;
  }
  function scores(traced, channels, vector) {
    const [blank] = traced.dead;
    return channels.map(c => logit(traced.masked.get(traced.dead.has(c) ? blank : c), vector));
  }
  const end = () => workers.forEach(worker => worker.end());
  return { ...about, on, workers: workers.length, text, trace, rank, score, scores, logit, end };
}
