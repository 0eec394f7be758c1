// `useChat` itself, in React, on a page of happy-dom: what the hook returns, and what stands in the document.
import { Window } from "happy-dom";
import { answer, ask, config, until } from "./harness.mjs";

const window = new Window({ url: config.url });
Object.assign(globalThis, { window, document: window.document });
const { createElement, Fragment } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useChat } = await import("@ai-sdk/react");
const ai = await import("ai");

function mount(options) {
  const box = document.createElement("main");
  document.body.append(box);
  const page = { box, chat: undefined };
  const transport = new ai.DefaultChatTransport({
    api: `${config.url}/vercel`, headers: { "X-AI-SDK-Version": config.version },
  });
  function Page() {
    page.chat = useChat({
      transport, sendAutomaticallyWhen: ai.lastAssistantMessageIsCompleteWithApprovalResponses, ...options,
    });
    return createElement(Fragment, null, page.chat.messages.map((message) => createElement("p", { key: message.id },
      message.parts.filter((part) => part.type === "text").map((part) => part.text).join(""))));
  }
  const root = createRoot(box);
  root.render(createElement(Page));
  page.leave = () => { root.unmount(); box.remove(); };
  return page;
}

const idle = (page) => until(() => ["ready", "error"].includes(page.chat?.status), "the chat to be idle");
const report = ({ chat, box }) => ({
  id: chat.id, status: chat.status, errors: chat.error ? [String(chat.error)] : [], message: chat.messages.at(-1),
  roles: chat.messages.map((message) => message.role), shown: box.lastChild?.textContent ?? "",
});

const results = {};

const first = mount({ id: "react-1" });
await until(() => first.chat);
await first.chat.sendMessage({ text: "parallel" });
await idle(first);
await until(() => first.box.textContent.includes("That is it."), "the page");
results.parallel = report(first);

// The page is reloaded while the answer is being written, and opens with what was there before it.
const before = mount({ id: "react-2" });
await until(() => before.chat);
void before.chat.sendMessage({ text: "hold:react:3" });
await ask("GET", "/test/reached/react");
await until(() => before.chat.messages.length > 1, "the first words");
const kept = before.chat.messages.slice(0, 1);
before.leave();
const after = mount({ id: "react-2", messages: kept, resume: true });
await until(() => after.chat?.messages.length > 1, "the replay");
await ask("POST", "/test/release/react");
await until(() => after.chat.messages.at(-1).metadata?.status === "success", "the end");
await idle(after);
await until(() => after.box.textContent.includes("today?"), "the page");
results["resume-live"] = report(after);

const asking = mount({ id: "react-3" });
await until(() => asking.chat);
await asking.chat.sendMessage({ text: "approval" });
await idle(asking);
const part = asking.chat.messages.at(-1).parts.find((each) => each.state === "approval-requested");
await asking.chat.addToolApprovalResponse({ id: part.approval.id, approved: true });
await until(() => asking.chat.messages.at(-1).metadata?.status === "success", "the end");
await idle(asking);
results["approval-yes"] = report(asking);

answer(results);
