/* The template editor's preview is the real form, on a made-up comparison; nothing that is said in it is sent. */

import { AnswerForm } from "./form.js";
import { Keyboard } from "./keys.js";

const WORDS = new Proxy({}, { get: () => "" });
const keyboard = new Keyboard(Object.fromEntries([..."0123456789bcjkxrsz"].map((key) => [key, key])));

function bring(work) {
  const item = JSON.parse(document.getElementById(work.dataset.item).textContent);
  const board = {
    panelElements: [...work.querySelectorAll(".candidate")],
    prompt: work.querySelector(".prompt"),
    nameOf: (position) => String.fromCharCode(65 + position),
  };
  const form = new AnswerForm(work.querySelector("#answer"), {
    board, keyboard, words: WORDS, announce: () => {}, onSubmit: () => begin(), onChange: () => {},
  });
  const begin = () => {
    form.show(item);
    if (form.onDemand) form.open(true); // everything is to be seen here
  };
  begin();
  work.inert = false;
  work.addEventListener("click", (event) => {
    if (event.target.closest("button")) event.preventDefault(); // the page's own form lies around it
    if (event.target.closest(".submit")) form.submit();
  });
  work.addEventListener("keydown", (event) => {
    if (event.target.closest("textarea")) return;
    if (form.press(keyboard.name(event)) || (event.key === "Enter" && !event.target.closest("button"))) event.preventDefault();
  });
  for (const input of work.querySelectorAll("input, textarea")) input.removeAttribute("name");
}

const bringAll = () => document.querySelectorAll(".work.preview[inert]").forEach(bring);
document.body.addEventListener("htmx:afterSettle", bringAll);
bringAll();
