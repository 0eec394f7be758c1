// `HttpAgent` over recorded responses: what it makes of each, and every complaint of its own.
import { readFileSync } from "node:fs";
import { answer, config } from "./harness.mjs";

process.on("unhandledRejection", () => {});
console.error = () => {};
const { HttpAgent } = await import(config.package);

const ends = [];
for (const { body, had } of JSON.parse(readFileSync(config.file, "utf8"))) {
  const warnings = [];
  console.warn = (text) => void warnings.push(String(text));
  const agent = new HttpAgent({
    url: "http://recorded/",
    threadId: "t1",
    initialMessages: had,
    fetch: async () => new Response(body, { headers: { "content-type": "text/event-stream" } }),
  });
  let rejected = null;
  try {
    await agent.runAgent({ runId: "r1" });
  } catch (error) {
    rejected = String(error?.message ?? error);
  }
  ends.push({ messages: agent.messages, interrupts: agent.pendingInterrupts, rejected, warnings });
}
answer(ends);
