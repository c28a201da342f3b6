/* An upload with its progress shown. Without this file the form uploads by itself. */

const form = document.querySelector("#upload");
const state = document.querySelector("#upload-state");
const text = document.querySelector("#upload-text");
const bar = document.querySelector("#upload-bar");
const words = state.dataset; // in the person's language
const button = form.querySelector("button");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const request = new XMLHttpRequest();
  request.open("POST", form.getAttribute("action") || location.href);
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    bar.value = total ? loaded / total : 0;
    text.textContent = loaded < total ? words.uploading.replace("%s", Math.round((100 * loaded) / total)) : words.uploaded;
  });
  request.addEventListener("load", () => {
    if (request.status === 413) return fail(words.tooLarge);
    if (request.status >= 500) return fail(words.failed.replace("%s", request.status));
    if (request.responseURL && request.status === 200) return location.assign(request.responseURL);
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.querySelector("[role=alert], .errorlist")?.scrollIntoView();
  });
  request.addEventListener("error", () => fail(words.broke));
  state.hidden = false;
  button.disabled = true;
  text.textContent = words.begins;
  request.send(new FormData(form));
});

function fail(sentence) {
  text.textContent = sentence;
  button.disabled = false;
  bar.value = 0;
}
