// The Vercel AI SDK's chat, without React, through every scenario: `config.package` is the version under test.
import { resumingFetch } from "../../examples/vercel_page/resuming-fetch.mjs";
import { answer, ask, config, runAll, until } from "./harness.mjs";

const ai = await import(config.package);
const { AbstractChat, DefaultChatTransport } = ai;
const major = Number(config.version.split(".")[0]);
const complete = [
  ai.lastAssistantMessageIsCompleteWithToolCalls,
  ai.lastAssistantMessageIsCompleteWithApprovalResponses,
].filter(Boolean);

class State {
  status = "ready";
  error = undefined;
  messages;
  constructor(messages) { this.messages = messages; }
  pushMessage = (message) => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (index, message) => {
    this.messages = [...this.messages.slice(0, index), this.snapshot(message), ...this.messages.slice(index + 1)];
  };
  snapshot = (thing) => structuredClone(thing);
}

class Chat extends AbstractChat {
  constructor({ messages = [], ...options }) {
    super({ ...options, state: new State(messages) });
  }
}

let numbered = 0;

/** A page with a chat: `cut(url)` gives the number of frames after which a response's connection breaks, if it does. */
function page({ id = `${config.package}-${config.run}-${++numbered}`, messages, cut = () => undefined, wrap = (fetch) => fetch, ...options } = {}) {
  const heard = { data: [], errors: [], requests: [] };
  const transport = new DefaultChatTransport({
    api: `${config.url}/vercel`,
    headers: { "X-AI-SDK-Version": config.version },
    fetch: wrap(async (url, init) => {
      const response = await fetch(url, init);
      heard.requests.push({ method: init?.method ?? "GET", status: response.status });
      const frames = cut(String(url));
      if (frames === undefined || response.body === null) return response;
      return new Response(broken(response.body, frames), response);
    }),
  });
  const chat = new Chat({
    id, transport, messages,
    onData: (part) => heard.data.push(part),
    onError: (error) => heard.errors.push(String(error)),
    sendAutomaticallyWhen: (state) => complete.some((holds) => holds(state)),
    ...options,
  });
  return { chat, heard, id };
}

/** Pass `frames` frames on, then break as a browser's connection does. */
function broken(body, frames) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const encoder = new TextEncoder();
  let left = frames, rest = "";
  return new ReadableStream({
    async pull(controller) {
      for (;;) {
        const end = rest.indexOf("\n\n");
        if (end >= 0) {
          if (left === 0) {
            await reader.cancel();
            controller.error(new TypeError("network error"));
            return;
          }
          const frame = rest.slice(0, end + 2);
          rest = rest.slice(end + 2);
          if (!frame.startsWith(":")) left -= 1;
          controller.enqueue(encoder.encode(frame));
          return;
        }
        const { done, value } = await reader.read();
        if (done) { controller.close(); return; }
        rest += decoder.decode(value, { stream: true });
      }
    },
  });
}

const idle = (chat) => until(() => chat.status === "ready" || chat.status === "error", "the chat to be idle");

function report({ chat, heard, id }, more = {}) {
  const last = chat.messages.at(-1);
  return {
    id, status: chat.status, message: last ?? null, roles: chat.messages.map((message) => message.role),
    data: heard.data, errors: heard.errors, requests: heard.requests, ...more,
  };
}

const calls = (message) => message.parts.filter((part) => part.toolCallId !== undefined);
const ended = (chat) => chat.messages.at(-1)?.metadata?.status;

async function say(text) {
  const made = page();
  await made.chat.sendMessage({ text });
  await idle(made.chat);
  return made;
}

/** Decide on the call that waits, in the way that this version has. */
async function decide(made, approved, edited) {
  const { chat } = made;
  const asked = major === 5
    ? chat.messages.at(-1).parts.find((part) => part.type === "data-tool-approval").data
    : calls(chat.messages.at(-1)).find((part) => part.state === "approval-requested");
  const reason = approved ? undefined : "Rather not.";
  const approvals = [{ toolCallId: asked.toolCallId, approved, reason, ...(edited ? { arguments: edited } : {}) }];
  if (major === 5) {
    await chat.sendMessage(undefined, { body: { approvals } });
  } else {
    const options = edited ? { options: { body: { approvals } } } : {};
    await chat.addToolApprovalResponse({ id: asked.approval.id, approved, reason, ...options });
  }
  await until(() => ended(chat) === "success" || chat.status === "error", "the end of the run");
  await idle(chat);
  return report(made);
}

async function held(pieces, options = {}) {
  const made = page(options);
  const name = made.id;
  const sending = made.chat.sendMessage({ text: `hold:${name}:${pieces}` });
  await ask("GET", `/test/reached/${name}`);
  return { ...made, sending, release: () => ask("POST", `/test/release/${name}`) };
}

const simple = (text) => async () => report(await say(text));

