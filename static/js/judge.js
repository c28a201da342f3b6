/* The judging page. One key, one judgement, the next comparison at once: it is already here. Answers go into a
   queue that outlives a reload; leases are taken one ahead. The logic of judging is the server's alone. */

import { Offline, post, Refused } from "./api.js";
import { Board } from "./board.js";
import { keysAreOn, listenToKeys, repeating, switchKeys } from "./keys.js";
import { Queue } from "./queue.js";

const data = JSON.parse(document.querySelector("#judge-data").textContent);
const main = document.querySelector("main");
const find = (selector) => document.querySelector(selector);
const address = (name, id) => data.urls[name].replace("00000000-0000-0000-0000-000000000000", id).replace("/0/", `/${id}/`);
const UNDO_DEPTH = 20;
const RENEW_BEFORE = 5 * 60_000, RENEW_CHECK = 60_000; // milliseconds

const deck = []; // comparisons in our hands; the first is on the screen
const past = []; // what can be taken back: {item, client_id, judgement}
const marks = find("#marks"); // only where texts are compared
let exhausted = false;
let fetching = null;
let lastActive = Date.now();

const board = new Board(main, { choices: data.choices, onChoice: answer });
const queue = new Queue(`tiebreak:answers:${data.user}`, (entry) => {
  if (entry.kind === "skip") return address("skip", entry.lease);
  if (entry.project !== data.project) return address("judgement", entry.lease);
  const after = deck.findLast((item) => item.lease !== entry.lease && !queue.has(item.lease));
  return `${address("judgement", entry.lease)}?html=1&next=1${after ? `&after=${after.lease}` : ""}`;
});

// What is on the screen

function announce(text) {
  find("#announcer").textContent = text;
}

function show({ focus = true } = {}) {
  const item = deck[0];
  find("#work").hidden = !item;
  find("#idle").hidden = Boolean(item);
  find("#skip").hidden = !item;
  if (marks) marks.hidden = !item;
  if (item) {
    board.show(item);
    announce(`Next comparison. ${item.candidates.length} answers.`);
    if (focus) board.prompt.focus({ preventScroll: true });
  } else {
    showIdle(focus);
  }
  find("#undo").disabled = past.length === 0;
}

function showIdle(focus) {
  const waiting = queue.entries.length;
  const sentence = waiting && !exhausted
    ? "The next comparison appears as soon as the line is back. Your answers are kept on this device until then."
    : exhausted ? "Nothing is left for you here." : "Fetching the next comparison…";
  find("#idle-text").textContent = sentence;
  find("#again").hidden = !exhausted;
  announce(sentence);
  if (focus) find("#idle").focus();
}

function count(change) {
  for (const name of ["today", "judged"]) find(`#${name}`).textContent = data.progress[name] += change;
}

function tell(state, text = "", waiting = 0) {
  const words = {
    saving: "saving",
    saved: "saved ✓",
    retrying: `retrying · ${waiting} ${waiting === 1 ? "answer" : "answers"} kept`,
    "signed-out": "not saved: sign in again",
    refused: text,
  };
  const line = find("#saved");
  line.className = `saved ${state}`;
  if (state === "signed-out") {
    const link = document.createElement("a");
    link.href = data.urls.sign_in;
    link.textContent = words[state];
    line.replaceChildren(link);
  } else {
    line.textContent = words[state];
  }
  if (state !== "saving" && state !== "saved") announce(line.textContent);
}

// What a person does

function answer(option) {
  const item = deck[0];
  if (!item || !option) return;
  const client_id = crypto.randomUUID();
  const body = { client_id, choice: option.choice, ...(option.strength ? { strength: option.strength } : {}) };
  leave({ item, client_id, ...promised("stored") });
  count(+1);
  queue.add({ kind: "judgement", project: data.project, client_id, lease: item.lease, body });
}

function skip(reason) {
  const item = deck[0];
  if (!item) return;
  const client_id = crypto.randomUUID();
  deck.shift();
  queue.add({ kind: "skip", project: data.project, client_id, lease: item.lease, body: { reason } });
  show();
}

