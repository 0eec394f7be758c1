// OpenAI's own client for JavaScript against /v1: each scenario is asked for as a stream and as a whole.
import OpenAI from "openai";

import { answer, ask, config, runAll } from "./harness.mjs";

const model = "agent";
const tools = [{ type: "function", function: { name: "locate", parameters: { type: "object", properties: {} } } }];

const make = (options = {}) =>
  new OpenAI({ baseURL: `${config.url}/v1`, apiKey: "key", maxRetries: 0, ...options });
const client = make();

const told = (error) => ({ code: error.code ?? null, status: error.status ?? null, message: error.message });

/** Read a stream as a page does: all that came, and how it ended. */
async function read(request, options = {}, using = client, whenBegun) {
  const got = { text: "", reasoning: "", calls: [], finish: null, usage: null, error: null, runId: null };
  try {
    const { data, response } = await using.chat.completions
      .create({ model, stream: true, stream_options: { include_usage: true }, ...request }, options)
      .withResponse();
    got.runId = response.headers.get("x-run-id");
    await whenBegun?.(got, data);
    for await (const chunk of data) {
      got.usage = chunk.usage ?? got.usage;
      for (const choice of chunk.choices) {
        got.text += choice.delta.content ?? "";
        got.reasoning += choice.delta.reasoning_content ?? "";
        got.calls.push(...(choice.delta.tool_calls ?? []));
        got.finish = choice.finish_reason ?? got.finish;
      }
    }
  } catch (error) {
    got.error = told(error);
  }
  return got;
}

async function whole(request, options = {}) {
  const got = { text: null, reasoning: "", calls: [], finish: null, usage: null, error: null, runId: null };
  try {
    const { data, response } = await client.chat.completions.create({ model, ...request }, options).withResponse();
    const [{ message, finish_reason }] = data.choices;
    got.runId = response.headers.get("x-run-id");
    Object.assign(got, { text: message.content, calls: message.tool_calls ?? [], finish: finish_reason });
    got.reasoning = message.reasoning_content ?? "";
    got.usage = data.usage;
    got.message = message;
  } catch (error) {
    got.error = told(error);
  }
  return got;
}

const user = (content) => ({ messages: [{ role: "user", content }] });
const both = (text) => async () => ({ stream: await read(user(text)), whole: await whole(user(`${text}`)) });

async function results(after) {
  const first = await whole({ ...user("client-tool"), tools });
  const messages = [
    ...user("client-tool").messages,
    first.message,
    ...first.calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: '{"latitude":1.5}' })),
  ];
  return { first, ...(await after({ messages, tools })) };
}

/** Somebody decides elsewhere while the stream is open. */
const approval = async (decision) => ({
  stream: await read(user("approval"), {}, client, async (got) => {
    let run;
    do {
      run = (await ask("GET", `/runs/${got.runId}`)).body;
    } while (run.status !== "suspended");
    await ask("POST", `/runs/${got.runId}/approvals`, { call_id: run.waits[0].call_id, ...decision });
  }),
});

/** A fetch whose response body fails after `frames` frames, as a connection that drops does. */
const cutAfter = (frames, seen) => async (url, init) => {
  const response = await fetch(url, init);
  if (!response.body) return response;
  let left = frames;
  const cut = new TransformStream({
    transform(chunk, control) {
      for (const frame of new TextDecoder().decode(chunk).split(/(?<=\n\n)/)) {
        if (left-- <= 0) {
          seen.cut = true;
          return control.error(new TypeError("fetch failed"));
        }
        control.enqueue(new TextEncoder().encode(frame));
      }
    },
  });
  return new Response(response.body.pipeThrough(cut), response);
};

const scenarios = {
  text: both("hello"),
  reasoning: both("reasoning"),
  parallel: both("parallel"),
  toolError: both("tool-error"),
  unknownTool: both("unknown-tool"),
  invalidJson: both("invalid-json"),
  progress: both("progress"),
  errorBefore: both("error-before"),
  errorMid: both("error-mid"),
  clientTool: () =>
    results(async (request) => ({ stream: await read(request), whole: await whole(request) })),
  forgedResult: () =>
    results(async ({ messages }) => {
      messages.at(-1).tool_call_id = "call_1";
      return { stream: await read({ messages }), whole: await whole({ messages }) };
    }),
  approvalYes: () => approval({ approved: true }),
  approvalNo: () => approval({ approved: false, reason: "Not that one." }),
  approvalEdited: () => approval({ approved: true, arguments: { path: "b.txt" } }),
  cancel: async () => ({
    stream: await read(user("hold:cancel"), {}, client, async (got) => {
      await ask("GET", "/test/reached/cancel");
      await ask("POST", `/runs/${got.runId}/cancel`);
    }),
  }),
  leaves: async () => ({
    stream: await read(user("hold:leaves"), {}, client, async (_, data) => {
      await ask("GET", "/test/reached/leaves");
      data.controller.abort();
      await ask("POST", "/test/release/leaves");
    }),
  }),
  busy: async () => {
    const headers = { "X-Conversation-Id": "js-busy" };
    const result = {};
    result.stream = await read(user("hold:busy"), { headers }, client, async () => {
      await ask("GET", "/test/reached/busy");
      result.whole = await whole(user("hello"), { headers });
      await ask("POST", "/test/release/busy");
    });
    return result;
  },
  twoTurns: async () => {
    const headers = { "X-Conversation-Id": "js-two" };
    const first = await whole(user("hello"), { headers });
    return { first, stream: await read(user("hello"), { headers }) };
  },
  reset: async () => ({ stream: await read(user("reset:js")), whole: await whole(user("reset:js-whole")) }),
  helper: async () => {
    const stream = client.chat.completions.stream({ model, ...user("hello") });
    const message = await stream.finalMessage();
    return { text: message.content };
  },
  models: async () => (await client.models.list()).data.map((each) => each.id),
  refused: async () => whole({ model: "other", ...user("hello") }),
  comesBack: async () => {
    const ends = [];
    for (const scenario of config.cut ?? ["parallel"]) {
      for (let frames = 0, cut = true; cut; frames += config.every ?? 1) {
        const name = `js-${scenario}-${frames}`.replaceAll("*", "x");
        const headers = { "Idempotency-Key": name };
        const request = scenario === "client-tool" ? await results(({ messages }) => ({ messages, tools })) : user(scenario.replace("*", name));
        delete request.first;
        const seen = { cut: false };
        const half = await read(request, { headers }, make({ fetch: cutAfter(frames, seen) }));
        cut = seen.cut;
        // (where something was withdrawn that had been said, the response ends by itself)
        if (cut || half.error?.code === "step_reset") ends.push({ scenario, frames, ...(await read(request, { headers })) });
      }
    }
    return ends;
  },
};

answer(await runAll(scenarios, config.scenarios));
