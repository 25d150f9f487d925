"use strict";
// A photo into the form of the input, as Pillow resizes: with antialiasing, one side after the
// other, in whole numbers of 22 bits.

const FILTERS = {
  bicubic: { wide: 2, at(x) {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  } },
  bilinear: { wide: 1, at: x => Math.max(0, 1 - Math.abs(x)) },
};
function taps(from, to, filter) {
  const scale = from / to, stretched = Math.max(1, scale), support = filter.wide * stretched;
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(from, Math.trunc(center + support + 0.5));
    const shares = [];
    for (let j = first; j < last; j++) shares.push(filter.at((j - center + 0.5) * (1 / stretched)));
    const sum = shares.reduce((a, b) => a + b, 0);
    return [first, Int32Array.from(shares, s => Math.trunc(s / sum * 2 ** 22 + (s < 0 ? -0.5 : 0.5)))];
  });
}
const clip = v => v < 0 ? 0 : v > 255 ? 255 : v;
function across(rgb, width, height, to, filter) {
  if (width === to) return rgb;
  const out = new Uint8Array(3 * to * height);
  taps(width, to, filter).forEach(([first, shares], x) => {
    for (let y = 0; y < height; y++)
      for (let c = 0; c < 3; c++) {
        let sum = 1 << 21, at = 3 * (y * width + first) + c;
        for (let j = 0; j < shares.length; j++, at += 3) sum += rgb[at] * shares[j];
        out[3 * (y * to + x) + c] = clip(sum >> 22);
      }
  });
  return out;
}
function down(rgb, width, height, to, filter) {
  if (height === to) return rgb;
  const row = 3 * width, out = new Uint8Array(row * to);
  taps(height, to, filter).forEach(([first, shares], y) => {
    for (let x = 0; x < row; x++) {
      let sum = 1 << 21, at = first * row + x;
      for (let j = 0; j < shares.length; j++, at += row) sum += rgb[at] * shares[j];
      out[y * row + x] = clip(sum >> 22);
    }
  });
  return out;
}
// Which side comes first decides how a last bit is rounded. Pillow 13, tried on many sizes, shrinks
// the height first where it shrinks by more than twice what the width does; its source is not read.
function shrunk(rgba, width, height, size, filter) {  // RGB bytes of size × size
  const rgb = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) rgb[3 * i + c] = rgba[4 * i + c];
  if (height > size && height - size > 2 * (width - size))
    return across(down(rgb, width, height, size, filter), width, size, size, filter);
  return down(across(rgb, width, height, size, filter), size, height, size, filter);
}
function toInput(rgba, width, height, { size, mean, std, interpolation }) {
  const small = shrunk(rgba, width, height, size, FILTERS[interpolation]);
  return Float32Array.from(small, (v, i) => (v / 255 - mean[i % 3]) / std[i % 3]);
}
