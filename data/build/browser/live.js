
// The page's host: the model itself runs in workers beside it. `window.gscam.run(…)` asks for a map,
// `window.gscam.last` is the map last drawn.

const D = JSON.parse(document.getElementById("data").textContent);
const root = document.getElementById("live"), byId = id => document.getElementById(id);
const METHODS = { gscorecam: "gScoreCAM", scorecam: "ScoreCAM", gradcam: "Grad-CAM" };
const MOST_PROMPTS = 12, FACES = 12;
const PERIOD = 250, PAUSE = 800;  // ms between maps that sharpen, and before work ahead
const preset = new URLSearchParams(location.search);
const models = {}, own = [];  // photos of the reader
let strange = [];  // what the address asks for and is not there, said until something is changed
let words, acts = {}, last = null, wanted = 0, runs = Promise.resolve();

const known = { look: { colors: D.colors, upload: 100e6 }, asked: {}, controls: [], off: [], photo: {},
  shown: {}, said: {}, strip: {}, status: {}, output: {} };
const put = changes => {
  Object.assign(known, changes);
  for (const name of Object.keys(changes)) acts[name]?.();
};
const said = (name, values = {}) => fill(words[name], values);
const reason = error => error.words ? said(error.words, error.values) : `${error.message || error}`;
const has = Object.hasOwn, names = table => Object.keys(table).join(", ");
const quoted = text => said("quoted", { text });
const split = typed => [...new Set(typed.split(/[;\n]/).map(t => t.trim()).filter(Boolean))];

// ---------------------------------------------------------------- models

function modelFile(name) {  // within the page, or beside it
  if (window.gscamModels?.[name]) return Promise.resolve(window.gscamModels[name]);
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = `${name}.js`;
    script.onload = () => done(window.gscamModels[name]);
    script.onerror = () =>
      failed(wrong("file_missing", { file: `${name}.js`, single: `${name}.html` }));
    document.head.append(script);
  });
}
async function modelOf(name) {
  for (const other of Object.keys(models))
    if (other !== name) {  // one at a time: memory is short on small machines
      (await models[other].catch(() => null))?.end();
      delete models[other];
    }
  if (!models[name]) {
    const size = (D.models[name].bytes / 1e6).toFixed(1);
    put({ status: { doing: said("loading", { model: name, size }), busy: true } });
    const sources = { worker: byId("worker").textContent, wasm: byId("wasm").textContent,
      file: modelFile(name) };
    models[name] = openModel(sources, { no: false, yes: true }[preset.get("graphics")] ?? "try");
    models[name].catch(() => { delete models[name]; });
  }
  return models[name];
}
function explain() {  // what the page is and does, in words
  const model = models[known.asked.model];
  byId("title").textContent = document.title = words.title;
  byId("lead").textContent = `${words.lead} ${words.drop}.`;
  byId("private").textContent = words.private;
  byId("languageName").textContent = words.language_name;
  byId("source").textContent = said("computed", { model: known.asked.model });
  Promise.resolve(model).then(m => {
    if (m) byId("source").textContent = said("computed", { model: m.name }) + " " + said("ready",
      { model: m.name, on: words[`on_${m.on}`], workers: m.workers > 1
        ? said("workers", { count: m.workers }) : words.worker }) + ".";
  }, () => {});
}

// ---------------------------------------------------------------- photos

const photosOf = name => [...own, ...D.models[name].photos];
function photoOf(key) {
  return photosOf(known.asked.model).find(photo => photo.key === key);
}
let decodedLast = { key: null };
async function canvasFor(photo) {
  if (decodedLast.key !== photo.key) {
    const canvas = await (photo.address ? fromAddress(photo.address) : decoded(photo.blob ?? await (await fetch(photo.file)).blob(), photo.name));
    decodedLast = { key: photo.key, canvas };
  }
  return decodedLast.canvas;
}
function add(photo) {
  const number = own.filter(other => other.name.startsWith(photo.name)).length;
  own.unshift({ ...photo, key: `own-${own.length}`, boxes: [], prompts: [],
    name: number ? `${photo.name} (${number + 1})` : photo.name });
  return own[0].key;
}
async function take(blob, name) {  // a photo that was dropped, chosen, pasted or taken
  try {
    if (blob.size > known.look.upload) throw wrong("too_large", { name,
      size: (blob.size / 1e6).toFixed(1), most: known.look.upload / 1e6 });
    const canvas = await decoded(blob, name), key = add({ blob, name: name.slice(0, 80) });
    decodedLast = { key, canvas };
    offer();
    move({ photo: key });
  } catch (error) {
    put({ said: { error: reason(error), notes: [] } });
  }
}

