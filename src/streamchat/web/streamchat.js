// The browser's side of the native wire: fold a run's events into its state, and follow a run over drops.
//
// `newState` and `apply` are the same fold as streamchat.core.fold; both are checked against the same vectors.

/** The state of a run before its first event. */
export function newState() {
  return { run_id: null, status: "queued", parts: [], steps: [], waits: [], usage: null, error: null,
           cancelled: null, finish_reason: null, takeovers: 0, last_part: -1, events: 0, seq: 0 };
}

const TEXTS = { text_delta: "text", reasoning_delta: "reasoning", refusal_delta: "refusal" };

function place(state, part) {
  state.parts = state.parts.filter((p) => p.part !== part.part);
  state.parts.push(part);
  state.parts.sort((a, b) => a.part - b.part);
  state.last_part = Math.max(state.last_part, part.part);
  return part;
}

const callOf = (state, id) => state.parts.find((p) => p.type === "tool_call" && p.call_id === id) ?? {};
const stepOf = (state, number) => {
  let step = state.steps.find((s) => s.step === number);
  if (!step) {
    step = { step: number, kind: "model", model_completed: false, finished: false, resets: 0 };
    state.steps.push(step);
  }
  return step;
};

const fieldsOf = ({ seq, at, ...fields }) => fields;

function sum(a, b) {
  if (!a) return b;
  const out = { provider: a.provider === b.provider ? a.provider : null, model: a.model === b.model ? a.model : null };
  for (const key of ["input_tokens", "output_tokens", "total_tokens", "cached_input_tokens", "reasoning_tokens"])
    out[key] = (a[key] ?? 0) + (b[key] ?? 0);
  return out;
}

const HANDLERS = {
  run_started(s, e) {
    for (const key of ["run_id", "conversation_id", "message_id", "parent_run_id", "model"]) s[key] = e[key] ?? null;
  },
  run_resumed(s, e) {
    s.status = "running";
    s.waits = [];
    if (e.reason === "takeover") s.takeovers += 1;
  },
  step_started(s, e) {
    s.status = "running";
    Object.assign(stepOf(s, e.step), { name: e.name, kind: e.kind });
  },
  step_finished(s, e) {
    Object.assign(stepOf(s, e.step), { finished: true, duration: e.duration, time_to_first_token: e.time_to_first_token });
  },
  source(s, e) { place(s, fieldsOf(e)); },
  file(s, e) { place(s, fieldsOf(e)); },
  tool_call_delta(s, e) {
    const known = s.parts.find((p) => p.type === "tool_call" && p.call_id === e.call_id);
    const call = known ?? place(s, { part: e.part, step: e.step, type: "tool_call", call_id: e.call_id, name: "",
                                     executed_by: "server", state: "streaming",
                                     attempts: 0, arguments_text: "" });
    if (e.name != null) call.name = e.name;
    call.arguments_text += e.arguments ?? "";
  },
  tool_call(s, e) {
    place(s, { executed_by: "server", ...fieldsOf(e), state: "called", attempts: 0 });
  },
  model_completed(s, e) {
    Object.assign(stepOf(s, e.step), { model_completed: true, finish_reason: e.finish_reason, usage: e.usage });
    s.finish_reason = e.finish_reason ?? null;
    if (e.usage) s.usage = sum(s.usage, e.usage);
    for (const finished of e.parts ?? []) {
      const part = s.parts.find((p) => p.part === finished.part);
      if (part && finished.text != null && part.type !== "tool_call") part.text = finished.text;
    }
  },
  step_reset(s, e) {
    stepOf(s, e.step).resets += 1;
    s.parts = s.parts.filter((p) => p.step !== e.step);
  },
  approval_requested(s, e) {
    const { approval_id, message, expires_at } = e;
    Object.assign(callOf(s, e.call_id), { state: "approval", approval: { approval_id, message, expires_at } });
  },
  approval_resolved(s, e) {
    const call = callOf(s, e.call_id), { approval_id, approved, reason, by } = e;
    Object.assign(call, { state: "called", approval: { ...(call.approval ?? { approval_id }), approved, reason, by } });
    if (e.arguments != null) call.arguments = e.arguments;
  },
  tool_started(s, e) { Object.assign(callOf(s, e.call_id), { state: "running", attempts: e.attempt }); },
  tool_progress(s, e) {
    callOf(s, e.call_id).progress = { message: e.message, fraction: e.fraction, data: e.data };
  },
  tool_result(s, e) {
    const deferred = e.outcome === "deferred";
    Object.assign(callOf(s, e.call_id), { state: deferred ? "deferred" : "done", outcome: e.outcome,
      output: e.output, error: e.error, duration: e.duration, job_id: e.job_id,
      job: deferred ? { message: e.output, expires_at: e.expires_at } : null });
  },
  job_result(s, e) {
    const call = callOf(s, e.call_id), ended_in = Math.max(0, ...s.steps.map((step) => step.step));
    Object.assign(call, { state: "done", outcome: e.outcome, output: e.output, error: e.error,
      job_id: e.job_id, job: { ...call.job, ended_in } });
  },
  suspended(s, e) { s.status = "suspended"; s.waits = e.waits; },
  error(s, e) { s.error = fieldsOf(e); },
  cancelled(s, e) { s.cancelled = fieldsOf(e); },
  message_completed(s, e) {
    s.parts = (e.content ?? []).map((p) => ({ ...p }));
    s.finish_reason = e.finish_reason ?? null;
    if (e.usage) s.usage = e.usage;
    for (const p of s.parts) s.last_part = Math.max(s.last_part, p.part);
  },
  finalized(s, e) {
    s.status = e.status; s.waits = []; s.duration = e.duration;
    if (e.usage) s.usage = e.usage;
  },
  history_reset(s, e) {
    for (const key of Object.keys(s)) delete s[key];
    Object.assign(s, newState(), e.snapshot);
  },
};

