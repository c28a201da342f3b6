/* Good or not, for each candidate: [1, 0, null]. */

import { radioRows } from "../rows.js";

export function thumbs(section) {
  const rows = radioRows(section);
  return {
    rows,
    answer() {
      return rows.some((row) => row.done()) ? { thumbs: rows.map((row) => row.value ?? null) } : {};
    },
    fill(answer) {
      rows.forEach((row, i) => (row.value = answer.thumbs?.[i] ?? undefined));
    },
  };
}
