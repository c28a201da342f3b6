/* Which candidate is better at each turn of a chat: [{"turn": 1, "choice": 0}, …]. */

import { radioRows } from "../rows.js";

export function turns(section) {
  const rows = radioRows(section);
  return {
    rows,
    answer() {
      const answered = rows.filter((row) => row.done());
      return answered.length ? { turns: answered.map((row) => ({ turn: Number(row.path), ...row.value })) } : {};
    },
    fill(answer) {
      for (const row of rows) {
        const given = answer.turns?.find((one) => one.turn === Number(row.path));
        row.value = given && { choice: given.choice };
      }
    },
  };
}