const scenarios = {
  text: simple("text"),
  reasoning: simple("reasoning"),
  parallel: simple("parallel"),
  "tool-error": simple("tool-error"),
  "unknown-tool": simple("unknown-tool"),
  "invalid-json": simple("invalid-json"),
  "error-before": simple("error-before"),
  "error-mid": simple("error-mid"),
  refused: async () => report(await say("x".repeat(300_000))),

  async progress() {
    const made = page();
    const { chat, id } = made;
    const sending = chat.sendMessage({ text: `progress:${id}` });
    const told = () => calls(chat.messages.at(-1) ?? { parts: [] }).find((part) => part.preliminary)?.output;
    await until(() => told()?.fraction === 1, "the progress");
    const seen = told();
    await ask("POST", `/test/release/${id}`);
    await sending;
    return report(made, { seen });
  },

  // The first connection breaks while a tool is at work; some pages then send their half by themselves.
  async "tool-drop"() {
    let drop, open = true;
    const dropped = new Promise((_, reject) => { drop = () => reject(new TypeError("network error")); });
    dropped.catch(() => {});
    const wrap = (fetch) => async (url, init) => {
      const response = await fetch(url, init);
      if (!open) return response;
      open = false;
      const reader = response.body.getReader();
      return new Response(new ReadableStream({
        async pull(controller) {
          const { done, value } = await Promise.race([dropped, reader.read()]);
          if (done) controller.close(); else controller.enqueue(value);
        },
      }), response);
    };
    const made = page({ wrap });
    const { chat, heard, id } = made;
    const sending = chat.sendMessage({ text: `progress:${id}` });
    await until(() => calls(chat.messages.at(-1) ?? { parts: [] }).some((part) => part.output?.fraction === 1), "the progress");
    drop();
    await until(() => heard.errors.length > 0, "the break");
    await until(() => heard.requests.length > 1 || chat.status === "error", "what the page does");
    const alone = heard.requests.length > 1;
    const back = alone ? made : page({ id, messages: chat.messages.slice(0, 1) });
    const resuming = alone ? undefined : back.chat.resumeStream();
    await until(() => back.chat.messages.length > 1, "the replay");
    await ask("POST", `/test/release/${id}`);
    await Promise.all([sending, resuming]);
    await idle(back.chat);
    return report(back, { alone });
  },

  "approval-yes": async () => decide(await say("approval"), true),
  "approval-no": async () => decide(await say("approval"), false),
  "approval-edited": async () => decide(await say("approval"), true, { path: "b.txt" }),

  async "client-tool"() {
    const made = await say("client-tool");
    const { chat } = made;
    const [call] = calls(chat.messages.at(-1));
    const give = chat.addToolOutput ?? chat.addToolResult;
    await give({ tool: "locate", toolCallId: call.toolCallId, output: { lat: 1.5 } });
    await until(() => ended(chat) === "success" || chat.status === "error", "the end of the run");
    await idle(chat);
    return report(made);
  },

  async cancel() {
    const made = await held(2);
    const stopped = await ask("POST", `/vercel/${made.id}/stop`);
    await made.sending;
    return report(made, { stopped: stopped.status });
  },

  // From elsewhere: the page reads on to the end, and what it shows is then complete.
  async "cancel-tool"() {
    const made = page();
    const sending = made.chat.sendMessage({ text: `slow:${made.id}` });
    await ask("GET", `/test/reached/${made.id}`);
    await until(() => calls(made.chat.messages.at(-1) ?? { parts: [] }).length > 0, "the call");
    const stopped = await ask("POST", `/vercel/${made.id}/stop`);
    await sending;
    await until(() => made.heard.requests.length > 1, "the request that the page sends by itself");
    await idle(made.chat);
    const { body } = await ask("GET", `/vercel/${made.id}/messages?target=v${major}`);
    return report(made, { stopped: stopped.status, opened: body.messages.at(-1) });
  },

  async "second-turn"() {
    const made = await say("text");
    await made.chat.sendMessage({ text: "parallel" });
    await idle(made.chat);
    return report(made);
  },

  // What the server stores of every kind of end is a valid message.
  async "open-all"() {
    const ends = [await say("tool-error"), await say("unknown-tool"), await say("invalid-json"), await say("reasoning")];
    for (const approved of [true, false]) {
      const made = await say("approval");
      await decide(made, approved);
      ends.push(made);
    }
    const compared = [];
    for (const { id, chat } of ends) {
      const { body } = await ask("GET", `/vercel/${id}/messages?target=v${major}`);
      if (ai.validateUIMessages) await ai.validateUIMessages({ messages: body.messages });
      compared.push({ was: chat.messages.at(-1), opened: body.messages.at(-1) });
    }
    return report(ends.at(-1), { compared });
  },

  // A page that opens with the messages as the server has them, and goes on.
  async "open-again"() {
    const made = await say("story");
    const { body } = await ask("GET", `/vercel/${made.id}/messages?target=v${major}`);
    if (ai.validateUIMessages) await ai.validateUIMessages({ messages: body.messages });
    const again = page({ id: made.id, messages: body.messages });
    await again.chat.sendMessage({ text: "text" });
    await idle(again.chat);
    return report(again, { was: made.chat.messages.at(-1), opened: body.messages.at(-1) });
  },

  // The recipe for a page that opens: what is stored, and resuming where the last word is the user's.
  async "open-resume"() {
    const opened = async (id) => {
      const { body } = await ask("GET", `/vercel/${id}/messages?target=v${major}`);
      const made = page({ id, messages: body.messages });
      const resuming = body.messages.at(-1).role === "user" ? made.chat.resumeStream() : undefined;
      return { ...made, resuming, count: body.messages.length };
    };
    const over = await opened((await say("story")).id);
    const always = page({ id: over.id, messages: over.chat.messages });
    await always.chat.resumeStream();
    await idle(always.chat);
    const first = await held(2);
    const { id, chat } = first;
    await until(() => chat.messages.length > 1, "the answer");
    const live = await opened(id);
    await until(() => live.chat.messages.length > 1, "the replay");
    await first.release();
    await Promise.all([live.resuming, first.sending]);
    await idle(live.chat);
    return report(live, { over: report(over), always: report(always), counts: [over.count, live.count] });
  },

  async regenerate() {
    const made = await say("text");
    const before = made.chat.messages.at(-1).id;
    await made.chat.regenerate();
    await idle(made.chat);
    return report(made, { before });
  },

  async edit() {
    const made = await say("text");
    await made.chat.sendMessage({ text: "parallel", messageId: made.chat.messages[0].id });
    await idle(made.chat);
    return report(made);
  },

  async retraction() {
    const made = page();
    await made.chat.sendMessage({ text: `reset:${made.id}` });
    await idle(made.chat);
    const first = report(made);
    if (made.chat.status === "error") {
      made.chat.messages = made.chat.messages.slice(0, 1);
      await made.chat.resumeStream();
      await idle(made.chat);
    }
    return report(made, { first });
  },

  // A step is withdrawn, and then the connection breaks: after the replay, or behind what was taken back.
  async "retraction-drop"() {
    let gets = 0;
    const cut = (url) => (!url.endsWith("/stream") ? (major < 7 ? undefined : 7) : gets++ === 0 ? 4 : undefined);
    const made = page({ wrap: survives, cut });
    const { chat, id } = made;
    let reading = chat.sendMessage({ text: `reset-hold:${id}` });
    await ask("GET", `/test/reached/${id}`);
    if (major < 7) {
      await reading;
      chat.messages = chat.messages.slice(0, 1);
      reading = chat.resumeStream();
      await until(() => chat.messages.at(-1).parts.some((part) => part.text?.startsWith("Hello")), "the replay");
    }
    await ask("POST", `/test/release/${id}`);
    await reading;
    await idle(chat);
    return report(made, { gets });
  },

  async "resume-nothing"() {
    const made = page();
    await made.chat.resumeStream();
    return report(made);
  },

  // The server ends each stream in between events; the page is not to notice.
  async "sent-away"() {
    const made = await held(3, { wrap: survives });
    await until(() => made.heard.requests.length > 1, "the next connection");
    await made.release();
    await made.sending;
    return report(made);
  },

  // The run goes on while the page is away, and is over or not when it is back.
  async "resume-live"() {
    let open = true;
    const made = await held(3, { cut: (url) => (open && !url.endsWith("/stream") ? 4 : undefined) });
    await made.sending;
    open = false;
    const again = page({ id: made.id, messages: made.chat.messages.slice(0, 1) });
    const resuming = again.chat.resumeStream();
    await until(() => again.chat.messages.length > 1, "the replay");
    await made.release();
    await resuming;
    return report(again, { dropped: made.heard.errors });
  },
};

