// AG-UI's own client, `HttpAgent` of `config.package`, through every scenario. Each returns what a page would have in the end.
import { answer, ask, config, runAll, until } from "./harness.mjs";

// (A response that is cut off makes this client's own cleanup reject, where nobody can catch it.)
process.on("unhandledRejection", () => {});
console.error = console.warn = () => {};

const { HttpAgent } = await import(config.package);

let threads = 0;

/** An agent on a thread of its own, which asks for a scenario; `had` are messages that it has already. */
function agentFor(scenario, options = {}) {
  threads += 1;
  const threadId = options.threadId ?? `${config.prefix}-${threads}`;
  return new HttpAgent({
    url: `${config.url}/ag-ui`,
    threadId,
    initialMessages: options.had ?? [{ id: `user-${threadId}`, role: "user", content: scenario }],
    fetch: options.fetch,
  });
}

/** Run once and tell what came of it, whether it is resolved or rejected. */
async function run(agent, parameters = {}) {
  const told = { activities: [], customs: [], types: [] };
  const subscriber = {
    onEvent: ({ event }) => void told.types.push(event.type),
    onRunStartedEvent: ({ event }) => void (told.runId = event.metadata?.streamchat?.runId),
    onRunErrorEvent: ({ event }) => void (told.error = event),
    onRunFinishedEvent: (end) => void (told.end = end),
    onCustomEvent: ({ event }) => void told.customs.push(event.name),
    onActivitySnapshotEvent: ({ event }) => void told.activities.push(event.content),
    ...parameters.subscriber,
  };
  try {
    await agent.runAgent(parameters, subscriber);
  } catch (error) {
    told.rejected = { message: String(error?.message ?? error), status: error?.status ?? null };
  }
  return told;
}

/** What a page would have, and how the last run ended. */
function state(agent, told) {
  return {
    threadId: agent.threadId,
    messages: agent.messages,
    state: agent.state,
    runId: told.runId ?? null,
    outcome: told.error ? "error" : (told.end?.outcome ?? null),
    error: told.error ?? null,
    rejected: told.rejected ?? null,
    pending: told.end?.pendingToolCallIds ?? [],
    interrupts: agent.pendingInterrupts.length,
    customs: told.customs,
    activities: told.activities,
    types: told.types,
  };
}

async function once(scenario, parameters) {
  const agent = agentFor(scenario);
  return state(agent, await run(agent, parameters));
}

async function decide(payload, status = "resolved") {
  const agent = agentFor("approval");
  await run(agent);
  const asked = agent.pendingInterrupts.map(({ id, reason, toolCallId, message }) => ({ id, reason, toolCallId, message }));
  const resume = asked.map(({ id }) => ({ interruptId: id, status, ...(payload === undefined ? {} : { payload }) }));
  const told = await run(agent, { resume });
  return { ...state(agent, told), asked };
}

async function pageTool(scenario, content, parameters) {
  const agent = agentFor(scenario);
  const first = await run(agent, parameters);
  // (0.0 does not tell which calls are the page's: those of its tools that have no result)
  const results = new Set(agent.messages.filter(({ role }) => role === "tool").map(({ toolCallId }) => toolCallId));
  const calls = agent.messages.flatMap(({ toolCalls }) => toolCalls ?? []).map(({ id }) => id);
  if (!first.end) throw new Error(JSON.stringify(first.rejected));
  const pending = first.end.pendingToolCallIds ?? calls.filter((id) => !results.has(id));
  for (const toolCallId of pending) {
    agent.addMessage({ id: `result-${toolCallId}`, role: "tool", toolCallId, content });
  }
  return { ...state(agent, await run(agent, parameters)), asked: pending };
}

// Being cut off.

/** A fetch of which one response ends in a network failure, when `frames` frames have come of all; `seen` says whether it did. */
function cutting(frames, seen) {
  let left = frames;
  return async (url, init) => {
    const response = await fetch(url, init);
    if (seen.cut || !response.ok) return response;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    const body = new ReadableStream({
      async pull(controller) {
        for (;;) {
          if (left === 0) {
            seen.cut = true;
            await reader.cancel();
            return controller.error(new TypeError("network error"));
          }
          const end = text.indexOf("\n\n");
          if (end >= 0) {
            left -= 1;
            controller.enqueue(new TextEncoder().encode(text.slice(0, end + 2)));
            text = text.slice(end + 2);
            return;
          }
          const { done, value } = await reader.read();
          if (done) return controller.close();
          text += value;
        }
      },
    });
    return new Response(body, { status: response.status, headers: response.headers });
  };
}

/** What the page answers with to what a run waits for: the next run's parameters, or null where it waits for nothing. */
function answersOf(agent, told) {
  const resume = agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, status: "resolved", payload: { approved: true } }));
  if (resume.length > 0) return { resume };
  const results = new Set(agent.messages.filter(({ role }) => role === "tool").map(({ toolCallId }) => toolCallId));
  const calls = agent.messages.flatMap(({ toolCalls }) => toolCalls ?? []).filter(({ id }) => !results.has(id));
  if (told.error || calls.length === 0) return null;
  for (const { id } of calls) agent.addMessage({ id: `result-${id}`, role: "tool", toolCallId: id, content: '{"latitude":1.5}' });
  return {};
}

