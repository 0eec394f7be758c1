// RunFollower and the reading of pages, against an EventSource, a fetch and a clock that the tests move.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

const BASE = "http://chat.test";
const sources = [], fetched = [], timers = [];
let answers = {};

class EventSource {
  static CLOSED = 2;
  constructor(url) {
    Object.assign(this, { url: String(url), readyState: 1, listeners: {} });
    sources.push(this);
  }
  addEventListener(type, listener) { (this.listeners[type] ??= []).push(listener); }
  dispatch(event) {
    if (event.type === "error") this.onerror?.(event);
    for (const listener of this.listeners[event.type] ?? []) listener(event);
  }
  give(type, id, fields = {}) {
    if (this.readyState === 2) return;
    this.dispatch({ type, lastEventId: id, data: JSON.stringify({ type, ...fields }) });
  }
  cut() { this.readyState = 0; this.dispatch({ type: "error" }); } // the browser connects again by itself
  refuse() { this.readyState = 2; this.dispatch({ type: "error" }); } // an answer that is no stream: it does not
  close() { this.readyState = 2; }
}

function json(status, body) {
  return { ok: status < 300, status, json: async () => body };
}
const html = (status) => ({ ok: status < 300, status, json: async () => JSON.parse("<html>") });

async function fetch(url, options = {}) {
  const { pathname, search } = new URL(url, BASE);
  const key = `${options.method ?? "GET"} ${pathname}${search}`;
  fetched.push(key);
  const answer = answers[key];
  if (answer === undefined) throw new TypeError("Failed to fetch");
  return answer;
}

Object.assign(globalThis, {
  EventSource, fetch, location: { href: `${BASE}/` },
  setTimeout: (call, delay) => timers.push({ call, delay }),
  clearTimeout: (number) => { if (number) timers[number - 1].call = () => {}; },
});
const { RunFollower, history, request } = await import(process.argv[2]);

const settled = () => new Promise((resolve) => setImmediate(resolve));
const last = () => sources.at(-1);
const pathOf = (source) => new URL(source.url).pathname;
const running = json(200, { status: "running" });

function follow(url = "/chat/runs/a/stream") {
  const heard = { ends: [], connections: [], events: 0 };
  heard.follower = new RunFollower(url, {
    onEvent: () => { heard.events += 1; },
    onEnd: (state) => heard.ends.push({ status: state.status, text: textOf(state) }),
    onConnection: (what) => heard.connections.push(what),
  });
  return heard;
}
const textOf = (state) => state.parts.map((part) => part.text).join("");

function begin(run = "a", generation = "g") {
  last().onopen();
  last().give("run_started", `${generation}.1`, { run_id: run });
  last().give("text_delta", `${generation}.2`, { part: 0, step: 1, text: `of ${run}` });
}

beforeEach(() => {
  for (const list of [sources, fetched, timers]) list.length = 0;
  answers = {};
});

test("finalized is the end, and the connection is closed", () => {
  const heard = follow();
  begin();
  last().give("finalized", "g.3", { status: "success" });
  assert.deepEqual(heard.ends, [{ status: "success", text: "of a" }]);
  assert.equal(last().readyState, 2);
});

test("a snapshot of a run that is over is the end too", () => {
  const heard = follow();
  begin();
  last().give("history_reset", "h.9", { snapshot: { run_id: "a", status: "success", parts: [{ part: 0, text: "all" }] } });
  assert.deepEqual(heard.ends, [{ status: "success", text: "all" }]);
});

test("behind a snapshot an id that was seen before counts as new", () => {
  const { follower } = follow();
  begin();
  last().give("history_reset", "g.1", { snapshot: { run_id: "a", status: "running", parts: [] } });
  last().give("text_delta", "g.2", { part: 0, step: 1, text: "again" });
  assert.equal(textOf(follower.state), "again");
});

test("an event that comes twice is folded once", () => {
  const { follower } = follow();
  begin();
  last().give("text_delta", "g.2", { part: 0, step: 1, text: "of a" });
  assert.equal(textOf(follower.state), "of a");
});