// ---------------------------------------------------------------- controls

function offer() {  // the controls of the model, with the reader's own photos on top
  const groups = structuredClone(D.models[known.asked.model].controls);
  for (const control of groups.flat()) {
    if (control.name === "photo") control.options = photosOf(known.asked.model).map(p => [p.key, p.name]);
    if (control.name === "model") control.options = Object.keys(D.models).map(name => [name, name]);
    if (control.name !== "k" && control.name !== "other_k") continue;
    const there = known.asked[control.name], C = control.options.at(-1)[0];
    if (there >= 1 && there <= C && !control.options.some(o => o[0] === there)) {
      control.options.push([there, ""]);
      control.options.sort((a, b) => a[0] - b[0]);
    }
    for (const option of control.options)
      option[1] = said("of", { k: option[0], channels: C });
  }
  put({ controls: groups });
}
function choose(name, changes = {}) {  // a model, with what it begins with
  const begin = Object.fromEntries(D.models[name].controls.flat()
    .filter(c => "value" in c).map(c => [c.name, c.value]));
  const kept = {};
  for (const key of ["opacity", "threshold", "box", "contour", "beside", "method", "compare", "word", "width", "x", "y"])
    if (key in known.asked) kept[key] = known.asked[key];
  if (own.some(photo => photo.key === known.asked.photo))
    Object.assign(kept, { photo: known.asked.photo, prompts: known.asked.prompts });
  put({ asked: { ...begin, ...kept, ...changes, model: name } });
  offer();
  explain();
}
function move(changes) {
  strange = [];
  if (changes.model && changes.model !== known.asked.model) choose(changes.model);
  else put({ asked: { ...known.asked, ...changes } });
  const brought = changes.photo && photoOf(changes.photo).prompts;
  if (brought?.length) put({ asked: { ...known.asked, prompts: brought.join("; ") } });
  if (changes.photo) put({ asked: { ...known.asked, channel: null } });
  const drawn = ["opacity", "box", "truth", "beside"];  // these need no answer
  if (Object.keys(changes).some(name => !drawn.includes(name))) ask();
}
function foldAway() {
  const a = known.asked, ranked = m => m === "gscorecam", other = a.compare === "method";
  const hide = { k: !ranked(a.method) && !(other && ranked(a.other_method)), other_method: !other,
    other_k: a.compare !== "k" || !ranked(a.method), truth: !photoOf(a.photo).boxes.length,
    width: !a.word.trim(), x: !a.word.trim(), y: !a.word.trim() };
  const off = Object.keys(hide).filter(name => hide[name]);
  if (JSON.stringify(off) !== JSON.stringify(known.off)) put({ off });
}

// ---------------------------------------------------------------- work

