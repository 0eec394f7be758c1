// CopilotKit: its core, as a page uses it, over its runtime, whose agent is a streamchat server.
import { createServer } from "node:http";
import { answer, ask, config, runAll, until } from "./harness.mjs";

process.env.COPILOTKIT_TELEMETRY_DISABLED = "true";
process.env.DO_NOT_TRACK = "1";
process.on("unhandledRejection", () => {});
console.error = console.warn = console.info = () => {};
globalThis.window = globalThis; // (the core connects only in a page)

const { HttpAgent } = await import("@ag-ui/client");
const { CopilotRuntime, InMemoryAgentRunner } = await import("@copilotkit/runtime/v2");
const { createCopilotNodeListener } = await import("@copilotkit/runtime/v2/node");
const { CopilotKitCore } = await import("@copilotkit/core");

const basePath = "/api/copilotkit";
const agents = { default: new HttpAgent({ url: `${config.url}/ag-ui` }) };
const runtime = new CopilotRuntime({ agents, runner: new InMemoryAgentRunner() });
const server = createServer(createCopilotNodeListener({ runtime, basePath }));
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));

// One response can be cut off: that of the runtime to the page ("/run"), or the server's ("/ag-ui"). Where `cut` says so it fails
// after `frames` frames, else once it has said something that `shown()` tells of.
let cut = null;
const plainFetch = globalThis.fetch;
globalThis.fetch = async (url, init) => {
  const response = await plainFetch(url, init);
  if (cut === null || !String(url?.url ?? url).endsWith(cut.where)) return response;
  const { shown, frames, seen } = cut;
  cut = null;
  const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [text, passed, said] = ["", 0, false];
  const body = new ReadableStream(
    {
      async pull(controller) {
        for (;;) {
          if (said || passed === frames) {
            if (shown) await until(shown, "the half to be shown");
            if (seen) seen.cut = true;
            await pieces.cancel();
            return controller.error(new TypeError("network error"));
          }
          const end = text.indexOf("\n\n");
          if (end >= 0) {
            const frame = text.slice(0, end + 2);
            text = text.slice(end + 2);
            passed += 1;
            said = shown !== undefined && frame.includes("TEXT_MESSAGE_CONTENT");
            return controller.enqueue(new TextEncoder().encode(frame));
          }
          const { done, value } = await pieces.read();
          if (done) return controller.close();
          text += value;
        }
      },
    },
    { highWaterMark: 0 },
  );
  return new Response(body, { status: response.status, headers: response.headers });
};

const handled = [];
const located = [];
let refusing = false;
const failures = [];
const core = new CopilotKitCore({
  runtimeUrl: `http://127.0.0.1:${server.address().port}${basePath}`,
  tools: [
    {
      name: "nonsense",
      description: "Of the page.",
      handler: async (args) => {
        handled.push(args);
        return "painted";
      },
    },
    {
      name: "locate",
      description: "The application's own, which the page carries out.",
      handler: async (args) => {
        located.push(args);
        if (refusing) throw new Error("no leave to look");
        return { latitude: 1.5 };
      },
    },
  ],
});
await until(() => core.runtimeConnectionStatus === "connected", "the runtime");

core.subscribe({ onError: ({ code, error }) => void failures.push({ code, message: String(error?.message ?? error) }) });

function agentFor(scenario, threadId, had) {
  const agent = core.getAgent("default").clone();
  agent.threadId = threadId ?? `copilotkit-${scenario.replaceAll(":", "-")}`;
  agent.setMessages(had ?? [{ id: `user-${agent.threadId}`, role: "user", content: scenario }]);
  return agent;
}

async function run(agent) {
  const told = {};
  const { unsubscribe } = agent.subscribe({
    onRunStartedEvent: ({ event }) => void (told.runId = event.metadata?.streamchat?.runId),
    onRunErrorEvent: ({ event }) => void (told.error = event),
  });
  await core.runAgent({ agent });
  unsubscribe();
  return told;
}

function state(agent, told) {
  return { threadId: agent.threadId, messages: agent.messages, error: told.error ?? null, handled, located };
}

async function once(scenario) {
  const agent = agentFor(scenario);
  return state(agent, await run(agent));
}

