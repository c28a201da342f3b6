/* Which candidate is better in each respect: {"helpfulness": {"choice": 0, "strength": 2}}. */

import { radioRows } from "../rows.js";

export function aspects(section) {
  const rows = radioRows(section);
  return {
    rows,
    answer() {
      const answered = rows.filter((row) => row.done());
      return answered.length ? { aspects: Object.fromEntries(answered.map((row) => [row.path, row.value])) } : {};
    },
    fill(answer) {
      for (const row of rows) row.value = answer.aspects?.[row.path];
    },
  };
}