// What is newer makes what is older stale, and does not wait for it; only what `run` asks for is
// done one after another, and never stale.
async function ask() {
  const mine = ++wanted, stale = () => mine !== wanted;
  put({ status: { busy: true, doing: "" }, output: {} });
  try {
    await runs;
    if (stale()) return;
    await scoreAhead(await answer(stale), stale);
  } catch (error) {
    if (!stale()) put({ said: { error: reason(error), notes: [] }, status: { busy: false } });
  }
}
function variants() {  // (method, k) of the maps of one prompt
  const a = known.asked, ranked = m => m === "gscorecam";
  const one = method => [method, ranked(method) ? a.k : null];
  if (a.compare === "method") return [one(a.method), one(a.other_method)];
  if (a.compare === "k" && ranked(a.method)) return [one(a.method), [a.method, a.other_k]];
  return [one(a.method)];
}
async function answer(stale, exact = null) {
  foldAway();
  const a = { ...known.asked }, prompts = exact ?? split(a.prompts), photo = photoOf(a.photo);
  if (!prompts.length) throw wrong("no_prompt");
  if (prompts.length > MOST_PROMPTS)
    throw wrong("too_many_prompts", { count: prompts.length, most: MOST_PROMPTS });
  const model = await modelOf(a.model);
  explain();
  const key = JSON.stringify([photo.key, a.word.trim() && [a.word.trim(), a.width, a.x, a.y]]);
  let canvas = await withNote(await canvasFor(photo), a);
  const traced = await model.trace(key, async () => {
    put({ status: { doing: words.tracing, busy: true } });
    return pixelsOf(canvas);
  });
  const texts = [];
  for (const prompt of prompts) texts.push(await model.text(prompt));
  if (stale()) throw new Stale();
  const logits = texts.map(t => model.logit(traced.embedding, t.vector));
  const chances = prompts.length > 1 ? softmaxOf(logits) : null;
  showPhoto(canvas, key, photo, traced);
  await showStrip(canvas, traced, model, prompts[0], a.channel);
  const notes = prompts.flatMap((prompt, i) => texts[i].unknown.length ? [said("unknown", {
    model: model.name, words: quoted(texts[i].unknown.join(" ")), nearest: texts[i].nearest.join(", ") })] : []);
  notes.unshift(...strange.map(([name, values]) => said(name, values)));
  if (a.word.trim()) notes.push(words.place);
  put({ said: { error: "", notes } });  // before the maps that they are about
  const panels = [], total = prompts.length * variants().length;
  const view = { a, photo, traced, model, panels, total, shares: chances && prompts.map((p, i) => [p, chances[i]]) };
  for (const [i, prompt] of prompts.entries())
    for (const [method, k] of variants()) {
      const map = { prompt, method, k, share: chances && chances[i], logit: logits[i], vector: texts[i].vector };
      panels.push(await found(view, map, stale));
      if (panels.length % variants().length === 1 % variants().length)
        panels.at(-1).words = await eachWord(model, traced, prompt, logits[i]);
      show(view);
    }
  put({ status: { busy: false, doing: "" } });
  return { model, traced, prompt: prompts[0], method: a.method, found: panels[0].found };
}
async function eachWord(model, traced, prompt, logit) {  // the logit less that without the word
  const all = prompt.split(/\s+/), table = [];
  for (const [i, word] of all.length > 1 ? all.entries() : []) {
    const { vector } = await model.text(all.filter((_, j) => j !== i).join(" "));
    table.push([word, logit - model.logit(traced.embedding, vector)]);
  }
  return table;
}
function softmaxOf(values) {
  const top = Math.max(...values), all = values.map(v => Math.exp(v - top));
  return all.map(v => v / all.reduce((x, y) => x + y, 0));
}
async function found(view, map, stale) {  // one map; on the way it sharpens
  const { model, traced } = view, { order, mean } = await model.rank(traced, map.prompt);
  if (stale()) throw new Stale();
  if (map.method === "gradcam")
    return panel(view, map, mix(traced.A, mean, traced.h * traced.w), null);
  const k = map.method === "scorecam" ? traced.C : map.k, channels = order.slice(0, k);
  const scored = n => mix(traced.A, shares(order, model.scores(traced, order.slice(0, n), map.vector),
    n, traced.C), traced.h * traced.w);
  let drawn = performance.now();
  await model.score(traced, channels, stale, n => {
    put({ status: { doing: said("progress", { done: n, total: k }), busy: true, done: n, total: k } });
    if (n && n < k && performance.now() - drawn > PERIOD) {
      drawn = performance.now();
      show(view, panel(view, { ...map, method: "gscorecam" }, scored(n), n, k));
    }
  });
  return panel(view, map, scored(k), map.method === "scorecam" ? null : k);
}
function panel({ a, photo, traced, model }, { prompt, method, share, logit }, small, k, of = null) {
  const { width: W, height: H } = known.photo.shown, size = [traced.width, traced.height];
  const heat = toPhoto(small, W * H, map => resize(map, traced.h, traced.w, H, W));
  const box = findBox(heat, W, H, a.threshold, size);
  last = { photo: photo.given ?? photo.name, prompt, method, k, shape: [traced.height, traced.width],
    get values() {  // in the photo's own pixels, as the library's
      const { width, height } = traced;
      return Array.from(toPhoto(small, width * height, m => resize(m, traced.h, traced.w, height, width)).values);
    } };
  return { ...describe(words, { prompt, method: METHODS[method], k, of, channels: traced.C, logit, share,
    flat: heat.flat, box }), map: heat.values, shape: [H, W], box, found: last,
    contour: a.contour ? outline(heat, W, H, a.threshold, size) : [] };
}
function show({ panels, total, shares: bars }, early = null) {
  const all = early ? [...panels, early] : [...panels];
  put({ shown: { panels: all, waiting: total - all.length, bars: bars ?? [],
    text: all.map(p => p.text).join("\n") } });
}
function showPhoto(canvas, key, photo, traced) {
  if (known.photo.key === key) return;
  const small = reduced(canvas, SHOWN);
  put({ photo: { key, png: small.toDataURL(), size: [traced.width, traced.height], boxes: photo.boxes,
    shown: { width: small.width, height: small.height } } });
}
let faces = null;
async function showStrip(canvas, traced, model, prompt, number) {
  const { order } = await model.rank(traced, prompt), channels = order.slice(0, FACES);
  const key = JSON.stringify([traced.key, model.name, prompt]);
  if (faces?.key !== key)
    faces = { key, faces: channels.map(c => face(canvas, traced, c, 84, D.colors)) };
  else if (known.strip.chosen?.number === (number ?? undefined)) return;
  const chosen = number === null ? {} : { number, mask: { note: words.mask,
    alt: said("mask_alt", { number }), png: face(canvas, traced, number, 300, D.colors) } };
  put({ strip: { title: said("strip", { prompt: quoted(prompt) }), channels, faces: faces.faces, chosen } });
}
// While nothing is asked the other channels are scored too, so that the slider answers at once.
async function scoreAhead({ model, traced, prompt, method }, stale) {
  await new Promise(done => setTimeout(done, PAUSE));
  if (method !== "gscorecam" || stale()) return;
  const { order } = await model.rank(traced, prompt), total = order.length;
  await model.score(traced, order, stale, done => {
    if (!stale()) put({ status: { doing: said("ahead", { done, total }), busy: true, done, total } });
  });
  put({ status: { busy: false } });
}

