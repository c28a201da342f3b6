/* Two runs over each other: A and B in their colours, the second of two lines dashed. */

import { CHARTS, Chart, points, words } from "./charts.js";

const { a, b } = JSON.parse(document.querySelector("#series").textContent);
const place = document.querySelector("[data-compare]");

for (const { title, names, range, together } of CHARTS) {
  const name = names.find((one) => [a, b].some((rows) => points(rows, one).length || points(rows, `eval/${one}`).length));
  if (!name) continue;
  const other = together ? names.find((one) => one !== name) : `eval/${name}`;
  const [first, second] = together ? names.map((one) => words[one.split("/")[1]]) : [words.training, words.held_out];
  const series = [
    { label: `A ${first}`, kind: "a", points: points(a, name) },
    { label: second, kind: "a second", points: points(a, other) },
    { label: `B ${first}`, kind: "b", points: points(b, name) },
    { label: second, kind: "b second", points: points(b, other) },
  ];
  const chart = new Chart(title);
  place.append(chart.element);
  chart.draw(series, range);
}
