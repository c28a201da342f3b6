/* Which words two texts do not share. Works on the text nodes of rendered Markdown, so that the markup stays. */

const WORD = /[\p{L}\p{M}\p{N}_]+|[^\s\p{L}\p{M}\p{N}_]/gu;
const MOST_EDITS = 2000;
const LEAST_SHARED = 0.2; // of the shorter text's words

/** The words under a node, each with the text node and the offsets where it stands; a formula is one word. */
function words(root) {
  const found = [];
  for (const node of root.childNodes) {
    if (node.nodeName === "math") found.push({ word: node.textContent, node });
    else if (node.nodeType === Node.ELEMENT_NODE) found.push(...words(node));
    else for (const match of (node.data ?? "").matchAll(WORD)) {
      found.push({ word: match[0], node, start: match.index, end: match.index + match[0].length });
    }
  }
  return found;
}

/**
 * Myers' O(ND) difference of two lists of strings (Algorithmica 1, 1986): two lists of booleans that say
 * which items are not shared. Null when more than `most` edits lie between them.
 */
export function difference(left, right, most = MOST_EDITS) {
  const n = left.length, m = right.length;
  const limit = Math.min(n + m, most);
  const reach = new Int32Array(2 * limit + 3); // furthest x on each diagonal k, at reach[k + limit + 1]
  const at = (k) => k + limit + 1;
  const trace = [];
  for (let d = 0; d <= limit; d++) {
    trace.push(reach.slice(at(-d) - 1, at(d) + 2));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && reach[at(k - 1)] < reach[at(k + 1)]);
      let x = down ? reach[at(k + 1)] : reach[at(k - 1)] + 1;
      while (x < n && x - k < m && left[x] === right[x - k]) x++;
      reach[at(k)] = x;
      if (x >= n && x - k >= m) return backtrack(trace, n, m);
    }
  }
  return null;
}

function backtrack(trace, n, m) {
  const onlyLeft = new Array(n).fill(false), onlyRight = new Array(m).fill(false);
  let x = n, y = m;
  for (let d = trace.length - 1; d > 0; d--) {
    const reach = (k) => trace[d][k + d + 1];
    const k = x - y;
    const down = k === -d || (k !== d && reach(k - 1) < reach(k + 1));
    const before = down ? k + 1 : k - 1;
    x = reach(before);
    y = x - before;
    if (down) onlyRight[y] = true;
    else onlyLeft[x] = true;
  }
  return [onlyLeft, onlyRight];
}

/** Wraps the words that are not shared in <mark>; neighbours share one. */
function mark(found, alone) {
  for (let last = found.length - 1; last >= 0; last--) {
    if (!alone[last]) continue;
    let first = last;
    while (first > 0 && alone[first - 1] && found[first - 1].node === found[last].node) first--;
    const range = document.createRange();
    if (found[last].start === undefined) {
      range.selectNode(found[last].node);
    } else {
      range.setStart(found[last].node, found[first].start);
      range.setEnd(found[last].node, found[last].end);
    }
    range.surroundContents(document.createElement("mark"));
    last = first;
  }
}

/** Marks what differs between two elements; false if they differ too much for marks to help. */
export function showDifference(left, right) {
  const a = words(left), b = words(right);
  const alone = difference(a.map((item) => item.word), b.map((item) => item.word));
  if (!alone || alone[0].filter((only) => !only).length < LEAST_SHARED * Math.min(a.length, b.length)) return false;
  mark(a, alone[0]);
  mark(b, alone[1]);
  return true;
}

export function hideDifference(root) {
  for (const element of root.querySelectorAll("mark")) element.replaceWith(...element.childNodes);
  root.normalize();
}

const PIECE = /\s+|[\p{L}\p{M}\p{N}_]+|[^\s\p{L}\p{M}\p{N}_]/gu;

/** Writes one text into `element`: what `before` loses in <del>, what `after` adds in <ins>. */
export function drawDifference(element, before, after) {
  const left = before.match(PIECE) ?? [], right = after.match(PIECE) ?? [];
  const alone = difference(left, right) ?? [left.map(() => true), right.map(() => true)];
  const parts = []; // [tag, text], neighbours of one tag together
  const add = (tag, text) => (parts.at(-1)?.[0] === tag ? (parts.at(-1)[1] += text) : parts.push([tag, text]));
  let x = 0, y = 0;
  while (x < left.length || y < right.length) {
    if (alone[0][x]) add("del", left[x++]);
    else if (alone[1][y]) add("ins", right[y++]);
    else [add("", left[x++]), y++];
  }
  element.replaceChildren(...parts.map(([tag, text]) => {
    if (!tag) return document.createTextNode(text);
    const part = document.createElement(tag);
    part.textContent = text;
    return part;
  }));
}