// ---------------------------------------------------------------- the page

function press(button, more, content) {
  const acts = {
    cancel() { wanted++; put({ status: { busy: false, doing: words.cancelled } }); },
    choose: () => take(new Blob([content]), more.name),
    camera: openCamera,
    channel: () => move({ channel: known.asked.channel === more.channel ? null : more.channel }),
    async figure() {
      const content = await sheet(known.shown.panels, root);
      put({ output: { name: "heatmaps.png", kind: "image/png", content } });
    },
  };
  acts[button]();
}
function draw() {  // anew, in the language that is chosen
  root.replaceChildren();
  acts = {};
  put({ texts: words });
  mount(root, { kernel: true, get: name => known[name], on: (name, act) => { acts[name] = act; },
    set: move, press });
  explain();
}
function speak(language) {
  words = D.texts[language];
  known.texts = words;
  document.documentElement.lang = language;
  byId("language").value = language;
  if (known.asked.model) { faces = null; known.strip = {}; offer(); draw(); ask(); }
}
function listen() {
  for (const name of ["dragenter", "dragover"])
    document.addEventListener(name, event => { event.preventDefault(); document.body.classList.add("over"); });
  for (const name of ["dragleave", "drop"])
    document.addEventListener(name, () => document.body.classList.remove("over"));
  document.addEventListener("drop", event => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) take(file, file.name);
  });
  document.addEventListener("paste", event => {
    const file = [...event.clipboardData.files].find(f => f.type.startsWith("image/"));
    if (file) take(file, file.name);
  });
  root.addEventListener("click", event => {  // the note goes where the map is pressed
    const place = event.target.closest("canvas");
    if (!place || !known.asked.word.trim()) return;
    const box = place.getBoundingClientRect(), share = v => Math.round(100 * Math.min(1, Math.max(0, v))) / 100;
    move({ x: share((event.clientX - box.left) / box.width), y: share((event.clientY - box.top) / box.height) });
  });
  byId("language").append(...Object.entries(D.texts).map(([code, w]) => make("option", { value: code, lang: code }, w.language)));
  byId("language").addEventListener("change", event => speak(event.target.value));
}
// A promise of the map of one prompt: photo a URL or data URL; k null for the paper's share.
function run({ photo, prompt, method = "gscorecam", k = null, model = known.asked.model }) {
  const result = runs.then(async () => {
    wanted++;
    strange = [];
    try {
      if (!has(D.models, model)) throw wrong("no_model", { model, models: names(D.models) });
      if (!has(METHODS, method)) throw wrong("no_method", { method, methods: names(METHODS) });
      const { channels, default_k } = D.models[model];
      if (k !== null && !(Number.isInteger(k) && k >= 1 && k <= channels)) throw wrong("bad_k", { channels, k });
      if (typeof prompt !== "string" || !prompt.trim()) throw wrong("no_prompt");
      if (typeof photo !== "string" || !photo) throw wrong("unreadable", { name: JSON.stringify(photo) ?? "nothing" });
      let key = own.find(other => other.given === photo)?.key;
      if (!key) {  // on offer only when it can be read
        const canvas = await fromAddress(photo);
        key = add({ address: photo, given: photo, name: photo.split("/").at(-1).slice(-30) });
        decodedLast = { key, canvas };
      }
      const changes = { photo: key, prompts: prompt, method, k: k ?? default_k, compare: "none", word: "", channel: null };
      if (model !== known.asked.model) choose(model, changes);
      else { put({ asked: { ...known.asked, ...changes } }); offer(); }
      const { found } = await answer(() => false, [prompt.trim()]);
      return { ...found };
    } catch (error) {
      put({ said: { error: reason(error), notes: [] }, status: { busy: false } });
      throw new Error(reason(error));
    }
  });
  runs = result.catch(() => {});
  return result;
}
window.gscam = { run, get last() { return last; }, get model() { return known.asked.model; },
  get passes() { return passes; }, models: Object.keys(D.models) };

