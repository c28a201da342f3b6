/* The HTTP API from a page: the session's cookie signs in, the form's token guards against forgery. */

const TIMEOUT = 20_000; // milliseconds
const SHORT = 20_000; // characters; browsers refuse to keep more than 64 KiB alive

/** The line is down or the server did not answer: worth another attempt. */
export class Offline extends Error {}

/** The server answered, and said no. `detail` is its own sentence. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail || `HTTP ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

const token = () => document.querySelector("[name=csrfmiddlewaretoken]").value;

/** Posts JSON; resolves to the reply's JSON, or null where there is none (204). */
export async function post(url, body = {}) {
  const text = JSON.stringify(body);
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      credentials: "same-origin",
      keepalive: text.length < SHORT, // an answer on its way survives leaving the page
      headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRFToken": token() },
      body: text,
      signal: AbortSignal.timeout(TIMEOUT),
    });
  } catch (error) {
    throw new Offline(error.message);
  }
  if (response.status === 204) return null;
  const data = await response.json().catch(() => null);
  if (response.ok && data) return data;
  if (response.ok || response.status >= 500 || response.status === 429) throw new Offline(`status ${response.status}`);
  throw new Refused(response.status, data);
}
