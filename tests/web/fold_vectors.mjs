// Folds each vector named on the command line in the browser's way, and compares every state with the expected one.
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";

const [module, ...files] = process.argv.slice(2);
const { apply, newState } = await import(module);

// What Python writes as null, the browser may leave out.
function present(value) {
  if (Array.isArray(value)) return value.map(present);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v != null).map(([k, v]) => [k, present(v)]));
}

let failed = 0;
for (const file of files) {
  const { events, states } = JSON.parse(readFileSync(file, "utf8"));
  for (const { events: count, state } of states) {
    const mine = newState();
    for (const event of events.slice(0, count)) apply(mine, event);
    if (!isDeepStrictEqual(present(mine), present(state))) {
      failed += 1;
      console.log(`${file} after ${count} events:\n  ${JSON.stringify(present(mine))}\n  wanted\n  ${JSON.stringify(present(state))}`);
    }
  }
}
process.exit(failed ? 1 : 0);