function wished(name) {  // what the address asks a model for, as far as that is here
  const { photos, channels } = D.models[name], changes = {};
  const asks = (key, fits, otherwise, values) => {
    const text = preset.get(key);
    if (text && !fits(text)) strange.push([otherwise, { [key]: text, ...values }]);
    return text && fits(text) ? text : null;
  };
  const photoNamed = text => photos.find(p => [p.key, p.name].includes(text));
  asks("model", text => has(D.models, text), "no_model", { models: names(D.models) });
  const photo = asks("photo", photoNamed, "no_photo", { photos: photos.map(p => p.name).join("; ") });
  const method = asks("method", text => has(METHODS, text), "no_method", { methods: names(METHODS) });
  const k = asks("k", text => /^[1-9]\d*$/.test(text) && +text <= channels, "bad_k", { channels });
  if (photo) Object.assign(changes, { photo: photoNamed(photo).key, prompts: photoNamed(photo).prompts.join("; ") });
  if (method) changes.method = method;
  if (k) changes.k = +k;
  for (const [key, value] of [["prompt", "prompts"], ["word", "word"]])
    if (preset.get(key)) changes[value] = preset.get(key);
  return changes;
}
function begin() {
  const spoken = preset.get("lang") ?? navigator.language.slice(0, 2);
  listen();
  speak(has(D.texts, spoken) ? spoken : "en");
  const name = has(D.models, preset.get("model")) ? preset.get("model") : Object.keys(D.models)[0];
  choose(name);
  known.asked = { ...known.asked, ...wished(name) };
  offer();
  draw();
  ask();
}
begin();
