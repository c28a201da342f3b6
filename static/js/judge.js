/* The judging page. One key, one judgement, the next comparison at once: it is already here. Answers go into a
   queue that outlives a reload; leases are taken one ahead. The logic of judging is the server's alone. */

import { Offline, post, Refused } from "./api.js";
import { Board } from "./board.js";
import { Deck } from "./deck.js";
import { Drafts } from "./drafts.js";
import { Drawer } from "./drawer.js";
import { AnswerForm } from "./form.js";
import { Keyboard, keysAreOn, switchKeys } from "./keys.js";
import { actionsOf } from "./actions.js";
import { Queue } from "./queue.js";
import { Session } from "./session.js";

const data = JSON.parse(document.querySelector("#judge-data").textContent);
const { words } = data;
const main = document.querySelector("main");
const find = (selector) => document.querySelector(selector);
const address = (name, id) => data.urls[name].replace("00000000-0000-0000-0000-000000000000", id).replace("/0/", `/${id}/`);
const UNDO_DEPTH = 20;

const past = []; // what can be taken back: {item, client_id, judgement, answer}
const keyboard = new Keyboard(data.keys);
const drafts = new Drafts(`tiebreak:drafts:${data.user}`);
const session = new Session(`tiebreak:session:${data.user}:${data.project}`);
const board = new Board(main, words);
const form = new AnswerForm(find("#answer"), { board, keyboard, words, announce, onSubmit: answer, onChange: keepDraft });
const queue = new Queue(`tiebreak:answers:${data.user}`, (entry) => {
  if (entry.kind === "skip") return address("skip", entry.lease);
  if (entry.project !== data.project) return address("judgement", entry.lease);
  const after = deck.items.findLast((item) => item.lease !== entry.lease && !queue.has(item.lease));
  return `${address("judgement", entry.lease)}?html=1&next=1${after ? `&after=${after.lease}` : ""}`;
});
const deck = new Deck({ urls: data.urls, address, queue });
const drawer = new Drawer(find("#drawer"), {
  urls: { history: data.urls.history, session: data.urls.session },
  titles: words.drawers,
  onClose: () => board.prompt.focus({ preventScroll: true }),
  onLoad: (name, part) => (name === "session" ? session.draw(part) : undefined),
});

// What is on the screen

function announce(text) {
  find("#announcer").textContent = text;
}

function show() {
  const item = deck.first;
  for (const id of ["work", "skip", "marks", "said"]) if (find(`#${id}`)) find(`#${id}`).hidden = !item;
  find("#idle").hidden = Boolean(item);
  if (item) {
    board.show(item);
    if (find("#said")) find("#said").innerHTML = item.said_html; // written by the server
    form.show(item, drafts.get(item.lease) ?? item.previous_answer);
    showReasons();
    announce(words.next.replace("%s", item.candidates.length));
    board.prompt.focus({ preventScroll: true });
    session.shown();
  } else {
    form.leave();
    showReasons();
    showIdle();
  }
  showUndo();
}

function showUndo() {
  find("#undo").disabled = past.length === 0;
}

/** The button for what is optional says whether it is open. */
function showReasons() {
  find("#reasons").hidden = !deck.first || !form.onDemand;
  find("#reasons").setAttribute("aria-expanded", String(Boolean(form.onDemand && !form.questions.hidden)));
}

function showIdle() {
  const waits = queue.entries.length > 0 && !deck.exhausted;
  const sentence = waits ? words.line_is_down : deck.exhausted ? data.reason || words.nothing_left : words.fetching;
  find("#idle-text").textContent = sentence;
  find("#again").hidden = !deck.exhausted;
  announce(sentence);
  find("#idle").focus();
}

function count(change) {
  for (const name of ["today", "judged"]) find(`#${name}`).textContent = data.progress[name] += change;
  session.answered(change);
}

/** The one line that tells how things stand with the server. */
function tell(state, text = "", waiting = 0) {
  const line = find("#saved");
  line.className = `saved ${state}`;
  const sentence = text || words.states[state].replace("%s", waiting);
  if (state === "signed-out") {
    const link = document.createElement("a");
    link.href = data.urls.sign_in;
    link.textContent = words.states[state];
    line.replaceChildren(link);
  } else {
    line.textContent = sentence;
  }
  if (state !== "saving" && state !== "saved") announce(line.textContent);
}

// What a person does

function keepDraft(given) {
  if (deck.first) drafts.keep(deck.first.lease, given);
}

function answer(given) {
  const item = deck.first;
  if (!item) return;
  const client_id = crypto.randomUUID();
  past.push({ item, client_id, answer: given, ...promised("stored") });
  past.splice(0, past.length - UNDO_DEPTH);
  count(+1);
  drafts.drop(item.lease);
  queue.add({ kind: "judgement", project: data.project, client_id, lease: item.lease, body: { client_id, ...given } });
  deck.leave();
  if (session.breakIsDue()) tell("break", words.break_is_due.replace("%s", session.minutes));
}

/** What one of the annotators said, for a reviewer to take over as it is or to begin with. */
function saidBy(number) {
  const { annotator, ...said } = deck.first.judgements.find((one) => one.annotator === number);
  return said;
}

function takeOver(event) {
  const button = event.target.closest("button");
  if (!button) return;
  event.preventDefault();
  if (button.name === "said") return void answer(saidBy(Number(button.value)));
  const said = saidBy(Number(button.dataset.begin));
  form.show(deck.first, said);
  keepDraft(said);
  form.rows[0]?.focus();
}
find("#said")?.addEventListener("click", takeOver);