async function decide(payload) {
  const agent = agentFor("approval", `copilotkit-approval-${Object.keys(payload).join("-")}`);
  await run(agent);
  const resume = agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, status: "resolved", payload }));
  await agent.runAgent({ resume });
  return { ...state(agent, {}), asked: resume.length };
}

async function cutOff(where, comeBack) {
  const name = `copilotkit-cut-${where.slice(1)}`;
  const agent = agentFor(`hold:${name}:2`);
  failures.length = 0;
  cut = { where, shown: () => said(agent) !== "" };
  await run(agent);
  const half = said(agent);
  const seen = [...failures];
  await ask("POST", `/test/release/${name}`);
  await comeBack(agent);
  return { ...state(agent, {}), half, failures: seen };
}

/** Cut each scenario off after each number of frames, come back, and tell what the page has then. */
async function cutEverywhere(where, comeBack) {
  const ends = [];
  for (const scenario of config.cut ?? []) {
    for (let frames = 0, seen = { cut: true }; seen.cut; frames += 1) {
      seen = { cut: false };
      const name = `copilotkit${where.replace("/", "-")}-${frames}`;
      const agent = agentFor(scenario.replace("*", name), `${name}-${scenario.replace(/\W/g, "")}`);
      cut = { where, frames, seen };
      let told = await run(agent);
      cut = null;
      if (seen.cut) told = await comeBack(agent);
      ends.push({ scenario, frames, cut: seen.cut, ...state(agent, told ?? {}) });
    }
  }
  return ends;
}

const said = ({ messages }) => messages.map(({ role, content }) => (role === "assistant" ? content : "")).join("");

const scenarios = {
  text: () => once("hello"),
  reasoning: () => once("reasoning"),
  parallel: () => once("parallel"),
  toolError: () => once("tool-error"),
  progress: () => once("progress"),
  declaredTool: () => once("unknown-tool"),
  errorMid: () => once("error-mid"),
  reset: () => once("reset:copilotkit"),
  approvalYes: () => decide({ approved: true }),
  approvalNo: () => decide({ approved: false, reason: "Not that one." }),
  approvalEdited: () => decide({ approved: true, editedArgs: { path: "b.txt" } }),
  pageTool: () => once("client-tool"),
  async pageToolError() {
    refusing = true;
    const agent = agentFor("client-tool", "copilotkit-refusing");
    await run(agent);
    refusing = false;
    return state(agent, await run(agent)); // (it does not ask by itself then)
  },
  errorBefore: () => once("error-before"),
  async refused() {
    failures.length = 0;
    const agent = agentFor("", "copilotkit-refused", [{ id: "nothing", role: "user", content: "" }]);
    const told = await run(agent);
    return { ...state(agent, told), failures: [...failures] };
  },
  sameTab: () => cutOff("/run", (agent) => core.connectAgent({ agent })),
  serverCut: () => cutOff("/ag-ui", (agent) => run(agent)),
  sameTabEverywhere: () => cutEverywhere("/run", (agent) => core.connectAgent({ agent })),
  serverCutEverywhere: () => cutEverywhere("/ag-ui", (agent) => run(agent)),
  async twoTurns() {
    const agent = agentFor("hello", "copilotkit-two");
    await run(agent);
    agent.addMessage({ id: "second", role: "user", content: "reasoning" });
    return state(agent, await run(agent));
  },
  async reloaded() {
    const first = agentFor("parallel", "copilotkit-reloaded");
    await run(first);
    const agent = agentFor("", first.threadId, []);
    await core.connectAgent({ agent });
    return state(agent, {});
  },
  async cancel() {
    const name = "copilotkit";
    const agent = agentFor(`hold:${name}:2`);
    const told = {};
    agent.subscribe({ onRunStartedEvent: ({ event }) => void (told.runId = event.metadata?.streamchat?.runId) });
    const running = core.runAgent({ agent });
    await ask("GET", `/test/reached/${name}`);
    await until(() => told.runId !== undefined, "the run's id");
    await ask("POST", `/runs/${told.runId}/cancel`);
    await running;
    return state(agent, told);
  },
};

answer(await runAll(scenarios, config.scenarios));
