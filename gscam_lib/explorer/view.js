"use strict";
// Draws what is described as data: controls, maps over a photo, channels. A host has it: a kernel, or
// the page itself. It is { kernel, get(name), on(name, act), set(changes), press(button, more, bytes) }
// and calls `act` when what it has under that name is new:
//   look      { colors: 256 × (red, green, blue), upload: bytes of the largest file }
//   texts     what readers see: labels and hints by a control's name, sentences with {blanks}
//   controls  groups of { kind, name, options: [[value, text], …] }, see controls.py
//   asked     name -> value of each control; set(changes) tells the host of new ones
//   off       names of controls that say nothing now
//   photo     { png: bytes or address, size: [width, height] as it came, boxes: true ones }
//   shown     { panels: [{ title, note, alt, map: bytes or Float32Array of shape [h, w], box, contour,
//             words: [[word, value], …] }], text, bars: [[name, share], …], waiting: maps to come }
//   said      { error, notes: […] }          status  { doing, busy, done, total }
//   strip     { title, channels, faces, chosen: { number, mask, strongest: none where a host
//             cannot look for them } }, or {}
//   output    { name, kind, content } to take away, or {}

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key === "style") node.style.cssText = value;  // a strict policy lets no attribute through
    else if (key in node && typeof value !== "string") node[key] = value;
    else node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const address = (content, type) =>
  typeof content === "string" ? content : URL.createObjectURL(new Blob([content], { type }));
const signed = v => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(2);
const fill = (text, values) => text.replace(/{(\w+)}/g, (_, name) => values[name]);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

// Bilinear with half-pixel centres; where it shrinks, a triangle as wide as the shrinking.
function weights(from, to) {
  const scale = from / to, wide = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale, row = [];
    const first = Math.max(0, Math.trunc(center - wide + 0.5));
    const last = Math.min(from, Math.trunc(center + wide + 0.5));
    for (let j = first; j < last; j++)
      row.push(Math.max(0, 1 - Math.abs((j - center + 0.5) / wide)));
    const sum = row.reduce((a, b) => a + b, 0);
    return [first, row.map(v => v / sum)];
  });
}
function resize(map, h, w, H, W) {
  const rows = new Float32Array(h * W), out = new Float32Array(H * W);
  weights(w, W).forEach(([first, row], x) => {
    for (let y = 0; y < h; y++) {
      let v = 0;
      for (let j = 0; j < row.length; j++) v += row[j] * map[y * w + first + j];
      rows[y * W + x] = v;
    }
  });
  weights(h, H).forEach(([first, row], y) => {
    for (let x = 0; x < W; x++) {
      let v = 0;
      for (let j = 0; j < row.length; j++) v += row[j] * rows[(first + j) * W + x];
      out[y * W + x] = v;
    }
  });
  return out;
}
// As figures.overlay: the photo in its own colours where it is cold, covered where it is hot.
function overlay(pixels, values, colors, opacity) {
  const out = new Uint8ClampedArray(pixels);
  for (let i = 0; i < values.length; i++) {
    const v = values[i], alpha = opacity * v * v * (3 - 2 * v);
    const color = 3 * Math.min(255, Math.trunc(v * 256));
    for (let c = 0; c < 3; c++)
      out[4 * i + c] = (1 - alpha) * pixels[4 * i + c] + alpha * colors[color + c];
  }
  return out;
}

let numbers = 0;

