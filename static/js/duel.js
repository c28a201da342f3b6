/* Two answers of the arena: the judging page's board, form and keys, for one comparison. The answer is sent once,
   again while the line is down; then the page comes anew and says which models these were. */

import { actionsOf } from "./actions.js";
import { Offline, post } from "./api.js";
import { Board } from "./board.js";
import { AnswerForm } from "./form.js";
import { Keyboard, keysAreOn, switchKeys } from "./keys.js";

const AGAIN_AFTER = 3000; // milliseconds

const data = JSON.parse(document.querySelector("#duel-data").textContent);
const { words, item } = data;
const find = (selector) => document.querySelector(selector);
const main = find("main");
const board = new Board(main, words);
const keyboard = new Keyboard(data.keys);
const judged = main.hasAttribute("data-judged");

function announce(text) {
  find("#announcer").textContent = text;
}

function tell(state, text = words.states[state]) {
  find("#saved").className = `saved ${state}`;
  find("#saved").textContent = text;
  if (state !== "saving") announce(text);
}

let sending = false;

async function answer(given) {
  if (sending) return;
  sending = true;
  const body = { client_id: crypto.randomUUID(), ...given }; // the same each time, so that it is stored once
  tell("saving");
  while (sending) {
    try {
      await post(data.urls.judgement, body);
      return location.reload();
    } catch (error) {
      if (!(error instanceof Offline)) refused(error);
      else await again();
    }
  }
}

function refused(error) {
  sending = false;
  if (error.status === 401) return location.assign(data.urls.sign_in);
  tell("refused", error.message);
}

function again() {
  tell("retrying", words.states.retrying.replace("%s", 1));
  return new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER));
}

function toggleMarks() {
  const remark = board.toggleMarks();
  find("#marks").setAttribute("aria-pressed", String(board.marking));
  announce(remark || words.marks[board.marking ? "on" : "off"]);
  if (remark) tell("refused", remark);
}
find("#marks")?.addEventListener("click", toggleMarks);

function judge() {
  const form = new AnswerForm(find("#answer"), { board, keyboard, words, announce, onSubmit: answer, onChange: () => {} });
  board.show(item);
  form.show(item);
  const reasons = find("#reasons");
  const showReasons = () => {
    reasons.hidden = !form.onDemand;
    reasons.setAttribute("aria-expanded", String(Boolean(form.onDemand && !form.questions.hidden)));
  };
  reasons.addEventListener("click", () => form.reasons());
  find("#answer").addEventListener("opened", showReasons);
  showReasons();
  const help = find("#help");
  find("#open-help").addEventListener("click", () => help.showModal());
  const keySwitch = find("#keys-on");
  keySwitch.checked = keysAreOn();
  keySwitch.addEventListener("change", () => switchKeys(keySwitch.checked));
  keyboard.label(document);
  return { form, help: () => help.showModal() };
}

/** Names instead of letters above the one that a narrow screen shows. */
function reveal() {
  board.adopt(item);
  [...board.tabs.children].forEach((tab, index) => (tab.textContent = board.panelElements[index].querySelector("h2").textContent));
  return { form: { press: () => false, reasons: () => false, restart: () => {} }, help: () => false };
}

const { form, help } = judged ? reveal() : judge();
const nothing = () => false;
const actions = { ...actionsOf({ board, form, drawer: { shows: "" }, undo: nothing, toggleMarks, skip: nothing, help }), g: nothing, h: nothing, t: nothing };
keyboard.listen((name, event) => {
  if (!event.repeat && form.press(name)) return true;
  const action = actions[name];
  return Boolean(action) && (!event.repeat || action.repeats) && action(event) !== false;
});
addEventListener("keyup", (event) => event.key === " " && board.turn(0));
board.prompt.focus({ preventScroll: true });
main.dataset.ready = "";
