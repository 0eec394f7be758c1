/**
 * A `fetch` for DefaultChatTransport that survives dropped connections: the page never notices.
 *
 *   new DefaultChatTransport({ api: "/chat/vercel", fetch: resumingFetch() })
 *
 * Frames are handed on when the id of the event that they belong to is there; where the connection breaks, the
 * stream is asked for behind the last id. After `tries` failures in a row the break is the page's to see, and at
 * once where the answer can only be had anew, from its start: `chat.resumeStream()` takes it so.
 */
export function resumingFetch({ fetch = globalThis.fetch, tries = 6, pause = (n) => Math.min(250 * 2 ** n, 8000) } = {}) {
  return async (url, init = {}) => {
    const response = await fetch(url, init);
    if (response.status !== 200 || response.body === null) return response;
    const resumeUrl = init.method === "POST" ? `${url}/${encodeURIComponent(JSON.parse(init.body).id)}/stream` : url;
    const again = (cursor) => fetch(resumeUrl, {
      signal: init.signal,
      credentials: init.credentials,
      headers: { ...Object.fromEntries(new Headers(init.headers)), ...(cursor ? { "Last-Event-ID": cursor } : {}) },
    });
    return new Response(frames(response.body, again, { tries, pause, goesOn: goesOn(init), signal: init.signal }), response);
  };
}

/** Whether the response goes on with a message that the page has, which cannot be begun anew within it. */
function goesOn({ method, body }) {
  if (method !== "POST") return false;
  const { messages = [], message = messages.at(-1) } = JSON.parse(body);
  return message?.role === "assistant";
}

function frames(body, again, { tries, pause, goesOn, signal }) {
  let reader = body.getReader(), decoder = new TextDecoder();
  let rest = "", pending = "", cursor = null, failed = 0;
  const encoder = new TextEncoder();

  /** The next frames to hand on, null at the end. Throws where the connection breaks. */
  async function next() {
    for (;;) {
      const end = rest.indexOf("\n\n");
      if (end < 0) {
        const { done, value } = await reader.read();
        if (done) throw new TypeError("network error: the stream ended early");
        rest += decoder.decode(value, { stream: true });
        continue;
      }
      const frame = rest.slice(0, end + 2);
      rest = rest.slice(end + 2);
      if (frame.startsWith(":")) continue;
      if (cursor !== null && /^data: \{"type":"start"[,}]/m.test(frame)) {
        failed = tries;
        throw new TypeError("network error: the answer begins anew");
      }
      pending += frame;
      const id = /^id: (.+)$/m.exec(frame)?.[1];
      const over = frame.startsWith("data: [DONE]");
      // An error of no event's: the server goes away, the run goes on.
      if (over && pending.includes('data: {"type":"error"')) throw new TypeError("network error: sent away");
      if (id === undefined && !over) continue;
      const ready = pending;
      pending = "";
      cursor = id ?? cursor;
      failed = 0;
      return { ready, over };
    }
  }

  return new ReadableStream({
    async pull(controller) {
      for (;;) {
        try {
          const { ready, over } = await next();
          controller.enqueue(encoder.encode(ready));
          if (over) controller.close();
          return;
        } catch (error) {
          if (signal?.aborted || failed >= tries || (goesOn && cursor === null)) return controller.error(error);
          await new Promise((resolve) => setTimeout(resolve, pause(failed++)));
        }
        try {
          const response = await again(cursor);
          if (response.status === 204) {
            controller.enqueue(encoder.encode("data: [DONE]\n\n"));
            return controller.close();
          }
          if (response.status !== 200) continue;
          reader = response.body.getReader();
          decoder = new TextDecoder();
          rest = pending = "";
        } catch {
          // not reached; tried again
        }
      }
    },
    cancel: (reason) => reader.cancel(reason),
  });
}
