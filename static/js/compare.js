/* Two runs over each other: A and B in their colours, evaluation dashed. */

import { CHARTS, Chart, points } from "./charts.js";

const { a, b } = JSON.parse(document.querySelector("#series").textContent);
const place = document.querySelector("[data-compare]");

for (const { title, names, range } of CHARTS) {
  const name = names.find((one) => [a, b].some((rows) => points(rows, one).length || points(rows, `eval/${one}`).length));
  if (!name) continue;
  const series = [
    { label: "A", kind: "a", points: points(a, name) },
    { label: "A held out", kind: "a second", points: points(a, `eval/${name}`) },
    { label: "B", kind: "b", points: points(b, name) },
    { label: "B held out", kind: "b second", points: points(b, `eval/${name}`) },
  ];
  const chart = new Chart(title);
  place.append(chart.element);
  chart.draw(series, range);
}
