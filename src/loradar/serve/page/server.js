// Asks the server. The key lives in this tab's session storage and is sent to this server alone.

const KEY = "loradar-key";

export const readKey = () => sessionStorage.getItem(KEY) ?? "";

export function keepKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What the server declined; `status` is 0 where there was no answer, `after` the seconds to wait for. */
export class Refused extends Error {
  constructor(status, line, after = 0) {
    super(line);
    this.status = status;
    this.after = after;
  }
}

/** Sends a request and returns the JSON of its answer. Addresses are relative, so that a path before them may be a proxy's. */
export async function ask(method, path, body = undefined, type = undefined) {
  const headers = {};
  if (readKey()) headers.Authorization = `Bearer ${readKey()}`;
  if (type) headers["Content-Type"] = type;
  let reply;
  try {
    reply = await fetch(path, { method, headers, body, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch {
    throw new Refused(0, "The server cannot be reached.");
  }
  const content = await reply.json().catch(() => null);
  if (!reply.ok || content === null) {
    const line = content?.error ?? `The server answered with status ${reply.status}.`;
    throw new Refused(reply.status, line, Number(reply.headers.get("Retry-After")) || 0);
  }
  return content;
}

export const send = (method, path, content) => ask(method, path, JSON.stringify(content), "application/json");

/** The address of a model, or of one of its versions. */
export const modelPath = (name, version = "") =>
  `v1/models/${encodeURIComponent(version ? `${name}@${version}` : name)}`;
