// Drives the demo's page in a real Chromium over the DevTools protocol: node browser.mjs CHROMIUM PROFILE URL.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";

const [chromium, profile, url] = process.argv.slice(2);
const PATIENCE = 60_000;

const browser = spawn(chromium, [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
  "--remote-debugging-port=0", `--user-data-dir=${profile}`, "--lang=en-US", "about:blank",
], { stdio: ["ignore", "ignore", "pipe"] });

const endpoint = await new Promise((found, failed) => {
  let said = "";
  browser.stderr.on("data", (some) => {
    said += some;
    const match = said.match(/DevTools listening on (ws:\S+)/);
    if (match) found(match[1]);
  });
  browser.on("exit", () => failed(new Error(`Chromium ended: ${said}`)));
});

const socket = new WebSocket(endpoint);
await new Promise((open) => socket.addEventListener("open", open));
const waiting = new Map();
const complaints = [];
let number = 0;
let loaded = () => {};
socket.addEventListener("message", ({ data }) => {
  const message = JSON.parse(data);
  if (message.id) {
    waiting.get(message.id)(message);
    waiting.delete(message.id);
  } else if (message.method === "Page.loadEventFired") {
    loaded();
  } else if (message.method === "Runtime.exceptionThrown") {
    complaints.push(JSON.stringify(message.params.exceptionDetails));
  }
});

function ask(method, params = {}, sessionId) {
  const id = ++number;
  socket.send(JSON.stringify({ id, method, params, sessionId }));
  return new Promise((done, failed) => waiting.set(id, ({ result, error }) =>
    error ? failed(new Error(`${method}: ${error.message}`)) : done(result)));
}

const { targetId } = await ask("Target.createTarget", { url: "about:blank" });
const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
await ask("Runtime.enable", {}, sessionId);
await ask("Page.enable", {}, sessionId);

async function evaluate(expression) {
  const { result, exceptionDetails } = await ask(
    "Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true }, sessionId);
  assert.equal(exceptionDetails, undefined, JSON.stringify(exceptionDetails));
  return result.value;
}

/** Wait until the page says so: in its own event loop, woken by what changes in it. */
function until(condition) {
  return evaluate(`new Promise((met, failed) => {
    const late = setTimeout(() => failed(new Error("never: " + ${JSON.stringify(condition)} + "\\n"
      + document.body.innerText)), ${PATIENCE});
    const look = () => { if (${condition}) { clearTimeout(late); watcher.disconnect(); met(true); } };
    const watcher = new MutationObserver(look);
    watcher.observe(document.documentElement, { childList: true, subtree: true, attributes: true, characterData: true });
    look();
  })`);
}

const last = `[...document.querySelectorAll(".message.assistant")].at(-1)`;

async function load(method, params) {
  const there = new Promise((done) => { loaded = done; });
  await ask(method, params, sessionId);
  await there;
}

async function open() {
  await load("Page.navigate", { url });
  await until(`document.getElementById("send")?.disabled === false`);
}

async function say(text) {
  await until(`document.getElementById("send")?.disabled === false`);
  await evaluate(`document.getElementById("input").value = ${JSON.stringify(text)};
    document.getElementById("form").requestSubmit();`);
}

const scenarios = {
  async "the page runs the tool that is its own"() {
    await open();
    await say("What does my browser say?");
    await until(`${last}?.innerText.includes("Here is what came of it")`);
    const text = await evaluate(`${last}.innerText`);
    assert.match(text, /browser_info/);
    assert.match(text, /"time_zone"/);
  },
  async "a job shows that it is being built, over a reload, until the demo has done it"() {
    await say("Build a site, please");
    await until(`${last}?.querySelector(".call .state")?.textContent === "building"`);
    await until(`document.getElementById("state").textContent.startsWith("building")`);
    await load("Page.reload", {});
    await until(`${last}?.querySelector(".call .state")?.textContent === "building"`);
    await until(`${last}?.innerText.includes("Here is what came of it")`);
    assert.match(await evaluate(`${last}.innerText`), /our-bakery\.sites\.example/);
    assert.equal(await evaluate(`${last}.querySelector(".call .state").textContent`), "ok");
  },
  async "a person is asked, and says no"() {
    await say("Email bob@example.org");
    await until(`${last}?.querySelector(".call button")`);
    await evaluate(`[...${last}.querySelectorAll("button")].find((button) => button.textContent === "Deny").click()`);
    await until(`${last}?.innerText.includes("Here is what came of it")`);
    assert.equal(await evaluate(`${last}.querySelector(".call .state").textContent`), "denied");
  },
};

try {
  for (const [name, scenario] of Object.entries(scenarios)) {
    await scenario().catch((error) => { throw new Error(`${name}: ${error.message}`); });
  }
  assert.deepEqual(complaints, [], "no script of the page failed");
  console.log("all is well");
} finally {
  const ended = new Promise((done) => browser.removeAllListeners("exit").on("exit", done));
  browser.kill();
  await ended;
}
process.exit(0);
