"use strict";
// The text tower: the tokenizer's merges, the transformer, and what a closed vocabulary knows.

function makeText(model) {
  const { length: most, layers, heads, start, end, names, fillers } = model.text;
  const codes = model.get("text.bytes"), pairs = model.get("text.merges");
  const ranks = new Map();
  for (let i = 0; i < pairs.length; i += 2) ranks.set(pairs[i] * 65536 + pairs[i + 1], i / 2);
  const used = new Map(Array.from(model.get("text.used"), (id, row) => [id, row]));
  const table = model.get("text.embedding"), positions = model.get("text.positions");
  const wide = positions.length / most, projection = model.get("text.projection");
  const affine = name => ({ W: model.get(`${name}.weight`), b: model.get(`${name}.bias`) });
  const blocks = Array.from({ length: layers }, (_, i) => Object.fromEntries(
    ["ln_1", "in", "out", "ln_2", "fc", "proj"].map(name => [name, affine(`text.${i}.${name}`)])));
  const final = affine("text.final");

  // ------------------------------------------------------------ tokens

  const entities = { amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'", nbsp: " " };
  const clean = text => text.normalize("NFC").replace(/[‘’ʼ]/g, "'").replace(/[“”]/g, '"')
    .replace(/&(amp|lt|gt|quot|#39|nbsp);/g, (_, name) => entities[name])
    .trim().split(/\s+/).join(" ").toLowerCase();
  const parts = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;
  function word(text) {  // byte pairs are merged, those merged first in training first
    let ids = Array.from(new TextEncoder().encode(text), byte => codes[byte]);
    ids[ids.length - 1] += 256;  // the end of a word
    while (ids.length > 1) {
      let best = Infinity;
      for (let i = 0; i + 1 < ids.length; i++)
        best = Math.min(best, ranks.get(ids[i] * 65536 + ids[i + 1]) ?? Infinity);
      if (best === Infinity) break;
      const merged = [];
      for (let i = 0; i < ids.length; i++) {
        const next = i + 1 < ids.length && ranks.get(ids[i] * 65536 + ids[i + 1]) === best;
        merged.push(next ? 512 + best : ids[i]);
        if (next) i++;
      }
      ids = merged;
    }
    return ids;
  }
  const tokens = text => [start, ...(clean(text).match(parts) || []).flatMap(word), end];

  // ------------------------------------------------------------ transformer

  function norm(x, { W, b }) {
    const mean = x.reduce((a, v) => a + v, 0) / wide;
    const deviation = Math.sqrt(x.reduce((a, v) => a + (v - mean) ** 2, 0) / wide + 1e-5);
    return x.map((v, i) => (v - mean) / deviation * W[i] + b[i]);
  }
  function erf(x) {  // Abramowitz and Stegun 7.1.26: within 1.5e-7
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 +
      t * (-1.453152027 + t * 1.061405429))));
    return Math.sign(x) * (1 - series * Math.exp(-x * x));
  }
  const gelu = x => 0.5 * x * (1 + erf(x / Math.SQRT2));
  const plus = (a, b) => a.map((v, i) => v + b[i]);
  function attend(rows, block) {  // each token sees those before it
    const mixed = rows.map(row => times(block.in.W, row, block.in.b)), deep = wide / heads;
    return mixed.map((own, i) => {
      const out = new Float32Array(wide);
      for (let first = 0; first < wide; first += deep) {
        const query = own.subarray(first, first + deep);
        const shares = softmax(mixed.slice(0, i + 1).map(other =>
          dot(other, query, wide + first) / Math.sqrt(deep)));
        shares.forEach((share, j) => {
          for (let d = first; d < first + deep; d++) out[d] += share * mixed[j][2 * wide + d];
        });
      }
      return times(block.out.W, out, block.out.b);
    });
  }
  function encode(text) {  // the unit vector of a sentence
    const ids = tokens(text);
    if (ids.length > most) throw { words: "too_many_tokens", values: { prompt: text.length > 60 ? `${text.slice(0, 60)}…` : text, most } };
    let rows = ids.map((id, i) => Float32Array.from({ length: wide }, (_, d) =>
      (used.has(id) ? table[used.get(id) * wide + d] : 0) + positions[i * wide + d]));
    for (const block of blocks) {
      const seen = attend(rows.map(row => norm(row, block.ln_1)), block);
      rows = rows.map((row, i) => plus(row, seen[i])).map(row => {
        const inner = times(block.fc.W, norm(row, block.ln_2), block.fc.b).map(gelu);
        return plus(row, times(block.proj.W, inner, block.proj.b));
      });
    }
    const inside = norm(rows.at(-1), final), outside = times(projection, inside), size = length(outside);
    return { vector: outside.map(v => v / size), inside: inside.map(v => v / size) };
  }

  // ------------------------------------------------------------ what is known

  const sign = char => /[\x00-\x7f]|\p{P}/u.test(char);
  const words = text => Array.from(text.toLowerCase().matchAll(
    /([\p{L}\p{N}_]+(?:['’.-][\p{L}\p{N}_]+)*)|[^\p{L}\p{N}_\s]+/gu))
    .filter(m => m[1] || !Array.from(m[0]).every(sign)).map(m => m[0]);
  const known = new Set(names.map(name => words(name).join(" "))), ignored = new Set(fillers);
  const longest = Math.max(1, ...names.map(name => name.split(" ").length));
  const endings = [["", ""], ["s", ""], ["es", ""], ["ies", "y"], ["ves", "fe"], ["ves", "f"]];
  const singular = name => endings.filter(([from]) => name.endsWith(from))
    .map(([from, to]) => name.slice(0, name.length - from.length) + to);
  function unknown(prompt) {
    const all = words(prompt), found = [];
    let any = false;
    for (let i = 0; i < all.length;) {
      let n = Math.min(longest, all.length - i);
      while (n && !singular(all.slice(i, i + n).join(" ")).some(form => known.has(form))) n--;
      if (n) any = true;
      else if (!ignored.has(all[i])) found.push(all[i]);
      i += n || 1;
    }
    return found.length || any ? found : [prompt.trim()];
  }
  function alike(a, b) {  // twice the letters in common blocks, by the letters of both
    function common(a0, a1, b0, b1) {
      let size = 0, x = a0, y = b0;
      for (let i = a0; i < a1; i++)
        for (let j = b0; j < b1; j++) {
          let n = 0;
          while (i + n < a1 && j + n < b1 && a[i + n] === b[j + n]) n++;
          if (n > size) [size, x, y] = [n, i, j];
        }
      return size && size + common(a0, x, b0, y) + common(x + size, a1, y + size, b1);
    }
    return 2 * common(0, a.length, 0, b.length) / (a.length + b.length);
  }
  let rows = null, gram = null;
  function nearest(inside) {  // by meaning: cosines in the joint space
    rows ||= model.get("text.names");
    gram ||= Array.from({ length: wide }, (_, i) => Float32Array.from({ length: wide }, (_, j) => {
      let sum = 0;
      for (let d = 0; d < projection.length / wide; d++)
        sum += projection[d * wide + i] * projection[d * wide + j];
      return sum;
    }));
    const toward = Float32Array.from(gram, row => dot(row, inside));
    const cosines = times(rows, toward);
    return Array.from(cosines.keys()).sort((a, b) => cosines[b] - cosines[a]).slice(0, 3)
      .map(i => names[i]);
  }
  return function ask(prompt) {
    const { vector, inside } = encode(prompt), strange = names.length ? unknown(prompt) : [];
    if (!strange.length) return { vector, unknown: [], nearest: [] };
    const spelled = strange.flatMap(text => {
      const best = names.map(name => [alike(text, name), name])
        .sort((a, b) => b[0] - a[0] || (a[1] < b[1] ? 1 : -1))[0];
      return best[0] >= 0.6 ? [best[1]] : [];
    });
    return { vector, unknown: strange, nearest: [...new Set([...spelled, ...nearest(inside)])] };
  };
}