test("a run's own error event is no trouble with the connection", () => {
  const heard = follow();
  begin();
  last().give("error", "g.3", { message: "broken" });
  assert.deepEqual(heard.connections, ["open"]);
  assert.equal(heard.follower.state.error.message, "broken");
});

test("a reconnection that the browser makes is left to it", () => {
  const heard = follow();
  begin();
  last().cut();
  assert.deepEqual([sources.length, fetched, heard.connections], [1, [], ["open", "reconnecting"]]);
});

test("a refused reconnection of a run that goes on is tried again behind the last event", async () => {
  answers["GET /chat/runs/a"] = running;
  const heard = follow();
  begin();
  last().refuse();
  await settled();
  timers.at(-1).call();
  assert.equal(sources.length, 2);
  assert.equal(new URL(last().url).searchParams.get("last_event_id"), "g.2");
  last().onopen();
  last().give("text_delta", "g.3", { part: 0, step: 1, text: "!" });
  last().give("finalized", "g.4", { status: "success" });
  assert.deepEqual(heard.ends, [{ status: "success", text: "of a!" }]);
});

for (const [name, answer] of Object.entries({ "answers 503": html(503), "limits it": json(429, {}), "is away": undefined })) {
  test(`while the server ${name} the waits grow, differ and stay under ten seconds`, async () => {
    if (answer) answers["GET /chat/runs/a"] = answer;
    const heard = follow();
    begin();
    for (let n = 0; n < 12; n += 1) {
      last().refuse();
      await settled();
      timers.at(-1).call();
    }
    const delays = timers.map((timer) => timer.delay);
    delays.forEach((delay, n) => {
      const most = Math.min(10_000, 500 * 2 ** n);
      assert.ok(delay >= most / 2 && delay <= most, `${delay} after ${n} failures`);
    });
    assert.ok(new Set(delays.slice(-6)).size > 1);
    assert.deepEqual(heard.ends, []);
    last().onopen();
    last().refuse();
    await settled();
    assert.ok(timers.at(-1).delay <= 500, "a connection that stood begins the waits anew");
  });
}

test("a run that ended meanwhile is read to its end from the stream", async () => {
  answers["GET /chat/runs/a"] = json(200, { status: "success", message: { content: [] }, timings: {} });
  const heard = follow();
  begin();
  last().refuse();
  await settled();
  assert.deepEqual(heard.ends, []);
  timers.at(-1).call();
  last().give("finalized", "g.3", { status: "success" });
  assert.deepEqual(heard.ends, [{ status: "success", text: "of a" }]);
});

test("where the stream of a run that is over stays refused, its status gives the answer", async () => {
  answers["GET /chat/runs/a"] = json(200, {
    status: "cancelled", cursor: "g.9", usage: null, error: null, timings: { duration: 2 },
    message: { content: [{ part: 0, step: 1, type: "text", text: "whole" }], finish_reason: null },
  });
  const heard = follow();
  begin();
  last().refuse();
  await settled();
  timers.at(-1).call();
  last().refuse();
  await settled();
  assert.deepEqual(heard.ends, [{ status: "cancelled", text: "whole" }]);
  assert.equal(timers.length, 1);
});

for (const status of [401, 403, 404]) {
  test(`a run that is answered ${status} is given up`, async () => {
    answers["GET /chat/runs/a"] = json(status, {});
    const heard = follow();
    begin();
    last().refuse();
    await settled();
    assert.deepEqual(heard.ends, [{ status: "queued", text: "of a" }]);
    assert.deepEqual([timers.length, heard.connections.at(-1)], [0, "closed"]);
  });
}

test("a drop while the follower waits or asks stops it, and resume goes on", async () => {
  answers["GET /chat/runs/a"] = running;
  const heard = follow();
  begin();
  last().refuse();
  heard.follower.drop(); // while it asks
  await settled();
  assert.equal(timers.length, 0);
  heard.follower.resume();
  last().refuse();
  await settled();
  heard.follower.drop(); // while it waits
  timers.at(-1).call();
  assert.deepEqual([sources.length, heard.ends], [2, []]);
  heard.follower.resume();
  assert.equal(sources.length, 3);
});

