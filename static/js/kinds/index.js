/* Every kind of question: a function (section, context) → {rows, answer(), fill(answer)} and where they are
   needed complete(), missing(words), keys {name: function}, claims(name) for keys that are its own at the
   moment wherever the focus is, and leave(). `answer()` is its part of a request's body, {} when untouched.
   context: {item, count, question, required, board, words, announce}. */

import { aspects } from "./aspects.js";
import { choice } from "./choice.js";
import { correction } from "./correction.js";
import { critique } from "./critique.js";
import { marks } from "./marks.js";
import { ranking } from "./ranking.js";
import { ratings } from "./ratings.js";
import { rubric } from "./rubric.js";
import { tags } from "./tags.js";
import { thumbs } from "./thumbs.js";
import { turns } from "./turns.js";

export const KINDS = { aspects, choice, correction, critique, marks, ranking, ratings, rubric, tags, thumbs, turns };