/** Cut a scenario, of one run or several, off after each number of frames, come back by `comeBack`, and tell what the page has then. */
async function cutEverywhere(scenario, comeBack, every) {
  const ends = [];
  for (let frames = 0; ; frames += every) {
    const seen = { cut: false };
    // (a scenario that fails once does so for each name)
    let agent = agentFor(scenario.replace("*", `${config.prefix}-${comeBack.name}-${frames}`), { fetch: cutting(frames, seen) });
    const first = `run-${agent.threadId}`;
    let cameBack = false;
    let told = {};
    for (let asked = { runId: first }, runs = 1; asked !== null; asked = answersOf(agent, told), runs += 1) {
      asked.runId ??= `${first}-${runs}`;
      told = await run(agent, asked);
      if (seen.cut && !cameBack) ({ agent, told } = await comeBack(agent, asked, first));
      cameBack = seen.cut;
    }
    ends.push({ frames, cut: seen.cut, ...state(agent, told), types: [] });
    if (!seen.cut) return ends;
  }
}

async function sameTab(agent, asked) {
  return { agent, told: await run(agent, asked) };
}

async function sameTabNewRun(agent, asked) {
  return { agent, told: await run(agent, { ...asked, runId: undefined }) };
}

async function reloaded(agent, asked, runId) {
  // The page has kept nothing but what the user wrote, and as which run.
  const other = agentFor("", { threadId: agent.threadId, had: agent.messages.filter(({ role }) => role === "user") });
  return { agent: other, told: await run(other, { runId }) };
}

async function reloadedWithAll(agent) {
  const other = agentFor("", { threadId: agent.threadId, had: agent.messages });
  return { agent: other, told: await run(other) };
}

const every = config.every ?? 1;
const comingBack = { sameTab, sameTabNewRun, reloaded, reloadedWithAll };

const scenarios = {
  text: () => once("hello"),
  reasoning: () => once("reasoning"),
  parallel: () => once("parallel"),
  toolError: () => once("tool-error"),
  progress: () => once("progress"),
  unknownTool: () => once("unknown-tool"),
  invalidJson: () => once("invalid-json"),
  approvalYes: () => decide({ approved: true }),
  approvalNo: () => decide({ approved: false, reason: "Not that one." }),
  approvalEdited: () => decide({ approved: true, editedArgs: { path: "b.txt" } }),
  approvalCancelled: () => decide(undefined, "cancelled"),
  pageTool: () => pageTool("client-tool", JSON.stringify({ latitude: 1.5 })),
  declaredTool: () =>
    pageTool("unknown-tool", "painted", {
      tools: [{ name: "nonsense", description: "Of the page.", parameters: { type: "object", properties: {} } }],
    }),
  errorBefore: () => once("error-before"),
  errorMid: () => once("error-mid"),
  reset: () => once(`reset:${config.prefix}`),
  async twoTurns() {
    const agent = agentFor("hello");
    await run(agent);
    agent.addMessage({ id: "second", role: "user", content: "reasoning" });
    return state(agent, await run(agent));
  },
  async cancel() {
    const name = `${config.prefix}-cancel`;
    const agent = agentFor(`hold:${name}:2`);
    let runId;
    const running = run(agent, {
      subscriber: { onRunStartedEvent: ({ event }) => void (runId = event.metadata.streamchat.runId) },
    });
    await ask("GET", `/test/reached/${name}`);
    await until(() => runId !== undefined, "the run's id");
    await ask("POST", `/runs/${runId}/cancel`);
    const told = await running;
    return state(agent, { ...told, runId });
  },
  async leaves() {
    const name = `${config.prefix}-leaves`;
    const agent = agentFor(`hold:${name}:2`);
    const running = run(agent);
    await ask("GET", `/test/reached/${name}`);
    await until(() => agent.messages.at(-1).role === "assistant" && agent.messages.at(-1).content, "the half to be shown");
    agent.abortRun();
    const left = await running;
    const half = agent.messages.at(-1).content;
    await ask("POST", `/test/release/${name}`);
    return { ...state(agent, await run(agent)), half, left: left.types.at(-1) };
  },
  async busy() {
    const name = `${config.prefix}-busy`;
    const agent = agentFor(`hold:${name}:2`);
    const running = run(agent);
    await ask("GET", `/test/reached/${name}`);
    const other = agentFor("", { threadId: agent.threadId, had: [{ id: "other", role: "user", content: "hello" }] });
    const told = await run(other);
    await ask("POST", `/test/release/${name}`);
    await running;
    return state(other, told);
  },
  ...Object.fromEntries(
    Object.entries(comingBack).map(([name, comeBack]) => [
      name,
      async () => {
        const ends = [];
        for (const scenario of config.cut ?? ["hello"]) {
          for (const end of await cutEverywhere(scenario, comeBack, every)) ends.push({ scenario, ...end });
        }
        return ends;
      },
    ]),
  ),
};

answer(await runAll(scenarios, config.scenarios));
