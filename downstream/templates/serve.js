// Sends dropped images to the server, one after the other, and shows its answers.
"use strict";

const drop = document.getElementById("drop");
const results = document.getElementById("results");
const limit = Number(drop.dataset.limit);
let last = Promise.resolve();

function element(tag, text, parts = []) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...parts);
  return made;
}

function classed(name, made) {
  made.className = name;
  return made;
}

function picture(source, words) {
  const image = element("img");
  image.src = source;
  image.alt = words;
  return image;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

function bars(classes) {
  const rows = classes.flatMap(({ name, probability }) => {
    const fill = element("i");
    fill.style.width = `${100 * probability}%`;
    const term = element("dt", "", [element("span", name), classed("bar", element("div", "", [fill]))]);
    return [term, element("dd", percent(probability))];
  });
  return classed("bars", element("dl", "", rows));
}

function neighbours(found) {
  const items = found.map(({ key, label, cosine, image }) =>
    element("li", "", [
      picture(image, label ?? key),
      element("strong", label ?? key),
      element("div", `cosine ${cosine.toFixed(2)}`),
    ]),
  );
  const heading = element("p", "Nearest training images, by what the model’s head reads:");
  return classed("neighbours", element("div", "", [heading, element("ul", "", items)]));
}

async function ask(file) {
  if (file.size > limit) throw new Error(`it has more than ${limit} bytes`);
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  const reply = await fetch("/predict", { method: "POST", headers: { "Content-Type": type }, body: file });
  const answer = await reply.json();
  if (!reply.ok) throw new Error(answer.error);
  return answer;
}

async function show(file, card) {
  const name = classed("file", element("p", file.name));
  try {
    const answer = await ask(file);
    const sureness = answer.confidence === null ? [] : [percent(answer.confidence)];
    const said = element("h2", [answer.prediction, ...sureness].join(", "));
    card.replaceChildren(
      element("div", "", [picture(answer.seen, `${file.name} as the model sees it`)]),
      element("div", "", [said, name, bars(answer.classes)]),
    );
    if (answer.neighbours.length) card.append(neighbours(answer.neighbours));
  } catch (error) {
    card.replaceChildren(classed("failed", element("p", `${file.name}: ${error.message}`)));
  }
}

function take(files) {
  for (const file of files) {
    const card = element("article", "", [classed("file", element("p", `${file.name} …`))]);
    results.prepend(card);
    last = last.then(() => show(file, card));
  }
}

document.getElementById("files").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = "";
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files);
});