function skip(reason) {
  const item = deck.first;
  if (!item) return;
  drafts.drop(item.lease);
  queue.add({ kind: "skip", project: data.project, client_id: crypto.randomUUID(), lease: item.lease, body: { reason } });
  deck.leave();
}

/** {resolve, reject, [name]: promise}; a rejection that nobody waits for is no error. */
function promised(name) {
  let resolve, reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  promise.catch(() => {});
  return { [name]: promise, resolve, reject };
}

/** Takes back the last answer: unsent from the queue, sent through the server, which gives the same order again. */
async function undo() {
  const entry = past.findLast((item) => !item.undoing);
  if (!entry) return;
  entry.undoing = true;
  if (queue.withdraw(entry.client_id)) return void restore(entry, entry.item, entry.answer);
  try {
    await entry.stored;
    const item = await post(`${address("undo", entry.judgement)}?html=1`);
    restore(entry, item, item.previous_answer);
  } catch (error) {
    entry.undoing = false;
    if (error instanceof Refused) forget(entry);
    showUndo();
    tell("refused", error instanceof Offline ? words.undo_later : error.message);
  }
}

/** An earlier answer comes back on the screen to be given again. */
function change(judgement) {
  const entry = past.find((item) => item.judgement === judgement) ?? { judgement, stored: Promise.resolve() };
  if (past.includes(entry)) past.splice(past.indexOf(entry), 1);
  past.push(entry);
  drawer.close();
  return undo();
}

function forget(entry) {
  if (past.includes(entry)) past.splice(past.indexOf(entry), 1);
}

function restore(entry, item, given = {}) {
  forget(entry);
  drafts.keep(item.lease, given);
  count(-1);
  deck.putBack(item);
  announce(words.taken_back);
}

// What the server says

queue.addEventListener("state", ({ detail }) => tell(detail.state, detail.text, detail.waiting));

/** After an answer of the test before the first work: whether it was right, and why. */
function showFeedback(feedback) {
  const place = find("#feedback");
  place.hidden = !feedback;
  place.innerHTML = feedback?.html ?? ""; // sanitised by the server
}

queue.addEventListener("stored", ({ detail: { entry, reply } }) => {
  if (entry.project === data.project && entry.kind === "judgement") showFeedback(reply.feedback);
  const mine = past.find((item) => item.client_id === entry.client_id);
  if (mine) {
    mine.judgement = reply.judgement;
    mine.resolve();
  }
  deck.take(reply.next);
});

/** A refused answer is gone for good only if the comparison is; what was written stays as a draft. */
queue.addEventListener("refused", ({ detail: { entry, error } }) => {
  const mine = past.find((item) => item.client_id === entry.client_id);
  if (mine?.undoing) mine.reject(error);
  else if (mine && error.status === 400) restore(mine, mine.item, mine.answer);
  else if (mine) forget(mine);
  if (entry.kind === "judgement" && !(mine && error.status === 400)) count(-1);
  showUndo();
  tell("refused", error.message);
  deck.fetchAhead();
});

deck.addEventListener("first", show);
deck.addEventListener("refused", ({ detail }) => tell("refused", detail));

// Wiring

const skipBox = find("#skip");
skipBox.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  skip(event.target.reason.value);
  event.target.reset();
  skipBox.open = false;
});
skipBox.addEventListener("toggle", () => skipBox.open && skipBox.querySelector("input[name=reason]").focus());
const openSkip = () => {
  skipBox.open = Boolean(deck.first);
  if (skipBox.open) skipBox.querySelector("input[name=reason]").focus(); // before the event, for the keys that follow
};
skipBox.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  skipBox.open = false;
  skipBox.querySelector("summary").focus();
});

find("#undo").closest("form").addEventListener("submit", (event) => {
  event.preventDefault();
  undo();
});
find("#reasons").addEventListener("click", () => form.reasons());
find("#answer").addEventListener("opened", showReasons);
find("#drawer").addEventListener("submit", (event) => {
  event.preventDefault();
  change(Number(new FormData(event.target).get("judgement")));
});
find("#drawer").addEventListener("change", (event) => event.target.name === "reminder" && (session.reminder = event.target.value));

const help = find("#help");
find("#open-help").addEventListener("click", () => help.showModal());
const keySwitch = find("#keys-on");
keySwitch.checked = keysAreOn();
keySwitch.addEventListener("change", () => switchKeys(keySwitch.checked));

function toggleMarks() {
  const remark = board.toggleMarks();
  find("#marks").setAttribute("aria-pressed", String(board.marking));
  announce(remark || words.marks[board.marking ? "on" : "off"]);
  if (remark) tell("refused", remark);
}
find("#marks")?.addEventListener("click", toggleMarks);

const actions = actionsOf({ board, form, drawer, undo, toggleMarks, skip: openSkip, help: () => help.showModal() });
keyboard.label(document);
const SCROLLS = /Space|Page|Arrow|Enter|Backspace/; // in the drawer these are the drawer's
keyboard.listen((name, event) => {
  if (drawer.element.contains(event.target) && SCROLLS.test(name)) return false;
  if (deck.first && !event.repeat && form.press(name)) return true;
  const action = actions[name];
  return Boolean(action) && (!event.repeat || action.repeats) && action(event) !== false;
});
addEventListener("keyup", (event) => event.key === " " && board.turn(0));

// Start: what was said before a reload goes first, and is not asked again.
if (data.last_judgement) past.push({ judgement: data.last_judgement, stored: Promise.resolve() });
if (data.item && !queue.has(data.item.lease)) deck.keep(data.item);
else deck.exhausted = !data.item;
if (!deck.first) show();
queue.flush();
deck.fetchAhead();
main.dataset.ready = "";
