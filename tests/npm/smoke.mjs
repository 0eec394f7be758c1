// The smallest script: every package can be imported, and the server answers.
import { answer, ask, config } from "./harness.mjs";

const missing = [];
for (const name of config.packages) {
  try {
    await import(name);
  } catch (error) {
    missing.push(`${name}: ${error}`);
  }
}
const health = await ask("GET", "/health/live");
answer({ missing, status: health.status });
