/* An upload with its progress shown. Without this file the form uploads by itself. */

const form = document.querySelector("#upload");
const state = document.querySelector("#upload-state");
const text = document.querySelector("#upload-text");
const bar = document.querySelector("#upload-bar");
const button = form.querySelector("button");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const request = new XMLHttpRequest();
  request.open("POST", form.getAttribute("action") || location.href);
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    bar.value = total ? loaded / total : 0;
    text.textContent = loaded < total ? `Uploading: ${Math.round((100 * loaded) / total)} %` : "Uploaded. The rows are being queued…";
  });
  request.addEventListener("load", () => {
    if (request.status === 413) return fail("The file is larger than this site accepts.");
    if (request.status >= 500) return fail(`The server answered ${request.status}. Nothing was imported; try again.`);
    if (request.responseURL && request.status === 200) return location.assign(request.responseURL);
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.querySelector("[role=alert], .errorlist")?.scrollIntoView();
  });
  request.addEventListener("error", () => fail("The line broke. Nothing was imported; try again."));
  state.hidden = false;
  button.disabled = true;
  text.textContent = "Uploading…";
  request.send(new FormData(form));
});

function fail(sentence) {
  text.textContent = sentence;
  button.disabled = false;
  bar.value = 0;
}