test("a drop while the ending is asked for leaves the state to the events that resume brings", async () => {
  answers["GET /chat/runs/a"] = json(200, { status: "success", message: { content: [{ part: 0, text: "of a!" }] }, timings: {} });
  const heard = follow();
  begin();
  last().refuse();
  await settled();
  timers.at(-1).call();
  last().refuse();
  heard.follower.drop();
  await settled();
  heard.follower.resume();
  last().give("text_delta", "g.3", { part: 0, step: 1, text: "!" });
  last().give("finalized", "g.4", { status: "success" });
  assert.deepEqual(heard.ends, [{ status: "success", text: "of a!" }]);
});

test("a conversation where nothing runs ends with an empty state", async () => {
  answers["HEAD /chat/conversations/c/stream"] = { ok: true, status: 204 };
  const heard = follow("/chat/conversations/c/stream");
  last().refuse();
  await settled();
  assert.deepEqual(heard.ends, [{ status: "queued", text: "" }]);
});

test("a conversation's stream that is refused at first is tried again", async () => {
  answers["HEAD /chat/conversations/c/stream"] = { ok: true, status: 200 };
  const heard = follow("/chat/conversations/c/stream");
  last().refuse();
  await settled();
  timers.at(-1).call();
  begin();
  last().give("finalized", "g.3", { status: "success" });
  assert.deepEqual(heard.ends, [{ status: "success", text: "of a" }]);
});

for (const how of ["cut", "refuse"]) {
  test(`a conversation's stream that broke (${how}) is followed at its run's own address`, async () => {
    answers["GET /chat/runs/a"] = running;
    follow("/chat/conversations/c/stream?token=t");
    begin();
    answers["GET /chat/runs/a?token=t"] = running;
    last()[how]();
    assert.equal(sources[0].readyState, 2, "the browser does not come back to the conversation");
    await settled();
    timers.at(-1).call();
    assert.equal(pathOf(last()), "/chat/runs/a/stream");
    assert.equal(new URL(last().url).search, "?token=t&last_event_id=g.2");
  });
}

test("after a drop a conversation's stream is resumed at its run's own address", () => {
  const { follower } = follow("/chat/conversations/c/stream");
  begin();
  follower.drop();
  follower.resume();
  assert.equal(pathOf(last()), "/chat/runs/a/stream");
});

test("a second run on the same stream begins a state of its own", () => {
  const { follower } = follow("/my/own/address");
  begin("a");
  begin("b"); // with the same ids: they are unique within a run
  assert.equal(follower.state.run_id, "b");
  assert.equal(textOf(follower.state), "of b");
});

test("all pages of a conversation are read, in their order", async () => {
  answers["GET /chat/conversations/c/messages"] = json(200, { messages: [1, 2], next: "m 2" });
  answers["GET /chat/conversations/c/messages?after=m+2"] = json(200, { messages: [3], next: "m3" });
  answers["GET /chat/conversations/c/messages?after=m3"] = json(200, { messages: [4], next: null });
  const read = [];
  for await (const message of history("/chat/conversations/c/messages")) read.push(message);
  assert.deepEqual(read, [1, 2, 3, 4]);
});

test("what goes wrong with a request is said in a sentence", async () => {
  answers = { "GET /busy": json(409, { error: { message: "It is being answered." } }), "GET /proxy": html(502), "GET /odd": html(200) };
  await assert.rejects(request("/busy"), { message: "It is being answered.", status: 409 });
  await assert.rejects(request("/proxy"), { message: /^The server could not answer \(502\)/, status: 502 });
  await assert.rejects(request("/odd"), { message: /^The server could not answer \(200\)/ });
  await assert.rejects(request("/away"), { message: /^The server cannot be reached/ });
});
