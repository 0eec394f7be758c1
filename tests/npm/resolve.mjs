// Preloaded into every script: a package is found where `npm ci` put it, wherever the script lies.
import { registerHooks } from "node:module";
import { pathToFileURL } from "node:url";

const installed = pathToFileURL(`${process.env.STREAMCHAT_NPM_MODULES}/package.json`).href;
const scripts = new URL(".", import.meta.url).href;

registerHooks({
  resolve(specifier, context, next) {
    const bare = !/^(\.|\/|node:|file:|data:)/.test(specifier);
    const ours = context.parentURL?.startsWith(scripts);
    return next(specifier, bare && ours ? { ...context, parentURL: installed } : context);
  },
});