/** {resolve, reject, [name]: promise}; a rejection that nobody waits for is no error. */
function promised(name) {
  let resolve, reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  promise.catch(() => {});
  return { [name]: promise, resolve, reject };
}

function leave(entry) {
  deck.shift();
  past.push(entry);
  past.splice(0, past.length - UNDO_DEPTH);
  show();
}

/** Takes back the last answer: unsent from the queue, sent through the server, which gives the same order again. */
async function undo() {
  const entry = past.findLast((item) => !item.undoing);
  if (!entry) return;
  entry.undoing = true;
  if (queue.withdraw(entry.client_id)) return restore(entry, entry.item);
  try {
    await entry.stored;
    restore(entry, await post(`${address("undo", entry.judgement)}?html=1`));
  } catch (error) {
    entry.undoing = false;
    if (error instanceof Refused) forget(entry);
    find("#undo").disabled = past.length === 0;
    tell("refused", error instanceof Offline ? "The line is down; undo again when it is back." : error.message);
  }
}

function forget(entry) {
  past.splice(past.indexOf(entry), 1);
}

function restore(entry, item) {
  forget(entry);
  deck.unshift(item);
  exhausted = false;
  count(-1);
  show();
  announce("Taken back. The same comparison again.");
}

// What the server says

queue.addEventListener("state", ({ detail }) => tell(detail.state, detail.text, detail.waiting));

queue.addEventListener("stored", ({ detail: { entry, reply } }) => {
  const mine = past.find((item) => item.client_id === entry.client_id);
  if (mine) {
    mine.judgement = reply.judgement;
    mine.resolve();
  }
  if (reply.next) keep(reply.next);
  else if (reply.next === null) exhausted = true;
  if (!deck.length) show();
  fetchAhead();
});

queue.addEventListener("refused", ({ detail: { entry, error } }) => {
  const mine = past.find((item) => item.client_id === entry.client_id);
  if (mine?.undoing) mine.reject(error);
  else if (mine) forget(mine);
  if (entry.kind === "judgement") count(-1);
  find("#undo").disabled = past.length === 0;
  tell("refused", error.message);
  fetchAhead();
});

function keep(item) {
  if (deck.some((held) => held.lease === item.lease) || queue.has(item.lease)) return;
  for (const candidate of item.candidates) if (candidate.image) new Image().src = candidate.image;
  deck.push(item);
  if (deck.length === 1) show();
}

/** Keeps one comparison ready behind the one on the screen. Waits for the queue: what it holds still counts as ours. */
async function fetchAhead() {
  if (fetching || exhausted || deck.length >= 2 || queue.entries.length) return;
  const last = deck.at(-1);
  fetching = post(data.urls.next + (last ? `?html=1&after=${last.lease}` : "?html=1"));
  try {
    const item = await fetching;
    if (item) keep(item);
    else exhausted = true;
  } catch (error) {
    if (error instanceof Offline) setTimeout(fetchAhead, 3000);
    else if (!deck.length) tell("refused", error.message);
  } finally {
    fetching = null;
  }
  if (exhausted && !deck.length) show();
}

async function renew() {
  const active = Date.now() - lastActive < RENEW_BEFORE && !document.hidden;
  for (const item of deck) {
    if (!active || Date.parse(item.expires_at) - Date.now() > RENEW_BEFORE) continue;
    try {
      item.expires_at = (await post(address("renew", item.lease))).expires_at;
    } catch (error) {
      // An answer on an expired lease is honoured while its slot is open, so nothing has to happen here.
      if (!(error instanceof Offline || error instanceof Refused)) throw error;
    }
  }
}

// Wiring

const skipBox = find("#skip");
skipBox.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  skip(event.target.reason.value);
  event.target.reset();
  skipBox.open = false;
});
skipBox.addEventListener("toggle", () => skipBox.open && skipBox.querySelector("input[name=reason]").focus());
skipBox.addEventListener("keydown", (event) => event.key === "Escape" && closeSkip());

