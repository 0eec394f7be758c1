// The AI SDK's chat reads responses that were recorded: `config.file` holds lists of bodies, one list for each message.
import { readFileSync } from "node:fs";
import { answer, config } from "./harness.mjs";

const { AbstractChat, DefaultChatTransport } = await import(config.package);

class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => { this.messages = [...this.messages, message]; };
  popMessage = () => { this.messages = this.messages.slice(0, -1); };
  replaceMessage = (index, message) => {
    this.messages = [...this.messages.slice(0, index), structuredClone(message), ...this.messages.slice(index + 1)];
  };
  snapshot = (thing) => structuredClone(thing);
}

class Chat extends AbstractChat {
  constructor(options) { super({ ...options, state: new State() }); }
}

const ends = [];
for (const bodies of JSON.parse(readFileSync(config.file, "utf-8"))) {
  const left = [...bodies], errors = [];
  const transport = new DefaultChatTransport({ api: "http://test/vercel", fetch: async () => new Response(left.shift()) });
  const chat = new Chat({ id: "chat", transport, onError: (error) => errors.push(String(error)) });
  await chat.sendMessage({ text: "Go" });
  // Each further body goes on with the same message, as after an answer to what it waited for.
  while (left.length > 0) await chat.sendMessage();
  ends.push({ message: chat.messages.at(-1), count: chat.messages.length, status: chat.status, errors });
}
answer(ends);
