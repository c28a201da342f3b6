/* Free text. */

import { TextRow } from "../rows.js";

export function critique(section, { question, words }) {
  const row = new TextRow(section.querySelector(".row-of"));
  const text = () => row.input.value.trim();
  return {
    rows: [row],
    missing() {
      const short = text() && text().length < question.min_length;
      return short ? words.too_short.replace("%s", question.min_length) : "";
    },
    answer() {
      return text() ? { critique: text() } : {};
    },
    fill(answer) {
      row.input.value = answer.critique ?? "";
    },
  };
}
