// A page over /ws, with the WebSocket that browsers have and the fold of streamchat.js: it is cut off after each
// event in turn, comes back with the last id that it has, and must end with what the log says.
//   node websocket.mjs <streamchat.js> <ws url> <message>
import { pathToFileURL } from "node:url";

const [module, url, message] = process.argv.slice(2);
const { newState, apply } = await import(pathToFileURL(module));

/** Read a run until its end, or until so many events came; returns how it went on. */
function read(first, run, most) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    let left = most;
    socket.onerror = () => reject(new Error("the WebSocket failed"));
    socket.onopen = () => socket.send(JSON.stringify(first));
    socket.onmessage = ({ data }) => {
      const [head, ...lines] = data.split("\n").map((line) => JSON.parse(line));
      if (head.type === "error") reject(new Error(JSON.stringify(head)));
      if (head.type === "started") run.id = head.run_id;
      for (const { id, data: event } of lines) {
        if (left-- <= 0) break; // the rest is lost on the way
        run.cursor = id;
        apply(run.state, event);
      }
      if (head.type === "end" || left <= 0) {
        // (Node's WebSocket calls an error what closes while it still unpacks)
        socket.onmessage = socket.onerror = null;
        socket.onclose = () => resolve(head.type === "end" ? head.reason : "cut off");
        socket.close(1000);
      }
    };
  });
}

const ends = [];
for (let most = 1; most < 1000; most++) {
  const run = { id: null, cursor: null, state: newState() };
  let how = await read({ type: "start", message }, run, most);
  const whole = how !== "cut off";
  while (how === "cut off") {
    how = await read({ type: "attach", run_id: run.id, last_event_id: run.cursor }, run, most);
  }
  ends.push({ run_id: run.id, status: run.state.status, events: run.state.events, seq: run.state.seq, how,
              text: run.state.parts.filter((p) => p.type === "text").map((p) => p.text).join("") });
  if (whole) break;
}
console.log(JSON.stringify(ends));
process.exit(0);