function noteTime(state, event) {
  state.events += 1;
  if (event.seq == null) return;
  state.seq = event.seq;
  if (event.type === "run_started") state.started_at = event.at;
  else if (event.type === "finalized") state.ended_at = event.at;
  else if (state.first_token_at == null && (TEXTS[event.type] || event.type.startsWith("tool_call")))
    state.first_token_at = event.at;
}

/** Fold one event into the state, in place. Types that are not known change nothing but the count. */
export function apply(state, event) {
  if (event.type !== "history_reset") noteTime(state, event);
  const kind = TEXTS[event.type];
  if (kind) {
    const part = state.parts.find((p) => p.part === event.part);
    if (part) part.text += event.text;
    else place(state, { part: event.part, step: event.step, type: kind, text: event.text });
  } else {
    HANDLERS[event.type]?.(state, event);
  }
  return state;
}

const TYPES = [...Object.keys(TEXTS), ...Object.keys(HANDLERS), "status", "custom"];
const OVER = new Set(["success", "error", "cancelled"]);
const FIRST_WAIT = 500, LONGEST_WAIT = 10_000, PATIENCE = 30_000; // milliseconds

/** The JSON that an endpoint answers. Fails with a sentence to show, and the answer's `status` where one came. */
export async function request(url, options) {
  let answer;
  try {
    answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE), ...options });
  } catch {
    throw new Error("The server cannot be reached. Check the connection and try again.");
  }
  const body = await answer.json().catch(() => null); // a proxy answers in HTML
  if (answer.ok && body) return body;
  const sentence = body?.error?.message ?? `The server could not answer (${answer.status}). Try again later.`;
  throw Object.assign(new Error(sentence), { status: answer.status });
}

/** The messages of a conversation, oldest first, over all pages of `url` (`…/conversations/{id}/messages`). */
export async function* history(url) {
  const page = new URL(url, location.href);
  for (;;) {
    const { messages, next } = await request(page);
    yield* messages;
    if (next == null) return;
    page.searchParams.set("after", next);
  }
}

