// A figure opens at the width of the window; Escape, a click or the button closes it.
const box = document.createElement("dialog");
box.className = "enlarged";
const close = Object.assign(document.createElement("button"), { textContent: "Close", type: "button" });
const large = document.createElement("img");
box.append(close, large);
document.body.append(box);
box.addEventListener("click", () => box.close());
for (const image of document.querySelectorAll("article img")) {
  if (image.closest("a")) continue;
  const button = Object.assign(document.createElement("button"), { type: "button", className: "enlarge" });
  button.setAttribute("aria-label", `Enlarge: ${image.alt || "figure"}`);
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => {
    Object.assign(large, { src: image.src, alt: image.alt });
    box.setAttribute("aria-label", image.alt || "figure");
    box.showModal();
    close.focus();
  });
}