function closeSkip() {
  skipBox.open = false;
  skipBox.querySelector("summary").focus();
}

function openDrawer(name) {
  const drawer = find("#drawer");
  const same = !drawer.hidden && drawer.dataset.shows === name;
  drawer.hidden = same;
  if (same) return board.prompt.focus({ preventScroll: true });
  drawer.dataset.shows = name;
  drawer.querySelector("h2").textContent = name === "guidelines" ? "Guidelines" : "Your last judgements";
  for (const part of drawer.querySelectorAll("[data-part]")) part.hidden = part.dataset.part !== name;
  if (name === "history") window.htmx.ajax("GET", data.urls.history, { target: "#history", swap: "innerHTML" });
  drawer.querySelector("h2").focus();
}

find("#undo").closest("form").addEventListener("submit", (event) => {
  event.preventDefault();
  undo();
});
for (const link of document.querySelectorAll("[data-opens]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    openDrawer(link.dataset.opens);
  });
}
find("#close-drawer").addEventListener("click", () => openDrawer(find("#drawer").dataset.shows));
find("#again").addEventListener("click", () => {
  exhausted = false;
  show();
  fetchAhead();
});

const help = find("#help");
find("#open-help").addEventListener("click", () => help.showModal());
const keySwitch = find("#keys-on");
keySwitch.checked = keysAreOn();
keySwitch.addEventListener("change", () => switchKeys(keySwitch.checked));

function toggleMarks() {
  const remark = board.toggleMarks();
  marks.setAttribute("aria-pressed", String(board.marking));
  announce(remark || (board.marking ? "Differences are marked." : "Marks are off."));
  if (remark) tell("refused", remark);
}
marks?.addEventListener("click", toggleMarks);

const isImages = () => Boolean(board.zoom);
const pages = (by) => repeating(() => (deck[0] && !isImages() ? board.scrollBy(by) : true));
const arrow = (dx, dy) => repeating((event) => {
  if (isImages() && board.zoom.scale > 1) board.zoom.move(dx, dy);
  else if (dx) board.swipe(-Math.sign(dx));
  else if (event.target.closest(".scroll, .prose, .drawer") || isImages()) return true;
  else board.scrollBy(-dy);
});
const digits = Object.fromEntries([..."0123456789b"].map((key) => [key, () => answer(board.option(key))]));

listenToKeys({
  ...digits,
  s: () => (skipBox.open = Boolean(deck[0])),
  z: undo,
  d: () => marks && toggleMarks(),
  g: () => openDrawer("guidelines"),
  h: () => openDrawer("history"),
  "?": () => help.showModal(),
  Escape: () => (find("#drawer").hidden ? true : openDrawer(find("#drawer").dataset.shows)),
  Space: () => (isImages() ? board.turn(1) : pages(0.9)()),
  "Shift+Space": pages(-0.9),
  PageDown: pages(0.9),
  PageUp: pages(-0.9),
  "+": repeating(() => board.zoom?.by(1.25)),
  "=": repeating(() => board.zoom?.by(1.25)),
  "-": repeating(() => board.zoom?.by(0.8)),
  f: () => board.zoom?.reset(),
  ArrowLeft: arrow(0.1, 0),
  ArrowRight: arrow(-0.1, 0),
  ArrowUp: arrow(0, 0.1),
  ArrowDown: arrow(0, -0.1),
});
addEventListener("keyup", (event) => event.key === " " && board.turn(0));
for (const name of ["keydown", "pointerdown"]) addEventListener(name, () => (lastActive = Date.now()), { passive: true });
setInterval(renew, RENEW_CHECK);

// Start: what was said before a reload goes first, and is not asked again.
if (data.last_judgement) past.push({ judgement: data.last_judgement, stored: Promise.resolve() });
if (data.item && !queue.has(data.item.lease)) {
  deck.push(data.item);
  board.adopt(data.item);
  find("#undo").disabled = past.length === 0;
  board.prompt.focus({ preventScroll: true });
} else {
  exhausted = !data.item;
  show();
}
queue.flush();
fetchAhead();
main.dataset.ready = "";
