// OpenAI's client reads responses that were recorded: `config.file` holds the body of each.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

import { answer, config } from "./harness.mjs";

const bodies = JSON.parse(readFileSync(config.file, "utf-8"));
let body;
const fetch = async () => new Response(body, { headers: { "content-type": "text/event-stream" } });
const client = new OpenAI({ baseURL: "http://test/v1", apiKey: "key", maxRetries: 0, fetch });

const ends = [];
for (body of bodies) {
  const got = { fields: {}, calls: [], finish: null, usage: null, code: null };
  try {
    for await (const chunk of await client.chat.completions.create({ model: "agent", messages: [], stream: true })) {
      got.usage = chunk.usage ?? got.usage;
      for (const { delta, finish_reason } of chunk.choices) {
        got.finish = finish_reason ?? got.finish;
        for (const name of ["content", "refusal", "reasoning_content"])
          got.fields[name] = (got.fields[name] ?? "") + (delta[name] ?? "");
        for (const call of delta.tool_calls ?? [])
          got.calls[call.index] = (got.calls[call.index] ?? "") + call.function.arguments;
      }
    }
  } catch (error) {
    got.code = error.code ?? String(error);
  }
  ends.push(got);
}
answer(ends);
