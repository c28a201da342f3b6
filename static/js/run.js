/* A run's page while it works: asks for what changed, draws the curves, and fetches the page anew when the
   run goes on to another state. Without this file the page refreshes itself. */

import { CHARTS, Chart, points, words } from "./charts.js";

const EVERY = 1500; // ms
const SLOWLY = 10000; // ms, while the page is hidden or the line is down
const ENDED = ["done", "failed", "cancelled", "draft"];

let rows = new Map(); // step -> row; values of training and evaluation together
let charts = new Map();
let tag = null;
let attempt = null;

const page = () => document.querySelector("#run");

async function look() {
  const run = page();
  const after = rows.size ? Math.max(...rows.keys()) - 1 : -1; // the newest step may still get its evaluation
  const address = after >= 0 ? `${run.dataset.progress}?after=${after}` : run.dataset.progress;
  const reply = await fetch(address, { headers: tag ? { "If-None-Match": tag } : {} });
  if (reply.status === 304) return true;
  if (reply.redirected || !reply.ok) return false;
  tag = reply.headers.get("ETag");
  const news = await reply.json();
  if (attempt !== null && news.attempt !== attempt) return restart(news.attempt);
  attempt = news.attempt;
  for (const row of news.metrics) rows.set(row.step, { ...rows.get(row.step), ...row });
  draw();
  const changed = news.status !== run.dataset.status || String(news.samples) !== run.dataset.samples;
  if (changed) await renew();
  else tell(news);
  return true;
}

/** Another attempt goes on from its checkpoint: rows beyond it are void. */
function restart(number) {
  [rows, tag, attempt] = [new Map(), null, number];
  return look();
}

/** The page in its new state, charts kept. */
async function renew() {
  const reply = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!reply.ok || reply.redirected) return;
  const fresh = new DOMParser().parseFromString(await reply.text(), "text/html").querySelector("#run");
  const focus = document.activeElement?.id;
  page().replaceWith(fresh);
  if (focus) document.getElementById(focus)?.focus();
  charts = new Map();
  draw();
}

function tell(news) {
  const sentence = document.querySelector("#run-sentence");
  if (news.status === "running" && news.total_steps) {
    sentence.textContent = news.sentence;
    const bar = document.querySelector("#run-bar");
    [bar.max, bar.value] = [news.total_steps, news.step];
  }
  const log = document.querySelector("#log");
  if (log.textContent !== news.log) {
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    log.textContent = news.log;
    document.querySelector("#log-section").hidden = !news.log;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

function draw() {
  const place = document.querySelector("[data-charts]");
  if (!place || !rows.size) return;
  const found = [...rows.values()].sort((a, b) => a.step - b.step);
  for (const { title, names, range, together } of CHARTS) {
    const used = together ? names : names.filter((name) => points(found, name).length || points(found, `eval/${name}`).length).slice(0, 1);
    const series = used.flatMap((name, index) => [
      { label: together ? words[name.split("/")[1]] : words.training, kind: index ? "train second" : "train", points: points(found, name) },
      ...(together ? [] : [{ label: words.held_out, kind: "held-out", points: points(found, `eval/${name}`) }]),
    ]);
    if (!series.some((one) => one.points.length)) continue;
    if (!charts.has(title)) {
      const chart = new Chart(title);
      charts.set(title, chart);
      place.append(chart.element);
    }
    charts.get(title).draw(series, range);
  }
  document.querySelector("#curves").hidden = false;
}

async function follow() {
  let reached = false;
  try {
    reached = await look();
  } catch {
    reached = false; // the line is down; the next look tells
  }
  if (reached && ENDED.includes(page().dataset.status)) return;
  setTimeout(follow, reached && !document.hidden ? EVERY : SLOWLY);
}

const log = document.querySelector("#log");
log.scrollTop = log.scrollHeight;
follow();
