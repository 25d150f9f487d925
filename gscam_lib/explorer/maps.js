
// From activations and weights of channels to a map, its box and its outline, as the library does.

// Softmax over all channels, those not chosen scoring 0.
function shares(order, scores, k, C) {
  let top = k < C ? 0 : -Infinity, total = 0;
  for (let i = 0; i < k; i++) top = Math.max(top, scores[i]);
  const weights = new Float64Array(C);
  for (let i = 0; i < C; i++) {
    weights[order[i]] = Math.exp((i < k ? scores[i] : 0) - top);
    total += weights[order[i]];
  }
  return weights.map(v => v / total);
}
function mix(A, weights, places) {  // (C, places) to one map, which is not negative
  const map = new Float64Array(places);
  weights.forEach((weight, c) => {
    for (let j = 0; j < places; j++) map[j] += weight * A[c * places + j];
  });
  return Float32Array.from(map, v => Math.max(v, 0));
}
function range(map) {
  let low = Infinity, high = -Infinity;
  for (const v of map) { if (v < low) low = v; if (v > high) high = v; }
  return [low, high];
}
function minMax(map) {
  const [low, high] = range(map);
  if (high === low) return map.map(() => 1);
  const span = high - low, out = new Float32Array(map.length);
  for (let i = 0; i < out.length; i++) out[i] = (map[i] - low) / span;
  return out;
}
function toPhoto(small, count, stretch) {  // in [0, 1]; a flat map becomes zeros
  const [low, high] = range(small), flat = high - low <= 1e-6 * high;
  return { flat, values: flat ? new Float32Array(count) : minMax(stretch(minMax(small))) };
}
function otsu(grey) {
  const counts = new Float64Array(256);
  for (const g of grey) counts[g]++;
  let low = 0, high = 255;
  while (!counts[low]) low++;
  while (!counts[high]) high--;
  let all = 0, n = 0;
  for (let g = low; g <= high; g++) { all += g * counts[g]; n += counts[g]; }
  let best = -1, at = low, weight = 0, sum = 0;
  for (let g = low; g < high; g++) {
    weight += counts[g]; sum += g * counts[g];
    const variance = weight * (n - weight) * (sum / weight - (all - sum) / (n - weight)) ** 2;
    if (variance > best) { best = variance; at = g; }
  }
  return at;
}
function greyOf(values) {
  const grey = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) grey[i] = values[i] * 255;
  return grey;
}
// The connected region (8 neighbours) with the largest bounding rectangle, in the photo's pixels.
function findBox({ values, flat }, W, H, threshold, size) {
  if (flat) return null;
  const grey = greyOf(values), cut = threshold === "otsu" ? otsu(grey) : null;
  const hot = new Uint8Array(W * H), stack = new Int32Array(W * H);
  for (let i = 0; i < W * H; i++) hot[i] = cut === null ? values[i] >= threshold : grey[i] > cut;
  let best = null, area = 0;
  for (let start = 0; start < W * H; start++) {
    if (!hot[start]) continue;
    let x0 = W, y0 = H, x1 = 0, y1 = 0, waiting = 1;
    stack[0] = start;
    hot[start] = 0;
    while (waiting) {
      const i = stack[--waiting], x = i % W, y = (i - x) / W;
      if (x < x0) x0 = x;
      if (x >= x1) x1 = x + 1;
      if (y < y0) y0 = y;
      if (y >= y1) y1 = y + 1;
      for (let v = y && y - 1; v <= y + 1 && v < H; v++)
        for (let u = x && x - 1; u <= x + 1 && u < W; u++)
          if (hot[v * W + u]) { hot[v * W + u] = 0; stack[waiting++] = v * W + u; }
    }
    if ((x1 - x0) * (y1 - y0) > area) { area = (x1 - x0) * (y1 - y0); best = [x0, y0, x1, y1]; }
  }
  const [across, down] = [size[0] / W, size[1] / H];
  return best && [Math.floor(best[0] * across), Math.floor(best[1] * down),
    Math.ceil(best[2] * across), Math.ceil(best[3] * down)];
}
// Lines around what is hot, by marching squares on a frame of cold: x, y, x, y, … of the photo.
function outline({ values, flat }, W, H, threshold, size) {
  if (flat) return [];
  const level = threshold === "otsu" ? (otsu(greyOf(values)) + 1) / 255 : threshold;
  const next = new Map();
  const at = (x, y) => x < 0 || y < 0 || x >= W || y >= H ? 0 : values[y * W + x];
  const cross = (x0, y0, x1, y1) => {
    const a = at(x0, y0), b = at(x1, y1), t = (level - a) / (b - a);
    return [`${x0},${y0},${x1 - x0}`, x0 + t * (x1 - x0) + 0.5, y0 + t * (y1 - y0) + 0.5];
  };
  for (let y = -1; y < H; y++)
    for (let x = -1; x < W; x++) {
      const corners = [at(x, y) >= level, at(x + 1, y) >= level, at(x + 1, y + 1) >= level,
        at(x, y + 1) >= level];
      if (corners[0] === corners[1] && corners[1] === corners[2] && corners[2] === corners[3]) continue;
      const edges = [() => cross(x, y, x + 1, y), () => cross(x + 1, y, x + 1, y + 1),
        () => cross(x, y + 1, x + 1, y + 1), () => cross(x, y, x, y + 1)];
      // What is hot lies to the right of each step, from where it ends to where it begins.
      const ends = [], begins = [];
      for (let i = 0; i < 4; i++) {
        if (corners[i] === corners[(i + 1) % 4]) continue;
        (corners[i] ? begins : ends).push(i);
      }
      begins.forEach((b, i) => {
        const e = ends.length === 2 ? ends.find(e => e === (b + 3) % 4) : ends[i];
        const [from, ...start] = edges[b](), [to, ...stop] = edges[e]();
        next.set(from, { to, start, stop });
      });
    }
  const lines = [], [across, down] = [size[0] / W, size[1] / H];
  while (next.size) {
    let [key] = next.keys();
    const line = [];
    while (next.has(key)) {
      const { to, start } = next.get(key);
      next.delete(key);
      line.push(start);
      key = to;
    }
    line.push(line[0]);
    lines.push(line.flatMap(([x, y]) => [(x * across).toFixed(1), (y * down).toFixed(1)]));
  }
  return lines;
}
// A map in words: title, note, name for those who hear it, and the sentence below.
function describe(words, { prompt, method, k, of, channels, logit, share, flat, box }) {
  const text = fill(words.quoted, { text: prompt }), size = fill(words.logit, { logit: logit.toFixed(2) });
  const percent = share === null ? "" : `${Math.round(100 * share)} %`;
  const so = of ? " " + fill(words.so_far, { of }) : "";
  const caption = (k ? fill(words.with_k, { method, k }) : method) + so;
  const by = fill(k ? words.by_channels : words.by, { prompt: text, method, k, channels });
  const found = [size, percent && fill(words.probability, { share: percent }), box
    ? fill(words.box_at, { x0: box[0], y0: box[1], x1: box[2], y1: box[3] }) : words.no_box];
  return {
    title: [text, percent, flat && words.flat].filter(Boolean).join(" · "),
    note: `${caption} · ${size}`,
    alt: fill(words.heatmap_of, { prompt: text, caption }),
    text: `${by}${so}: ${found.filter(Boolean).join(", ")}.`,
  };
}
