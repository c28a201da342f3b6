/* Numbers on scales, an object for each candidate: [{"helpfulness": 4}, …]. */

import { radioRows } from "../rows.js";

export function ratings(section, { count }) {
  const rows = radioRows(section);
  const place = (row) => {
    const [candidate, ...name] = row.path.split(".");
    return [Number(candidate), name.join(".")];
  };
  return {
    rows,
    answer() {
      if (!rows.some((row) => row.done())) return {};
      const found = Array.from({ length: count }, () => ({}));
      for (const row of rows.filter((one) => one.done())) {
        const [candidate, name] = place(row);
        found[candidate][name] = row.value;
      }
      return { ratings: found };
    },
    fill(answer) {
      for (const row of rows) {
        const [candidate, name] = place(row);
        row.value = answer.ratings?.[candidate]?.[name];
      }
    },
  };
}
