// Reads values off the curves under the pointer, and lets one run stand out.
"use strict";

const labels = [...document.querySelectorAll(".legend button")];

function curveGroups(root) {
  return [...root.querySelectorAll("g[id]")].flatMap((group) => {
    const match = /-(run|raw|end)-(\d+)$/.exec(group.id);
    return match ? [{ group, kind: match[1], run: Number(match[2]) }] : [];
  });
}

const everyCurve = curveGroups(document);

function emphasize(run) {
  for (const { group, run: own } of everyCurve) {
    group.style.opacity = run === null || own === run ? "" : "0.12";
  }
}

for (const button of labels) {
  const run = Number(button.dataset.run);
  const chosen = () => labels.find((one) => one.getAttribute("aria-pressed") === "true");
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") === "true";
    for (const one of labels) one.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(!pressed));
    emphasize(pressed ? null : run);
  });
  button.addEventListener("pointerenter", () => emphasize(run));
  button.addEventListener("pointerleave", () => {
    const kept = chosen();
    emphasize(kept ? Number(kept.dataset.run) : null);
  });
}

function between(share, [first, last]) {
  return first + share * (last - first);
}

function format(value) {
  return Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3
    ? value.toExponential(2)
    : String(Number(value.toPrecision(4)));
}

// The vertices of a curve in the figure's pixels, left to right.
function vertices(group) {
  const numbers = (group.querySelector("path")?.getAttribute("d") ?? "").match(/-?[\d.]+/g) ?? [];
  const points = [];
  for (let i = 0; i + 1 < numbers.length; i += 2) points.push([+numbers[i], +numbers[i + 1]]);
  return points;
}

function heightAt(points, x) {
  const after = points.findIndex((point) => point[0] >= x);
  if (after < 0) return null;
  if (after === 0) return points[0][0] - x > 3 ? null : points[0][1];
  const [left, right] = [points[after - 1], points[after]];
  const share = right[0] === left[0] ? 1 : (x - left[0]) / (right[0] - left[0]);
  return between(share, [left[1], right[1]]);
}

for (const chart of document.querySelectorAll(".chart")) {
  const reading = JSON.parse(chart.dataset.reading);
  const svg = chart.querySelector("svg");
  const [left, top, right, bottom] = reading.frame;
  const range = reading.logarithmic ? reading.y.map(Math.log) : reading.y;
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const values = document.createElement("div");
  let curves = null;
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", top);
  cursor.setAttribute("y2", bottom);
  values.className = "values";

  const hide = () => {
    cursor.remove();
    values.remove();
  };

  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    if (x < left || x > right) return hide();
    curves ??= curveGroups(svg)
      .filter((curve) => curve.kind === "run")
      .map((curve) => ({ run: curve.run, points: vertices(curve.group) }));
    const found = curves
      .map(({ run, points }) => ({ run, height: heightAt(points, x) }))
      .filter(({ height }) => height !== null)
      .sort((a, b) => a.height - b.height);
    if (found.length === 0) return hide();

    const place = Math.round(between((x - left) / (right - left), reading.x));
    const heading = document.createElement("div");
    heading.textContent = `${reading.position} ${place.toLocaleString("en")}`;
    values.replaceChildren(heading);
    for (const { run, height } of found) {
      const value = between((bottom - height) / (bottom - top), range);
      const line = document.createElement("div");
      const number = document.createElement("b");
      number.textContent = format(reading.logarithmic ? Math.exp(value) : value);
      line.append(
        labels[run].querySelector("svg").cloneNode(true),
        labels[run].textContent.trim(),
        number,
      );
      values.append(line);
    }
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    svg.append(cursor);
    chart.append(values);
    const beside = x / scale + 14;
    const fits = beside + values.offsetWidth <= box.width;
    values.style.left = `${fits ? beside : Math.max(0, x / scale - values.offsetWidth - 14)}px`;
    values.style.top = `${top / scale}px`;
  };

  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", hide);
}
