/* Criteria that each candidate meets or not: [{"cites_source": true, …}, …]. No tick is an answer too. */

import { tickRows } from "../rows.js";

export function rubric(section, { count, required }) {
  const rows = tickRows(section);
  const ticked = () => rows.some((row) => row.done());
  return {
    rows,
    complete: () => true,
    answer() {
      if (!required && !ticked()) return {};
      const met = (candidate) => Object.fromEntries(rows.map((row) => [row.path, row.values.includes(candidate)]));
      return { rubric: Array.from({ length: count }, (_, candidate) => met(candidate)) };
    },
    fill(answer) {
      for (const row of rows) {
        const given = answer.rubric ?? [];
        row.values = given.flatMap((met, candidate) => (met?.[row.path] ? [candidate] : []));
      }
    },
  };
}