/**
 * Follow one run: `onEvent(state, event)` after each event, `onEnd(state)` once, when nothing will follow,
 * `onConnection(what)` with open, reconnecting, dropped or closed. `drop()` cuts the connection, `resume()` goes on
 * behind the last event.
 *
 * `url` is the run's stream or its conversation's; of the latter only the run that it began with is followed.
 * EventSource reconnects by itself after a cut, but gives up on any status but 200. Then the server is asked whether
 * the run is over, and if not, the stream is tried again after a wait that doubles up to ten seconds.
 */
export class RunFollower {
  constructor(url, { onEvent, onEnd, onConnection }) {
    Object.assign(this, { url: new URL(url, location.href), onEvent, onEnd, onConnection,
                          state: newState(), lastId: null, seen: new Set(), tries: 0 });
    this.resume();
  }

  resume() {
    this.close();
    const url = new URL(this.url);
    if (this.lastId) url.searchParams.set("last_event_id", this.lastId);
    const source = this.source = new EventSource(url);
    source.onopen = () => {
      this.tries = 0;
      this.onConnection?.("open");
    };
    for (const type of TYPES) source.addEventListener(type, (message) => this.take(message));
    // A run's event of the type "error" has data; the browser's own has none.
    source.onerror = (event) => { if (event.data === undefined) this.broken(source); };
  }

  drop() {
    this.close();
    this.onConnection?.("dropped");
  }

  take(message) {
    if (typeof message.data !== "string") return;
    const event = JSON.parse(message.data);
    const other = event.type === "run_started" && this.state.run_id && event.run_id !== this.state.run_id;
    if (other) this.state = newState();
    if (other || event.type === "history_reset") this.seen.clear();
    else if (this.seen.has(message.lastEventId)) return; // delivered twice
    this.seen.add(message.lastEventId);
    this.lastId = message.lastEventId;
    apply(this.state, event);
    // A conversation's stream may belong to another run at the next connection.
    if (this.state.run_id)
      this.url.pathname = this.url.pathname.replace(/conversations\/[^/]+\/stream$/, `runs/${this.state.run_id}/stream`);
    this.onEvent?.(this.state, event);
    if (OVER.has(this.state.status)) this.end();
  }

  async broken(source) {
    this.onConnection?.("reconnecting");
    const own = new URL(source.url).pathname === this.url.pathname;
    if (own && source.readyState !== EventSource.CLOSED) return; // the browser comes back by itself
    source.close();
    const ending = await this.ending();
    if (this.source !== source) return; // dropped meanwhile
    if (ending) {
      Object.assign(this.state, ending);
      return this.end();
    }
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.tries++);
    this.timer = setTimeout(() => this.resume(), wait * (0.5 + Math.random() / 2)); // not all clients at once
  }

  /**
   * What the state ends with if there is nothing to come back for, else null. EventSource does not tell what it was
   * answered, so the server is asked.
   */
  async ending() {
    const url = new URL(this.url);
    const isRun = /runs\/[^/]+\/stream$/.test(url.pathname);
    if (isRun) url.pathname = url.pathname.replace(/\/stream$/, "");
    try {
      const answer = await fetch(url, { method: isRun ? "GET" : "HEAD", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) return answer.status < 500 && answer.status !== 408 && answer.status !== 429 ? {} : null;
      if (!isRun) return answer.status === 204 ? {} : null; // 204: nothing is running
      const run = await answer.json();
      // The rest of its events comes from the stream; what the run amounts to only where that is refused again.
      if (!OVER.has(run.status) || this.tries === 0) return null;
      const { status, usage, error, message, timings } = run;
      return { status, usage, error, waits: [], parts: message.content, finish_reason: message.finish_reason,
               duration: timings.duration };
    } catch {
      return null; // not reached, or no JSON: no news of the run
    }
  }

  end() {
    this.close();
    this.onConnection?.("closed");
    this.onEnd?.(this.state);
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }
}
