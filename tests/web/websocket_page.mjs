// The page of docs/how-to/use-a-websocket.md, with the WebSocket that browsers have, cut off where it hurts:
//   start    the first connection, as soon as the page has spoken: no answer comes through
//   deleted  the first connection, when it has said that the run was deleted
//   ""       nowhere
//   node websocket_page.mjs <page> <cut>
// Prints what the page said on each connection, the pauses that it made, and what it showed in the end.
import { pathToFileURL } from "node:url";

const [page, cut] = process.argv.slice(2);
const said = [], waits = [];
let shown = null;

function done() {
  console.log(JSON.stringify({ said, waits, shown }));
  process.exit(0);
}

globalThis.WebSocket = class extends WebSocket {
  said = said[said.push([]) - 1];
  deaf = false;

  send(text) {
    super.send(text);
    const { type, last_event_id } = JSON.parse(text);
    this.said.push(type === "attach" ? [type, last_event_id] : [type]);
    if (cut === "start" && said.length === 1) this.cut();
  }

  cut() {
    this.deaf = true;
    this.close();
  }

  set onopen(handle) {
    super.onopen = (event) => {
      handle(event);
      if (cut === "deleted" && said.length === 2) done();
    };
  }

  set onmessage(handle) {
    super.onmessage = (event) => {
      if (this.deaf) return;
      handle(event);
      if (cut === "deleted" && JSON.parse(event.data.split("\n")[0]).reason === "deleted") this.cut();
    };
  }
};
// What the page calls setTimeout: Node's WebSocket has pauses of its own.
globalThis.wait = (call, pause, ...given) => {
  waits.push(pause);
  return setTimeout(call, 0, ...given);
};
globalThis.alert = (text) => { throw new Error(text); };
globalThis.show = (run_id, state) => {
  const text = state.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
  shown = { run_id, text, status: state.status };
  if (state.status === "success") setTimeout(done, 0);
};

// (a page that lost something waits for it without end)
setTimeout(() => {
  console.error(`nothing more comes: ${JSON.stringify({ said, waits, shown })}`);
  process.exit(1);
}, 30_000).unref();

await import(pathToFileURL(page));