const survives = (fetch) => resumingFetch({ fetch, pause: () => 1 });

/** Break each connection after every number of frames in turn, and go on in each of the ways that there are. */
async function boundaries() {
  const results = [];
  for (const mode of ["same tab", "reload", "resumingFetch"]) {
    for (let frames = config.first; ; frames += config.every) {
      let open = true;
      const wrap = mode === "resumingFetch" ? survives : undefined;
      let gets = 0;
      // Behind `resumingFetch` the first connection that goes on breaks as well.
      const cut = (url) => (open && (!url.endsWith("/stream") || (wrap !== undefined && gets++ === 0)) ? frames : undefined);
      const made = page({ cut, wrap });
      await made.chat.sendMessage({ text: "story" });
      const whole = made.heard.requests.length === 1 && made.chat.status === "ready";
      open = false;
      let back = made;
      if (mode === "reload" && !whole) {
        back = page({ id: made.id, messages: made.chat.messages.slice(0, config.keep_partial ? undefined : 1) });
      }
      if (back !== made || made.chat.status !== "ready") await back.chat.resumeStream();
      await idle(back.chat);
      results.push({ mode, frames, whole, ...report(back) });
      if (whole) break;
    }
  }
  return results;
}

answer(config.boundaries ? await boundaries() : await runAll(scenarios, config.scenarios));