function mount(root, host) {
  const asked = { ...host.get("asked") }, setters = {}, fields = {};
  const look = host.get("look"), texts = host.get("texts");
  const say = (name, values = {}) => fill(texts[name], values);
  let photo = null, came = null, waiting = null;

  // ------------------------------------------------------------ controls

  const send = changes => {
    Object.assign(asked, changes);
    waiting = { ...waiting, ...changes };
    requestAnimationFrame(() => {
      if (waiting) { const all = waiting; waiting = null; host.set(all); }
      draw();
    });
  };
  const labelled = (c, field, ...more) =>
    make("div", { class: "gscam-row" }, make("label", { for: field.id }, texts.labels[c.name]), ...more, field);

  const kinds = {
    select(c, id) {
      const field = make("select", { id });
      const choices = c.options.map(([value, text]) =>
        make("option", {}, texts.options[`${c.name}.${value}`] ?? text));
      field.append(...choices);
      field.addEventListener("change", () => send({ [c.name]: c.options[field.selectedIndex][0] }));
      setters[c.name] = value => { field.selectedIndex = c.options.findIndex(o => o[0] === value); };
      return labelled(c, field);
    },
    range(c, id) {
      const field = make("input", { id, type: "range", min: "0", max: `${c.options.length - 1}` });
      const said = make("span", { class: "gscam-value", "aria-hidden": "true" });
      const tell = () => {
        const [value, text] = c.options[field.value];
        said.textContent = texts.options[`${c.name}.${value}`] ?? text;
        field.setAttribute("aria-valuetext", said.textContent);
      };
      field.addEventListener("input", () => { tell(); send({ [c.name]: c.options[field.value][0] }); });
      setters[c.name] = value => {
        field.value = c.options.findIndex(o => o[0] === value);
        tell();
      };
      return labelled(c, field, said);
    },
    text(c, id) {
      const field = make("input", { id, type: "text", placeholder: texts.hints[c.name] ?? "", autocomplete: "off" });
      const said = () => { if (field.value !== asked[c.name]) send({ [c.name]: field.value }); };
      field.addEventListener("change", said);
      field.addEventListener("keydown", event => { if (event.key === "Enter") said(); });
      setters[c.name] = value => { field.value = value; };
      return labelled(c, field);
    },
    check(c, id) {
      const field = make("input", { id, type: "checkbox" });
      field.addEventListener("change", () => send({ [c.name]: field.checked }));
      setters[c.name] = value => { field.checked = value; };
      return make("label", { class: "gscam-check" }, field, texts.labels[c.name]);
    },
    button(c, id) {
      const field = make("button", { id, type: "button" }, texts.labels[c.name]);
      field.addEventListener("click", () => host.press(c.name, {}));
      return field;
    },
    file(c, id) {
      const field = make("input", { id, type: "file", accept: "image/*" });
      field.addEventListener("change", async () => {
        const file = field.files[0];
        field.value = "";
        if (!file) return;
        const most = look.upload;
        if (file.size > most)
          tell({ error: say("too_large", { name: file.name, size: (file.size / 1e6).toFixed(1),
            most: most / 1e6 }), notes: [] });
        else host.press(c.name, { name: file.name }, await file.arrayBuffer());
      });
      return make("label", { class: "gscam-file" }, texts.labels[c.name], field);
    },
  };

  const form = make("form", { class: "gscam-card", "aria-label": say("controls") });
  form.addEventListener("submit", event => event.preventDefault());
  const cancel = make("button", { type: "button", disabled: true }, say("cancel"));
  cancel.addEventListener("click", () => host.press("cancel", {}));
  const progress = make("progress", { "aria-label": say("passes"), max: 1, value: 0 });
  const doing = make("p", { class: "gscam-doing" });
  const work = make("div", { class: "gscam-group" },
    make("div", { class: "gscam-buttons" }, cancel, progress), doing);

  function controls() {
    const focus = document.activeElement && fields[document.activeElement.dataset?.name];
    const groups = host.get("controls").map(group => {
      const rows = group.filter(c => kinds[c.kind]).map(c => {
        const row = kinds[c.kind](c, `gscam-${++numbers}`);
        const field = row.matches("button") ? row : row.querySelector("input, select");
        field.dataset.name = c.name;
        fields[c.name] = { row, field, kind: c.kind };
        return row;
      });
      const buttons = group.every(c => c.kind === "button");
      return make("div", { class: buttons ? "gscam-group gscam-buttons" : "gscam-group" }, ...rows);
    }).filter(group => group.childElementCount);
    form.replaceChildren(...groups, ...(host.kernel ? [work] : []));
    for (const [name, set] of Object.entries(setters)) set(asked[name]);
    if (focus) fields[focus.field.dataset.name]?.field.focus();
    fold();
  }
  function fold() {  // controls that say nothing now
    const off = new Set(host.get("off"));
    for (const [name, { row, field }] of Object.entries(fields)) {
      field.disabled = off.has(name);
      row.hidden = off.has(name) && !["k", "truth"].includes(name);
    }
  }
  function moved() {  // from the other side; what is under the reader's hand stays
    for (const [name, value] of Object.entries(host.get("asked"))) {
      const held = fields[name]?.field === root.ownerDocument.activeElement;
      if (same(asked[name], value) || waiting?.[name] !== undefined || held) continue;
      asked[name] = value;
      setters[name]?.(value);
    }
    draw();
  }

  // ------------------------------------------------------------ maps

  const error = make("div", { class: "gscam-error", role: "alert", hidden: true });
  const notes = make("div", { "aria-live": "polite" });
  const stage = make("div", { class: "gscam-stage" });
  const state = make("p", { class: "gscam-state", role: "status", "aria-live": "polite" });
  const bars = make("div", { class: "gscam-bars", "aria-hidden": "true" });
  const shades = Array.from({ length: 17 }, (_, i) => {
    const at = 3 * Math.min(255, 16 * i);
    return `rgb(${look.colors.slice(at, at + 3).map(Math.round)})`;
  });
  const scale = make("div", { class: "gscam-scale", role: "img",
    "aria-label": say("scale") },
    make("span", {}, "0"), make("i", { style: `background:linear-gradient(90deg,${shades})` }),
    make("span", {}, "1"));
  let panels = [];
  const plain = make("canvas", { role: "img", class: "gscam-plain",
    "aria-label": say("plain") });
  const size = make("span"), bare = make("figure", { hidden: true },
    make("figcaption", { class: "gscam-caption" }, make("b", {}, say("the_photo")), make("br"), size),
    plain);
  stage.append(bare);
  values(plain, () => panels);

  function tell({ error: wrong, notes: said }) {
    error.textContent = wrong || "";
    error.hidden = !wrong;
    notes.replaceChildren(...(said || []).map(text => make("div", { class: "gscam-note" }, text)));
  }
  function newPanel() {
    const title = make("b"), note = make("span"), under = make("span", { class: "gscam-under" });
    const canvas = make("canvas", { role: "img" });
    const lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    lines.setAttribute("aria-hidden", "true");
    const picture = make("div", { class: "gscam-picture" }, canvas, lines);
    const caption = make("figcaption", { class: "gscam-caption" }, title, make("br"), note, under);
    const words = make("div", { class: "gscam-words", role: "group" });
    const node = make("figure", {}, caption, picture, words);
    const panel = { node, title, note, under, canvas, lines, words, values: null };
    values(canvas, () => [panel]);
    return panel;
  }
  function values(place, panels) {  // those of maps under the pointer
    place.addEventListener("pointermove", event => {
      const box = place.getBoundingClientRect();
      const x = Math.min(0.9999, Math.max(0, (event.clientX - box.left) / box.width));
      const y = Math.min(0.9999, Math.max(0, (event.clientY - box.top) / box.height));
      for (const panel of panels()) {
        if (!panel.values) continue;
        const at = Math.trunc(y * photo.h) * photo.w + Math.trunc(x * photo.w);
        panel.under.textContent = " · " + say("value_at", { value: panel.values[at].toFixed(2),
          x: Math.trunc(x * photo.size[0]), y: Math.trunc(y * photo.size[1]) });
      }
    });
    place.addEventListener("pointerleave", () => {
      for (const panel of panels()) panel.under.textContent = "";
    });
  }
  async function show() {  // what has come from the other side
    const shown = host.get("shown"), given = host.get("photo");
    if (!shown.panels) return;
    if (given.png && given.png !== came) {
      came = given.png;
      const image = new Image();
      image.src = address(given.png, "image/png");
      await image.decode();
      const [w, h] = [image.naturalWidth, image.naturalHeight];
      const pen = make("canvas", { width: w, height: h }).getContext("2d", { willReadFrequently: true });
      pen.drawImage(image, 0, 0);
      if (given.png !== came) return;  // a newer photo has come meanwhile
      photo = { w, h, size: given.size, boxes: given.boxes, pixels: pen.getImageData(0, 0, w, h).data };
    } else if (given.png && !photo) return;
    if (host.get("shown") !== shown) return;
    const waits = shown.waiting || 0;
    while (panels.length > shown.panels.length + waits) panels.pop().node.remove();
    while (panels.length < shown.panels.length) {
      panels.push(newPanel());
      stage.append(panels.at(-1).node);
    }
    shown.panels.forEach((given, i) => {
      const panel = panels[i];
      panel.given = given;
      panel.title.textContent = given.title;
      panel.note.textContent = given.note;
      const [h, w] = given.shape, map = given.map;
      const from = map instanceof Float32Array ? map
        : Float32Array.from(new Uint8Array(map.buffer, map.byteOffset, h * w), v => v / 255);
      const fits = h === photo.h && w === photo.w;
      panel.values = fits ? from : resize(from, h, w, photo.h, photo.w);
      panel.canvas.setAttribute("aria-label", given.alt);
    });
    showWords(shown.panels.map(given => given.words || []));
    if (state.textContent !== shown.text) state.textContent = shown.text;
    showBars(shown.bars || []);
    draw();
    root.dispatchEvent(new CustomEvent("gscam-drawn"));
  }
  function rectangle([x0, y0, x1, y1], color, dashes = "none") {  // the truth is dashed, thinner
    const shape = `x="${x0}" y="${y0}" width="${x1 - x0}" height="${y1 - y0}"`;
    const wide = dashes === "none" ? 2.5 : 1.8;
    return `<rect ${shape} stroke="#000" stroke-width="${wide + 2}"/>` +
      `<rect ${shape} stroke="${color}" stroke-width="${wide}" stroke-dasharray="${dashes}"/>`;
  }
  function line(points) {
    const shape = `points="${points.join(" ")}"`;
    return `<polyline ${shape} stroke="#000" stroke-width="4"/>` +
      `<polyline ${shape} stroke="#ffd34d" stroke-width="2"/>`;
  }
  function draw() {  // opacity, boxes, the photo beside: no answer is needed
    if (!photo) return;
    bare.hidden = !asked.beside;
    stage.dataset.count = panels.length + (asked.beside ? 1 : 0);
    size.textContent = say("pixels", { width: photo.size[0], height: photo.size[1] });
    const paint = (place, values, opacity) => {
      if (place.width !== photo.w || place.height !== photo.h)
        [place.width, place.height] = [photo.w, photo.h];
      const mixed = overlay(photo.pixels, values, look.colors, opacity);
      place.getContext("2d").putImageData(new ImageData(mixed, photo.w, photo.h), 0, 0);
    };
    if (asked.beside) paint(plain, [], 0);
    panels.forEach(({ given, values, canvas, lines }) => {
      if (!values) return;
      paint(canvas, values, asked.opacity);
      let marks = given.contour?.map(line).join("") || "";
      if (asked.truth) marks += photo.boxes.map(t => rectangle(t, "#fff", "6 4")).join("");
      if (asked.box && given.box) marks += rectangle(given.box, "#5cf2ff");
      lines.setAttribute("viewBox", `0 0 ${photo.size[0]} ${photo.size[1]}`);
      lines.innerHTML = marks;
    });
  }
  function showWords(tables) {  // the deepest colour is the largest value of all
    const most = Math.max(...tables.flat().map(([, value]) => Math.abs(value)), 1e-9);
    tables.forEach((table, i) => {
      const spoken = table.map(([word, value]) => make("span", {},
        make("b", { class: value < 0 ? "gscam-against" : "gscam-for",
          style: `--share:${Math.round(60 * Math.abs(value) / most)}%` }, word),
        make("small", {}, signed(value))));
      panels[i].words.hidden = table.length < 2;  // one word says no more than the logit
      panels[i].words.setAttribute("aria-label", say("word_adds"));
      panels[i].words.replaceChildren(make("small", {}, say("each_word")), ...spoken);
    });
  }
  function showBars(rows) {
    bars.replaceChildren(...rows.flatMap(([name, share]) => [
      make("span", {}, name),
      make("span", { class: "gscam-track" }, make("i", { style: `width:${100 * share}%` })),
      make("span", {}, `${Math.round(100 * share)} %`),
    ]));
  }

  // ------------------------------------------------------------ channels, work, what is taken away

  const below = make("section", { class: "gscam-below", "aria-label": say("below") });
  const output = make("div"), channels = make("div");
  below.append(output, channels);

  function figure({ note, alt, png }) {
    return make("figure", {}, make("img", { src: address(png, "image/png"), alt }),
      make("figcaption", {}, note));
  }
  function strip() {
    const { title, channels: numbers, faces, chosen } = host.get("strip");
    if (!numbers) return;
    const held = channels.contains(document.activeElement) ? document.activeElement.dataset.key : "";
    const buttons = numbers.map((number, i) => {
      const pressed = chosen.number === number;
      const button = make("button", { type: "button", class: "gscam-channel",
        "aria-label": say("channel", { number }), "aria-pressed": `${pressed}`, "data-key": `${i}` },
        make("img", { src: address(faces[i], "image/png"), alt: "" }), make("span", {}, `${number}`));
      button.addEventListener("click", () => host.press("channel", { channel: number }));
      return button;
    });
    const parts = [make("h3", {}, title), make("div", { class: "gscam-strip" }, ...buttons)];
    if (chosen.mask) {
      const search = make("button", { type: "button", "data-key": "search" }, say("search"));
      search.addEventListener("click", () => host.press("strongest", {}));
      const seen = !chosen.strongest ? [] : chosen.strongest.length
        ? [make("h4", {}, say("strongest")),
          make("div", { class: "gscam-photos" }, ...chosen.strongest.map(figure))] : [search];
      parts.push(make("section", { class: "gscam-page", "aria-label": say("channel", chosen) },
        make("h3", {}, say("channel", chosen)), figure(chosen.mask), ...seen));
    }
    channels.replaceChildren(...parts);
    if (held) channels.querySelector(`[data-key="${held}"]`)?.focus();
  }
  function status() {
    const { doing: text = "", busy = false, done = 0, total = 0 } = host.get("status");
    doing.textContent = text;
    cancel.disabled = !busy;
    progress.style.visibility = busy && text ? "visible" : "hidden";
    progress.max = Math.max(total, done, 1);
    progress.value = total ? done : 0;
  }
  function take() {
    const { name, kind, content } = host.get("output");
    if (!name) { output.replaceChildren(); return; }
    if (kind.includes("python")) {
      const code = new TextDecoder().decode(content);
      const area = make("textarea", { "aria-label": say("python"), readOnly: true,
        rows: code.split("\n").length + 1 }, code);
      const copy = make("button", { type: "button" }, say("copy"));
      copy.addEventListener("click", async () => {
        await navigator.clipboard.writeText(code);
        copy.textContent = say("copied");
      });
      output.replaceChildren(copy, area);
      return;
    }
    const size = content.byteLength / 1e6;
    const link = make("a", { href: address(content, kind), download: name }, say("download", { name }));
    output.replaceChildren(link, ` (${size < 0.1 ? `${(1e3 * size).toFixed()} kB` : `${size.toFixed(1)} MB`})`);
  }

  root.classList.add("gscam-explorer");
  root.addEventListener("focusin", event => {  // keys are the controls', not JupyterLab's
    event.target.dataset.lmSuppressShortcuts = "true";
  });
  const seen = make("section", { class: "gscam-seen", "aria-label": say("maps") },
    error, notes, stage, scale, bars, state);
  root.append(make("div", { class: "gscam-grid" }, seen, form, below));
  const parts = { controls, off: fold, asked: moved, said: () => tell(host.get("said")), shown: show,
    photo: show, strip, status, output: take };
  for (const [name, part] of Object.entries(parts)) {
    host.on(name, part);
    part();
  }
}
