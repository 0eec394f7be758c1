// What every script shares: its configuration, its answer, and waiting for something without a clock.
// A script is given one JSON object and answers with one; what it prints otherwise is for people.

export const config = JSON.parse(process.argv[2] ?? "{}");

/** Hand the answer to the test that started this script, and end. */
export function answer(value) {
  process.stdout.write(`\n@answer ${JSON.stringify(value)}\n`, () => process.exit(0));
}

/** Ask the server, outside of the client under test. */
export async function ask(method, path, body) {
  const response = await fetch(config.url + path, {
    method,
    ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
  });
  const text = await response.text();
  return { status: response.status, body: text ? JSON.parse(text) : null };
}

/** Return when `condition()` holds; it is looked at whenever the loop turns. */
export async function until(condition, what = "a condition") {
  const deadline = Date.now() + 30_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Run each scenario and collect what it returns, or the error that it ended with. */
export async function runAll(scenarios, names = Object.keys(scenarios)) {
  const results = {};
  for (const name of names) {
    try {
      results[name] = await scenarios[name]();
    } catch (error) {
      results[name] = { failed: String(error?.stack ?? error) };
    }
  }
  return results;
}
