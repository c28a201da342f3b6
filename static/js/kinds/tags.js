/* Reasons from a list, by name: ["wrong_fact"]. */

import { tickRows } from "../rows.js";

export function tags(section) {
  const rows = tickRows(section);
  return {
    rows,
    answer() {
      return rows[0].done() ? { tags: rows[0].values } : {};
    },
    fill(answer) {
      rows[0].values = answer.tags ?? [];
    },
  };
}
