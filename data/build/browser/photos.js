
// Photos of the page: those that come with it, dropped, chosen or taken ones, and notes on them.

const MOST_PIXELS = 50e6, SHOWN = 512;

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
}
// Upright, on white where it is transparent, in the numbers of the file: no colour is converted.
async function decoded(source, name) {
  let bitmap;
  const how = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  try {
    bitmap = await createImageBitmap(source, how);
  } catch {
    throw wrong("unreadable", { name });
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS)
    throw wrong("too_many_pixels", { name, width, height, most: MOST_PIXELS / 1e6 });
  const [canvas, pen] = canvasOf(width, height);
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}
// What an address shows: of this page's own place, or a data URL. Nothing else is let in.
async function fromAddress(address) {
  const name = address.startsWith("data:") ? "data:…" : address, image = new Image();
  image.src = address;
  await image.decode().catch(() => { throw wrong("unreadable", { name }); });
  return decoded(image, name);
}
// A note with a word, as typography.put_label writes it: its width and place are shares.
async function withNote(canvas, { word, width, x, y }) {
  const text = word.trim();
  if (!text) return canvas;
  await document.fonts.load("96px gscam-note", text);
  const [, ruler] = canvasOf(1, 1), size = 96, pad = 32;
  ruler.font = `${size}px gscam-note, sans-serif`;
  const box = ruler.measureText(text), left = Math.floor(-box.actualBoundingBoxLeft);
  const right = Math.ceil(box.actualBoundingBoxRight), top = Math.floor(-box.actualBoundingBoxAscent);
  const bottom = Math.ceil(box.actualBoundingBoxDescent);
  const [note, ink] = canvasOf(right - left + 2 * pad, bottom - top + 2 * pad);
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, note.width, note.height);
  ink.font = ruler.font;
  ink.fillStyle = "#000";
  ink.fillText(text, pad - left, pad - top);
  const wide = Math.max(1, Math.round(width * canvas.width));
  const high = Math.max(1, Math.round(wide * note.height / note.width));
  const [out, pen] = canvasOf(canvas.width, canvas.height);
  pen.drawImage(canvas, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(note, Math.round(x * canvas.width - wide / 2), Math.round(y * canvas.height - high / 2),
    wide, high);
  return out;
}
function reduced(canvas, longest) {
  const share = Math.min(1, longest / Math.max(canvas.width, canvas.height));
  const [out, pen] = canvasOf(Math.max(1, Math.round(canvas.width * share)),
    Math.max(1, Math.round(canvas.height * share)));
  pen.imageSmoothingQuality = "high";
  pen.drawImage(canvas, 0, 0, out.width, out.height);
  return out;
}
const pixelsOf = canvas =>
  canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, canvas.width, canvas.height);

// A photo from the camera; it is asked for only when the button is pressed.
async function openCamera() {
  const dialog = byId("camera"), video = dialog.querySelector("video");
  const [snap, close] = dialog.querySelectorAll("button");
  [snap.textContent, close.textContent] = [words.snap, words.close];
  dialog.setAttribute("aria-label", words.camera_title);
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return put({ said: { error: said("no_camera", { reason: error.message }), notes: [] } });
  }
  video.srcObject = stream;
  dialog.onclose = () => stream.getTracks().forEach(track => track.stop());
  close.onclick = () => dialog.close();
  snap.onclick = () => {
    const [canvas, pen] = canvasOf(video.videoWidth, video.videoHeight);
    pen.drawImage(video, 0, 0);
    dialog.close();
    canvas.toBlob(blob => take(blob, words.labels.camera), "image/png");
  };
  dialog.showModal();
  await video.play();
}
// A photo seen through a channel's mask, as a picture's address.
function face(canvas, traced, channel, side, colors) {
  const small = reduced(canvas, side), { width, height } = small, { h, w, A } = traced;
  const map = A.subarray(channel * h * w, (channel + 1) * h * w), [low, high] = range(map);
  const values = high > low ? minMax(resize(map, h, w, height, width)) : new Float32Array(width * height);
  const mixed = overlay(pixelsOf(small).data, values, colors, 0.85);
  small.getContext("2d").putImageData(new ImageData(mixed, width, height), 0, 0);
  return small.toDataURL();
}
// What is on the screen as one picture: titles, maps, what is drawn on them.
async function sheet(panels, root) {
  const places = [...root.querySelectorAll(".gscam-picture")], gap = 16, high = 44, side = 420;
  const sizes = places.map(place => {
    const { width, height } = place.querySelector("canvas"), scale = side / Math.max(width, height);
    return [Math.round(width * scale), Math.round(height * scale)];
  });
  const columns = Math.min(3, places.length), rows = Math.ceil(places.length / columns);
  const [wide, tall] = [Math.max(...sizes.map(s => s[0])), Math.max(...sizes.map(s => s[1]))];
  const [out, pen] = canvasOf(columns * (wide + gap) + gap, rows * (tall + high + gap) + gap);
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, out.width, out.height);
  for (const [i, place] of places.entries()) {
    const x = gap + i % columns * (wide + gap), y = gap + Math.trunc(i / columns) * (tall + high + gap);
    pen.fillStyle = "#222";
    pen.font = "600 14px system-ui, sans-serif";
    pen.fillText(panels[i].title, x, y + 14, wide);
    pen.font = "14px system-ui, sans-serif";
    pen.fillText(panels[i].note, x, y + 34, wide);
    pen.drawImage(place.querySelector("canvas"), x, y + high, ...sizes[i]);
    const lines = place.querySelector("svg").cloneNode(true);
    [["width", sizes[i][0]], ["height", sizes[i][1]], ["fill", "none"],
      ["xmlns", "http://www.w3.org/2000/svg"]].forEach(([k, v]) => lines.setAttribute(k, v));
    for (const shape of lines.children) {
      shape.setAttribute("fill", "none");
      shape.setAttribute("vector-effect", "non-scaling-stroke");
    }
    const image = new Image();
    image.src = "data:image/svg+xml," + encodeURIComponent(new XMLSerializer().serializeToString(lines));
    await image.decode();
    pen.drawImage(image, x, y + high, ...sizes[i]);
  }
  return new Promise(done => out.toBlob(async blob => done(new Uint8Array(await blob.arrayBuffer()))));
}
